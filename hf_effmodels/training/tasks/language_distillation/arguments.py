"""Arguments of the distillation of a language model beside those of the student's task."""

from dataclasses import dataclass, field
from typing import Literal

from ...losses.token_divergence import check_divergence
from ...run.values import check_fields


@dataclass
class LanguageDistillationArguments:
    """Who teaches, and by which losses."""

    teacher: str | None = field(
        default=None,
        metadata={
            "missing": "name a language model on the Hub or in a local folder, with the student's vocabulary.",
            "help": "The teacher: a causal language model on the Hub or in a folder, with the student's vocabulary.",
        },
    )
    teacher_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the teacher on the Hub."}
    )
    teacher_dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "Type of the teacher's weights; auto is the one they are stored in."}
    )
    teacher_license: str | None = field(
        default=None, metadata={"help": "Licence of the teacher's weights, for the model card."}
    )
    dataset_license: str | None = field(default=None, metadata={"help": "Licence of the data, for the model card."})
    divergence: str = field(
        default="forward",
        metadata={
            "help": "Of the student's predictions from the teacher's: forward (KL from the teacher, Minitron's), "
            "reverse (KL from the student), or jsd (between both)."
        },
    )
    divergence_weight: float = field(
        default=1.0, metadata={"accepts": "[0, inf)", "help": "Weight of the divergence."}
    )
    temperature: float = field(default=1.0, metadata={"accepts": "(0, inf)", "help": "Temperature of the divergence."})
    top_k: int | None = field(
        default=None,
        metadata={"help": "Compare the teacher's likeliest tokens alone, so many; by default the whole vocabulary."},
    )
    jsd_beta: float = field(
        default=0.5, metadata={"help": "With --divergence jsd: weight of the teacher in the mixture."}
    )
    label_weight: float = field(
        default=0.0,
        metadata={"accepts": "[0, inf)", "help": "Weight of the loss of the text itself; Minitron's is 0."},
    )
    hidden_states_weight: float = field(
        default=0.0,
        metadata={
            "accepts": "[0, inf)",
            "help": "Weight of the mean square error of the layers' outputs, through projections that learn with the "
            "student where its width is not the teacher's; its layers are spread evenly over the teacher's.",
        },
    )

    def __post_init__(self):
        check_fields(self)
        try:
            check_divergence(self.divergence, self.temperature, self.top_k, self.jsd_beta)
        except ValueError as error:
            name, _, rest = str(error).partition(":")
            raise ValueError(f"--{'jsd_beta' if name == 'beta' else name}:{rest}") from error
        if not (self.divergence_weight or self.hidden_states_weight):
            raise ValueError("--divergence_weight, --hidden_states_weight: both are 0, the teacher teaches nothing.")
