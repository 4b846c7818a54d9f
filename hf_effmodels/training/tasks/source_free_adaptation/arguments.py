"""Arguments of a source-free adaptation beside those of an image classification."""

from dataclasses import dataclass, field

from ...run.values import check_fields
from ...task import load_task

_TASK = load_task("image-classification")


@dataclass
class AdaptationArguments:
    """How SFDA-DE labels the pictures itself, and what it pulls together. A round is an epoch."""

    steps_per_round: int = field(
        default=50, metadata={"accepts": "[1, inf)", "help": "Steps after which the pictures are labelled anew."}
    )
    samples_per_class: int = field(
        default=3,
        metadata={
            "accepts": "[1, inf)",
            "help": "Pictures of a class in a step. The classes of a step are as many as fill its batch.",
        },
    )
    distance_threshold: float = field(
        default=1.0,
        metadata={"accepts": "(0, inf)", "help": "Largest distance, (1 - cosine) / 2, to a centre; 1 keeps all."},
    )
    min_samples_per_class: int = field(
        default=5, metadata={"accepts": "[2, inf)", "help": "Kept pictures that a class needs to be trained on."}
    )
    cluster_tolerance: float = field(
        default=0.001, metadata={"accepts": "(0, inf)", "help": "Clustering ends when its centres move by less."}
    )
    std_factor: float = field(
        default=1.0, metadata={"accepts": "(0, inf)", "help": "Factor of the estimated deviations."}
    )
    estimate_source: bool = field(
        default=True,
        metadata={"help": "Off: the means stay those of the target's features, in place of the classifier's rows."},
    )
    discrepancy_weight: float = field(default=1.0, metadata={"accepts": "(0, inf)", "help": "Weight of the loss."})
    augmented_features: bool = field(
        default=False,
        metadata={"help": "Label augmented pictures, and measure others, as the third-party release does."},
    )
    norm_learning_rate_factor: float = field(
        default=1.0, metadata={"accepts": "(0, inf)", "help": "Factor of the learning rate of all norms (VisDA: 10)."}
    )

    def __post_init__(self):
        check_fields(self)


@dataclass
class AdaptationTrainingArguments(_TASK.ImageClassificationArguments):
    """As an image classification, but what it ends with is not chosen by the labels: those are not to be had."""

    load_best_model_at_end: bool = field(
        default=False, metadata={"help": "End with the checkpoint that is best by the evaluation set's labels."}
    )
    per_device_train_batch_size: int = field(default=30, metadata={"help": "Pictures of a step, per process."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate at the start."})
    optim: str = field(default="sgd", metadata={"help": "As of image-classification."})
    weight_decay: float = field(default=5e-4, metadata={"help": "Weight decay of SGD."})
