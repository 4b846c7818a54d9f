"""Arguments of the task contrastive-language-image."""

from dataclasses import dataclass, field
from typing import Literal

from ...data.pictures import PictureArguments
from ...run.arguments import ModelArguments, read_mapping
from ...run.recipe_arguments import RecipeArguments
from ...run.results import ResultsArguments
from ...run.values import SET, check_fields

#: A tokenizer that is trained on the training captions: `train:` and its number of tokens.
TRAIN_TOKENIZER = "train:"
#: CLIP's own vocabulary, for models from random weights.
CLIP_TOKENIZER = "openai/clip-vit-base-patch32"
#: Where the name of a class goes in a template.
SLOT = "{}"


@dataclass
class TwoTowerArguments(ModelArguments):
    """Which two towers, which words."""

    model: str | None = field(
        default=None,
        metadata={
            "missing": "name a preset for zero-shot-image-classification (hf-effmodels list), a Hub id or a folder.",
            "help": "A preset for zero-shot-image-classification, from random weights; or a LightCLIP or CLIP model "
            "on the Hub or in a folder, which is trained on.",
        },
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "Of CLIP's kind, on the Hub or in a folder; train:600 trains one of 600 tokens on the training "
            f"captions. By default the model's own; of a preset {CLIP_TOKENIZER}."
        },
    )
    image_tower: str | None = field(
        default=None,
        metadata={
            "help": "A vision model on the Hub or in a folder: the image tower of a preset, which begins with its "
            "weights."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.num_channels not in (None, 3):
            raise ValueError(f"--num_channels: got {self.num_channels}, accepted is 3: CLIP's processor makes RGB.")
        if self.ignore_mismatched_sizes:
            raise ValueError("--ignore_mismatched_sizes: there is no head here that could be another.")
        if self.trained_tokens is not None and self.trained_tokens < 1:
            raise ValueError(f"--tokenizer: got {self.tokenizer!r}, accepted are whole numbers there.")

    @property
    def trained_tokens(self) -> int | None:
        """Size of the tokenizer that is to be trained, None where there is one."""
        if not (self.tokenizer or "").startswith(TRAIN_TOKENIZER):
            return None
        size = self.tokenizer[len(TRAIN_TOKENIZER) :]
        return int(size) if size.isdigit() else 0


@dataclass
class ImageTextArguments(PictureArguments):
    """Which images, and what is said of them."""

    caption_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the captions, a text or a list of texts for each image; by default caption or text."
        },
    )
    caption_templates: list[str] | None = field(
        default=None,
        metadata={
            "help": "Of data with classes: what is said of an image, with {} in the place of its class's name, such "
            "as 'a photo of a {}'. One is drawn each time."
        },
    )
    eval_templates: list[str] | None = field(
        default=None,
        metadata={
            "help": "Templates whose mean stands for a class in zero-shot classification; by default "
            "caption_templates, or 'a photo of a {}.'."
        },
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Column of the classes, for templates; by default the only one of that type."}
    )
    class_names: dict | str | None = field(
        default=None, metadata={"help": "What classes are called in templates, such as {0: zero, 1: one}."}
    )
    skip_empty_captions: bool = field(
        default=False, metadata={"help": "Leave out images without a caption, instead of ending."}
    )
    zero_shot_dataset: str | None = field(
        default=None,
        metadata={"help": "Images with classes to measure zero-shot accuracy on, beside the captions; as --dataset."},
    )
    zero_shot_config: str | None = field(
        default=None, metadata={"goes_with": {"zero_shot_dataset": SET}, "help": "Its configuration on the Hub."}
    )
    zero_shot_split: str | None = field(
        default=None, metadata={"goes_with": {"zero_shot_dataset": SET}, "help": "Its split, as --eval_split."}
    )
    max_length: int | None = field(
        default=None,
        metadata={
            "accepts": "[3, inf)",
            "help": "Tokens of a caption, the rest is cut; by default what the model takes.",
        },
    )

    def __post_init__(self):
        super().__post_init__()
        names = read_mapping("class_names", self.class_names, (str, int))
        self.class_names = {str(name): str(new) for name, new in names.items()}
        for name in ("caption_templates", "eval_templates"):
            for template in getattr(self, name) or ():
                if template.count(SLOT) != 1:
                    raise ValueError(
                        f"--{name}: got {template!r}, accepted are texts with one {SLOT} in the place of the name."
                    )
            if getattr(self, name) == []:
                raise ValueError(f"--{name}: got none, accepted are one or more.")
        if self.caption_templates and self.caption_column:
            raise ValueError("--caption_templates and --caption_column exclude each other.")
        if self.caption_templates and self.zero_shot_dataset:
            raise ValueError("--zero_shot_dataset: with --caption_templates the evaluation split has classes itself.")

    @property
    def templates_of_classes(self) -> list[str]:
        """What zero-shot classification asks with."""
        return self.eval_templates or self.caption_templates or [f"a photo of a {SLOT}."]


