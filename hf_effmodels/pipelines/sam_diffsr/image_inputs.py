"""What users give a pipeline as images -> tensors in [0, 1].

Images are read as `hf_effmodels.images` reads them for training, but 16 bits keep their precision. The file stands
alone: it is copied beside the weights when a pipeline is saved.
"""

import numpy as np
import torch
from PIL import Image, ImageOps

#: PIL modes whose conversion to RGB loses nothing that is seen.
_COLOR_MODES = ("RGB", "L", "1", "P", "CMYK", "YCbCr", "HSV", "LAB")


def images_to_tensors(images) -> list[torch.Tensor]:
    """One floating-point tensor (3, height, width) in [0, 1] for each image.

    Args:
        images: a PIL image, a NumPy array (height, width), (height, width, 1 or 3 or 4) or (batch, height, width, 3)
            of uint8, uint16 or floats in [0, 1], a tensor (1 or 3, height, width) or (batch, 3, height, width) of
            uint8 or floats in [0, 1]; or a list of these. Grey images get three equal channels; an alpha channel is
            accepted where it is opaque everywhere; of PIL images the camera's EXIF rotation is applied.

    Raises:
        ValueError: anything else: transparent images, other modes, dtypes, numbers of channels, values outside [0, 1].
    """
    if isinstance(images, (list, tuple)):
        if not images:
            raise ValueError("image: got an empty list.")
        return [tensor for image in images for tensor in images_to_tensors(image)]
    if isinstance(images, Image.Image):
        return [_from_pil(images)]
    if isinstance(images, np.ndarray):
        arrays = images if images.ndim == 4 else [images]
        return [_checked(_from_array(array)) for array in arrays]
    if isinstance(images, torch.Tensor):
        tensors = images if images.ndim == 4 else [images]
        return [_checked(_from_tensor(tensor)) for tensor in tensors]
    raise ValueError(
        f"image: got {type(images).__name__}, accepted are PIL images, NumPy arrays, tensors and lists of these."
    )


def _from_pil(image: Image.Image) -> torch.Tensor:
    image = _upright(image)
    # PIL opens 16-bit grey files as "I;16" and, in some formats and versions, as 32-bit "I".
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.size and not 0 <= values.min() <= values.max() <= 65_535:
            raise ValueError(
                f"image: values of integer images must be from 0 to 65535, got {values.min()} to {values.max()}."
            )
        return _checked(_from_array(values.astype(np.uint16)))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _checked(_from_array(np.asarray(image.convert("RGBA"))))
    if image.mode not in _COLOR_MODES:
        raise ValueError(
            f"image: got PIL mode {image.mode!r}, accepted are {', '.join(_COLOR_MODES)}, RGBA, LA, I and I;16; "
            "convert it, saying which value is white."
        )
    return _checked(_from_array(np.asarray(image.convert("RGB"))))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # whatever a damaged block makes of PIL's parser; the pixels are whole
        return image


def _from_array(array: np.ndarray) -> torch.Tensor:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ValueError(f"image: expected an array (height, width, 1 or 3 or 4), got {array.shape}.")
    largest = {"uint8": 255, "uint16": 65_535}.get(array.dtype.name, 1)
    if largest == 1 and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"image: got an array of {array.dtype}, accepted are uint8, uint16 and floats in [0, 1].")
    values = array.astype(np.float64) / largest
    if array.shape[2] == 4:
        if values[:, :, 3].min() < 1:
            raise ValueError(
                "image: it is transparent in places; paste it onto a background first, such as "
                "Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)."
            )
        values = values[:, :, :3]
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


def _from_tensor(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        raise ValueError(f"image: expected a tensor (1 or 3, height, width), got {tuple(tensor.shape)}.")
    if tensor.dtype == torch.uint8:
        return tensor.float() / 255
    if not tensor.is_floating_point():
        raise ValueError(f"image: got a tensor of {tensor.dtype}, accepted are uint8 and floats in [0, 1].")
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _checked(tensor: torch.Tensor) -> torch.Tensor:
    if 0 in tensor.shape:
        raise ValueError(f"image: it has no pixels, {tuple(tensor.shape)}.")
    low, high = tensor.min().item(), tensor.max().item()
    if not (low >= 0 and high <= 1):  # also where there is a NaN
        raise ValueError(f"image: values of floating-point images must be in [0, 1], got {low:g} to {high:g}.")
    return tensor.expand(3, -1, -1)
