"""RecipeTrainer for masked image models: the loss of each scale in the log, and images and batches that grow."""

import torch
from torch.optim.lr_scheduler import LambdaLR

from ...run.trainer import RecipeTrainer
from .arguments import MaskedImageArguments
from .stages import Epochs, Stages


class MaskedImageTrainer(RecipeTrainer):
    """Trains a model that returns its loss, and can say that of each image (`image_losses`).

    Args:
        stages: sizes of images and batches. Where batches change, so does the number of steps of an epoch, and the
            learning rate in proportion to the batch.
    """

    args: MaskedImageArguments

    def __init__(self, *, stages: Stages, **kwargs):
        super().__init__(**kwargs)
        self.model_accepts_loss_kwargs = False
        self.stages = stages
        self.epochs: Epochs | None = None

    # The loss

    def task_loss(self, model, inputs, num_items_in_batch=None):
        outputs = model(**inputs)
        return outputs.loss, outputs

    def named_parts(self, outputs) -> dict[str, torch.Tensor]:
        losses = getattr(outputs, "losses", None)
        return {f"loss_scale_{number}": loss for number, loss in enumerate(losses or (), start=1)}

    @torch.no_grad()
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        network, pixels = self.network, inputs["pixel_values"]
        with self.compute_loss_context_manager():
            # Image by image: a mean over a batch that was filled up would count some twice.
            losses = network.image_losses(pixels, network(**inputs)).float()
        return None, losses, torch.zeros(len(pixels), device=pixels.device)

    # Batches that change

    @property
    def batches_change(self) -> bool:
        return len(set(self.stages.batch_sizes)) > 1

    def place(self, step: int) -> tuple[int, int, int]:
        if self.epochs is None:
            return super().place(step)
        epoch, within = self.epochs.place(step)
        return epoch, within, self.epochs.steps[min(epoch, len(self.epochs.steps) - 1)]

    def set_initial_training_values(self, args, dataloader):
        values = super().set_initial_training_values(args, dataloader)
        if not self.batches_change:
            return values
        _, _, num_examples, *_ = values
        limit = args.max_steps if args.max_steps > 0 else -1
        count = None if limit > 0 else round(args.num_train_epochs)
        self.epochs = Epochs(
            self.stages, num_examples, args.world_size, args.gradient_accumulation_steps, count, limit
        )
        epochs, steps = len(self.epochs.steps), sum(self.epochs.steps)
        return (epochs, values[1], num_examples, num_examples * epochs, *values[4:6], limit if limit > 0 else steps)

    def _init_training_state(self, *args, **kwargs):
        trained, within = super()._init_training_state(*args, **kwargs)
        if self.epochs is not None and self.state.global_step:
            trained, within = self.epochs.place(self.state.global_step)
            within *= 0 if self.args.ignore_data_skip else self.args.gradient_accumulation_steps
        return trained, within

    def _run_epoch(self, **kwargs):
        if self.epochs is not None:
            epoch = kwargs["epoch"]
            kwargs |= {
                "steps_in_epoch": self.epochs.batches[epoch],
                "num_update_steps_per_epoch": self.epochs.steps[epoch],
            }
        super()._run_epoch(**kwargs)

    def begin_epoch(self, epoch: int) -> None:
        if self.epochs is not None:
            self.use_batch_size(self.stages.batch_size(epoch))
        super().begin_epoch(epoch)

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if self.epochs is not None:
            if not isinstance(scheduler, LambdaLR):
                raise ValueError(
                    f"--lr_scheduler_type: {self.args.lr_scheduler_type} does not go with --progressive_batch_sizes."
                )
            scheduler.lr_lambdas = [self._in_proportion(factor) for factor in scheduler.lr_lambdas]
        return scheduler

    def _in_proportion(self, factor):
        first = self.stages.batch_sizes[0]
        return lambda step: factor(step) * self.stages.batch_size(self.place(step)[0]) / first
