"""RecipeTrainer for detectors: ragged labels, YOLOv6's schedule, the distillation of Gold-YOLO, AP."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate.utils import find_batch_size
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback
from transformers.loss import loss_for_object_detection as detr_loss

from ....modeling.gold_yolo.loss_gold_yolo import Share, box_losses
from ...losses.detection_distillation import (
    channel_wise_distillation,
    class_score_distillation,
    distribution_distillation,
)
from ...optim.detection_schedule import DetectionSchedule, norm_weight_bias_groups, ramped_decay
from ...run.trainer import RecipeTrainer
from .arguments import DetectionArguments
from .evaluation import Measured


@contextmanager
def _boxes_of_this_process() -> Iterator[None]:
    """Within it DETR's loss (YOLOS', ...) is divided by the boxes of its own batch, as RT-DETR's is.

    With several processes transformers 5.23 divides the boxes' terms, but not the classes', by the mean number over
    processes and once more by the number of processes: two would train the boxes twice as hard as one.
    """
    counted = detr_loss.is_accelerate_available
    detr_loss.is_accelerate_available = lambda: False
    try:
        yield
    finally:
        detr_loss.is_accelerate_available = counted


class DetectionTrainer(RecipeTrainer):
    """Trains any detector that takes `labels`, a list of dictionaries, and returns its loss.

    Args:
        evaluation: the model -> what was measured of it.
        teacher: of Gold-YOLO, the detector to distil from.
    """

    args: DetectionArguments

    def __init__(self, *, evaluation: Callable[[torch.nn.Module], Measured], teacher=None, **kwargs):
        super().__init__(**kwargs)
        self.model_accepts_loss_kwargs = False
        self.evaluation, self.teacher = evaluation, teacher
        self.last_measured: Measured | None = None
        self._measured_at: int | None = None
        self._boxes_of_step = 0
        self.steps_per_epoch = 1
        if self.args.detection_schedule or self.args.ema_ramp:
            self.add_callback(_StepSettings(self))

    # The loss

    @property
    def _loss_is_per_box(self) -> bool:
        """Detectors of transformers divide their losses by the number of boxes, Gold-YOLO by summed target scores."""
        return getattr(self.network.config, "model_type", None) != "gold_yolo"

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, number = super().get_batch_samples(epoch_iterator, num_batches, device)
        own = [batch for batch in batches if batch is not self.idle_batch]
        boxes = torch.tensor(float(sum(self._boxes(batch) for batch in own)), device=self.args.device)
        self._boxes_of_step = float(self.accelerator.reduce(boxes, "sum"))
        return batches, number

    @staticmethod
    def _boxes(batch) -> int:
        return sum(len(label["class_labels"]) for label in batch["labels"])

    def _weighed_by_samples(self, loss, inputs, parts: int):
        """A loss that is divided by its batch's boxes, as a share of the step's: 8 batches of 1 are 1 batch of 8.

        Gold-YOLO's is divided by the target scores of all processes' batches, and counts by their samples.
        """
        if self._loss_is_per_box and self._boxes_of_step:
            return loss * (max(self._boxes(inputs), 1) * parts / self._boxes_of_step)
        samples = self.samples_of_step()
        if self._loss_is_per_box or self.args.world_size == 1 or samples is None:
            return super()._weighed_by_samples(loss, inputs, parts)
        own = torch.tensor(0.0 if self.idle else float(find_batch_size(inputs)), device=self.args.device)
        return loss * (self.accelerator.reduce(own, "sum") * (parts // self.args.world_size) / samples)

    @property
    def _share(self) -> Share:
        return self._mean_over_processes if self.args.world_size > 1 else None

    def _mean_over_processes(self, scores: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(0.0 * scores if self.idle else scores, "mean")

    def task_loss(self, model, inputs, num_items_in_batch=None):
        inputs = dict(inputs)
        epoch = int(self.state.epoch or 0)
        if self._loss_is_per_box:
            with _boxes_of_this_process():
                outputs = model(**inputs)
            return outputs.loss, outputs
        if self.teacher is not None and model.training:
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            return self._distilled(outputs, inputs, labels, epoch), outputs
        assigner = "atss" if model.training and epoch < self.args.atss_epochs else "tal"
        outputs = model(**inputs, assigner=assigner, share=self._share)
        return outputs.loss, outputs

    def _distilled(self, outputs, inputs, labels, epoch: int) -> torch.Tensor:
        """The base losses and what the teacher adds, which fades by a cosine from 1 to 0.01."""
        args, config = self.args, self.network.config
        with torch.no_grad():
            self.teacher.to(outputs.logits.device)
            taught = self.teacher(**inputs)
            regression = self.teacher.head(taught.feature_maps, with_training_branches=True).regression
        sizes = [tuple(features.shape[-2:]) for features in outputs.feature_maps]
        direct = outputs.pred_distances if config.head_type == "distillation" else None
        options = {"direct_regression": direct, "share": self._share}
        losses = box_losses(outputs.logits, outputs.pred_distribution, labels, sizes, config, **options)
        foreground, temperature = losses.assignment.foreground, args.distillation_temperature
        of_class = class_score_distillation(outputs.logits, taught.logits, temperature)
        of_box = distribution_distillation(
            outputs.pred_distribution[foreground].unflatten(-1, (4, -1)),
            regression[foreground].unflatten(-1, (4, -1)),
            losses.assignment.scores.sum(-1)[foreground],
            temperature,
        )
        added = args.class_distillation * config.class_loss_weight * of_class
        added = added + args.box_distillation * config.distribution_loss_weight * of_box
        if args.feature_distillation:
            maps = channel_wise_distillation(outputs.feature_maps, taught.feature_maps)
            added = added + args.feature_distillation * maps
        epochs = max(int(self.state.num_train_epochs or 1), 1)
        return losses.total() + DetectionSchedule(epochs, 1).factor(min(epoch, epochs)) * added

    # Optimizer and schedule

    def set_initial_training_values(self, *args, **kwargs):
        values = super().set_initial_training_values(*args, **kwargs)
        self.steps_per_epoch = values[1]
        return values

    def _schedule(self) -> DetectionSchedule:
        args = self.args
        return DetectionSchedule(
            epochs=max(int(self.state.num_train_epochs or args.num_train_epochs), 1),
            steps_per_epoch=max(self.steps_per_epoch, 1),
            learning_rate=args.learning_rate,
            final_factor=args.final_lr_factor,
            warmup_epochs=args.detection_warmup_epochs,
            least_warmup_steps=args.least_warmup_steps,
            warmup_bias_learning_rate=args.warmup_bias_lr,
            momentum=args.momentum,
            warmup_momentum=args.warmup_momentum,
        )

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.args.detection_schedule and self.optimizer is None:
            chosen, settings = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(
                self.args, model or self.model
            )
            groups = norm_weight_bias_groups(model or self.model, self.args.weight_decay)
            # Which of the schedule's rates is a group's, though another one is empty or it is divided later.
            groups = [{**group, "rate": number} for number, group in enumerate(groups) if group["params"]]
            self.optimizer = chosen(groups, **settings)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        if self.args.detection_schedule and self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            schedule = self._schedule()
            factors = [
                lambda step, rate=group["rate"]: schedule.learning_rates(step)[rate] / self.args.learning_rate
                for group in optimizer.param_groups
            ]
            self.lr_scheduler = LambdaLR(optimizer, factors)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    # Evaluation

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


class _StepSettings(TrainerCallback):
    """What each step sets anew from its number alone: momentum, and the decay of the average."""

    def __init__(self, trainer: DetectionTrainer):
        self.trainer = trainer

    def on_step_begin(self, args, state, control, **kwargs):
        if args.detection_schedule:
            momentum = self.trainer._schedule().momentum_at(state.global_step)
            for group in self.trainer.optimizer.param_groups:
                if "momentum" in group:
                    group["momentum"] = momentum
        if args.ema_ramp and self.trainer.ema is not None:
            self.trainer.ema.decay = ramped_decay(state.global_step + 1, args.ema_decay, args.ema_ramp)
