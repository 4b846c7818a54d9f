"""Training nested sub-models together (SortedNet, https://arxiv.org/abs/2309.00255; Sorted LLaMA,
https://arxiv.org/abs/2309.08968)."""

from collections.abc import Mapping, Sequence
from random import Random

import torch
from torch import nn

from ...compression.elastic.submodels import SubmodelView


class SortedTraining:
    """Mix-in of a Trainer whose model's sub-models learn together, each from the labels:

        class SortedTrainer(SortedTraining, Trainer):
            pass

        SortedTrainer(model, arguments, ..., submodels=[{"num_hidden_layers": 2}, {"num_hidden_layers": 4}, {}])

    The loss of a step is the mean over the sub-models drawn for it; each runs and is differentiated by itself, and the
    optimizer steps once. The draw depends on the seed and the number of the step alone: it is the same on every
    process, for every batch that is accumulated, and after a resumption.

    Weight decay, too, acts on weights that no sub-model of a step uses: they have gradients of zero, not none, as soon
    as the whole model is among the sub-models.

    Args:
        submodels: sizes of each sub-model, see `compression.elastic.submodel`; {} is the whole model.
        submodels_per_step: how many different ones are drawn for a step (g_acc); None for all of them.

    Raises:
        ValueError: sizes that are none; an unfitting number; label smoothing, where the trainer has no loss of its own
            and would need to know the model's class; FSDP or DeepSpeed, which keep weights in parts; activation
            checkpointing, which would compute a second time with other weights.
    """

    def __init__(self, *arguments, submodels: Sequence[Mapping], submodels_per_step: int | None = None, **options):
        super().__init__(*arguments, **options)
        self.submodels = [dict(sizes) for sizes in submodels]
        if not self.submodels:
            raise ValueError("submodels: got none, accepted are sizes such as {'num_hidden_layers': 4}, and {}.")
        if submodels_per_step is not None and not 1 <= submodels_per_step <= len(self.submodels):
            raise ValueError(
                f"submodels_per_step: got {submodels_per_step}, accepted are 1 to {len(self.submodels)}, or None."
            )
        if self.args.label_smoothing_factor and self.compute_loss_func is None:
            raise ValueError("label_smoothing_factor: the models' own losses are trained on; accepted is 0.")
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "submodels: they need the weights whole; accepted is training without FSDP and DeepSpeed."
            )
        if self.args.gradient_checkpointing:
            raise ValueError("gradient_checkpointing: got True, accepted is False for sub-models in training.")
        self.submodels_per_step = submodels_per_step or len(self.submodels)
        self.views = [SubmodelView(self.model, sizes) for sizes in self.submodels]
        self._view: SubmodelView | None = None  # the one that the present pass is for

    def draw_submodels(self, step: int) -> list[int]:
        """Numbers of the sub-models of a step."""
        return Random(f"{self.args.seed} {step}").sample(range(len(self.submodels)), self.submodels_per_step)

    def training_step(self, model: nn.Module, inputs: dict, num_items_in_batch=None) -> torch.Tensor:
        total = 0
        for number in self.draw_submodels(self.state.global_step):
            self._view = self.views[number].train()
            try:
                total = total + super().training_step(model, inputs, num_items_in_batch)
            finally:
                self._view = None
        if self.accelerator.num_processes > 1 and self.accelerator.sync_gradients:
            self._average_gradients()
        return total

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self._view is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # Past a wrapper such as DistributedDataParallel, which expects one forward pass for each step.
        return super().compute_loss(self._view, inputs, False, num_items_in_batch) / self.submodels_per_step

    def _average_gradients(self) -> None:
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad, op=torch.distributed.ReduceOp.SUM)
                parameter.grad /= self.accelerator.num_processes
