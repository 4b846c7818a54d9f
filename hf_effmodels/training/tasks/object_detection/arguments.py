"""Arguments of the task object-detection."""

from dataclasses import dataclass, field
from typing import Literal

from ...run.arguments import ModelArguments, read_mapping
from ...run.recipe_arguments import RecipeArguments
from ...run.results import ResultsArguments
from ...run.values import SET, check_fields

_SCHEDULE, _TAUGHT, _MOSAICS = {"detection_schedule": SET}, {"teacher": SET}, {"mosaic": SET}


@dataclass
class DetectorArguments(ModelArguments):
    """Which detector."""

    model: str | None = field(
        default=None,
        metadata={
            "help": "A preset (hf-effmodels list), trained from random weights; or a detector on the Hub or in a "
            "local folder, whose weights are fine-tuned."
        },
    )
    detector: str | None = field(
        default=None,
        metadata={
            "help": "Instead of --model: a model type of transformers with a head for object detection (rt_detr, "
            "d_fine, yolos, ...), built anew with --model_config."
        },
    )
    backbone: str | None = field(
        default=None,
        metadata={"help": "With --detector: a preset of this package (random weights) or a folder as its backbone."},
    )
    backbone_config: dict | str | None = field(
        default=None,
        metadata={"help": "Fields of the backbone's configuration to change, such as {out_features: [...]}."},
    )

    def __post_init__(self):
        self.backbone_config = read_mapping("backbone_config", self.backbone_config)
        super().__post_init__()


@dataclass
class DetectionAugmentationArguments:
    """What becomes of a training image. Everything is off but the flip."""

    mosaic: float = field(default=0.0, metadata={"accepts": "[0, 1]", "help": "Probability of four images in one."})
    mixup: float = field(
        default=0.0,
        metadata={
            "goes_with": _MOSAICS,
            "accepts": "[0, 1]",
            "help": "Probability that a mosaic is mixed with another one (Beta(32, 32)).",
        },
    )
    scale: float = field(
        default=0.0, metadata={"accepts": "[0, 1)", "help": "Images are scaled by 1 - scale to 1 + scale."}
    )
    translate: float = field(
        default=0.0, metadata={"accepts": "[0, 0.5]", "help": "Largest shift, as a share of the side."}
    )
    rotate: float = field(default=0.0, metadata={"accepts": "[0, 180]", "help": "Largest rotation in degrees."})
    shear: float = field(default=0.0, metadata={"accepts": "[0, 89]", "help": "Largest shear in degrees."})
    hue: float = field(default=0.0, metadata={"accepts": "[0, 1]", "help": "Largest relative change of the hue."})
    saturation: float = field(default=0.0, metadata={"accepts": "[0, 1]", "help": "The same of the saturation."})
    brightness: float = field(default=0.0, metadata={"accepts": "[0, 1]", "help": "The same of the value."})
    horizontal_flip: float = field(default=0.5, metadata={"accepts": "[0, 1]", "help": "Probability of a flip."})
    vertical_flip: float = field(default=0.0, metadata={"accepts": "[0, 1]", "help": "Probability of a flip."})
    close_mosaic_epochs: int = field(
        default=0,
        metadata={"goes_with": _MOSAICS, "accepts": "[0, inf)", "help": "Last epochs without mosaic and mixup."},
    )

    def __post_init__(self):
        check_fields(self)

    @property
    def warps(self) -> bool:
        return bool(self.scale or self.translate or self.rotate or self.shear)


