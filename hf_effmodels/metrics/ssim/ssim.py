"""Structural similarity of images (Wang et al., 2004) as a module of the `evaluate` library."""

import datasets
import evaluate
import numpy as np

from hf_effmodels.metrics.psnr.psnr import prepare_pair

_DESCRIPTION = """
Structural similarity index (SSIM) of images with K1 = 0.01 and K2 = 0.03 at a range of 255, averaged over the windows
that lie within the image, and over the images.
"""

_INPUTS = """
Args:
    predictions (list of images): 8-bit PIL images or uint8 arrays (height, width, 3), RGB or grey.
    references (list of images): the same sizes.
    channel (str): "y", the rounded luma (ITU-R BT.601) with a Gaussian window of 11×11 and deviation 1.5, which is
        what super-resolution papers report; or "rgb", the mean over the channels with a uniform window of 7×7 and
        sample covariances, scikit-image's default.
    crop_border (int): pixels to leave out along each edge.

Returns:
    ssim (float): 1 where all images are equal to their references.

Example:
    >>> ramp = np.tile(np.arange(16, dtype=np.uint8) * 15, (16, 1))[:, :, None].repeat(3, 2)
    >>> load("ssim").compute(predictions=[ramp], references=[ramp])
    {'ssim': 1.0}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class SSIM(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Image(), "references": datasets.Image()}),
        )

    def _compute(self, predictions, references, channel="rgb", crop_border=0):
        pairs = zip(predictions, references, strict=True)
        return {"ssim": float(np.mean([image_ssim(*prepare_pair(*pair, channel, crop_border)) for pair in pairs]))}


def image_ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """SSIM of two RGB arrays (height, width, 3), or of two lumas (height, width), of values from 0 to 255."""
    window = 7 if image.ndim == 3 else 11
    if min(image.shape[:2]) < window:
        raise ValueError(
            f"predictions: an image is {image.shape[0]}×{image.shape[1]} without its border, less than a window of "
            f"{window}×{window}."
        )
    if image.ndim == 3:
        channels = zip(np.moveaxis(image, 2, 0), np.moveaxis(reference, 2, 0), strict=True)
        return float(np.mean([ssim(x, y, np.full(7, 1 / 7), bessel=49 / 48) for x, y in channels]))
    weights = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    return ssim(np.round(image), np.round(reference), weights / weights.sum(), clamp=True)


def ssim(x: np.ndarray, y: np.ndarray, weights: np.ndarray, bessel: float = 1.0, clamp: bool = False) -> float:
    """SSIM of two arrays (height, width) of values from 0 to 255.

    Args:
        weights: of the separable window, summing to one.
        bessel: factor of variances and covariance: n/(n - 1) for sample covariances.
        clamp: a negative contrast-structure term counts as 0.
    """
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = _filter(x, weights), _filter(y, weights)
    variance_x = bessel * (_filter(x * x, weights) - mean_x**2)
    variance_y = bessel * (_filter(y * y, weights) - mean_y**2)
    covariance = bessel * (_filter(x * y, weights) - mean_x * mean_y)
    contrast_structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    if clamp:
        contrast_structure = np.maximum(contrast_structure, 0)
    return float(np.mean((2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1) * contrast_structure))


def _filter(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Separable filter, only where the whole window lies in the image."""
    for axis in (0, 1):
        length = image.shape[axis] - len(weights) + 1
        image = sum(w * image.take(range(i, i + length), axis) for i, w in enumerate(weights))
    return image
