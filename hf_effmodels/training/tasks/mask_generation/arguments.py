"""Arguments of the task mask-generation."""

from dataclasses import dataclass, field

from ...run.arguments import check_fields
from ...run.recipe_arguments import RecipeArguments
from ...run.results import ResultsArguments


@dataclass
class ShapesArguments:
    """Which pictures: shapes drawn over photographs, whose masks are known to the pixel."""

    photographs: str | None = field(
        default=None,
        metadata={"help": "Folder of photographs; by default a few that scikit-learn and scikit-image bring along."},
    )
    eval_photographs: str | None = field(
        default=None, metadata={"help": "The same to evaluate on; by default others than those of the training."}
    )
    train_pictures: int = field(default=512, metadata={"help": "Pictures to train on, in an epoch."})
    eval_pictures: int = field(default=64, metadata={"help": "Pictures to evaluate on."})
    prompts_per_picture: int = field(default=4, metadata={"help": "Masks that are asked for in a picture."})
    shapes_per_picture: int = field(default=6, metadata={"help": "Shapes that are drawn; later ones hide others."})
    hard_prompt_rounds: int = field(
        default=9,
        metadata={
            "help": "Most rounds of hard prompts: after each the point moves to where the student missed the mask. "
            "How many it is, is drawn for each picture from 0 to this."
        },
    )

    def __post_init__(self):
        check_fields(self)
        for name, least in (
            ("train_pictures", 1),
            ("eval_pictures", 1),
            ("prompts_per_picture", 1),
            ("shapes_per_picture", 1),
            ("hard_prompt_rounds", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"--{name}: got {getattr(self, name)}, accepted are whole numbers from {least}.")


@dataclass
class TeacherArguments:
    """Who teaches, and how much each loss counts. The paper gives none of the weights."""

    teacher: str | None = field(
        default=None,
        metadata={"help": "A SAM on the Hub or in a folder; without one the ground truth alone teaches."},
    )
    teacher_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the teacher on the Hub."}
    )
    teacher_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder for the teacher's image embeddings. A picture is then the same in every epoch, and "
            "encoded once; a run that was ended goes on with what is there."
        },
    )
    embedding_weight: float = field(default=1.0, metadata={"help": "Weight of the image embeddings' distance."})
    token_weight: float = field(default=1.0, metadata={"help": "Weight of the decoder tokens' distance."})
    mask_weight: float = field(default=1.0, metadata={"help": "Weight of the masks' distance, times their hardness."})
    hard_mask_weighting: bool = field(
        default=True, metadata={"help": "Weigh masks by how much worse the student is; all by 0.5 otherwise."}
    )
    focal_weight: float = field(default=20.0, metadata={"help": "Weight of the focal loss against the ground truth."})
    dice_weight: float = field(default=1.0, metadata={"help": "Weight of the dice loss against the ground truth."})
    iou_weight: float = field(default=1.0, metadata={"help": "Weight of the error of the predicted scores."})

    def __post_init__(self):
        check_fields(self)
        for name in ("embedding", "token", "mask", "focal", "dice", "iou"):
            value = getattr(self, f"{name}_weight")
            if not 0 <= value < float("inf"):
                raise ValueError(f"--{name}_weight: got {value}, accepted are numbers from 0.")
        if self.teacher is None and self.teacher_cache is not None:
            raise ValueError("--teacher_cache: there is no --teacher whose embeddings it could hold.")


@dataclass
class MaskGenerationArguments(RecipeArguments):
    """How to train, and what is shown of it."""

    shown_pictures: int = field(
        default=4,
        metadata={"accepts": "[0, inf)", "help": "Pictures whose masks are drawn into masks.png; 0: none."},
    )


@dataclass
class MaskGenerationEvaluationArguments(ResultsArguments):
    """How to evaluate."""

    eval_photographs: str | None = field(default=None, metadata={"help": "As for training."})
    eval_pictures: int = field(default=64, metadata={"accepts": "[1, inf)", "help": "As for training."})
    prompts_per_picture: int = field(default=4, metadata={"accepts": "[1, inf)", "help": "As for training."})
    shapes_per_picture: int = field(default=6, metadata={"accepts": "[1, inf)", "help": "As for training."})
    per_device_eval_batch_size: int = field(default=8, metadata={"accepts": "[1, inf)", "help": "Pictures at a time."})

    def __post_init__(self):
        check_fields(self)
