"""What can be asked of the task image-text-to-text."""

from dataclasses import dataclass, field
from typing import Literal

from ...data.images import ImageSplitArguments
from ...run.arguments import read_mapping
from ...run.recipe_arguments import RecipeArguments
from ...run.results import ResultsArguments
from ...run.values import check_fields

#: `--tokenizer` that is made from the training texts.
TRAINED_TOKENIZER = "bpe"
_TABLE = {"data_format": ("table", None)}


@dataclass
class VisionLanguageModelArguments:
    """Which model."""

    model: str | None = field(
        default=None,
        metadata={
            "missing": "name a preset (hf-effmodels list 'adem_vl*'), a Hub id or a folder.",
            "help": "A preset of ADEM-VL (hf-effmodels list 'adem_vl*'), whose adapters start afresh; or an ADEM-VL "
            "model, whole or adapters only, on the Hub or in a local folder.",
        },
    )
    text_model: str | None = field(
        default=None,
        metadata={
            "help": "With a preset: the language model to adapt, a Hub id or a folder; any decoder of the LLaMA "
            "layout. Without it the network of the preset (or of model_config) starts from random weights."
        },
    )
    vision_model: str | None = field(
        default=None, metadata={"help": "With text_model: the CLIP or SigLIP, a Hub id or a folder."}
    )
    model_config: dict | str | None = field(
        default=None,
        metadata={"help": "With a preset: fields of AdemVLConfig to change, such as {alpha: 0.2, pool_sizes: [16]}."},
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "Tokenizer of a network that starts from random weights: a Hub id, a folder, or bpe (a byte-level "
            "one of its own, made from the training texts). By default that of text_model."
        },
    )
    tokenizer_vocab_size: int = field(
        default=512,
        metadata={
            "goes_with": {"tokenizer": (TRAINED_TOKENIZER,)},
            "accepts": "[260, 16777216]",
            "help": "Largest vocabulary of a bpe tokenizer.",
        },
    )
    base_precision: Literal["float32", "bfloat16", "float16", "4bit"] = field(
        default="float32",
        metadata={
            "help": "Weights of the frozen parts. The adapters are float32 in any case. 4bit (the language model in "
            "NF4, the rest in bfloat16) needs bitsandbytes."
        },
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model on the Hub."})
    token: str | None = field(default=None, metadata={"help": "Token for gated or private repositories on the Hub."})

    def __post_init__(self):
        check_fields(self)
        self.model_config = read_mapping("model_config", self.model_config)
        if (self.text_model is None) != (self.vision_model is None):
            missing = "text_model" if self.text_model is None else "vision_model"
            raise ValueError(f"--{missing} is missing: the frozen parts are given together, or neither.")


@dataclass
class VisionLanguageDataArguments(ImageSplitArguments):
    """Which pictures and texts."""

    dataset: str | None = field(
        default=None,
        metadata={
            "missing": "name a data set on the Hub, a folder or file, or digits.",
            "help": "A data set on the Hub, a local folder or file, a format of datasets with data_files (json, csv, "
            "parquet), digits (1797 handwritten digits that come with scikit-learn), or just a name, where "
            "data_files says the rest.",
        },
    )
    data_format: Literal["science_qa", "coco_captions", "instructions", "table", "mme"] | None = field(
        default=None,
        metadata={
            "help": "science_qa: the Hub's columns, or a folder with problems.json and pid_splits.json. "
            "coco_captions: annotation files (COCO's, Karpathy's dataset_coco.json, BLIP's lists). instructions: "
            "LLaVA's conversations or LaVIN's all_data.json. table: columns of images, questions and answers. mme: "
            "the folder of the release, or its columns; for evaluation. By default what dataset looks like."
        },
    )
    image_folder: str | None = field(
        default=None, metadata={"help": "Folder that file names of images are relative to."}
    )
    caption_file: str | None = field(
        default=None,
        metadata={"help": "science_qa in a folder: captions.json; the images' captions then are part of the context."},
    )
    prompt_format: Literal["CQM-A", "QCM-A"] = field(
        default="CQM-A",
        metadata={
            "goes_with": {"data_format": ("science_qa", None)},
            "help": "science_qa: the context before the question, or after it.",
        },
    )
    image_column: str | None = field(
        default=None,
        metadata={
            "goes_with": _TABLE,
            "help": "table: column of the images; by default the only one of that type, if any.",
        },
    )
    question_column: str = field(
        default="question",
        metadata={
            "goes_with": _TABLE,
            "help": "table: column of the questions.",
        },
    )
    answer_column: str = field(
        default="answer",
        metadata={
            "goes_with": _TABLE,
            "help": "table: column of the answers.",
        },
    )
    question: str | None = field(
        default=None, metadata={"help": "table: the same question for all rows, instead of a column."}
    )
    prompt_template: str = field(
        default="Instruction: {question}\nResponse:",
        metadata={
            "goes_with": _TABLE,
            "help": "table: what is asked; {question} is the question. The default is the chat template's form.",
        },
    )
    max_length: int = field(
        default=512,
        metadata={
            "accepts": "[8, 16777216]",
            "help": "Tokens of prompt and answer together, the prefix included; the rest is cut.",
        },
    )
    max_new_tokens: int | None = field(
        default=None,
        metadata={
            "accepts": "[1, 1000000]",
            "help": "Longest generated answer. By default science_qa 1, coco_captions 20, mme 10, others 32.",
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if "{question}" not in self.prompt_template:
            raise ValueError(f"--prompt_template: {self.prompt_template!r} has no {{question}} in it.")


@dataclass
class ImageTextToTextArguments(RecipeArguments):
    """How to train."""

    train: Literal["adapters", "adapters+vision", "all"] = field(
        default="adapters",
        metadata={
            "help": "adapters: as the paper does. adapters+vision: the vision tower, too. all: everything, for "
            "networks that start from random weights."
        },
    )
    augmentation: Literal["none", "captions"] = field(
        default="none",
        metadata={
            "help": "captions: the paper's for COCO captions (random crop of at least half the area, mirroring, two "
            "of ten RandAugment operations)."
        },
    )
    save_base: bool = field(
        default=False,
        metadata={
            "help": "Save the frozen parts, too, where only adapters are trained. By default the output is a few MB "
            "of adapters, which name text_model and vision_model."
        },
    )

    def __post_init__(self):
        for name in ("label_smoothing_factor", "layer_decay"):
            if getattr(self, name):
                raise ValueError(f"--{name}: got {getattr(self, name)}; image-text-to-text has none.")
        super().__post_init__()


@dataclass
class EvaluationArguments(ResultsArguments):
    """How to evaluate."""

    per_device_eval_batch_size: int = field(default=8, metadata={"help": "Prompts at a time, per process."})
    bf16: bool = field(default=False, metadata={"help": "Compute in bfloat16."})
    answers: str | None = field(
        default=None, metadata={"help": "JSON lines file for the prompts, the answers and the references."}
    )


#: What a training recipe may have in it.
TRAINING_ARGUMENTS = (VisionLanguageModelArguments, VisionLanguageDataArguments, ImageTextToTextArguments)
EVALUATION_ARGUMENTS = (VisionLanguageModelArguments, VisionLanguageDataArguments, EvaluationArguments)
