"""A vision transformer that fits a device: the heads and neurons that matter for some classes, within a budget of
multiply-adds (DeViT, https://arxiv.org/abs/2309.05015)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from .._numbers import is_real, is_whole
from ..compression.pruning.class_importance import class_divergences
from ..compression.pruning.hsic import highest, score_part
from ..compression.pruning.vision_widths import check_target, part_macs, prune_part, search_widths
from ..modeling.devit.modeling_devit import DeViTForImageClassification


@dataclass(frozen=True)
class Shrunk:
    """Attributes:
    model: what is left of it.
    macs: multiply-adds of an image before and after, without the classifier.
    accuracy: share of the search's images that are classified rightly before and after; after it nothing has been
        trained yet.
    """

    model: DeViTForImageClassification
    macs: tuple[int, int]
    accuracy: tuple[float, float]


def shrink(
    model: DeViTForImageClassification,
    pixel_values: torch.Tensor,
    labels: torch.Tensor,
    *,
    macs: float = 0.6,
    importance: Literal["hsic", "kl"] = "hsic",
    score_images: int = 256,
    bound: float = 0.5,
    tolerance: float = 0.02,
    samples: int = 100,
    seed: int = 0,
) -> Shrunk:
    """The best of `samples` random choices of widths within a budget: each keeps the heads and neurons of the highest
    scores, and is measured as it is, without training.

    Args:
        model: a DeViT of one part; it stays as it is.
        pixel_values: (images, channels, height, width) of the classes that it is for, in random order; they are taken
            in the precision of the model.
        labels: (images,) their classes.
        macs: the budget as a share of the whole network's multiply-adds. The release's target of 0.3 comes out as 0.6.
        importance: "hsic" is `score_part`'s (DeViT), "kl" the mean of `class_divergences` over the classes (ED-ViT).
        score_images: so many of the images give the scores, the others decide between choices; what both take is
            held in memory at once.
        bound, tolerance, samples, seed: see `search_widths`.

    Raises:
        ValueError: more than one part, too few images, or a budget that no choice meets.
    """
    if len(model.config.parts) != 1:
        raise ValueError(f"model: it has {len(model.config.parts)} parts, accepted is one of one part.")
    if not is_real(macs) or not 0 < macs <= 1:
        raise ValueError(f"macs: got {macs!r}, accepted are shares above 0 up to 1.")
    if not is_whole(score_images, 2, len(pixel_values) - 1):
        raise ValueError(
            f"score_images: got {score_images!r} of {len(pixel_values)} images, accepted are 2 and more that leave "
            "some to measure with."
        )
    if importance not in ("hsic", "kl"):
        raise ValueError(f"importance: got {importance!r}, accepted are 'hsic', 'kl'.")
    training, pixel_values = model.training, pixel_values.to(model.dtype)
    model.eval()
    try:
        seen, answers = pixel_values[score_images:], labels[score_images:]
        whole, before = part_macs(model.config), _accuracy(model, seen, answers)
        if macs == 1:
            return Shrunk(model, (whole, whole), (before, before))
        sizes, scored = model.config.parts[0], (pixel_values[:score_images], labels[:score_images])
        depth = len(sizes["num_heads"])

        def left(of: str, ratios: Sequence[float]) -> list[int]:
            return [max(1, int(count * (1 - ratio))) for count, ratio in zip(sizes[of], ratios, strict=True)]

        def cost(neurons: Sequence[float], heads: Sequence[float]) -> float:
            return part_macs(model.config, 0, left("intermediate_sizes", neurons), left("num_heads", heads)) / whole

        check_target(cost, macs, depth, bound, tolerance)  # before the scores, which take long
        if importance == "hsic":
            scores = score_part(model, scored[0])
        else:
            scores = [
                [of_block.nanmean(0) for of_block in class_divergences(model, *scored, units=units)]
                for units in ("heads", "neurons")
            ]
        known: dict[str, float] = {}

        def pruned(neurons: Sequence[float], heads: Sequence[float]) -> DeViTForImageClassification:
            counts = left("num_heads", heads), left("intermediate_sizes", neurons)
            return prune_part(model, *([*map(highest, *both)] for both in zip(scores, counts, strict=True)))

        def evaluate(neurons: Sequence[float], heads: Sequence[float]) -> float:
            small = pruned(neurons, heads)
            key = str(small.config.parts)
            if key not in known:
                known[key] = _accuracy(small, seen, answers)
            return known[key]

        options = {"bound": bound, "tolerance": tolerance, "samples": samples, "seed": seed, "attempts": 100_000}
        found = search_widths(evaluate, cost, macs, depth=depth, **options)
        small = pruned(*found)
        after = known[str(small.config.parts)]
    finally:
        model.train(training)
    return Shrunk(small.train(training), (whole, part_macs(small.config)), (before, after))


@torch.no_grad()
def _accuracy(model, pixel_values: torch.Tensor, labels: torch.Tensor, batch: int = 64) -> float:
    right = 0
    for pixels, answers in zip(pixel_values.split(batch), labels.split(batch), strict=True):
        right += int((model(pixels).logits.argmax(-1) == answers).sum())
    return right / len(labels)
