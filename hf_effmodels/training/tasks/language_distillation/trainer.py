"""The Trainer of a language model that learns from another one."""

import torch
from torch import nn

from ...losses.token_divergence import token_divergence
from ...run.added_losses import predicted_tokens_of
from ...task import load_task
from .arguments import LanguageDistillationArguments

# The student's task is asked by its name; tasks never import each other.
_TASK = load_task("causal-lm")


class LanguageDistillationTrainer(_TASK.CausalLMTrainer):
    """Trains a student by the divergence of its predictions from a teacher's.

    Each loss is the mean over the predicted tokens of an optimizer step, over accumulated batches and processes. The
    teacher is no part of what is trained, saved or resumed; it runs in evaluation mode, in training only.

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
        student, teacher = outputs.hidden_states[1:], outputs.taught.hidden_states[1:]
        total = 0.0
        for number, states in enumerate(student, start=1):
            target = teacher[round(number * len(teacher) / len(student)) - 1]
            difference = states[:, :-1][mask].float() - target[:, :-1][mask].float()
            total = total + difference.square().mean()
        return total / len(student)
