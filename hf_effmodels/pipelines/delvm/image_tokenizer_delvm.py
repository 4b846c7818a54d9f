"""Images <-> token ids, by a VQ model of diffusers.

The file stands alone: it is copied beside the weights when a pipeline is saved.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

OUTPUT_TYPES = ("pil", "np", "pt")


class DelvmImageTokenizer:
    """Encodes images into token ids and decodes ids into images.

    Works in `datasets`: `table.map(tokenizer, input_columns="image", batched=True)` adds the column `input_ids`.

    Args:
        vqvae: a `VQModel` of diffusers that takes pixels in [0, 1].
        image_size: side of the squares that are encoded, in pixels.
        device: where the network computes, if its weights lie elsewhere until it does (offloading).

    Raises:
        ValueError: a side that the network's stages do not divide.
    """

    def __init__(self, vqvae, image_size: int = 256, device: torch.device | None = None):
        self.vqvae, self._device = vqvae, device
        self.reduction = 2 ** (len(vqvae.config.block_out_channels) - 1)
        if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
            raise ValueError(f"image_size: got {image_size!r}, accepted are whole numbers from 1.")
        if image_size % self.reduction:
            raise ValueError(f"image_size: got {image_size}, accepted are multiples of {self.reduction}.")
        self.image_size = image_size

    @classmethod
    def from_pretrained(cls, name: str, *, subfolder: str | None = None, image_size: int | None = None, **kwargs):
        """Load the `VQModel` in a folder or on the Hub; `subfolder="vqvae"` of a pipeline.

        Args:
            image_size: by default the model's `sample_size`.
            kwargs: of `VQModel.from_pretrained`.
        """
        from diffusers import VQModel

        vqvae = VQModel.from_pretrained(name, subfolder=subfolder, **kwargs).eval()
        return cls(vqvae, image_size or vqvae.config.sample_size)

    @property
    def grid(self) -> int:
        """Tokens along each side of an image."""
        return self.image_size // self.reduction

    @property
    def tokens_per_image(self) -> int:
        return self.grid**2

    @property
    def vocab_size(self) -> int:
        return self.vqvae.config.num_vq_embeddings

    @property
    def codebook(self) -> torch.Tensor:
        """(codes, code width)."""
        return self.vqvae.quantize.embedding.weight

    def __call__(self, images) -> dict[str, list[list[int]]]:
        """`input_ids` of each image, as lists."""
        return {"input_ids": self.encode(images).tolist()}

    def pixels(self, images) -> torch.Tensor:
        """What the network takes of images: (batch, 3, image_size, image_size) in [0, 1]; see `to_pixels`."""
        return to_pixels(images, self.image_size).to(self.device, self.vqvae.dtype)

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self._device or self.vqvae.device

    @torch.no_grad()
    def encode(self, images) -> torch.Tensor:
        """Token ids, (batch, tokens_per_image), row by row from the top left.

        Args:
            images: see `to_pixels`.

        Raises:
            ValueError: no images, or what the network makes of them is not finite.
        """
        latents = self._finite(self.vqvae.encode(self.pixels(images)).latents)
        return self.vqvae.quantize(latents)[2][2].reshape(len(latents), -1)

    @torch.no_grad()
    def soft_codes(self, images, temperature: float = 1.0) -> torch.Tensor:
        """Probability of each code at each place, (batch, tokens_per_image, codes): the softmax of the negative
        squared distances over `temperature`."""
        if not temperature > 0:
            raise ValueError(f"temperature: got {temperature}, accepted are numbers above 0.")
        latents = self._finite(self.vqvae.encode(self.pixels(images)).latents).flatten(2).transpose(1, 2)
        codes = self.codebook
        distances = latents.square().sum(-1, keepdim=True) + codes.square().sum(-1) - 2 * latents @ codes.T
        return (-distances / temperature).softmax(-1)

    @torch.no_grad()
    def decode_pixels(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(batch, 3, image_size, image_size) as the network gives them, about in [0, 1].

        Args:
            input_ids: (batch, tokens_per_image).

        Raises:
            ValueError: another number of tokens, ids that the codebook does not have, or pixels that are not finite.
        """
        ids = check_ids(input_ids, self.vocab_size, self.tokens_per_image).to(self.device)
        shape = (len(ids), self.grid, self.grid, self.codebook.shape[1])
        ids = ids.reshape(-1)
        if not self.vqvae.config.lookup_from_codebook:
            ids = self.vqvae.quantize.get_codebook_entry(ids, shape)
        # The codes themselves: otherwise the nearest ones to them are looked for.
        return self._finite(self.vqvae.decode(ids, force_not_quantize=True, shape=shape).sample)

    def _finite(self, values: torch.Tensor) -> torch.Tensor:
        """ValueError where a network has come apart: it would be the first code, or a black picture."""
        if not values.isfinite().all():
            raise ValueError(f"vqvae: what it computes is not finite, in {self.vqvae.dtype}.")
        return values

    def decode(self, input_ids: torch.Tensor, output_type: str = "pil"):
        """Images of token ids.

        Args:
            input_ids: (batch, tokens_per_image), or one image's (tokens_per_image,).
            output_type: "pil"; "np": floats (batch, height, width, 3) in [0, 1]; "pt": the same (batch, 3, height,
                width).
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type: got {output_type!r}, accepted are {', '.join(map(repr, OUTPUT_TYPES))}.")
        return to_images(self.decode_pixels(input_ids), output_type)


def size_of(image) -> tuple[int, int]:
    """Width and height of one image in pixels, in any form that `to_pixels` takes."""
    if isinstance(image, Image.Image):
        return _upright(image).size
    shape = tuple(image.shape)
    if isinstance(image, torch.Tensor):
        return shape[-1], shape[-2]
    return shape[1], shape[0]


def check_ids(input_ids, vocab_size: int, tokens_per_image: int) -> torch.Tensor:
    """Ids as (batch, tokens_per_image); ValueError if they are not, or outside of the codebook."""
    ids = torch.as_tensor(input_ids)
    ids = ids[None] if ids.ndim == 1 else ids
    if ids.ndim != 2 or ids.shape[1] != tokens_per_image or ids.is_floating_point():
        raise ValueError(
            f"input_ids: got {ids.dtype} of shape {tuple(ids.shape)}, expected whole numbers of shape (batch, "
            f"{tokens_per_image})."
        )
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise ValueError(
            f"input_ids: got {int(ids.min())} to {int(ids.max())}, accepted are the codes 0 to {vocab_size - 1}."
        )
    return ids.long()


def to_images(pixels: torch.Tensor, output_type: str):
    """(batch, 3, height, width) -> images; 8-bit values are cut, not rounded, as the official code does."""
    pixels = pixels.clamp(0, 1)
    if output_type == "pt":
        return pixels
    pixels = pixels.permute(0, 2, 3, 1).cpu()
    if output_type == "np":
        return pixels.float().numpy() if pixels.dtype in (torch.float16, torch.bfloat16) else pixels.numpy()
    return [Image.fromarray(image) for image in (pixels.float() * 255).to(torch.uint8).numpy()]


def to_pixels(images, size: int) -> torch.Tensor:
    """(batch, 3, size, size) in [0, 1]: the shorter side resized bilinearly to `size`, the square in the middle.

    Args:
        images: a PIL image of any mode of 8 bits (an alpha channel is dropped), an array (height, width), (height,
            width, 1, 3 or 4) or (batch, height, width, 3) of uint8 or floats in [0, 1], a tensor (1 or 3, height,
            width) or a batch of those; or a sequence of these.

    Raises:
        ValueError: something else.
    """
    return torch.stack([_square(image, size) for image in _one_by_one(images)])


def _one_by_one(images) -> list:
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        return list(images)
    if isinstance(images, Sequence) and not isinstance(images, str):
        if not images:
            raise ValueError("images: got an empty list.")
        return [part for image in images for part in _one_by_one(image)]
    return [images]


def _square(image, size: int) -> torch.Tensor:
    if isinstance(image, torch.Tensor):
        return _cut(_resized(_from_tensor(image), size), size)
    if isinstance(image, np.ndarray):
        array = image[:, :, None] if image.ndim == 2 else image
        if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
            raise ValueError(f"images: got an array of shape {image.shape}, expected (height, width, 1, 3 or 4).")
        if image.dtype != np.uint8:
            array = array[:, :, :3] if array.shape[2] == 4 else array
            return _square(torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1))), size)
        image = Image.fromarray(image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    if not isinstance(image, Image.Image):
        raise ValueError(
            f"images: got {type(image).__name__}, accepted are PIL images, arrays, tensors and sequences of these."
        )
    if 0 in image.size:
        raise ValueError(f"images: one has no pixels, {image.size}.")
    image = _upright(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        # PIL opens 16-bit grey files as either, and would clip them to white.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"images: got values {values.min()} to {values.max()}, accepted are 8 and 16 bits.")
        image = Image.fromarray(np.round(values.astype(np.float64) / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError(f"images: got PIL mode {image.mode!r}, accepted are images of 8 bits; convert it.")
    image = image.convert("RGB")
    width, height = image.size
    if min(width, height) != size:
        image = image.resize(_target(width, height, size), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return _cut(pixels, size).float() / 255


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # whatever a damaged block makes of PIL's parser; the pixels are whole
        return image


def _from_tensor(image: torch.Tensor) -> torch.Tensor:
    if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
        raise ValueError(f"images: got a tensor of shape {tuple(image.shape)}, expected (1 or 3, height, width).")
    if image.dtype == torch.uint8:
        image = image.float() / 255
    elif not image.is_floating_point():
        raise ValueError(f"images: got a tensor of {image.dtype}, accepted are uint8 and floats in [0, 1].")
    elif not (image.min() >= 0 and image.max() <= 1):  # also where there is a NaN
        raise ValueError(f"images: got values {image.min():g} to {image.max():g}, accepted are floats in [0, 1].")
    return image.expand(3, -1, -1)


def _resized(image: torch.Tensor, size: int) -> torch.Tensor:
    height, width = image.shape[1:]
    if min(height, width) == size:
        return image
    target = _target(width, height, size)[::-1]
    return F.interpolate(image[None].float(), target, mode="bilinear", antialias=True)[0].clamp(0, 1).to(image.dtype)


def _target(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height whose shorter one is `size`."""
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size


def _cut(image: torch.Tensor, size: int) -> torch.Tensor:
    top, left = (round((side - size) / 2) for side in image.shape[1:])
    return image[:, top : top + size, left : left + size]
