"""Arguments of a distillation beside those of the student's task."""

from dataclasses import dataclass, field

from ...run.arguments import check_fields, read_mapping


@dataclass
class DistillationArguments:
    """Who teaches, and by which losses."""

    teacher: str | None = field(
        default=None,
        metadata={
            "help": "The teacher: an image classifier on the Hub or in a folder, of the same classes. It sees the "
            "student's pictures, normalised and resized as it is used to."
        },
    )
    teacher_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the teacher on the Hub."}
    )
    losses: dict | str | None = field(
        default=None,
        metadata={
            "help": "Losses added to the task's own: a mapping of their names to their settings, of which weight is 1 "
            "by default, such as {kd: {temperature: 4, weight: 0.5}}. By default {kd: {}}."
        },
    )

    def __post_init__(self):
        check_fields(self)
        losses = read_mapping("losses", self.losses) or {"kd": {}}
        for name, settings in losses.items():
            if settings is not None and not isinstance(settings, dict):
                raise ValueError(f"--losses: {name}: got {settings!r}, accepted is a mapping of its settings.")
        self.losses = {name: {"weight": 1.0, **(settings or {})} for name, settings in losses.items()}
