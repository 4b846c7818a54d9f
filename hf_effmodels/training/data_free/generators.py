"""The generators of CDFKD-MFS (https://arxiv.org/abs/2205.11845): images from noise, normalised as for the teachers.

They are always used in training mode, by the statistics of their batch.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..._files import whole_file, write_text

#: "small" grows the map twice by nearest neighbours (32 px), the others four times by transposed convolutions (128 px
#: and 224 px). The first and the last end in a batch norm without weights.
GENERATORS = ("small", "large", "large_normalized")

#: Of two of the small one's batch norms: published so, where 0.8 was meant for the momentum.
_LARGE_EPS = 0.8
_WIDTHS = {"small": (128, 128, 64), "large": (512, 256, 128, 64, 64), "large_normalized": (512, 256, 128, 64, 64)}


class DataFreeGenerator(nn.Module):
    """(batch, latent_size) standard normal -> (batch, num_channels, image_size, image_size).

    Args:
        kind: one of `GENERATORS`.
        image_size: side in pixels; a multiple of 4 ("small") or 16.
        latent_size: of the noise.
        num_channels: of the images.
    """

    def __init__(self, kind: str = "small", image_size: int = 32, latent_size: int = 256, num_channels: int = 3):
        super().__init__()
        if kind not in GENERATORS:
            raise ValueError(f"generator: got {kind!r}, accepted are {', '.join(GENERATORS)}.")
        times = 4 if kind == "small" else 16
        if image_size < times or image_size % times:
            raise ValueError(f"image_size: got {image_size}, accepted with generator {kind} are multiples of {times}.")
        for name, value in (("latent_size", latent_size), ("num_channels", num_channels)):
            if value < 1:
                raise ValueError(f"{name}: got {value}, accepted are whole numbers from 1.")
        self.kind, self.image_size, self.num_channels = kind, image_size, num_channels
        self.latent_size, self.side = latent_size, image_size // times
        widths = _WIDTHS[kind]
        self.project = nn.Linear(latent_size, widths[0] * self.side**2)
        self.norm = nn.BatchNorm2d(widths[0])
        pairs = list(zip(widths, widths[1:], strict=False))
        if kind == "small":
            growths = [
                nn.Sequential(
                    nn.Upsample(scale_factor=2),
                    nn.Conv2d(before, after, 3, padding=1),
                    nn.BatchNorm2d(after, eps=_LARGE_EPS),
                    nn.LeakyReLU(0.2),
                )
                for before, after in pairs
            ]
        else:
            growths = [
                nn.Sequential(
                    nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.LeakyReLU(0.2),
                )
                for before, after in pairs
            ]
        self.growths = nn.ModuleList(growths)
        self.output = nn.Conv2d(widths[-1], num_channels, 3, padding=1)
        self.output_norm = None if kind == "large" else nn.BatchNorm2d(num_channels, affine=False)

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        maps = self.norm(self.project(noise).view(len(noise), -1, self.side, self.side))
        for growth in self.growths:
            maps = growth(maps)
        images = self.output(maps).tanh()
        return images if self.output_norm is None else self.output_norm(images)


_RULES = (
    (r"^l1\.0\b", "project"),
    (r"^conv_blocks0\.0\b", "norm"),
    (r"^conv_blocks([12])\.([01])\b", lambda m: f"growths.{int(m[1]) - 1}.{int(m[2]) + 1}"),
    (r"^out_block\.0\b", "output"),
    (r"^out_block\.2\b", "output_norm"),
    (r"^project\.1\b", "project"),
    (r"^main\.0\b", "norm"),
    (r"^main\.13\b", "output"),
    (r"^main\.15\b", "output_norm"),
    (r"^main\.(\d+)\b", lambda m: f"growths.{(int(m[1]) - 1) // 3}.{(int(m[1]) - 1) % 3}"),
)


def own_name(official: str) -> str:
    """What a weight of the official layout is called here."""
    for pattern, replacement in _RULES:
        if re.search(pattern, official):
            return re.sub(pattern, replacement, official)
    return official


def generator_from_official(state_dict: Mapping[str, torch.Tensor]) -> DataFreeGenerator:
    """The generator of a `state_dict` in the official layout; kind and sizes are read off the weights, and the dtype.

    Raises:
        ValueError: it is not of this layout, or entries are missing or left over.
    """
    weights = {own_name(name): value for name, value in state_dict.items()}
    project, norm, output = (weights.get(f"{name}.weight") for name in ("project", "norm", "output"))
    if project is None or norm is None or output is None:
        raise ValueError("state_dict: it has not the layout of a generator (l1.0, ... or project.1, main.0, ...).")
    kind = "small" if "l1.0.weight" in state_dict else "large"
    if kind == "large" and "output_norm.running_mean" in weights:
        kind = "large_normalized"
    side = round((project.shape[0] / norm.shape[0]) ** 0.5)
    generator = DataFreeGenerator(
        kind, side * (4 if kind == "small" else 16), latent_size=project.shape[1], num_channels=output.shape[0]
    ).to(project.dtype)
    for name in generator.state_dict():
        if name.endswith("num_batches_tracked"):
            weights.setdefault(name, torch.tensor(0))
    try:
        generator.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"state_dict: {' '.join(str(error).split())}") from None
    return generator


def save_generator(generator: DataFreeGenerator, folder: str | Path) -> None:
    """Write `model.safetensors` and `config.json`, which says its arguments."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "model.safetensors") as part:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in generator.state_dict().items()},
            part,
            metadata={"format": "pt"},
        )
    fields = {name: getattr(generator, name) for name in ("kind", "image_size", "latent_size", "num_channels")}
    write_text(folder / "config.json", json.dumps(fields, indent=2) + "\n")


def load_generator(folder: str | Path) -> DataFreeGenerator:
    """What `save_generator` has written.

    Raises:
        OSError: there is no such folder.
    """
    folder = Path(folder)
    generator = DataFreeGenerator(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    generator.load_state_dict(load_file(folder / "model.safetensors"))
    return generator
