"""Arguments of a distillation without data: teachers, generator, how the two sides take turns."""

from dataclasses import dataclass, field
from typing import Literal

from ...data_free import GENERATORS
from ...run.arguments import check_fields
from ...run.recipe_arguments import RecipeArguments
from ...run.values import SET
from ...task import load_task

_TASK = load_task("image-classification")


@dataclass
class DataFreeArguments:
    """Who teaches, what makes the images, and by which losses (CDFKD-MFS)."""

    teachers: list[str] | None = field(
        default=None,
        metadata={
            "missing": "name trained image classifiers with batch norms, on the Hub or in folders.",
            "help": "The teachers: image classifiers on the Hub or in folders, of the same classes, with batch norms "
            "that remember their images. The images are normalised as for the first one.",
        },
    )
    generator: Literal[GENERATORS] | None = field(
        default=None,
        metadata={
            "help": "What makes the images: small (as published for 32 pixels), large (128, within -1 and 1), "
            "large_normalized (224). By default small up to 64 pixels, large_normalized above."
        },
    )
    latent_size: int = field(default=256, metadata={"accepts": "[1, inf)", "help": "Numbers an image comes from."})
    steps_per_epoch: int = field(
        default=250, metadata={"accepts": "[1, inf)", "help": "The student's steps in an epoch."}
    )
    student_steps: int = field(
        default=5, metadata={"accepts": "[1, inf)", "help": "The student's steps for each one of the generator."}
    )
    generator_learning_rate: float = field(
        default=1e-3, metadata={"accepts": "(0, inf)", "help": "Learning rate of the generator's Adam at the start."}
    )
    generator_schedule: Literal["same", "constant"] = field(
        default="same", metadata={"help": "same: it falls as the student's does. constant: it stays, as in CDFKD."}
    )
    head_weight: float = field(
        default=1.0,
        metadata={"accepts": "[0, inf)", "help": "Student: weight of the heads' distance to their teachers."},
    )
    feature_weight: float = field(
        default=0.2,
        metadata={
            "accepts": "[0, inf)",
            "help": "Student: weight of the distance of the features, as wide as the teachers'; 0 where they are not.",
        },
    )
    ensemble_weight: float = field(
        default=5.0, metadata={"accepts": "[0, inf)", "help": "Student: weight of the distance of the mean logits."}
    )
    disagreement_weight: float = field(
        default=1.0,
        metadata={"accepts": "[0, inf)", "help": "Generator: weight of student's and teachers' distance."},
    )
    statistics_weight: float = field(
        default=0.1,
        metadata={"accepts": "[0, inf)", "help": "Generator: weight of the batch norms' gaps."},
    )
    first_norm_weight: float = field(
        default=5.0,
        metadata={
            "goes_with": {"statistics_weight": SET},
            "accepts": "[0, inf)",
            "help": "How often the first batch norm of a teacher counts.",
        },
    )
    real_samples: int | None = field(
        default=None,
        metadata={
            "accepts": "[1, inf)",
            "goes_with": {"dataset": SET},
            "help": "At the end, learn from so many images of --train_split, evenly spread, how much each head counts "
            "for an image (aggregation: attention). Nothing else is learnt from them.",
        },
    )
    aggregation_steps: int = field(
        default=200,
        metadata={"goes_with": {"real_samples": SET}, "accepts": "[1, inf)", "help": "Steps that this takes."},
    )
    aggregation_learning_rate: float = field(
        default=0.01,
        metadata={"goes_with": {"real_samples": SET}, "accepts": "(0, inf)", "help": "Its learning rate."},
    )

    def __post_init__(self):
        check_fields(self)


@dataclass
class EvaluationDataArguments(_TASK.DataArguments):
    """What the student is evaluated on, if on anything: nothing is trained on it."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "What to evaluate on (nothing by default): a data set on the Hub, a local folder, a format with "
            "data_files or data_dir (imagefolder, parquet, ...), or digits. It is not trained on."
        },
    )


@dataclass
class DataFreeTrainingArguments(RecipeArguments):
    """As published: plain SGD, whose gradients are not clipped. An epoch is `--steps_per_epoch` long."""

    optim: str = field(default="sgd", metadata={"help": "Of the student: sgd, lamb, rmsprop_tf, or OptimizerNames."})
    learning_rate: float = field(default=0.1, metadata={"help": "The student's learning rate at the start."})
    weight_decay: float = field(default=5e-4, metadata={"help": "Of the student's weights."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Largest norm of the student's gradient; 0 for any."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    save_total_limit: int | None = field(
        default=2, metadata={"help": "Checkpoints to keep: the newest, and the best in any case."}
    )
    metric_for_best_model: str | None = field(default="accuracy", metadata={"help": "What the best is best at."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between log lines; below 1 a share of all."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Turn this on for a student that does not use all of its parameters."}
    )
