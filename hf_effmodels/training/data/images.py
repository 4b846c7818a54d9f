"""Any picture a data set may hold, read as the 8-bit channels a model takes. PIL and numpy only."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

#: channels of the model's input -> PIL mode
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def read_image(value, num_channels: int) -> Image.Image:
    """An upright 8-bit image in the mode of `num_channels` (1 luminance, 2 with alpha, 3 RGB, 4 with alpha).

    Gray images fill all three colours; colour becomes luminance (ITU-R 601) for one channel; alpha is dropped unless
    the model takes it, as transformers' pipelines do; palettes, CMYK and the like are converted; 16-bit values are
    scaled by 255 / 65535 (PIL alone would clip them); the camera's EXIF rotation is applied.

    Args:
        value: a PIL image; a data set's undecoded `{"bytes": ..., "path": ...}`; a path; or an array (height, width)
            or (height, width, channels) of 8- or 16-bit unsigned integers.

    Raises:
        ValueError: no image, one without pixels, or one whose values have no defined range (floats).
        OSError: a file that cannot be read as an image.
    """
    if num_channels not in MODES:
        raise ValueError(f"num_channels: got {num_channels}, images can be read as {', '.join(map(str, MODES))}.")
    image = _open(value)
    if 0 in image.size:
        raise ValueError(f"the image has no pixels: it is {image.size[0]}x{image.size[1]}")
    image = _to_eight_bits(ImageOps.exif_transpose(image))
    mode = MODES[num_channels]
    if image.mode == mode:
        return image
    if image.mode == "P" and "transparency" not in image.info and mode in ("LA", "RGBA"):
        image = image.convert("RGB")
    try:
        return image.convert(mode)
    except ValueError as error:
        raise ValueError(f"an image of mode {image.mode} cannot be converted to {mode} ({error})") from None


def _open(value) -> Image.Image:
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, np.ndarray):
        return _from_array(value)
    if isinstance(value, dict) and {"bytes", "path"} & value.keys():
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if value is None or (isinstance(value, bytes) and not value):
        raise ValueError("there is no image")
    if not isinstance(value, bytes | str | Path):
        raise ValueError(f"got {type(value).__name__}, accepted are images, image files and arrays")
    try:
        image = Image.open(io.BytesIO(value) if isinstance(value, bytes) else value)
        image.load()
    except UnidentifiedImageError:
        raise OSError("the file is not an image PIL can read") from None
    except (SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise OSError(f"the image file is damaged ({error})") from None
    return image


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in MODES):
        raise ValueError(f"an array of shape {array.shape}: accepted are (height, width) and (height, width, 1 to 4)")
    if 0 in array.shape:
        raise ValueError(f"the image has no pixels: its array has the shape {array.shape}")
    if array.dtype == np.uint16:
        array = _scale_sixteen_bits(array)
    if array.dtype != np.uint8:
        raise ValueError(f"an array of {array.dtype}: accepted are uint8 and uint16")
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else np.ascontiguousarray(array))


def _to_eight_bits(image: Image.Image) -> Image.Image:
    # PIL opens 16-bit gray files as "I;16" and, in some formats and versions, as 32-bit "I".
    if image.mode.startswith("I"):
        return Image.fromarray(_scale_sixteen_bits(np.asarray(image)))
    if image.mode == "F":
        raise ValueError("a 32-bit float image has no defined range of values: convert it to 8 or 16 bits")
    return image


def _scale_sixteen_bits(values: np.ndarray) -> np.ndarray:
    return np.round(np.clip(values.astype(np.float64), 0, 65535) / 257).astype(np.uint8)
