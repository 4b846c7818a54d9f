"""RecipeTrainer for two towers: all pairs of a step are compared, over accumulated batches and processes.

Accumulated batches are one large batch (GradCache, https://arxiv.org/abs/2101.06983): all of them are embedded without
gradient, the loss of the whole step gives the gradient of each embedding, and each batch, embedded again, passes its
part of that on to the weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import EvalPrediction, TrainerCallback

from ....modeling.light_clip.modeling_light_clip import LARGEST_LOGIT_SCALE, LightClipForPreTraining, LightClipModel
from ....modeling.light_clip.softened_contrastive import progressive_softening, softened_contrastive_loss
from ....modeling.light_clip.token_matching import token_matching_loss
from ...losses.affinity import affinity_loss
from ...losses.embedding_distance import embedding_distance
from ...losses.text_alignment import gather_rows
from ...run.trainer import RecipeTrainer
from .arguments import ContrastiveArguments
from .data import ImageTextDataset
from .evaluation import class_vectors, measure, unit_vectors, zero_shot_accuracy, zero_shot_vectors
from .masking import IGNORED
from .teacher import Teacher

_INPUTS = ("pixel_values", "input_ids", "attention_mask", "mlm_input_ids", "mlm_labels")
#: What of a batch is compared with other batches.
_SHARED = ("images", "texts", "patches", "words")


@dataclass
class Step:
    """A step that several batches are accumulated for.

    Attributes:
        gradients: for each batch, the gradients of its embeddings by name.
        of_scale: that of the logarithm of the factor of the cosines.
        parts: the losses of the whole step by name.
        random: for each batch, the random numbers that it was embedded with.
        position: the batch that comes next.
    """

    gradients: list[dict[str, torch.Tensor]]
    of_scale: torch.Tensor
    parts: dict[str, torch.Tensor]
    random: list[list[torch.Tensor]]
    position: int = 0


class ContrastiveTrainer(RecipeTrainer):
    """Trains a `LightClipForPreTraining`, or another model of CLIP's kind on its pairs alone.

    Args:
        teacher: a larger CLIP.
        zero_shot: images with classes to measure on beside the evaluation set.
        kwargs: as of `RecipeTrainer`; the data sets are `ImageTextDataset`.
    """

    args: ContrastiveArguments
    # The loss of a batch is its share of the step's.
    loss_is_scaled_for_ga = True

    def __init__(self, *, teacher: Teacher | None = None, zero_shot: ImageTextDataset | None = None, **kwargs):
        self.teacher, self.zero_shot = teacher, zero_shot
        super().__init__(compute_metrics=self._measure, compute_loss_func=_never, **kwargs)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("--fsdp, --deepspeed: a contrastive loss needs whole towers in each process.")
        self.model_accepts_loss_kwargs = False
        self._step: Step | None = None
        self._masked_in_step = 1.0
        self.add_callback(_Clamp(self))

    def metric_names(self) -> tuple[str, ...]:
        names = ["loss"]
        source = self.eval_dataset.source if self.eval_dataset is not None else None
        if source is not None and source.labels is None:
            sizes = [k for k in (1, 5, 10) if k <= len(source)]
            names += [f"{way}_recall_at_{k}" for way in ("image_to_text", "text_to_image") for k in sizes]
        classes = (
            source if source is not None and source.labels is not None else self.zero_shot and self.zero_shot.source
        )
        if classes:
            names += ["accuracy", *(["top_5_accuracy"] if len(classes.names) > 5 else [])]
        return tuple(names)

    # The loss

    @property
    def softening(self) -> float:
        """What the own pair gives up at present."""
        progress = min(1.0, self.state.global_step / max(1, self.state.max_steps))
        return progressive_softening(progress, self.args.softening, self.args.softening_schedule)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._step = None
        masked = [batch["mlm_labels"].ne(IGNORED).sum() for batch in batches if "mlm_labels" in batch]
        if masked:
            total = torch.stack(masked).sum().to(self.args.device)
            self._masked_in_step = max(1.0, float(self.accelerator.reduce(total, "sum")))
        if len(batches) > 1:
            self._step = self._look_ahead(batches)
        return batches, items

    def _look_ahead(self, batches: list) -> Step:
        """Embed all batches of a step without gradient, and find out what the gradient of each embedding is."""
        network, chunks, random = self.network, [], []
        network.train()
        with _same_buffers(network), torch.no_grad():
            for batch in batches:
                random.append(_random_state(self.args.device))
                with self.compute_loss_context_manager():
                    chunks.append(self._embed(network, self._prepare_inputs(batch)))
        leaves = [
            {name: chunk[name].detach().requires_grad_() for name in _SHARED if name in chunk} for chunk in chunks
        ]
        log_scale = network.logit_scale.detach().clone().requires_grad_()
        whole = {name: _joined([chunk[name] for chunk in leaves]) for name in leaves[0]}
        whole |= {name: _joined([chunk[name] for chunk in chunks]) for name in chunks[0] if name not in whole}
        parts = self._compare(whole, log_scale.exp())
        flat = [tensor for chunk in leaves for tensor in chunk.values()]
        found = torch.autograd.grad(self._total(parts), [log_scale, *flat])
        gradients, rest = [], list(found[1:])
        for chunk in leaves:
            gradients.append({name: rest.pop(0) for name in chunk})
        return Step(gradients, found[0], {name: value.detach() for name, value in parts.items()}, random)

    def task_loss(self, model, inputs, num_items_in_batch=None):
        step = self._step
        if step is None:
            embedded = self._embed(model, inputs)
            parts = self._compare(embedded, self.network.logit_scale.exp())
            loss = self._total(parts)
        else:
            _set_random_state(step.random[step.position], self.args.device)
            embedded, share = self._embed(model, inputs), 1 / len(step.gradients)
            gradients = step.gradients[step.position]
            step.position += 1
            passed_on = share * step.of_scale * self.network.logit_scale
            for name, gradient in gradients.items():
                passed_on = passed_on + (gradient * embedded[name]).sum()
            parts = {name: share * value for name, value in step.parts.items()}
            # The value of the loss, with the gradient of the embeddings' part in it.
            loss = self._total(parts) + passed_on - passed_on.detach()
        if "masked_words" in embedded:
            parts["mlm_loss"] = embedded["masked_words"] * self.args.world_size / self._masked_in_step
            loss = loss + self._weights["mlm_loss"] * parts["mlm_loss"]
        return loss, parts

    def named_parts(self, outputs) -> dict[str, torch.Tensor]:
        return outputs if len(outputs) > 1 else {}

    @property
    def _weights(self) -> dict[str, float]:
        config, args = self.network.config, self.args
        weights = {"instance_loss": 1.0, "affinity_loss": args.affinity_weight, "feature_loss": args.feature_weight}
        for name in ("token", "mlm"):
            weights[f"{name}_loss"] = getattr(config, f"{name}_loss_weight", 0.0)
        return weights

    def _total(self, parts: dict[str, torch.Tensor]) -> torch.Tensor:
        weights = self._weights
        return sum(weights[name] * value for name, value in parts.items() if name != "mlm_loss")

    def _embed(self, model, inputs) -> dict[str, torch.Tensor]:
        """Of one batch what is compared, in float32, and the sum of its losses of masked words."""
        ours = isinstance(self.network, LightClipForPreTraining)
        seen = {name: inputs[name] for name in _INPUTS if name in inputs}
        outputs = model(**seen, return_loss=False)
        embedded = {"images": outputs.image_embeds, "texts": outputs.text_embeds}
        if ours and outputs.patch_embeds is not None:
            embedded |= {"patches": outputs.patch_embeds, "words": outputs.word_embeds}
        embedded = {name: value if value.dtype == torch.float64 else value.float() for name, value in embedded.items()}
        if "patches" in embedded:
            embedded["word_mask"] = outputs.word_mask.to(torch.uint8)
        if ours and outputs.mlm_logits is not None:
            labels = inputs["mlm_labels"]
            logits = outputs.mlm_logits
            logits = logits if logits.dtype == torch.float64 else logits.float()
            embedded["masked_words"] = F.cross_entropy(logits, labels[labels != IGNORED], reduction="sum")
        if self.teacher is not None:
            given = (inputs[name] for name in ("pixel_values", "teacher_input_ids", "teacher_attention_mask"))
            embedded["teacher_images"], embedded["teacher_texts"] = self.teacher(*given)
        return embedded

    def _compare(self, embedded: dict[str, torch.Tensor], scale: torch.Tensor) -> dict[str, torch.Tensor]:
        """The losses of the pairs of all processes by name, in full precision. Every process computes all of them."""
        with torch.autocast(self.args.device.type, enabled=False):
            return self._compare_exactly(embedded, scale)

    def _compare_exactly(self, embedded: dict[str, torch.Tensor], scale: torch.Tensor) -> dict[str, torch.Tensor]:
        whole = {name: self._gathered(value) for name, value in embedded.items() if name != "masked_words"}
        images, texts = whole["images"], whole["texts"]
        uniform = getattr(self.network.config, "uniform_softening", False)
        parts = {"instance_loss": softened_contrastive_loss(images, texts, scale, self.softening, uniform)}
        if "patches" in whole:
            parts["token_loss"] = self._match_words(whole["patches"], whole["words"], whole["word_mask"], scale)
        if self.teacher is not None:
            teacher = whole["teacher_images"], whole["teacher_texts"]
            if self.args.affinity_weight:
                parts["affinity_loss"] = affinity_loss(images, texts, *teacher, scale, self.teacher.scale.to(scale))
            if self.args.feature_weight:
                parts["feature_loss"] = embedding_distance(images, texts, *teacher)
        return parts

    def _match_words(self, patches, words, mask, scale: torch.Tensor) -> torch.Tensor:
        """The mean over the pairs, of groups of `token_group` of them."""
        config, size = self.network.config, self.args.token_group or len(patches)
        options = (scale, config.token_top_k, config.token_matching)
        groups = [part.tensor_split(-(-len(patches) // size)) for part in (patches, words, mask.bool())]
        if len(groups[0]) == 1:
            return token_matching_loss(patches, words, mask.bool(), *options)
        total = 0.0
        for group in zip(*groups, strict=True):  # one after the other, and again for the gradient, for the memory
            loss = checkpoint(token_matching_loss, *group, *options, use_reentrant=False, preserve_rng_state=False)
            total = total + len(group[0]) / len(patches) * loss
        return total

    def _gathered(self, values: torch.Tensor) -> torch.Tensor:
        if self.args.world_size == 1:
            return values
        if values.ndim > 1:  # texts of other lengths
            longest = torch.tensor(values.shape[1], device=values.device)
            dist.all_reduce(longest, dist.ReduceOp.MAX)
            values = _lengthened(values, int(longest))
        return gather_rows(values, true_gradient=True)

    # What is measured

    @torch.no_grad()
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            images, texts = unit_vectors(self.network, inputs)
        return None, torch.cat([images, texts], 1), inputs["class_number"]

    def _measure(self, prediction: EvalPrediction) -> dict[str, float]:
        images, texts = np.split(prediction.predictions, 2, axis=1)
        network, source = self.network, self.eval_dataset.source
        classes = None if source.labels is None else self._class_vectors(self.eval_dataset)
        scale = network.logit_scale.exp().item()
        measured = measure(images, texts, source, scale, self.args.eval_group, classes)
        return measured | (self._zero_shot() if self.zero_shot is not None else {})

    def _class_vectors(self, dataset: ImageTextDataset):
        source, pad = dataset.source, self.data_collator.pad_id
        return class_vectors(self.network, dataset.encode, pad, source.names, source.templates).cpu().numpy()

    def _zero_shot(self) -> dict[str, float]:
        dataset, args = self.zero_shot, self.args
        part = (args.process_index, args.world_size)
        own = zero_shot_vectors(self.network, dataset, self.data_collator, args.per_device_eval_batch_size, part)
        labels = torch.tensor(
            [dataset.source.class_number(number) for number in range(part[0], len(dataset), part[1])]
        )
        found = zero_shot_accuracy(own, self._class_vectors(dataset), labels.numpy()) if len(own) else {}
        counts = torch.tensor(
            [len(own), *(found.get(name, 0.0) * len(own) for name in ("accuracy", "top_5_accuracy"))]
        )
        total, *right = self.accelerator.reduce(counts.double().to(args.device), "sum").tolist()
        names = ("accuracy", "top_5_accuracy") if len(dataset.source.names) > 5 else ("accuracy",)
        return {name: count / total for name, count in zip(names, right, strict=False)}

    # What is left

    def leave_training_parts(self) -> None:
        """The model is from here on what is used: a `LightClipModel` without what has trained it."""
        network = self.network
        if not isinstance(network, LightClipForPreTraining):
            return
        model = LightClipModel(network.config).to(network.device, network.dtype).eval()
        state = network.state_dict()
        model.load_state_dict({name: state[name] for name in model.state_dict()})
        self.model = self.model_wrapped = model


class _Clamp(TrainerCallback):
    """The factor of the cosines stays at 100 at most, as CLIP's."""

    def __init__(self, trainer: ContrastiveTrainer):
        self.trainer = trainer

    @torch.no_grad()
    def on_optimizer_step(self, args, state, control, **kwargs):
        self.trainer.network.logit_scale.clamp_(max=LARGEST_LOGIT_SCALE)


def _never(*args):
    raise AssertionError("the trainer computes its loss itself; older Trainers ask only whether there is a function")


def _lengthened(values: torch.Tensor, length: int) -> torch.Tensor:
    """(rows, length, ...), filled up with zeros."""
    missing = length - values.shape[1]
    return F.pad(values, (*[0, 0] * (values.ndim - 2), 0, missing)) if missing else values


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """Rows of several batches below each other; sums are added."""
    if not parts[0].ndim:
        return torch.stack(parts).sum()
    if parts[0].ndim > 1:
        longest = max(part.shape[1] for part in parts)
        parts = [_lengthened(part, longest) for part in parts]
    return torch.cat(parts)


@contextmanager
def _same_buffers(model: nn.Module) -> Iterator[None]:
    """Afterwards the statistics of batch norms are what they were before."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)


def _random_state(device: torch.device) -> list[torch.Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(state: list[torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


__all__ = ["ContrastiveTrainer"]
