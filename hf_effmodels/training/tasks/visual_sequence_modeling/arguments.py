"""Arguments of the task visual-sequence-modeling."""

from dataclasses import dataclass, field
from typing import Literal

from ...run.arguments import read_mapping
from ...run.recipe_arguments import RecipeArguments
from ...run.results import ResultsArguments
from ...run.values import SET, check_fields

#: An image tokenizer that is trained on the training pictures: `train:` and its number of codes.
TRAIN_TOKENIZER = "train:"


@dataclass
class VisualModelArguments:
    """Which transformer, which image tokenizer, which teacher."""

    model: str | None = field(
        default=None,
        metadata={
            "missing": "name llama (random weights, see --model_config), or a DeLVM pipeline (a folder, a Hub id).",
            "help": "llama: random weights, of the sizes in --model_config; a preset (delvm-300m); or a DeLVM "
            "pipeline in a folder or on the Hub, whose weights are trained on.",
        },
    )
    model_config: dict | str | None = field(
        default=None, metadata={"help": "Fields of the LlamaConfig, such as {hidden_size: 128, num_hidden_layers: 4}."}
    )
    image_tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "A VQModel of diffusers, or a pipeline that has one as vqvae, in a folder or on the Hub; by "
            "default that of --model, or of the table of tokens. train:64 trains one of 64 codes on the pictures."
        },
    )
    tokenizer_config: dict | str | None = field(
        default=None,
        metadata={"help": "Fields of the VQModel that is trained, such as {block_out_channels: [32, 64]}."},
    )
    tokenizer_steps: int = field(
        default=1000, metadata={"accepts": "[1, inf)", "help": "Steps of 64 pictures that it is trained for."}
    )
    image_size: int | None = field(
        default=None,
        metadata={"accepts": "[1, 65536]", "help": "Side of the images in pixels; by default the tokenizer's."},
    )
    factorized_embedding: bool = field(
        default=False,
        metadata={
            "help": "Train a projection of the tokenizer's frozen codebook instead of an embedding, as published; "
            "what is saved is folded."
        },
    )
    teacher: str | None = field(
        default=None, metadata={"help": "A DeLVM pipeline with the same image tokenizer, to distil from."}
    )
    token: str | None = field(default=None, metadata={"help": "Token for gated or private repositories on the Hub."})

    def __post_init__(self):
        check_fields(self)
        self.model_config = read_mapping("model_config", self.model_config)
        self.tokenizer_config = read_mapping("tokenizer_config", self.tokenizer_config)
        if self.trains_tokenizer:
            codes = self.image_tokenizer[len(TRAIN_TOKENIZER) :]
            if not codes.isdigit() or int(codes) < 2:
                raise ValueError(
                    f"--image_tokenizer: got {self.image_tokenizer!r}, accepted are whole numbers from 2 there."
                )
        elif self.tokenizer_config:
            raise ValueError("--tokenizer_config goes with --image_tokenizer train:<codes>.")

    @property
    def trains_tokenizer(self) -> bool:
        return bool(self.image_tokenizer) and self.image_tokenizer.startswith(TRAIN_TOKENIZER)


@dataclass
class VisualDataArguments:
    """Which pairs, and how they become sentences."""

    dataset: str | None = field(
        default=None,
        metadata={
            "missing": "name a folder of tasks, a table of hf-effmodels prepare visual-sentences, or digits.",
            "help": "A folder of tasks (<task>/images and <task>/answers with files of the same names), a table that "
            "hf-effmodels prepare visual-sentences wrote, or digits, with the tasks invert and segment.",
        },
    )
    expand: dict | str | None = field(
        default=None,
        metadata={
            "help": "Augmented copies of each training pair, by task, such as {segment: 10}: the same random crop and "
            "flips of image and answer. The published range is 10 to 100, for small tasks."
        },
    )
    task_samples: dict | str | None = field(
        default=None, metadata={"help": "Training pairs that a task has at most, by task, evenly spread."}
    )
    pairs_per_sentence: int = field(
        default=4, metadata={"accepts": "[1, 1024]", "help": "Pairs of a sentence, all of one task."}
    )
    packing: Literal["drawn", "packed"] = field(
        default="drawn",
        metadata={
            "help": "drawn: each pair ends a sentence, and those before it are drawn anew in every epoch. packed: "
            "fixed sentences, shuffled once, laid end to end and cut, as published."
        },
    )
    packed_length: int = field(
        default=2048,
        metadata={"accepts": "[2, inf)", "goes_with": {"packing": ("packed",)}, "help": "Tokens of a pack."},
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"accepts": "[1, inf)", "help": "Evaluate on that many pairs of each task."}
    )

    def __post_init__(self):
        check_fields(self)
        self.expand = read_mapping("expand", self.expand)
        self.task_samples = read_mapping("task_samples", self.task_samples)


@dataclass
class VisualSequenceArguments(RecipeArguments):
    """How to train, and what is answered at the end."""

    gt_weight: float = field(
        default=1.0,
        metadata={
            "accepts": "[0, inf)",
            "goes_with": {"teacher": SET},
            "help": "Weight of the cross entropy beside a teacher.",
        },
    )
    kd_weight: float = field(
        default=1.0,
        metadata={"accepts": "[0, inf)", "goes_with": {"teacher": SET}, "help": "Weight of the divergence."},
    )
    kd_temperature: float = field(
        default=1.0, metadata={"accepts": "(0, inf)", "goes_with": {"teacher": SET}, "help": "Its temperature."}
    )
    kd_inverse: bool = field(
        default=False,
        metadata={"goes_with": {"teacher": SET}, "help": "KL(student || teacher) instead of KL(teacher || student)."},
    )
    kd_predicted_only: bool = field(
        default=False,
        metadata={
            "goes_with": {"teacher": SET},
            "help": "Only at places with a next token. As published it counts at all, ends of sentences too.",
        },
    )
    answered_images: int = field(
        default=32,
        metadata={"accepts": "[0, inf)", "help": "Evaluation pictures that are answered, by each task, at the end."},
    )
    shown_images: int = field(
        default=4, metadata={"accepts": "[0, 64]", "help": "Of these, as many are drawn into answers.png."}
    )

    def __post_init__(self):
        if self.label_smoothing_factor:
            raise ValueError("--label_smoothing_factor: the plain cross entropy is trained on; accepted is 0.")
        super().__post_init__()


@dataclass
class EvaluationArguments(ResultsArguments):
    """How to evaluate."""

    per_device_eval_batch_size: int = field(
        default=64, metadata={"accepts": "[1, inf)", "help": "Sentences at a time."}
    )
    answered_images: int = field(
        default=32, metadata={"accepts": "[0, inf)", "help": "Pictures that are answered, by each task."}
    )

    def __post_init__(self):
        check_fields(self)
