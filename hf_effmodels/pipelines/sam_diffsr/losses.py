"""What the denoiser is trained with: the distance of the predicted noise from the target."""

import torch
from torch.nn import functional as F

LOSSES = ("l1", "l2", "ssim")


def denoising_loss(prediction: torch.Tensor, target: torch.Tensor, kind: str = "l1") -> torch.Tensor:
    """Loss of a batch, a scalar.

    Args:
        prediction, target: the noise, (batch, 3, H, W); the target is `SamDiffSRScheduler.get_target`'s.
        kind: "l1", the published recipe's; "l2", the mean squared error; "ssim", L1 + 1 - SSIM(x/2 + 1/2, y/2 + 1/2):
            the official code moves both to [0, 1] as if they were images in [-1, 1].
    """
    if kind not in LOSSES:
        raise ValueError(f"kind: got {kind!r}, accepted are {', '.join(map(repr, LOSSES))}.")
    if prediction.shape != target.shape:
        raise ValueError(f"prediction: {tuple(prediction.shape)} does not fit a target {tuple(target.shape)}.")
    if kind == "l2":
        return F.mse_loss(prediction, target)
    loss = F.l1_loss(prediction, target)
    return loss + 1 - ssim(prediction / 2 + 0.5, target / 2 + 0.5) if kind == "ssim" else loss


def ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean structural similarity at a range of 1: Gaussian window of 11×11 (σ 1.5), zeros beyond the border."""
    distances = torch.arange(11, dtype=torch.float64) - 5
    line = (-(distances**2) / (2 * 1.5**2)).exp().float()
    line = line / line.sum()
    channels = x.shape[1]
    # The official window is rounded to float32, whatever the precision of the images.
    window = torch.outer(line, line).to(x).expand(channels, 1, 11, 11)

    def blur(values: torch.Tensor) -> torch.Tensor:
        return F.conv2d(values, window, padding=5, groups=channels)

    mean_x, mean_y, c1, c2 = blur(x), blur(y), 0.01**2, 0.03**2
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (similarity / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))).mean()
