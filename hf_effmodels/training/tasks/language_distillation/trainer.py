"""The Trainer of a language model that learns from another one."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ...losses.token_divergence import token_divergence
from ...run.added_losses import predicted_tokens_of
from ...run.trainer import same_random_numbers
from ...run.weights import WeightsError, load_state
from ...task import load_task
from .arguments import LanguageDistillationArguments
from .projections import ProjectedStudent

#: In a checkpoint: the projections of hidden states. The result of a run has none.
PROJECTIONS_FILE = "hidden_state_projections.safetensors"

# The student's task is asked by its name; tasks never import each other.
_TASK = load_task("causal-lm")


class LanguageDistillationTrainer(_TASK.CausalLMTrainer):
    """Trains a student by the divergence of its predictions from a teacher's.

    Each loss is the mean over the predicted tokens of an optimizer step, over accumulated batches and processes. The
    teacher is no part of what is trained, saved or resumed; it runs in evaluation mode, in training only. Where hidden
    states of another width are compared, projections learn with the student; what is averaged, evaluated, saved and
    published is the student alone.

    Args:
        teacher: a causal language model of the student's vocabulary.
        distillation: which losses.
        kwargs: see `CausalLMTrainer`.
    """

    def __init__(self, *, teacher: nn.Module, distillation: LanguageDistillationArguments, **kwargs):
        super().__init__(**kwargs)
        self.distillation = distillation
        self.teacher = teacher.eval().requires_grad_(False).to(self.args.device)
        if distillation.divergence_weight:
            self.add_loss("divergence", self._divergence, distillation.divergence_weight, predicted_tokens_of)
        if distillation.hidden_states_weight:
            self.add_loss("hidden_states", self._hidden_states, distillation.hidden_states_weight, predicted_tokens_of)
            width = teacher.config.get_text_config().hidden_size
            if width != self.model.config.get_text_config().hidden_size:
                self._project_to(width)

    def _project_to(self, width: int) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "--hidden_states_weight: the teacher has another width, and projections between the two go with whole "
                "weights in each process; accepted is 0 with FSDP or DeepSpeed."
            )
        with same_random_numbers(self.args.device):  # the training draws what it would draw without them
            torch.manual_seed(self.args.seed)
            self.model = self.model_wrapped = ProjectedStudent(self.model, width)

    @property
    def network(self) -> nn.Module:
        """The student."""
        model = self.accelerator.unwrap_model(self.model)
        return model.student if isinstance(model, ProjectedStudent) else model

    @property
    def _projections(self) -> nn.Module | None:
        return getattr(self.accelerator.unwrap_model(self.model), "projections", None)

    def drop_projections(self) -> None:
        """After the training, the student alone."""
        self.model = self.model_wrapped = self.network

    def task_loss(self, model, inputs, num_items_in_batch=None):
        if not (model.training and self.is_in_train):
            return super().task_loss(model, inputs, num_items_in_batch)
        wants_states = bool(self.distillation.hidden_states_weight)
        unlabelled = {name: value for name, value in inputs.items() if name != "labels"}
        with torch.no_grad():
            taught = self.teacher(**unlabelled, use_cache=False, output_hidden_states=wants_states)
        if wants_states:
            inputs["output_hidden_states"] = True
        loss, outputs = super().task_loss(model, inputs, num_items_in_batch)
        outputs.taught = taught
        return self.distillation.label_weight * loss, outputs

    def _divergence(self, model, inputs, outputs) -> torch.Tensor:
        settings = self.distillation
        mask = inputs["labels"][:, 1:].ne(-100)
        # Only what is predicted: the vocabulary is large.
        student, teacher = (logits[:, :-1][mask] for logits in (outputs.logits, outputs.taught.logits))
        options = (settings.divergence, settings.temperature, settings.top_k, settings.jsd_beta)
        return token_divergence(student, teacher, *options).mean()

    def _hidden_states(self, model, inputs, outputs) -> torch.Tensor:
        mask = inputs["labels"][:, 1:].ne(-100)
        student = getattr(outputs, "projected", outputs.hidden_states[1:])
        teacher = outputs.taught.hidden_states[1:]
        total = 0.0
        for number, states in enumerate(student, start=1):
            target = teacher[round(number * len(teacher) / len(student)) - 1]
            difference = states[:, :-1][mask].float() - target[:, :-1][mask].float()
            total = total + difference.square().mean()
        return total / len(student)

    # The student alone is saved; a checkpoint has the projections in a file of its own.

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        whole, self.model = self.model, self.network
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.model = whole

    def _save_checkpoint(self, model, trial) -> None:
        if self._projections is not None and self.args.should_save:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            tensors = {name: tensor.detach().clone() for name, tensor in self._projections.state_dict().items()}
            save_file(tensors, folder / PROJECTIONS_FILE, metadata={"format": "pt"})
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._projections is not None:
            file = Path(resume_from_checkpoint) / PROJECTIONS_FILE
            if not file.is_file():
                raise WeightsError(f"{resume_from_checkpoint}: it lacks {PROJECTIONS_FILE}.")
            load_state(self._projections, load_file(file), str(file))
