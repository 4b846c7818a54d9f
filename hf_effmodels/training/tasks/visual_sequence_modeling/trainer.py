"""RecipeTrainer for transformers over the tokens of images, beside a teacher where there is one."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import EvalPrediction, LlamaForCausalLM

from ....pipelines.delvm.factorized_embedding import FactorizedEmbedding
from ....pipelines.delvm.pipeline_delvm import DelvmPipeline
from ...losses.language_distillation import language_distillation_losses
from ...losses.token_losses import IGNORED
from ...run.trainer import RecipeTrainer
from .arguments import VisualSequenceArguments
from .models import VQVAE


class VisualSequenceTrainer(RecipeTrainer):
    """Trains a transformer to predict the next token of an image; the mean over all tokens of a step.

    Args:
        vqvae: the image tokenizer's network: after training it is saved with the transformer, as a pipeline.
        image_size: of the pipeline.
        keeps_tokenizer: it was trained by this run: checkpoints have it, too.
        teacher: a transformer over the same codes, whose distribution the student's is to approach.
    """

    args: VisualSequenceArguments

    def __init__(self, *, vqvae, image_size: int, keeps_tokenizer: bool, teacher: LlamaForCausalLM | None, **kwargs):
        super().__init__(compute_metrics=summarize, **kwargs)
        self.vqvae, self.image_size, self.keeps_tokenizer = vqvae, image_size, keeps_tokenizer
        self.teacher = None
        if teacher is not None:
            self.teacher = teacher.eval().requires_grad_(False).to(self.args.device)
            self.add_loss("kd", self._divergence, self.args.kd_weight, count=self._counted_tokens)

    def metric_names(self) -> tuple[str, ...]:
        return ("loss", "perplexity", "token_accuracy")

    def task_loss(self, model, inputs, num_items_in_batch=None):
        # From the places alone: a cache would hide that sentences of a pack do not see each other.
        loss, outputs = super().task_loss(model, {**inputs, "use_cache": False}, num_items_in_batch)
        is_weighed = self.teacher is not None and model.training
        return (self.args.gt_weight * loss if is_weighed else loss), outputs

    def _divergence(self, model, inputs: Mapping, outputs) -> torch.Tensor:
        seen = {name: inputs[name] for name in ("input_ids", "position_ids") if name in inputs}
        with torch.no_grad():
            expected = self.teacher(**seen, use_cache=False).logits
        return language_distillation_losses(
            outputs.logits,
            expected,
            self._mask(inputs),
            temperature=self.args.kd_temperature,
            inverse=self.args.kd_inverse,
        )["kl"]

    def _mask(self, inputs: Mapping) -> torch.Tensor:
        labels = inputs["shift_labels"]
        return labels != IGNORED if self.args.kd_predicted_only else torch.ones_like(labels, dtype=torch.bool)

    def _counted_tokens(self, inputs: Mapping) -> torch.Tensor:
        return self._mask(inputs).sum()

    @torch.no_grad()
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """For each sentence the sum of its losses and its right tokens; their number in the place of the labels."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs["shift_labels"]
        seen = {name: inputs[name] for name in ("input_ids", "position_ids") if name in inputs}
        with self.compute_loss_context_manager():
            logits = model(**seen, use_cache=False).logits.float()
        losses = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        counted = labels != IGNORED
        right = (logits.argmax(-1) == labels) & counted
        return None, torch.stack([losses.double().sum(1), right.sum(1).double()], 1), counted.sum(1).double()

    def pipeline(self) -> DelvmPipeline:
        """Tokenizer and transformer as they are, the embedding folded."""
        model = self.network
        if isinstance(model.get_input_embeddings(), FactorizedEmbedding):
            folded = LlamaForCausalLM(model.config).to(model.device)
            weights = {n: v for n, v in model.state_dict().items() if not n.startswith("model.embed_tokens.")}
            weights["model.embed_tokens.weight"] = model.get_input_embeddings().fold().weight.detach()
            folded.load_state_dict(weights)
            model = folded
        pipe = DelvmPipeline(self.vqvae.to(model.device), model.eval(), self.image_size)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _save_checkpoint(self, model, trial) -> None:
        if self.keeps_tokenizer and self.args.should_save:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            self.vqvae.save_pretrained(folder / VQVAE)
        super()._save_checkpoint(model, trial)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self.is_in_train:
            return super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            self.pipeline().save_pretrained(Path(output_dir or self.args.output_dir))
        return None


def summarize(prediction: EvalPrediction) -> dict[str, float]:
    """Mean loss of a token in nats, perplexity, and the share of tokens that are the likeliest."""
    (loss, right), tokens = prediction.predictions.sum(0), prediction.label_ids.sum()
    loss = float(loss / tokens)
    perplexity = math.exp(loss) if loss < 700 else math.inf
    return {"loss": loss, "perplexity": perplexity, "token_accuracy": float(right / tokens)}
