"""Peak signal-to-noise ratio of images as a module of the `evaluate` library."""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Peak signal-to-noise ratio in dB, 10 log10(peak² / mean squared error), averaged over the images.
"""

_INPUTS = """
Args:
    predictions (list of images): 8-bit PIL images or uint8 arrays (height, width, 3), RGB or grey.
    references (list of images): the same sizes.
    channel (str): "rgb", all three channels together; or "y", the luma (ITU-R BT.601, 16 to 235, unrounded), which is
        what super-resolution papers report.
    crop_border (int): pixels to leave out along each edge.
    epsilon (float): added to the mean squared error of images from 0 to 1. 0 is the definition; pyiqa has 1e-8, which
        lowers 38 dB by 0.0003.

Returns:
    psnr (float): in dB; infinite where all images are equal to their references.

Example:
    >>> black, grey = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 51, np.uint8)
    >>> round(load("psnr").compute(predictions=[grey], references=[black])["psnr"], 3)
    13.979
"""

CHANNELS = ("rgb", "y")


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class PSNR(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Image(), "references": datasets.Image()}),
        )

    def _compute(self, predictions, references, channel="rgb", crop_border=0, epsilon=0.0):
        pairs = [prepare_pair(*pair, channel, crop_border) for pair in zip(predictions, references, strict=True)]
        return {"psnr": float(np.mean([psnr(*pair, epsilon) for pair in pairs]))}


def psnr(image: np.ndarray, reference: np.ndarray, epsilon: float = 0.0) -> float:
    """PSNR in dB of two arrays of values from 0 to 255."""
    error = np.mean(((image - reference) / 255) ** 2) + epsilon
    return float(-10 * np.log10(error)) if error else float("inf")


def luma(image: np.ndarray) -> np.ndarray:
    """BT.601 luma of RGB values from 0 to 255, (height, width, 3) -> (height, width), from 16 to 235."""
    return (image @ np.array([65.481, 128.553, 24.966])) / 255 + 16


def prepare_pair(image, reference, channel: str, crop_border: int) -> tuple[np.ndarray, np.ndarray]:
    """Both images as float64 arrays, (height, width, 3) or luma (height, width), without their borders."""
    if channel not in CHANNELS:
        raise ValueError(f"channel: got {channel!r}, accepted are {', '.join(map(repr, CHANNELS))}.")
    arrays = [_array(name, value) for name, value in (("predictions", image), ("references", reference))]
    if arrays[0].shape != arrays[1].shape:
        raise ValueError(f"predictions: an image is {arrays[0].shape[:2]}, its reference {arrays[1].shape[:2]}.")
    height, width = arrays[0].shape[:2]
    if not 0 <= crop_border < (min(height, width) + 1) // 2:
        raise ValueError(f"crop_border: got {crop_border}, which leaves nothing of an image of {height}×{width}.")
    inner = (slice(crop_border, height - crop_border), slice(crop_border, width - crop_border))
    arrays = [array[inner] for array in arrays]
    return tuple(luma(array) for array in arrays) if channel == "y" else tuple(arrays)


def _array(name: str, image) -> np.ndarray:
    if image.mode not in ("RGB", "L"):
        raise ValueError(f"{name}: got an image of mode {image.mode}, accepted are 8-bit RGB and L.")
    return np.asarray(image.convert("RGB"), dtype=np.float64)
