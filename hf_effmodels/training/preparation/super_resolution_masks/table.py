"""Structure maps beside the images, as a table that `datasets` loads.

The table has `image`, `name`, and the map in a lossless, small form: `regions`, a 16-bit PNG with the number of the
mask that counts at each pixel, and `values`, what each mask is encoded by (see `masks.encode_regions`).
"""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ....pipelines.sam_diffsr.masks import ENCODINGS, encode_regions
from ...data.fingerprints import fingerprint
from ...data.stored_tables import TableWriter, check_output
from ...run.arguments import ArgumentReader
from ...run.values import check_fields
from ...tasks.super_resolution.data import (
    LOW,
    NAME,
    REGIONS,
    VALUES,
    HighResolutionImages,
    SuperResolutionDataArguments,
    load_evaluation_data,
    reduce_image,
)
from ...tasks.super_resolution.evaluation import to_pil
from .segmenters import Segmenter, mask_generation, slic

_SETTINGS = "preparation.json"


@dataclass
class MaskArguments:
    """How to segment and encode, and where to."""

    output: str | None = field(
        default=None,
        metadata={"missing": "name a folder for the table.", "help": "Folder for the table; --dataset takes it."},
    )
    segmenter: Literal["model", "slic"] = field(
        default="model",
        metadata={"help": "model: one of transformers' mask-generation models. slic: scikit-image's superpixels."},
    )
    model: str | None = field(
        default=None,
        metadata={
            "missing": "name one such as facebook/sam-vit-huge (the paper's), or --segmenter slic.",
            "missing_with": {"segmenter": ("model",)},
            "goes_with": {"segmenter": ("model",)},
            "help": "Such as facebook/sam-vit-huge (the paper's), on the Hub or in a folder.",
        },
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model on the Hub."})
    token: str | None = field(default=None, metadata={"help": "Token for gated or private repositories on the Hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code that lies on the Hub."})
    device: str | None = field(default=None, metadata={"help": "Such as cuda:1; the first accelerator by default."})
    points_per_side: int | None = field(
        default=None, metadata={"accepts": "[1, 1024]", "help": "Prompts along each side (32)."}
    )
    points_per_batch: int | None = field(
        default=None, metadata={"accepts": "[1, inf)", "help": "Prompts at a time (64)."}
    )
    pred_iou_thresh: float | None = field(default=None, metadata={"help": "Least predicted quality (0.88)."})
    stability_score_thresh: float | None = field(default=None, metadata={"help": "Least stability (0.95)."})
    num_segments: int = field(
        default=20, metadata={"accepts": "[1, inf)", "help": "slic: regions of an image, about."}
    )
    compactness: float = field(
        default=10.0, metadata={"accepts": "(0, inf)", "help": "slic: nearness against likeness of colour."}
    )
    encoding: Literal[ENCODINGS] = field(default="rope", metadata={"help": "See masks.region_values."})
    split: str = field(default="train", metadata={"help": "Split to read, and name of the table's."})
    tile_size: int | None = field(
        default=None,
        metadata={
            "accepts": "[1, 65536]",
            "multiple_of": ("scale", 2),
            "help": "Cut images and maps into squares of this side (the paper: 320), reduced images beside them.",
        },
    )
    scale: int = field(default=4, metadata={"accepts": "[1, 64]", "help": "With --tile_size: of the reduced images."})
    shard_size: int = field(
        default=32, metadata={"accepts": "[1, inf)", "help": "Images in a file; a kill loses at most so many."}
    )

    def __post_init__(self):
        check_fields(self)


@dataclass
class _Images(SuperResolutionDataArguments):
    """`SuperResolutionDataArguments`, all images of one split."""


#: Argument -> the Auto class that has a head for the model in a folder that it names.
HEADS = {"model": "AutoModelForMaskGeneration"}
#: What the command line is read into.
ARGUMENTS = (_Images, MaskArguments)


def main(argv: Sequence[str]) -> Path:
    """Write the table as the arguments say.

    Returns:
        The folder of the table.

    Raises:
        ValueError, OSError, ImportError: wrong input, before anything is written.
    """
    return _write(*_prepare(list(argv)))


def _prepare(argv: list[str]) -> tuple[HighResolutionImages, Segmenter, MaskArguments, dict]:
    data_args, args = ArgumentReader(argv).read(*ARGUMENTS)
    for name in ("eval_dataset", "eval_split", "eval_fraction", "eval_holdout"):
        if getattr(data_args, name) is not None:
            raise ValueError(f"--{name} goes with training; the table is of all images of --split.")
    data_args.eval_split = args.split
    settings = {**asdict(data_args), **asdict(args)}
    # What changes nothing in the result may change when a run goes on.
    for name in ("token", "device", "points_per_batch", "output", "cache_dir"):
        settings.pop(name)
    output = Path(args.output)
    check_output(output, settings, _SETTINGS, all_known=False)
    source = load_evaluation_data(data_args, args.token)
    settings["images"] = fingerprint([source.name(index) for index in range(len(source))])
    settings |= source.facts()
    check_output(output, settings, _SETTINGS, all_known=args.segmenter == "slic")
    source.image(0)
    if args.segmenter == "slic":
        return source, slic(args.num_segments, args.compactness), args, settings
    segment = mask_generation(
        args.model,
        revision=args.revision,
        token=args.token,
        trust_remote_code=args.trust_remote_code,
        device=args.device,
        points_per_crop=args.points_per_side,
        points_per_batch=args.points_per_batch,
        pred_iou_thresh=args.pred_iou_thresh,
        stability_score_thresh=args.stability_score_thresh,
    )
    settings |= segment.weights  # known by them, not by the name of the model alone
    check_output(output, settings, _SETTINGS)
    return source, segment, args, settings


def _write(source: HighResolutionImages, segment: Segmenter, args: MaskArguments, settings: dict) -> Path:
    table = TableWriter(Path(args.output), len(source), args.shard_size, settings, _SETTINGS, args.split)
    missing = table.missing()
    with tqdm(total=len(source), unit="image", disable=None) as progress:
        progress.update(len(source) - sum(map(len, missing.values())))
        for name, images in missing.items():
            rows = []
            for index in images:
                rows += _rows(source, index, segment, args)
                progress.update()
            table.write(name, _shard(rows))
    return table.finish()


def _rows(source: HighResolutionImages, index: int, segment: Segmenter, args: MaskArguments) -> list[dict]:
    """The table's row of an image, or the rows of its tiles."""
    image = source.image(index)
    picture = to_pil(image)
    size = (picture.height, picture.width)
    try:
        regions, values = encode_regions(segment(picture), size, args.encoding)
    except ValueError as error:
        raise ValueError(f"row {source.rows[index]} ({source.name(index)}) of {source.split}: {error}") from error
    name = source.name(index)
    if args.tile_size is None:
        return [_row(name, picture, regions, values)]
    low, rows, scale, tile = reduce_image(image, args.scale), [], args.scale, args.tile_size
    for top in _tile_starts(size[0], tile):
        for left in _tile_starts(size[1], tile):
            bottom, right = (
                min(start + tile, side // scale * scale) for start, side in ((top, size[0]), (left, size[1]))
            )
            row = _row(
                f"{name}_{top}_{left}",
                to_pil(image[:, top:bottom, left:right]),
                regions[top:bottom, left:right],
                values,
            )
            cut = low[:, top // scale : bottom // scale, left // scale : right // scale]
            rows.append(row | {LOW: _png(to_pil(cut))})
    return rows


def _tile_starts(side: int, tile: int) -> range:
    """As the official code cuts: a tile begins wherever more than half of one is left."""
    return range(0, max(1, side - tile // 2), tile)


def _row(name: str, image: Image.Image, regions: np.ndarray, values: np.ndarray) -> dict:
    return {
        "image": _png(image),
        NAME: name,
        REGIONS: _png(Image.fromarray(np.ascontiguousarray(regions))),
        VALUES: values.tolist(),
    }


def _png(image: Image.Image) -> dict:
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return {"bytes": buffer.getvalue(), "path": None}


def _shard(rows: list[dict]):
    """An arrow table that says which columns are images."""
    import datasets

    features = {"image": datasets.Image(), NAME: datasets.Value("string"), REGIONS: datasets.Image()}
    features[VALUES] = datasets.Sequence(datasets.Value("float32"))
    if LOW in rows[0]:
        features[LOW] = datasets.Image()
    features = datasets.Features(features)
    return datasets.Dataset.from_list(rows, features=features).data.table.cast(features.arrow_schema)
