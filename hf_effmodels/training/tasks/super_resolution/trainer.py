"""RecipeTrainer for networks that are parts of a diffusers pipeline."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.optim.lr_scheduler import StepLR

from ....pipelines.sam_diffsr.losses import denoising_loss
from ....pipelines.sam_diffsr.pipeline_sam_diffsr import SamDiffSRPipeline, image_to_residual
from ...run.trainer import RecipeTrainer
from .arguments import SuperResolutionArguments
from .evaluation import MEASURES


class SuperResolutionTrainer(RecipeTrainer):
    """Trains one network: the condition encoder by L1, or the denoiser on a frozen encoder.

    Checkpoints hold the weights of that network. What is saved after training is `complete`: the whole pipeline, or
    the encoder, as `from_pretrained` takes it.

    Args:
        objective: (network, batch) -> loss, a scalar.
        complete: the trained network itself, or the pipeline that has it as a component.
        evaluation: number of the step -> metrics of `complete` as it is.
    """

    args: SuperResolutionArguments

    def __init__(
        self,
        *,
        objective: Callable[[nn.Module, dict], torch.Tensor],
        complete: ModelMixin | SamDiffSRPipeline,
        evaluation: Callable[[int], dict[str, float]],
        **kwargs,
    ):
        super().__init__(**kwargs)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("super-resolution: FSDP and DeepSpeed are not supported; these networks are small.")
        self.objective = objective
        self.complete = complete
        self.evaluation = evaluation
        self._measured: tuple[int, dict[str, float]] | None = None

    def metric_names(self) -> tuple[str, ...]:
        return (*MEASURES, *(f"bicubic_{name}" for name in MEASURES))

    def task_loss(self, model, inputs, num_items_in_batch=None):
        return self.objective(model, inputs), None

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self.args.lr_decay_steps is not None and self.lr_scheduler is None:
            self.lr_scheduler = StepLR(
                optimizer or self.optimizer, self.args.lr_decay_steps, gamma=self.args.lr_decay_rate
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Enlarge the evaluation images by the weights that would be saved, and measure them.

        After the last step that is done once, though both the training and the report ask for it.
        """
        step, best_is_loaded = self.state.global_step, self.args.load_best_model_at_end and not self.is_in_train
        if self._measured is None or self._measured[0] != step or best_is_loaded:
            with self.evaluated_weights(), self.compute_loss_context_manager():
                self.model.eval()
                self._measured = step, self.evaluation(step)
                self.model.train(self.is_in_train)
        measured = self._measured[1]
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self.is_in_train:
            return super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            self.complete.save_pretrained(Path(output_dir or self.args.output_dir))
        return None


def image_loss(network: nn.Module, batch: dict) -> torch.Tensor:
    """Mean absolute error of the encoder's image; images in [-1, 1]."""
    return (network(batch["low"]).sample.float() - batch["high"]).abs().mean()


def noise_loss(
    network: nn.Module,
    batch: dict,
    *,
    encoder: nn.Module,
    scheduler,
    residual_scale: float,
    kind: str,
) -> torch.Tensor:
    """Distance of the predicted noise from the target, at the timesteps and with the noise that the samples carry.

    With `structure` in the batch both the added noise and the target are shifted by it (SAM-DiffSR); without it is
    SRDiff (arXiv:2104.14951).
    """
    with torch.no_grad():
        condition = encoder(batch["low"], output_image=False).condition
    residual = image_to_residual(batch["high"], batch["upsampled"], residual_scale)
    noise, timesteps, structure = batch["noise"], batch["timestep"], batch.get("structure")
    noisy = scheduler.add_noise(residual, noise, timesteps, structure)
    prediction = network(noisy, timesteps, condition, batch["upsampled"]).sample
    return denoising_loss(prediction.float(), scheduler.get_target(noise, timesteps, structure), kind)
