"""Arguments of the task semantic-segmentation."""

from dataclasses import dataclass, field
from typing import Literal

from ...run.arguments import ModelArguments, read_mapping
from ...run.recipe_arguments import RecipeArguments
from ...run.results import ResultsArguments
from ...run.values import SET, check_fields


@dataclass
class SegmenterArguments(ModelArguments):
    """Which segmenter."""

    model: str | None = field(
        default=None,
        metadata={
            "help": "A preset (hf-effmodels list), trained from random weights; or a segmenter on the Hub or in a "
            "local folder, whose weights are fine-tuned."
        },
    )
    segmenter: str | None = field(
        default=None,
        metadata={
            "help": "Instead of --model: a model type of transformers with a head for semantic segmentation (upernet, "
            "segformer, dpt, ...), built anew with --model_config."
        },
    )
    backbone: str | None = field(
        default=None,
        metadata={
            "help": "With --segmenter: a preset of this package (random weights) or a folder or id as its backbone; "
            "dtop starts from any ViT of transformers."
        },
    )
    backbone_config: dict | str | None = field(
        default=None,
        metadata={"help": "Fields of the backbone's configuration to change, such as {out_features: [...]}."},
    )

    def __post_init__(self):
        self.backbone_config = read_mapping("backbone_config", self.backbone_config)
        super().__post_init__()


@dataclass
class SegmentationAugmentationArguments:
    """What becomes of a training image and its map. It is resized, cropped to a square and flipped."""

    scale_range: list[float] = field(
        default_factory=lambda: [0.5, 2.0],
        metadata={
            "accepts": "(0, 16]",
            "help": "The shorter side becomes the square's, times a number between these.",
        },
    )
    max_class_share: float = field(
        default=0.75,
        metadata={"accepts": "(0, 1]", "help": "A crop is drawn again (ten times at most) if one class fills more."},
    )
    horizontal_flip: float = field(default=0.5, metadata={"accepts": "[0, 1]", "help": "Probability of a flip."})
    brightness: float = field(
        default=0.0, metadata={"accepts": "[0, 1]", "help": "Largest change of the brightness, of the full range."}
    )
    contrast: float = field(default=0.0, metadata={"accepts": "[0, 1]", "help": "Largest relative change."})
    saturation: float = field(default=0.0, metadata={"accepts": "[0, 1]", "help": "Largest relative change."})

    def __post_init__(self):
        check_fields(self)
        if len(self.scale_range) != 2 or self.scale_range[0] > self.scale_range[1]:
            raise ValueError(f"--scale_range: got {self.scale_range}, accepted are two numbers, the smaller first.")


@dataclass
class MeasuringArguments:
    """How segmenters are measured."""

    eval_mode: Literal["whole", "slide"] = field(
        default="whole",
        metadata={
            "help": "whole: as the pipeline does, the image in the network's square. slide: its shorter side is the "
            "square's, and the scores of windows are averaged."
        },
    )
    eval_stride: int | None = field(
        default=None,
        metadata={"accepts": "[1, inf)", "help": "Of slide: pixels from window to window, two thirds of a side."},
    )
    eval_pictures: int = field(
        default=8, metadata={"accepts": "[0, inf)", "help": "Images of predictions.png, truth beside prediction."}
    )

    def check_stride(self, side: int) -> None:
        if self.eval_stride is not None and self.eval_mode != "slide":
            raise ValueError("--eval_stride goes with --eval_mode slide.")
        if self.eval_stride is not None and self.eval_stride > side:
            raise ValueError(f"--eval_stride: got {self.eval_stride}, accepted are numbers up to the side, {side}.")


@dataclass
class SegmentationArguments(MeasuringArguments, RecipeArguments):
    """`RecipeArguments`, and how segmenters are trained and measured."""

    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best checkpoint's model."})
    metric_for_best_model: str | None = field(default="miou", metadata={"help": "What the best is best at."})
    head_learning_rate_factor: float = field(
        default=1.0,
        metadata={"accepts": "(0, inf)", "help": "Learning rate of all but the backbone, times --learning_rate."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.label_smoothing_factor:
            raise ValueError(
                f"--label_smoothing_factor: got {self.label_smoothing_factor}, accepted is 0: the loss is the "
                "model's own."
            )


@dataclass
class SegmentationEvaluationArguments(MeasuringArguments, ResultsArguments):
    """How to evaluate."""

    per_device_eval_batch_size: int = field(default=8, metadata={"accepts": "[1, inf)", "help": "Images at a time."})
    dataloader_num_workers: int = field(
        default=0, metadata={"accepts": "[0, inf)", "help": "Processes that read images."}
    )
    eval_pictures: int = field(
        default=8,
        metadata={"goes_with": {"output": SET}, "accepts": "[0, inf)", "help": "Images of predictions.png."},
    )
    precision: Literal["float32", "bfloat16"] = field(default="float32", metadata={"help": "To compute in."})

    def __post_init__(self):
        check_fields(self)
