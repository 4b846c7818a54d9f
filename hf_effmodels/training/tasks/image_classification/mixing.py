"""Batches, with Mixup (https://arxiv.org/abs/1710.09412) and CutMix (https://arxiv.org/abs/1905.04899) on demand."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ...data.augment import cut_box

#: Key of a training sample's own random number; samples without it (evaluation) are never mixed.
SAMPLE_SEED = "sample_seed"
#: Key of a training sample's number in its data set.
INDEX = "index"
#: Key of a batch: the share of its own picture in each of its samples.
OWN_SHARE = "own_share"
#: Key of a training sample whose batch is not to be mixed.
UNMIXED = "unmixed"


@dataclass(frozen=True)
class Collator:
    """Stacks samples into `pixel_values` (batch, channels, height, width) and `labels`.

    Labels are (batch,) class indices, or, where batches are mixed or samples have probabilities for labels, (batch,
    classes) probabilities which already hold the label smoothing: the two are combined as timm does. A batch is mixed
    with itself in reverse order.

    Attributes:
        num_labels: number of classes.
        mixup, cutmix: parameter of the Beta distribution of the mixing weight; 0 turns the method off.
        probability: of mixing a batch.
        switch_probability: of CutMix, where both are on.
        smoothing: label smoothing, mixed or not, of a mixing collator.
        keep: keys of the samples that are stacked as they are, where samples have them; and `OWN_SHARE`.
    """

    num_labels: int
    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch_probability: float = 0.5
    smoothing: float = 0.0
    keep: tuple[str, ...] = ()

    def __call__(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        if len({sample["pixel_values"].shape for sample in samples}) > 1:
            raise ValueError(
                "--model: its image processor keeps the shapes of pictures, and a batch has one; accepted are a "
                "processor that resizes or crops to one size, and batches of one picture."
            )
        pixels = torch.stack([sample["pixel_values"] for sample in samples])
        if isinstance(samples[0]["labels"], torch.Tensor):
            labels = torch.stack([sample["labels"] for sample in samples])
            labels = labels * (1.0 - self.smoothing) + self.smoothing / self.num_labels
        else:
            labels = torch.tensor([sample["labels"] for sample in samples])
        share, mixes = 1.0, SAMPLE_SEED in samples[0] and UNMIXED not in samples[0]
        if mixes and (self.mixup > 0 or self.cutmix > 0):
            rng = np.random.default_rng([sample[SAMPLE_SEED] for sample in samples])
            labels, share = self._mix(pixels, labels, rng)
        kept = {
            key: torch.stack([torch.as_tensor(sample[key]) for sample in samples])
            for key in self.keep
            if key in samples[0]
        }
        if OWN_SHARE in self.keep:
            kept[OWN_SHARE] = torch.full((len(samples),), share)
        return {"pixel_values": pixels, "labels": labels, **kept}

    def mix(self, pixels: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Mix `pixels` in place; the label probabilities (batch, classes), of classes or of smoothed probabilities."""
        return self._mix(pixels, labels, rng)[0]

    def _mix(self, pixels: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, float]:
        """`mix`, and the share of each sample's own picture."""
        targets = labels if labels.ndim == 2 else smooth_one_hot(labels, self.num_labels, self.smoothing)
        if rng.random() >= self.probability:
            return targets, 1.0
        use_cutmix = self.cutmix > 0 and (self.mixup == 0 or rng.random() < self.switch_probability)
        alpha = self.cutmix if use_cutmix else self.mixup
        weight = float(rng.beta(alpha, alpha))
        if use_cutmix:
            height, width = pixels.shape[-2:]
            y, x = int(rng.integers(height)), int(rng.integers(width))
            top, bottom, left, right = cut_box(height, width, weight, y, x)
            pixels[..., top:bottom, left:right] = pixels.flip(0)[..., top:bottom, left:right]
            weight = 1.0 - (bottom - top) * (right - left) / (height * width)
        else:
            pixels.copy_(weight * pixels + (1.0 - weight) * pixels.flip(0))
        return weight * targets + (1.0 - weight) * targets.flip(0), weight


def smooth_one_hot(labels: torch.Tensor, num_labels: int, smoothing: float) -> torch.Tensor:
    """Probabilities (batch, classes): 1 - `smoothing` for the label, the rest spread over all classes."""
    return F.one_hot(labels, num_labels) * (1.0 - smoothing) + smoothing / num_labels