@dataclass
class DetectionArguments(RecipeArguments):
    """`RecipeArguments`, how YOLOs are trained, and how detections are measured."""

    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best checkpoint's model."})
    metric_for_best_model: str | None = field(default="map", metadata={"help": "What the best is best at."})
    detection_schedule: bool = field(
        default=False,
        metadata={
            "goes_with": {"layer_decay": (None,)},
            "help": "YOLOv6's groups of parameters and schedule: a cosine per epoch, a warm-up of learning rates "
            "(biases' falls) and of SGD's momentum. Replaces lr_scheduler_type.",
        },
    )
    final_lr_factor: float = field(
        default=0.01, metadata={"goes_with": _SCHEDULE, "accepts": "(0, 1]", "help": "Of detection_schedule."}
    )
    detection_warmup_epochs: float = field(
        default=3.0,
        metadata={"goes_with": _SCHEDULE, "accepts": "[0, inf)", "help": "Warm-up of detection_schedule in epochs."},
    )
    least_warmup_steps: int = field(
        default=1000,
        metadata={"goes_with": _SCHEDULE, "accepts": "[0, inf)", "help": "It lasts so many steps at least."},
    )
    warmup_bias_lr: float = field(
        default=0.1,
        metadata={"goes_with": _SCHEDULE, "accepts": "[0, inf)", "help": "First learning rate of the biases."},
    )
    momentum: float = field(
        default=0.937,
        metadata={"goes_with": _SCHEDULE, "accepts": "[0, 1)", "help": "SGD's, with detection_schedule."},
    )
    warmup_momentum: float = field(
        default=0.8, metadata={"goes_with": _SCHEDULE, "accepts": "[0, 1)", "help": "The same at the first step."}
    )
    ema_ramp: float = field(
        default=0.0,
        metadata={
            "goes_with": {"ema_decay": SET},
            "accepts": "[0, inf)",
            "help": "ema_decay · (1 - exp(-step / ema_ramp)); 0: ema_decay at once.",
        },
    )
    atss_epochs: int = field(
        default=0,
        metadata={"accepts": "[0, inf)", "help": "Of Gold-YOLO: first epochs with boxes assigned by ATSS, not TAL."},
    )
    teacher: str | None = field(
        default=None, metadata={"help": "Of Gold-YOLO: folder or id of the detector to distil from."}
    )
    distillation_temperature: float = field(
        default=20.0, metadata={"goes_with": _TAUGHT, "accepts": "(0, inf)", "help": "Of the teacher."}
    )
    class_distillation: float = field(
        default=1.0, metadata={"goes_with": _TAUGHT, "accepts": "[0, inf)", "help": "Weight of the scores'."}
    )
    box_distillation: float = field(
        default=1.0, metadata={"goes_with": _TAUGHT, "accepts": "[0, inf)", "help": "Weight of the sides'."}
    )
    feature_distillation: float = field(
        default=0.0,
        metadata={
            "goes_with": _TAUGHT,
            "accepts": "[0, inf)",
            "help": "Weight of the neck's maps' (CWD); the paper's is 10.",
        },
    )
    eval_threshold: float = field(default=0.001, metadata={"accepts": "[0, 1)", "help": "Least score for AP."})
    eval_nms_threshold: float = field(
        default=0.65, metadata={"accepts": "[0, 1]", "help": "IoU of suppression, of detectors that need it."}
    )
    eval_pictures: int = field(
        default=8, metadata={"accepts": "[0, inf)", "help": "Images of predictions.png, truth beside prediction."}
    )


@dataclass
class DetectionEvaluationArguments(ResultsArguments):
    """How to evaluate."""

    per_device_eval_batch_size: int = field(default=8, metadata={"accepts": "[1, inf)", "help": "Images at a time."})
    dataloader_num_workers: int = field(
        default=0, metadata={"accepts": "[0, inf)", "help": "Processes that read images."}
    )
    reparameterize: bool = field(default=False, metadata={"help": "Fold the model first, as it would be deployed."})
    eval_threshold: float = field(default=0.001, metadata={"accepts": "[0, 1)", "help": "Least score for AP."})
    eval_nms_threshold: float = field(default=0.65, metadata={"accepts": "[0, 1]", "help": "IoU of suppression."})
    eval_pictures: int = field(
        default=8,
        metadata={"goes_with": {"output": SET}, "accepts": "[0, inf)", "help": "Images of predictions.png."},
    )
    precision: Literal["float32", "bfloat16"] = field(default="float32", metadata={"help": "To compute in."})

    def __post_init__(self):
        check_fields(self)