@dataclass
class ImagePartArguments:
    """Which part of an image is looked at."""

    crop_scale: list[float] = field(
        default_factory=lambda: [0.5, 1.0],
        metadata={"accepts": "(0, 1]", "help": "Smallest and largest share of the image's area."},
    )
    crop_ratio: list[float] = field(
        default_factory=lambda: [3 / 4, 4 / 3],
        metadata={"accepts": "(0, inf)", "help": "Smallest and largest width / height of the part."},
    )
    horizontal_flip: float = field(
        default=0.0,
        metadata={"accepts": "[0, 1]", "help": "Probability of mirroring, which makes captions about sides wrong."},
    )

    def __post_init__(self):
        check_fields(self)
        for name in ("crop_scale", "crop_ratio"):
            values = getattr(self, name)
            if len(values) != 2 or values[0] > values[1]:
                raise ValueError(f"--{name}: got {values}, accepted are two positive numbers in order.")


_TEACHER = {"teacher": SET}


@dataclass
class ContrastiveArguments(RecipeArguments):
    """How to train. The weights of words and of masked words are fields of --model_config."""

    softening: float = field(
        default=0.2,
        metadata={"accepts": "[0, 1)", "help": "What the own pair's target has given up to the others at the end."},
    )
    softening_schedule: Literal["linear", "cosine"] = field(
        default="linear", metadata={"help": "How it gets there.", "goes_with": {"softening": SET}}
    )
    mask_ratio: float = field(
        default=0.15,
        metadata={"accepts": "(0, 1)", "help": "Share of a caption's words that is masked, one at least."},
    )
    token_group: int | None = field(
        default=None,
        metadata={
            "accepts": "[2, inf)",
            "help": "Words are compared with the places of so many pairs' images at most, by default of the whole "
            "step's: memory grows with the square of it.",
        },
    )
    teacher: str | None = field(
        default=None, metadata={"help": "A larger CLIP on the Hub or in a folder to learn from as well."}
    )
    affinity_weight: float = field(
        default=1.0,
        metadata={"accepts": "[0, inf)", "goes_with": _TEACHER, "help": "Weight of its affinities (TinyCLIP)."},
    )
    feature_weight: float = field(
        default=0.0,
        metadata={
            "accepts": "[0, inf)",
            "goes_with": _TEACHER,
            "help": "Weight of the distance to its embeddings (CLIP-KD), which are as wide as the model's.",
        },
    )
    eval_group: int = field(
        default=64, metadata={"accepts": "[2, inf)", "help": "Pairs that are compared in the loss of an evaluation."}
    )
    dataloader_drop_last: bool = field(
        default=True, metadata={"help": "Leave this on: the last batch of an epoch may have one pair."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.label_smoothing_factor:
            raise ValueError(f"--label_smoothing_factor: got {self.label_smoothing_factor}; say --softening.")
        if not self.dataloader_drop_last:
            raise ValueError("--dataloader_drop_last: got false, accepted is true: a batch of one compares nothing.")
        if self.pairs_per_step < 2:
            raise ValueError(
                f"--per_device_train_batch_size: got {self.per_device_train_batch_size} in one process, accepted are "
                "2 pairs a step or more: a contrastive loss compares them (--gradient_accumulation_steps counts)."
            )

    @property
    def pairs_per_step(self) -> int:
        """Pairs that are compared with each other, over accumulated batches and processes."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size


@dataclass
class EvaluationArguments(ResultsArguments):
    """How to evaluate."""

    per_device_eval_batch_size: int = field(default=64, metadata={"accepts": "[1, inf)", "help": "Pairs at a time."})
    dataloader_num_workers: int = field(
        default=0, metadata={"accepts": "[0, inf)", "help": "Processes that read images."}
    )
    eval_group: int = field(
        default=64, metadata={"accepts": "[2, inf)", "help": "Pairs that are compared in the loss."}
    )

    def __post_init__(self):
        check_fields(self)
