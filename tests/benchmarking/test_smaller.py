"""Nested sub-models in a training step: at which depths, and what of their losses is trained on."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_effmodels.benchmarking import smaller


class View(nn.Module):
    """In the place of a sub-model: its loss is its depth."""

    def __init__(self, model, sizes):
        super().__init__()
        self.sizes, self.modes = sizes, []

    def train(self, mode=True):
        self.modes.append(mode)
        return self

    def forward(self, input_ids, labels, **options):
        assert input_ids is labels and options == {"use_cache": False}
        return SimpleNamespace(loss=torch.tensor(float(self.sizes.get("num_hidden_layers", 60))))


@pytest.mark.parametrize(
    "layers, depths",
    [(1, [1]), (2, [1]), (3, [1, 2]), (4, [1, 2]), (12, [4, 8]), (13, [4, 8]), (14, [4, 9])],
)
def test_a_step_trains_a_third_of_the_layers_two_thirds_and_the_whole(layers, depths, monkeypatch):
    monkeypatch.setattr(smaller, "SubmodelView", View)
    asked = []
    model = nn.Module()
    model.config = SimpleNamespace(num_hidden_layers=layers)
    model.forward = lambda ids, **options: asked.append((ids, options)) or "logits"
    step = smaller.SortedStep(model)
    assert [view.sizes for view in step._views[0]] == [{"num_hidden_layers": depth} for depth in depths] + [{}]
    ids = torch.arange(4)[None]
    # The mean of all: the whole one's is sixty here.
    expected = (sum(depths) + 60) / (len(depths) + 1)
    for mode in (True, False):
        step.train(mode)
        assert step(ids, labels=ids, use_cache=False).loss.item() == pytest.approx(expected)
        assert all(view.modes[-1] is mode for view in step._views[0])
    assert step(ids, use_cache=False) == "logits" and asked[0][1] == {"use_cache": False}
    assert not any(True for _ in step.parameters()), "the views have no weights of their own"


def test_a_model_is_pruned_to_half_and_a_fresh_one_has_its_sizes(monkeypatch):
    asked = []

    class Model:
        def __init__(self, config):
            self.config, self.training = config, True

        def eval(self):
            self.training = False
            return self

    def prune(model, batches, **options):
        asked.append((batches, options))
        return Model(SimpleNamespace(vocab_size=7)), "report"

    monkeypatch.setattr(smaller, "create_model", lambda preset, **overrides: Model(SimpleNamespace(vocab_size=9)))
    monkeypatch.setattr(smaller, "prune", prune)
    pruned, fresh = smaller.pruned("x", False, {}), smaller.fresh("x", False, {})
    assert pruned.config.vocab_size == fresh.config.vocab_size == 7 and not pruned.training and not fresh.training
    (first,), options = asked[0]
    assert options == {"target_parameters": 0.5, "tolerance": 0.15}
    assert first.shape == (2, 16) and 3 <= int(first.min()) and int(first.max()) < 9
    assert torch.equal(first, asked[1][0][0]), "the same every time"


def test_scores_and_the_pass_beside_them_see_one_batch_as_its_own_answer(monkeypatch):
    asked = []
    monkeypatch.setattr(
        smaller, "activation_scores", lambda model, batches: asked.append((model, batches)) or "scores"
    )
    monkeypatch.setattr(smaller, "mean_loss", lambda model, batches: asked.append((model, batches)) or "loss")
    model = nn.Linear(2, 2)
    model.config = "config"
    monkeypatch.setattr(smaller, "create_model", lambda preset, **overrides: model.train())
    ids = torch.arange(3)[None]
    for make, said in ((smaller.importance, "scores"), (smaller.forward_pass, "loss")):
        part = make("x", False, {})
        assert part(input_ids=ids, labels=None) == said and not model.training and part.config == "config"
    for seen, (batch,) in asked:
        assert seen is model and batch["input_ids"] is ids and batch["labels"] is ids
