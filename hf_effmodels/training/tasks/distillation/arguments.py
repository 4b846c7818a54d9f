"""Arguments of a distillation beside those of the student's task."""

from dataclasses import dataclass, field
from typing import Literal

from ...run.arguments import read_mapping
from .episodes import EpisodeArguments

#: What `--codec` takes beside `shrink` and `bits`.
_ENTROPIC = {"at", "widths", "prior", "hyper_channels", "encoder_channels", "decoder_channels"}


@dataclass
class DistillationArguments(EpisodeArguments):
    """Who teaches, by which losses, and whether by episodes."""

    teacher: dict | str | None = field(
        default=None,
        metadata={
            "help": "The teacher: an image classifier on the Hub or in a folder, of the same classes. It sees the "
            "student's pictures, normalised and resized as it is used to. Of several, a mapping of their names to "
            "their weights, such as {org/one: 2, org/other: 1}: their probabilities are averaged."
        },
    )
    stored_labels: str | None = field(
        default=None,
        metadata={
            "help": "Instead of a teacher, what one has said already: a folder of hf-effmodels prepare soft-labels, "
            "or such a data set on the Hub. Seed, augmentation and data are those it was made with."
        },
    )
    text_embeddings: str | None = field(
        default=None,
        metadata={
            "help": "Embeddings of the pictures' descriptions, for the loss text_alignment (GPT4Image): a folder of "
            "hf-effmodels prepare text-embeddings, or such a data set on the Hub; --id_column says which is whose."
        },
    )
    teacher_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the teacher on the Hub."}
    )
    teacher_dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "Type of the teacher's weights; auto is the one they are stored in."}
    )
    teacher_compile: bool = field(default=False, metadata={"help": "Run the teacher by torch.compile."})
    teacher_license: str | None = field(
        default=None, metadata={"help": "Licence of the teacher's weights, for the model card."}
    )
    dataset_license: str | None = field(default=None, metadata={"help": "Licence of the data, for the model card."})
    losses: dict | str | None = field(
        default=None,
        metadata={
            "help": "Losses added to the task's own: a mapping of their names to their settings, of which weight is 1 "
            "by default, such as {kd: {temperature: 4, weight: 0.5}}. By default {kd: {}}."
        },
    )
    codec: dict | str | None = field(
        default=None,
        metadata={
            "help": "Put a learnt code in the place of the student's first layers (Entropic Student): a mapping of "
            "`at`, the module it stands for, and `widths`, the channels of the code (by default [24]; several: a "
            "slimmable encoder), and `prior` (factorized, scale_hyperprior, mean_scale_hyperprior). It learns by the "
            "loss coded_features; a run that goes on from its result learns the rest. With `shrink` and `bits` it is "
            "MAHPPO's: the features after `at` in so many times fewer channels, "
            "by the loss coded_channels."
        },
    )
    labels_weight: float = field(
        default=1.0,
        metadata={"accepts": "[0, inf)", "help": "Factor of the task's own loss, by labels, beside the losses."},
    )
    student_taps: list[str] | None = field(
        default=None,
        metadata={
            "help": "Modules of the student after which its stages end, from shallow to deep; found by default."
        },
    )
    teacher_taps: list[str] | None = field(
        default=None, metadata={"help": "The same of the teacher; of several teachers, of the first."}
    )

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.teacher, str) and self.teacher.lstrip().startswith("{"):
            self.teacher = read_mapping("teacher", self.teacher)
        if isinstance(self.teacher, dict):
            for name, weight in self.teacher.items():
                if isinstance(weight, bool) or not isinstance(weight, int | float) or weight <= 0:
                    raise ValueError(f"--teacher: {name}: got {weight!r}, accepted are positive weights.")
            if self.teacher_revision is not None and len(self.teacher) > 1:
                raise ValueError("--teacher_revision: it is that of one teacher, and there are several.")
        self.codec = read_mapping("codec", self.codec) or None
        keys = set(self.codec or ())
        known = keys <= _ENTROPIC or ("shrink" in keys and keys <= {"at", "shrink", "bits"})
        if self.codec is not None and not (known and isinstance(self.codec.get("at"), str)):
            raise ValueError(
                f"--codec: got {self.codec}, accepted is a mapping of at, a module, and either widths, a list, and "
                f"{', '.join(sorted(_ENTROPIC - {'at', 'widths'}))}, or shrink and bits."
            )
        if self.teacher and self.stored_labels:
            raise ValueError("--teacher and --stored_labels exclude each other.")
        losses = read_mapping("losses", self.losses) or {"kd": {}}
        for name, settings in losses.items():
            if settings is not None and not isinstance(settings, dict):
                raise ValueError(f"--losses: {name}: got {settings!r}, accepted is a mapping of its settings.")
        self.losses = {name: {"weight": 1.0, **(settings or {})} for name, settings in losses.items()}

    @property
    def teachers(self) -> dict[str, float]:
        """Name of each teacher and its weight."""
        return self.teacher if isinstance(self.teacher, dict) else {self.teacher: 1.0} if self.teacher else {}
