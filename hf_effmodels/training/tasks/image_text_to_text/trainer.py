"""The trainer: loss per answer token, checkpoints that hold what is trained."""

import numpy as np
import torch
from transformers import EvalPrediction

from ....modeling.adem_vl.modeling_adem_vl import ADAPTER_NAMES
from ...losses.token_losses import token_losses
from ...run.trainer import RecipeTrainer


class ImageTextToTextTrainer(RecipeTrainer):
    """The loss is the mean over all learned tokens of an optimizer step, over accumulated batches and processes.

    Args:
        adapter_only: checkpoints and the model that is saved hold the adapters, and say where the frozen parts are.
    """

    def __init__(self, *, adapter_only: bool = False, **kwargs):
        super().__init__(compute_metrics=compute_metrics, preprocess_logits_for_metrics=answer_losses, **kwargs)
        self.adapter_only = adapter_only
        if adapter_only:
            self.saved_part = lambda name: bool(ADAPTER_NAMES.match(name))

    def metric_names(self) -> tuple[str, ...]:
        return ("loss", "samples")

    def task_loss(self, model, inputs, num_items_in_batch=None):
        # A step whose answers were all cut off has nothing to divide by; its loss is 0.
        if isinstance(num_items_in_batch, torch.Tensor):
            num_items_in_batch = num_items_in_batch.clamp(min=1)
        elif num_items_in_batch is not None:
            num_items_in_batch = max(1, num_items_in_batch)
        return super().task_loss(model, inputs, num_items_in_batch)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.adapter_only:
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            output_dir = output_dir or self.args.output_dir
            model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
            model.save_pretrained(output_dir, adapter_only=True, state_dict=state_dict)
            self.processing_class.save_pretrained(output_dir)


def answer_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row the summed cross entropy of its learned tokens, and their number."""
    return token_losses(logits[0] if isinstance(logits, tuple) else logits, labels)


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Mean loss per learned token. It replaces the Trainer's own, which weighs batches, not tokens."""
    losses, counts = prediction.predictions
    return {"loss": float(losses.sum(dtype=np.float64) / max(1, counts.sum())), "samples": len(losses)}
