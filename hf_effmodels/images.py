"""The one image reader: any picture as the 8-bit channels a model takes, in training, evaluation and our processors.

PIL and numpy only; the file stands alone and is copied beside models whose processor uses it.
"""

import io
import os
from pathlib import Path

import numpy as np
from transformers.utils import is_vision_available

if is_vision_available():
    from PIL import Image, ImageOps, UnidentifiedImageError

#: channels of the model's input -> PIL mode
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
#: Modes of PIL whose values a stock image processor, or `pipeline`, clips to 255.
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def read_image(value, num_channels: int = 3) -> "Image.Image":
    """An upright 8-bit image in the mode of `num_channels` (1 luminance, 2 with alpha, 3 RGB, 4 with alpha).

    Gray images fill all three colours; colour becomes luminance (ITU-R 601) for one channel; alpha is dropped unless
    the model takes it, as transformers' pipelines do; palettes, CMYK and the like are converted; 16-bit values are
    scaled by 255 / 65535 (PIL alone would clip them); the camera's EXIF rotation is applied.

    Args:
        value: a PIL image; a data set's undecoded `{"bytes": ..., "path": ...}`; a path; or an array (height, width)
            or (height, width, channels) of 8- or 16-bit unsigned integers.

    Raises:
        ValueError: no image, one without pixels, or one whose values have no defined range (floats, 32 bits).
        OSError: a file that cannot be read as an image.
    """
    if num_channels not in MODES:
        raise ValueError(f"num_channels: got {num_channels}, images can be read as {', '.join(map(str, MODES))}.")
    return in_channels(open_image(value), num_channels)


def open_image(value) -> "Image.Image":
    """The image as it is stored: `read_image` without any conversion. Raises as that."""
    if isinstance(value, Image.Image):
        return _loaded(lambda: value)
    if isinstance(value, np.ndarray):
        return _from_array(value)
    if isinstance(value, dict) and {"bytes", "path"} & value.keys():
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if value is None or (isinstance(value, bytes) and not value):
        raise ValueError("there is no image")
    if not isinstance(value, bytes | str | os.PathLike):
        raise ValueError(f"got {type(value).__name__}, accepted are images, image files and arrays")
    return _loaded(lambda: Image.open(io.BytesIO(value) if isinstance(value, bytes) else value))


def in_channels(image: "Image.Image", num_channels: int) -> "Image.Image":
    """An opened image, upright, in 8 bits and the mode of `num_channels`. Raises as `read_image`."""
    if 0 in image.size:
        raise ValueError(f"the image has no pixels: it is {image.size[0]}x{image.size[1]}")
    image = _in_eight_bits(upright(image))
    mode = MODES[num_channels]
    if image.mode == mode:
        return image
    try:
        return image.convert(mode)
    except ValueError as error:
        raise ValueError(f"an image of mode {image.mode} cannot be converted to {mode} ({error})") from None


def upright(image: "Image.Image") -> "Image.Image":
    """The image with the rotation applied that its EXIF data ask for; data that cannot be read ask for none."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # whatever a damaged block makes of PIL's parser; the pixels are whole
        return image


def image_name(value) -> str | None:
    """The file of what `read_image` takes, None where it has no name."""
    if isinstance(value, dict):
        value = value.get("path")
    elif not isinstance(value, str | os.PathLike):
        value = getattr(value, "filename", None)
    return os.fspath(value) if isinstance(value, str | Path) and os.fspath(value) else None


def _loaded(open_file) -> "Image.Image":
    try:
        image = open_file()
        image.load()
    except UnidentifiedImageError:
        raise OSError("the file is not an image PIL can read") from None
    except (OSError, MemoryError):
        raise
    except Exception as error:  # PIL's parsers raise whatever a broken file leads them to
        raise OSError(f"the image file is damaged ({error})") from None
    return image


def _from_array(array: np.ndarray) -> "Image.Image":
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in MODES):
        raise ValueError(f"an array of shape {array.shape}: accepted are (height, width) and (height, width, 1 to 4)")
    if 0 in array.shape:
        raise ValueError(f"the image has no pixels: its array has the shape {array.shape}")
    if array.dtype.name == "uint16":  # in either order of bytes
        array = _scaled(array)
    if array.dtype != np.uint8:
        raise ValueError(f"an array of {array.dtype}: accepted are uint8 and uint16")
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else np.ascontiguousarray(array))


def _in_eight_bits(image: "Image.Image") -> "Image.Image":
    # PIL opens 16-bit gray files as "I;16" and, in some formats and versions, as 32-bit "I".
    if image.mode in DEEP_MODES:
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(
                f"a 32-bit image with values from {values.min()} to {values.max()} has no defined range: convert it "
                "to 8 or 16 bits"
            )
        return Image.fromarray(_scaled(values))
    if image.mode == "F":
        raise ValueError("a 32-bit float image has no defined range of values: convert it to 8 or 16 bits")
    return image


def _scaled(values: np.ndarray) -> np.ndarray:
    """0 to 65535 as 0 to 255, rounded."""
    return np.round(values.astype(np.float64) / 257).astype(np.uint8)
