"""What a class loses with a head, a neuron or a channel of a vision transformer: class-wise importance as in ED-ViT
(https://arxiv.org/abs/2410.11650).

There is no official code, and the paper's formulas were not read: a divergence of what the network says with and
without each unit, by class, is what its abstract and the literature about it tell.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from .vision_widths import prune_channels


@torch.no_grad()
def class_divergences(
    model,
    pixel_values: torch.Tensor,
    labels: torch.Tensor,
    *,
    units: Literal["heads", "neurons", "channels"] = "heads",
    part: int = 0,
    together: int = 1,
    batch: int = 64,
) -> list[torch.Tensor]:
    r"""The mean of :math:`\mathrm{KL}(p \,\|\, p_{-u})` over the images of each class, for each unit u.

    p are the class probabilities of the whole network, :math:`p_{-u}` those without the unit; a channel is taken out
    of the residual stream, so that the norms are over the others. All images run through the network once for each
    unit (or group of units): blocks × heads times, blocks × neurons times, width times.

    Args:
        model: a `DeViTForImageClassification`; runs in evaluation mode and is left as it was.
        pixel_values: (images, channels, height, width).
        labels: (images,) classes from 0 to `num_labels` - 1.
        units: what is left out.
        part: number of the part.
        together: so many neurons or channels, one after the other, are left out at once, and share a score.
        batch: images at a time.

    Returns:
        (classes, units) for each block; of channels one for the whole part. Of a class without images they are nan.

    Raises:
        ValueError: unknown units, labels that are none, or a size below 1.
    """
    if units not in _TRIALS:
        raise ValueError(f"units: got {units!r}, accepted are {', '.join(map(repr, _TRIALS))}.")
    if together < 1 or (together > 1 and units == "heads"):
        raise ValueError(f"together: got {together} {units}, accepted are numbers from 1, and 1 of heads.")
    counts = torch.bincount(labels, minlength=model.config.num_labels)
    if len(counts) > model.config.num_labels or not len(labels) == len(pixel_values) > 0:
        raise ValueError(
            f"labels: got {len(labels)} up to {len(counts) - 1} for {len(pixel_values)} images, accepted are as many, "
            f"from 0 to {model.config.num_labels - 1}."
        )
    training = model.training
    model.eval()
    try:
        whole = _log_probabilities(model, pixel_values, batch)
        found = []
        for trials in _TRIALS[units](model, part, together):
            columns = []
            for run, count in trials:
                without = run(lambda network: _log_probabilities(network, pixel_values, batch))
                lost = F.kl_div(without, whole, reduction="none", log_target=True).sum(-1)
                of_class = lost.new_zeros(len(counts)).index_add_(0, labels, lost) / counts
                columns += [of_class] * count
            found.append(torch.stack(columns, dim=1))
    finally:
        model.train(training)
    return found


def _log_probabilities(model, pixel_values: torch.Tensor, batch: int) -> torch.Tensor:
    return torch.cat([model(pixels).logits.double().log_softmax(-1) for pixels in pixel_values.split(batch)])


#: Runs a function of the network without something, and tells how many units that was.
_Trial = tuple[Callable, int]


def _heads(model, part: int, together: int) -> Iterator[Iterator[_Trial]]:
    for layer in model.devit.parts[part].layers:
        width = layer.attention.head_dim
        heads = range(layer.attention.num_heads)
        yield ((_silenced(model, layer.attention.proj, slice(h * width, (h + 1) * width)), 1) for h in heads)


def _neurons(model, part: int, together: int) -> Iterator[Iterator[_Trial]]:
    for layer in model.devit.parts[part].layers:
        count = layer.mlp.fc2.in_features
        starts = range(0, count, together)
        yield ((_silenced(model, layer.mlp.fc2, slice(n, n + together)), min(together, count - n)) for n in starts)


def _silenced(model, module: nn.Linear, columns: slice) -> Callable:
    def silence(module, args):
        values = args[0].clone()
        values[..., columns] = 0
        return (values,)

    def run(function):
        handle = module.register_forward_pre_hook(silence)
        try:
            return function(model)
        finally:
            handle.remove()

    return run


def _channels(model, part: int, together: int) -> Iterator[Iterator[_Trial]]:
    width = model.config.parts[part]["hidden_size"]
    if together >= width:
        raise ValueError(f"together: got {together} channels, accepted are fewer than the part's {width}.")

    def without(start: int) -> Callable:
        kept = [n for n in range(width) if not start <= n < start + together]
        return lambda function: function(prune_channels(model, kept, part))

    yield ((without(start), min(together, width - start)) for start in range(0, width, together))


_TRIALS = {"heads": _heads, "neurons": _neurons, "channels": _channels}
