"""The published label maps (https://github.com/naver-ai/relabel_imagenet): a file for each picture, in folders as the
pictures are."""

import os
from pathlib import Path

import torch

from ....hub.checkpoints import read_file
from ....images import image_name
from ...data.images import where
from ...data.pictures import Pictures


def official_files(folder: str, source: Pictures) -> list[Path]:
    """The file of each picture: `<folder of its class>/<its name before the first dot>.pt`.

    Raises:
        ValueError: a picture has no file, or no name.
    """
    if not os.path.isdir(folder):
        raise ValueError(f"--official_maps: there is no folder {folder!r}.")
    files, lacking = [], []
    for row in source.rows.tolist():
        value = source.images[row]
        path = value.get("path") if isinstance(value, dict) else image_name(value)
        if not path:
            raise ValueError(f"--official_maps: {where(row, source.split)} has no file name to find its map by.")
        file = Path(folder) / Path(path).parent.name / f"{Path(path).name.partition('.')[0]}.pt"
        files.append(file)
        if not file.is_file():
            lacking.append(f"{where(row, source.split, value)}: {file}")
    if lacking:
        raise ValueError(f"--official_maps: {len(lacking)} of {len(files)} files are missing, such as {lacking[0]}.")
    return files


def read_official(file: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and classes of a file, each (top_k, height, width).

    Raises:
        ValueError: it holds no label map. OSError: it is damaged.
    """
    values = read_file(file)
    if not isinstance(values, torch.Tensor) or values.ndim != 4 or len(values) != 2:
        shape = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
        raise ValueError(f"--official_maps: {file} holds {shape}, accepted is (2, top_k, height, width).")
    return values[0].float(), values[1].long()
