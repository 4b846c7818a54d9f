"""The teacher: any SAM, frozen, and the store of its image embeddings."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch.nn import functional as F
from transformers import AutoModelForMaskGeneration, SamModel

from ...._files import write_bytes, write_json
from ....hub.whole import load_whole
from .outputs import Outputs, segment


@dataclass
class Teacher:
    """A frozen SAM that sees the student's pictures as it is used to.

    Attributes:
        model: the SAM. mean, deviation: of its image processor, and the student's to undo.
        cache: folder for image embeddings by the picture's number, None to keep none.
    """

    model: SamModel
    mean: torch.Tensor
    deviation: torch.Tensor
    student_mean: torch.Tensor
    student_deviation: torch.Tensor
    cache: Path | None = None

    @torch.no_grad()
    def __call__(self, batch: dict, points: torch.Tensor) -> Outputs:
        """What it says of `points` (batch, prompts, 2), in pixels of the student's pictures."""
        scale = self.model.config.vision_config.image_size / batch["pixel_values"].shape[-1]
        embeddings = self.embeddings(batch)
        return segment(self.model, (points + 0.5) * scale - 0.5, image_embeddings=embeddings)

    @torch.no_grad()
    def embeddings(self, batch: dict) -> torch.Tensor:
        if self.cache is None or (batch["index"] < 0).any():  # pictures to evaluate on are none of the training's
            return self._encode(batch["pixel_values"])
        files = [self.cache / f"{int(index):08d}.safetensors" for index in batch["index"]]
        missing = [number for number, file in enumerate(files) if not file.exists()]
        if missing:
            fresh = self._encode(batch["pixel_values"][missing])
            for number, embedding in zip(missing, fresh, strict=True):
                write_bytes(files[number], save({"embeddings": embedding.cpu().contiguous()}))
        stored = [load_file(file)["embeddings"] for file in files]
        return torch.stack(stored).to(batch["pixel_values"].device)

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        device, dtype = pixels.device, pixels.dtype
        to = {"device": device, "dtype": dtype}
        pixels = pixels * self.student_deviation.to(**to) + self.student_mean.to(**to)
        pixels = (pixels - self.mean.to(**to)) / self.deviation.to(**to)
        side = self.model.config.vision_config.image_size
        if pixels.shape[-1] != side:
            pixels = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
        return self.model.get_image_embeddings(pixels)


def load_teacher(name: str, revision: str | None, token: str | None) -> SamModel:
    """A SAM on the Hub or in a folder, frozen.

    Raises:
        ValueError: it is no SAM. OSError: it cannot be found, reached or read.
    """
    said = ("--teacher_revision", revision)
    model = load_whole(AutoModelForMaskGeneration, "--teacher", name, revision=said, token=token)
    check_is_sam("--teacher", name, model)
    return model.eval().requires_grad_(False)


def check_is_sam(argument: str, name: str, model) -> None:
    if not isinstance(model, SamModel):
        raise ValueError(
            f"{argument}: {name!r} is a {type(model).__name__}, accepted are SAM and what has its decoder (TinySAM, "
            "MobileSAM, SlimSAM): its tokens and embeddings are compared one by one."
        )


def open_cache(folder: str, facts: dict) -> Path:
    """The folder of the embeddings of pictures and a teacher that `facts` describe; made if it is not there.

    Raises:
        ValueError: it holds those of others.
    """
    import json

    path, file = Path(folder), Path(folder) / "cache.json"
    if file.exists():
        try:
            known = dict(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"--teacher_cache: {file} is damaged ({error}); name another folder.") from None
        if other := [name for name in facts if known.get(name) != facts[name]]:
            raise ValueError(
                f"--teacher_cache: {folder} was made with {other[0]} {known.get(other[0])!r}, "
                f"not {facts[other[0]]!r}; name another folder."
            )
    elif path.exists() and any(path.iterdir()):
        raise ValueError(f"--teacher_cache: {folder} holds something else; name a new or an empty folder.")
    else:
        path.mkdir(parents=True, exist_ok=True)
        write_json(file, facts)
    return path
