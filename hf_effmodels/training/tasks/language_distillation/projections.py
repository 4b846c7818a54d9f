"""Projections between the hidden states of a student and a teacher of another width; they learn with the student."""

from torch import nn
from transformers.utils import ModelOutput


class ProjectedStudent(nn.Module):
    """The student, and for each of its layers a linear map to the teacher's width (Minitron,
    https://arxiv.org/abs/2407.14679, section 3): whatever spreads it over processes sees every parameter in one pass.

    A forward pass is the student's. With `output_hidden_states` the outputs hold `projected`, too: for each layer
    (batch, tokens, teacher's channels).

    Args:
        student: a causal language model.
        width: the teacher's channels.
    """

    def __init__(self, student: nn.Module, width: int):
        super().__init__()
        self.student = student
        config = student.config.get_text_config()
        weight = next(student.parameters())
        self.projections = nn.ModuleList(
            nn.Linear(config.hidden_size, width, bias=False, device=weight.device, dtype=weight.dtype)
            for _ in range(config.num_hidden_layers)
        )

    @property
    def config(self):
        return self.student.config

    def gradient_checkpointing_enable(self, *args, **kwargs) -> None:
        self.student.gradient_checkpointing_enable(*args, **kwargs)

    def forward(self, **inputs) -> ModelOutput:
        outputs = self.student(**inputs)
        if inputs.get("output_hidden_states"):
            layers = zip(self.projections, outputs.hidden_states[1:], strict=True)
            outputs.projected = tuple(projection(states) for projection, states in layers)
        return outputs
