"""The arguments of the task causal-lm."""

from dataclasses import dataclass, field

from ...elastic.arguments import SortedArguments
from ...run.arguments import read_mapping
from ...run.recipe_arguments import RecipeArguments
from ...run.results import ResultsArguments
from ...run.ternary import TernaryArguments
from ...run.values import SET, check_fields

#: A tokenizer that is trained on the training text: `train:` and its number of tokens.
TRAIN_TOKENIZER = "train:"


@dataclass
class LanguageModelArguments:
    """Which model, and which tokenizer."""

    model: str | None = field(
        default=None,
        metadata={
            "missing": "name a preset (hf-effmodels list), a model_type of transformers, a Hub id or a local folder.",
            "help": "A preset (hf-effmodels list) or a model_type of transformers (llama, mixtral, ...), trained from "
            "random weights; or a model on the Hub or in a local folder, whose weights are trained on.",
        },
    )
    model_config: dict | str | None = field(
        default=None,
        metadata={"help": "Fields of the model's configuration to change: a mapping, such as {hidden_size: 512}."},
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "A tokenizer on the Hub or in a folder; by default the model's. train:4096 trains a byte-level "
            "BPE of 4096 tokens on the training text; it is saved with the model."
        },
    )
    eos_token: str | None = field(
        default=None, metadata={"help": "The token between documents, where the tokenizer names none itself."}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "sdpa, eager, flex_attention, flash_attention_2, ...; by default sdpa."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model on the Hub."})
    token: str | None = field(default=None, metadata={"help": "Token for gated or private repositories on the Hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code that lies on the Hub."})

    def __post_init__(self):
        check_fields(self)
        self.model_config = read_mapping("model_config", self.model_config)
        if self.tokenizer and self.tokenizer.startswith(TRAIN_TOKENIZER):
            size = self.tokenizer[len(TRAIN_TOKENIZER) :]
            # 256 bytes and the token between documents
            if not size.isdigit() or int(size) < 257:
                raise ValueError(f"--tokenizer: got {self.tokenizer!r}, accepted are whole numbers from 257 there.")


@dataclass
class CausalLMArguments(SortedArguments, TernaryArguments, RecipeArguments):
    """`RecipeArguments`, and what is measured and shown on the way."""

    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between log lines; below 1 a share of all."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Turn this on for a model that does not use all of its parameters."}
    )
    peak_tflops: float | None = field(
        default=None,
        metadata={
            "accepts": "(0, inf)",
            "help": "Peak of one device in 1e12 operations per second at the training precision, for the model FLOPs "
            "utilisation in the logs; known for the usual GPUs with bf16 or fp16.",
        },
    )
    sample_prompt: str | None = field(
        default=None, metadata={"help": "Let the trained model continue this text, at the end."}
    )
    sample_tokens: int = field(
        default=100,
        metadata={
            "goes_with": {"sample_prompt": SET},
            "accepts": "[1, 1000000]",
            "help": "Length of that continuation, in tokens.",
        },
    )

    def __post_init__(self):
        if self.label_smoothing_factor:
            raise ValueError("--label_smoothing_factor: the model's own loss is trained on; accepted is 0.")
        if not self.average_tokens_across_devices:
            raise ValueError(
                "--average_tokens_across_devices: the loss is the mean over all tokens; accepted is true."
            )
        super().__post_init__()


@dataclass
class EvaluationArguments(ResultsArguments):
    """How to evaluate."""

    per_device_eval_batch_size: int = field(default=8, metadata={"help": "Blocks at a time, per process."})
    bf16: bool = field(default=False, metadata={"help": "Compute in bfloat16."})
