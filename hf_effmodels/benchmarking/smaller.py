"""Language models made smaller: a pruned one, a fresh one of its sizes, what the importance of structures costs, and a
training step of nested sub-models."""

from types import SimpleNamespace

import torch
from torch import nn

from ..compression.elastic.submodels import SubmodelView
from ..compression.pruning.activations import activation_scores
from ..compression.pruning.calibration import mean_loss
from ..compression.pruning.minitron import prune
from ..models import create_model

#: Sequences that a model is pruned by here: its speed does not depend on what they say.
_CALIBRATION = (2, 16)


def pruned(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """The preset without half of its parameters, pruned in width."""
    model = create_model(preset, **overrides).eval()
    batch = torch.randint(3, model.config.vocab_size, _CALIBRATION, generator=torch.Generator().manual_seed(0))
    return prune(model, [batch], target_parameters=0.5, tolerance=0.15)[0].eval()


def fresh(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """A model with random weights of the sizes that `pruned` has."""
    smaller = pruned(preset, folded, overrides)
    return type(smaller)(smaller.config).eval()


class Importance(nn.Module):
    """A forward pass that scores all structures on its batch."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids: torch.Tensor, **ignored):
        return activation_scores(self.model, [{"input_ids": input_ids, "labels": input_ids}])


class ForwardPass(Importance):
    """The pass alone, with its loss, as the scores have it."""

    def forward(self, input_ids: torch.Tensor, **ignored):
        return mean_loss(self.model, [{"input_ids": input_ids, "labels": input_ids}])


def importance(preset: str, folded: bool, overrides: dict) -> nn.Module:
    return Importance(create_model(preset, **overrides).eval())


def forward_pass(preset: str, folded: bool, overrides: dict) -> nn.Module:
    return ForwardPass(create_model(preset, **overrides).eval())


class SortedStep(nn.Module):
    """In a training step: the mean of the losses of a third of the layers, of two thirds, and of the whole."""

    def __init__(self, model: nn.Module):
        super().__init__()
        layers = model.config.num_hidden_layers
        depths = sorted({max(1, layers // 3), max(1, 2 * layers // 3)})
        self.model, self.config = model, model.config
        views = [SubmodelView(model, {"num_hidden_layers": depth}) for depth in depths] + [SubmodelView(model, {})]
        self._views = (tuple(views),)  # in a tuple: they have no weights of their own

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, **options):
        if labels is None:
            return self.model(input_ids, **options)
        (views,) = self._views
        losses = [view.train(self.training)(input_ids=input_ids, labels=labels, **options).loss for view in views]
        return SimpleNamespace(loss=sum(losses) / len(losses))


def sorted_step(preset: str, folded: bool, overrides: dict) -> nn.Module:
    return SortedStep(create_model(preset, **overrides))
