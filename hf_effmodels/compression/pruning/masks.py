"""Learned masks: which structures to keep, trained through a relaxed sigmoid with straight-through rounding
(https://arxiv.org/abs/2402.02791, section 4).

The paper gives neither the length nor the losses of this training. Here: one logit for each structure, frozen weights,
the language model's loss plus a penalty on the expected size, exactly as many structures switched on as will be kept.
"""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .calibration import evaluating, in_single_precision, loss_of, norms_of
from .scores import top
from .structures import Axis, Sizes

#: Temperature of the relaxed sigmoid at the first and the last step.
TEMPERATURES = (1.0, 0.1)


def learn_masks(
    model: PreTrainedModel,
    target: Sizes,
    batches: Sequence[Mapping[str, torch.Tensor]],
    initial: Mapping[Axis, torch.Tensor],
    *,
    steps: int = 200,
    learning_rate: float = 0.05,
    penalty: float = 1.0,
    energies: Mapping[str, torch.Tensor] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> dict[Axis, torch.Tensor]:
    """Train a logit for each structure of the axes that get smaller.

    Args:
        model: its weights stay as they are.
        target: sizes after slicing.
        batches: used over and over.
        initial: scores from which the logits start, by their rank from -1 (lowest) to 1. Keys: the residual stream,
            and for each layer "keys" (a key/value head with its query heads) and "ffn".
        energies: mean square of each channel at each norm, where norms will be rescaled after slicing.

    Returns:
        The logits of the axes in `initial` that get smaller; keep the highest.
    """
    model = in_single_precision(model)
    source, device = Sizes.of(model.config), model.device
    kept = {axis: target.units(axis.kind) for axis in initial}
    logits = {
        axis: _from_ranks(scores).to(device).requires_grad_()
        for axis, scores in initial.items()
        if kept[axis] < source.units(axis.kind)
    }
    if not logits:
        return {}
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(logits.values(), lr=learning_rate)
    weights = list(model.parameters())
    required = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_(False)
    first, last = TEMPERATURES
    try:
        with evaluating(model), torch.enable_grad():
            for step in tqdm(range(steps), desc="learning masks", disable=not progress):
                temperature = first * (last / first) ** (step / max(1, steps - 1))
                masks, sizes = {}, []
                for axis, logit in logits.items():
                    mask, size = _sample(logit, kept[axis], temperature, generator)
                    masks[axis] = mask
                    sizes.append(((size - kept[axis]) / len(logit)).square())
                with masked(model, masks, energies):
                    loss = loss_of(model, batches[step % len(batches)]) + penalty * torch.stack(sizes).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    finally:
        for weight, value in zip(weights, required, strict=True):
            weight.requires_grad_(value)
    if not all(logit.isfinite().all() for logit in logits.values()):
        raise ValueError("calibration: the model's loss on these batches is not finite, no mask can be learned.")
    return {axis: logit.detach() for axis, logit in logits.items()}


def _from_ranks(scores: torch.Tensor) -> torch.Tensor:
    ranks = scores.argsort(stable=True).argsort(stable=True).float()
    return 2 * ranks / max(1, len(scores) - 1) - 1


def _sample(logit: torch.Tensor, count: int, temperature: float, generator: torch.Generator):
    """A mask of 0 and 1 with `count` ones whose gradient is that of the relaxed one, and the expected size."""
    uniform = torch.rand(logit.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
    noisy = logit + (uniform.log() - (-uniform).log1p()).to(logit.device)
    soft = torch.sigmoid(noisy / temperature)
    hard = torch.zeros_like(soft)
    hard[top(noisy.detach(), count)] = 1
    return hard + (soft - soft.detach()), torch.sigmoid(logit / temperature).sum()


@contextmanager
def masked(
    model: PreTrainedModel, masks: Mapping[Axis, torch.Tensor], energies: Mapping[str, torch.Tensor] | None = None
):
    """The model as it is after slicing, with the dropped structures multiplied by zero.

    A norm over fewer channels divides by their mean square alone; the factor for that is applied to its output.
    """
    handles, sizes = [], Sizes.of(model.config)
    decoder = model.base_model

    def output(module: nn.Module, mask: torch.Tensor) -> None:
        handles.append(module.register_forward_hook(lambda _, args, result: result * mask.to(result.dtype)))

    def input_(module: nn.Module, mask: torch.Tensor) -> None:
        handles.append(module.register_forward_pre_hook(lambda _, args: (args[0] * mask.to(args[0].dtype),)))

    hidden = masks.get(Axis("hidden"))
    if hidden is not None:
        output(decoder.embed_tokens, hidden)
        for name, norm in norms_of(model).items():
            share = hidden.detach().mean()
            if energies is not None:
                of_norm = energies[name].to(hidden)
                share = (of_norm * hidden.detach()).sum() / of_norm.sum()
            output(norm, share.sqrt())
    for number, layer in enumerate(decoder.layers):
        if hidden is not None:
            for module in (layer.self_attn.o_proj, layer.mlp.down_proj):
                output(module, hidden)
            for shortcut in getattr(layer, "augmented_shortcuts", ()):
                output(shortcut, hidden)
        if (groups := masks.get(Axis("keys", number))) is not None:
            width = sizes.num_attention_heads // sizes.num_key_value_heads * sizes.head_dim
            input_(layer.self_attn.o_proj, groups.repeat_interleave(width))
        if (neurons := masks.get(Axis("ffn", number))) is not None:
            input_(layer.mlp.down_proj, neurons)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
