"""RecipeTrainer for segmenters: heads that learn faster than the backbone, and mean IoU."""

from collections.abc import Callable

import torch

from ...optim.module_rates import scale_rates
from ...run.trainer import RecipeTrainer
from .arguments import SegmentationArguments
from .data import IGNORED
from .evaluation import Measured

METRICS = ("miou", "pixel_accuracy", "mean_accuracy", "samples")


class SegmentationTrainer(RecipeTrainer):
    """Trains any segmenter that takes `labels`, a map for each image, and returns its loss.

    Args:
        evaluation: the model -> what was measured of it.
    """

    args: SegmentationArguments

    def __init__(self, *, evaluation: Callable[[torch.nn.Module], Measured], **kwargs):
        super().__init__(**kwargs)
        self.model_accepts_loss_kwargs = False
        self.evaluation = evaluation
        self.last_measured: Measured | None = None
        self._measured_at: int | None = None

    def task_loss(self, model, inputs, num_items_in_batch=None):
        labels = inputs["labels"]
        loss, outputs = super().task_loss(model, dict(inputs), num_items_in_batch)
        if not loss.isfinite() and bool((labels == IGNORED).all()):
            # Losses of transformers are means over the pixels that have a class; of none it is 0 / 0.
            loss, outputs = super().task_loss(
                model, {**inputs, "labels": torch.zeros_like(labels)}, num_items_in_batch
            )
            loss = 0.0 * loss
        return loss, outputs

    def metric_names(self) -> tuple[str, ...]:
        return METRICS

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self.args.head_learning_rate_factor != 1:
            # All parameters outside the backbone.
            network = self.accelerator.unwrap_model(model or self.model)
            backbone = ("backbone.", f"{network.base_model_prefix or 'backbone'}.")
            heads = [p for name, p in network.named_parameters() if not name.startswith(backbone)]
            scale_rates(optimizer, dict.fromkeys(heads, self.args.head_learning_rate_factor))
        return optimizer

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Measure the weights that would be saved; once, where the last step is asked for again."""
        step, best_is_loaded = self.state.global_step, self.args.load_best_model_at_end and not self.is_in_train
        if self._measured_at != step or best_is_loaded:
            with self.evaluated_weights(), self.compute_loss_context_manager():
                self.network.eval()
                self.last_measured = self.evaluation(self.network)
                if self.is_in_train:
                    self.network.train()
            self._measured_at = step
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.last_measured.metrics.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
