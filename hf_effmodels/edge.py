"""Export to the edge through transformers' exporters: ONNX, OpenVINO, ExecuTorch.

`export` folds a copy of the model, exports it with a free batch size, runs the exported program and compares it with
PyTorch before anything is in the folder. `load` runs such a folder again, alone or inside a transformers pipeline.
"""

import contextlib
import copy
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_MASK_GENERATION_MAPPING,
    MODEL_FOR_OBJECT_DETECTION_MAPPING,
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForObjectDetection,
    AutoModelForSemanticSegmentation,
    PreTrainedModel,
)
from transformers.modeling_outputs import ImageClassifierOutput, SemanticSegmenterOutput
from transformers.utils import ModelOutput

from . import edge_int8
from ._files import check_folder, whole_folder
from ._image_size import blaming_image_size
from ._kinds import check_saved_for, tasks_of_folder
from .edge_files import as_one_file, halve, size_of, summed_up, write_readme
from .edge_formats import TOLERANCES, Format, check_format, check_precision
from .edge_pictures import find_pictures
from .edge_sizes import of_one_size
from .hub.ids import reading
from .hub.made_of import told as told_of
from .hub.whole import load_whole
from .hub.wrappers import unwrap, unwrap_parts
from .models import create_image_processor, create_model, list_models, model_info
from .registry import is_in_halves


@dataclass
class DetectorOutput(ModelOutput):
    """What is exported of a detector: as the detector itself gives it."""

    logits: torch.Tensor | None = None
    pred_boxes: torch.Tensor | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of model that can be exported: its Auto class, and what its program gives, each with the unit of its
    difference from PyTorch's; None for its standard deviation."""

    auto_class: type
    output: type[ModelOutput]
    units: Mapping[str, float | None]


KINDS = {
    "image-classification": Kind(AutoModelForImageClassification, ImageClassifierOutput, {"logits": None}),
    "object-detection": Kind(AutoModelForObjectDetection, DetectorOutput, {"logits": None, "pred_boxes": 1.0}),
    "image-segmentation": Kind(AutoModelForSemanticSegmentation, SemanticSegmenterOutput, {"logits": None}),
}
_PROMPTABLE = "which finds masks by prompts: edge_masks.export_promptable(model, folder) writes its two graphs"
#: Of those beside classifiers: the configurations they have.
_MAPPINGS = {
    "object-detection": MODEL_FOR_OBJECT_DETECTION_MAPPING,
    "image-segmentation": MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING,
}


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        folder: where it is.
        format: "onnx", "openvino" or "executorch".
        model: class of the exported model.
        image_size: (height, width) of the images in pixels.
        folded: train-time branches and batch norms were folded first.
        difference: largest difference of the program's outputs from PyTorch's: of logits over their standard
            deviation, of boxes over the image's sides.
        batches: the batch sizes it was compared at.
        precision: a key of `edge_formats.PRECISIONS`; bytes: of the program.
        agreement: where there were pictures, the share of the checking ones that get the same class as from PyTorch.
        warnings: of the exporters, as far as they say something of the model.
    """

    folder: str
    format: str
    model: str
    image_size: tuple[int, int]
    folded: bool
    difference: float
    batches: tuple[int, ...]
    precision: str = "float32"
    bytes: int = 0
    agreement: float | None = None
    warnings: tuple[str, ...] = ()


def export(
    source: str | Path | PreTrainedModel,
    folder: str | Path,
    format: str,
    *,
    processor: Any = None,
    image_size: int | tuple[int, int] | None = None,
    tolerance: float | None = None,
    precision: str = "float32",
    calibration: str | Path | Iterable | None = None,
    min_agreement: float = 0.9,
) -> ExportReport:
    """Export an image classifier, an object detector or a segmenter, folded, with a free batch size.

    A detector's program gives `logits` and `pred_boxes`, as the detector does; `edge_detection.export_detector` has
    the suppression of overlapping boxes in the graph as well.

    Args:
        source: a model (left as it is: a copy in float32 is folded), a preset (random weights), a folder or an id of
            the Hub.
        folder: where to write; must not exist or be empty.
        format: "onnx", "openvino" or "executorch".
        processor: the image processor to put beside the program; by default the source's own.
        image_size: side, or (height, width), of the images in pixels; by default what the processor makes them. The
            processor beside the program makes every picture of it, by resizing where the own one keeps their shapes.
        tolerance: largest `difference` (see `ExportReport`) that is accepted; 1e-4 by default, 2e-2 in float16.
            Integers are judged by `min_agreement` alone.
        precision: "float32"; "float16" in ONNX and OpenVINO: images and outputs stay in float32; or, of classifiers in
            ONNX, "int8": weights and activations, by ONNX Runtime's quantiser.
        calibration: of classifiers a folder of pictures, or pictures. With "int8" the ranges are measured on three
            quarters of them, and what the program says is compared with PyTorch on the rest; with "float16" on all.
        min_agreement: the smallest share of those that must get the same class.

    Raises:
        ValueError: unknown format or source, a processor that keeps the shapes of pictures without an `image_size`, or
            the program's outputs differ; nothing is written then.
        ImportError: the format's packages are not installed.
        FileExistsError: `folder` has something in it.
    """
    chosen, precision = check_format(format), check_precision(precision, format)
    source = unwrap(source)
    folder = Path(folder)
    check_folder(folder)
    model, processor = load_source(source, processor)
    if is_in_halves(model.config.model_type):
        raise ValueError(
            f"source: a {type(model).__name__} makes bytes between its halves, which no graph can; "
            "edge_halves.export_halves(*model.halves(), folder) exports what is before and behind them."
        )
    kind = KINDS[kind_of(model)]
    size = _image_size(model, processor, image_size)
    if processor is not None:
        size, processor = of_one_size(model, processor, size, _channels(model.config))
    if not 0 <= min_agreement <= 1:
        raise ValueError(f"min_agreement: got {min_agreement}, accepted are shares from 0 to 1.")
    pictures = _calibration(precision, calibration, kind_of(model), processor, model, size)
    model = unwrap_parts(copy.deepcopy(model)).eval()
    if model.dtype != torch.float32:  # runtimes of CPUs have no operators of others
        model.float()
        model.config.dtype = torch.float32
    if hasattr(model, "reparameterize"):
        model.reparameterize()
    # ExecuTorch takes no other layout.
    model.to(memory_format=torch.contiguous_format)
    # As save_pretrained does: `load` and transformers' runner learn from it what the program computes.
    model.config.architectures = [type(model).__name__]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(3, _channels(model.config), *size, generator=generator).to(model.device, model.dtype)

    _give_only(model, kind)
    with (
        blaming_image_size(size, is_asked_for=image_size is not None),
        torch.no_grad(),
    ):  # before the exporters, which take long
        model(pixel_values=pixels[:1])
    # ExecuTorch plans its memory ahead: the batch size is fixed there.
    batches = (1, 3) if chosen.exporter != "ExecutorchExporter" else (2,)
    with whole_folder(folder) as new:
        try:
            with summed_up() as said:
                quantizer = edge_int8.quantizer(pictures) if precision == "int8" else None
                _write(model, pixels[:2], chosen, new, len(batches) > 1, quantizer)
        except Exception as error:
            # torch.export's own words for a model whose code fixes the batch size.
            if "Constraints violated (batch)" not in str(error):
                raise
            raise ValueError(
                f"source: {type(model).__name__} cannot be exported with a free batch size, which its own code fixes."
            ) from error
        if format == "onnx":
            as_one_file(new)
        if precision == "float16":
            halve(new, format)
        if processor is not None:
            processor.save_pretrained(new)
        program = load(new)
        agreement = None if pictures is None else edge_int8.agreement(model, program, pictures)
        if agreement is not None and agreement < min_agreement:
            raise ValueError(
                f"precision: of {len(pictures.checking)} pictures {100 * agreement:.0f} % get the class that PyTorch "
                f"gives them, accepted is min_agreement={min_agreement:g}; nothing was written."
            )
        difference = _difference(model, program, pixels, batches, kind.units)
        tolerance = TOLERANCES.get(precision, math.inf) if tolerance is None else tolerance
        if precision != "int8" and not difference <= tolerance:
            raise ValueError(
                f"{format}: the exported program's outputs differ from PyTorch's by {difference:.1e} (of logits: of "
                f"their standard deviation), accepted is tolerance={tolerance:g}; nothing was written."
            )
        told = f"Its outputs differ from PyTorch's by {difference:.1e} (of logits: of their standard deviation)."
        if agreement is not None:
            told = f"{told} " if precision != "int8" else ""
            told += (
                f"Of {len(pictures.checking)} pictures {100 * agreement:.0f} % get the class that PyTorch gives them."
            )
        write_readme(
            new,
            *(type(model).__name__, format, precision, size, told, processor is not None),
            kind=kind_of(model),
            channels=_channels(model.config),
            made_of=told_of(model),
        )
        bytes_written = size_of(new)
    return ExportReport(
        folder=str(folder),
        format=format,
        model=type(model).__name__,
        image_size=size,
        folded=bool(getattr(model.config, "reparameterized", False)),
        difference=difference,
        batches=batches,
        precision=precision,
        bytes=bytes_written,
        agreement=agreement,
        warnings=tuple(said),
    )


def _calibration(precision: str, pictures, kind: str, processor, model, size: tuple[int, int]):
    """The pictures that integers are calibrated on and programs are checked on; None for none."""
    if precision == "int4":
        raise ValueError(f"precision: got 'int4', which goes with language models, not with {kind}.")
    if precision == "int8" and kind != "image-classification":
        raise ValueError(f"precision: got 'int8', which goes with classifiers, not with {kind}.")
    if pictures is None:
        if precision == "int8":
            raise ValueError("calibration: int8 is calibrated on pictures; give a folder of them.")
        return None
    if precision == "float32":
        raise ValueError("calibration: pictures go with precision='int8' and precision='float16'.")
    if kind != "image-classification":
        raise ValueError(f"calibration: pictures are compared by their classes, which {kind} has not.")
    if isinstance(pictures, (str, Path)):
        pictures = find_pictures(pictures)
    prepared = edge_int8.prepare(pictures, processor, _channels(model.config), size)
    return prepared if precision == "int8" else edge_int8.Calibration((), prepared.all)


def check_preset(preset: str) -> str:
    """The kind of a preset, of `KINDS`.

    Raises:
        ValueError: no preset, or one of another kind.
    """
    for kind in KINDS:
        if preset in list_models(task=kind):
            return kind
    if "mask-generation" in model_info(preset).tasks:
        raise ValueError(f"source: got {preset}, {_PROMPTABLE}.")
    raise ValueError(
        f"{preset} is neither a classifier of images nor a detector nor a segmenter, which is what can be exported."
    )


def load(folder: str | Path, **options: Any) -> Any:  # an ExportedModel of transformers, called as a model is
    """Run an exported folder: the result is called as the model is, alone or as `pipeline(..., model=...)`.

    Args:
        folder: what `export` (or transformers' exporters) wrote, or its id on the Hub.
        options: of transformers' `ExportedModel.from_pretrained`: `revision`, `providers` for ONNX Runtime, `config`
            for OpenVINO. OpenVINO computes in float32 unless `config` says otherwise, such as
            `{"INFERENCE_PRECISION_HINT": "bf16"}`: faster and less exact where the CPU has it.
    """
    from transformers.exporters import ExportedModel

    manifest = Path(folder) / "export.json"
    if manifest.is_file():
        options = {**check_format(json.loads(manifest.read_text())["export_format"]).options, **options}
    program = ExportedModel.from_pretrained(folder, **options)
    if program.config is not None and program.config.architectures:
        # pipeline() looks at the class's name only, and complains about those it does not know.
        program.__class__ = type(program.config.architectures[0], (ExportedModel,), {})
    return program


def load_source(source: Any, processor: Any = None) -> tuple[PreTrainedModel, Any]:
    """The model that a preset, a folder or an id of the Hub names (or that it is), and its image processor if there is
    one."""
    if isinstance(source, PreTrainedModel):
        return source, processor
    if str(source) in list_models():
        check_preset(str(source))
        return create_model(str(source)), processor or create_image_processor(str(source))
    if "mask-generation" not in tasks_of_folder(str(source)):
        check_saved_for("source", str(source), *KINDS, also="; of two towers CLIP and LightCLIP")
    with reading("source", str(source)):
        config = AutoConfig.from_pretrained(source)
    if type(config) in MODEL_FOR_MASK_GENERATION_MAPPING:
        raise ValueError(f"source: got {source}, {_PROMPTABLE}.")
    with reading("source", str(source)):
        kind = kind_of_folder(config)
        processor = processor or AutoImageProcessor.from_pretrained(source)
    return load_whole(KINDS[kind].auto_class, "source", str(source)), processor


def kind_of_folder(config) -> str:
    """The kind of a saved model by its class; of a configuration that names none, by the heads it has."""
    names = config.architectures or ()
    if any(name.endswith("ForImageClassification") for name in names):
        return "image-classification"
    fitting = [kind for kind in _MAPPINGS if any(_is_of(kind, config, name) for name in names)]
    if not fitting:
        fitting = [kind for kind, mapping in _MAPPINGS.items() if not names and type(config) in mapping]
    return fitting[0] if fitting else "image-classification"


def _is_of(kind: str, config, name: str) -> bool:
    return name in {one.__name__ for one in _classes(kind, config)}


def _classes(kind: str, config) -> tuple[type, ...]:
    found = _MAPPINGS[kind].get(type(config), ())
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def kind_of(model: PreTrainedModel) -> str:
    """The kind of a model, of `KINDS`."""
    fitting = [kind for kind in _MAPPINGS if isinstance(model, _classes(kind, model.config))]
    return fitting[0] if fitting else "image-classification"


def _channels(config) -> int:
    return next(
        c.num_channels for c in (config, getattr(config, "backbone_config", None)) if hasattr(c, "num_channels")
    )


def _give_only(model: PreTrainedModel, kind: Kind) -> None:
    """Let a model give what the program is to give, and compute nothing else for it."""
    own = type(model)

    def forward(self, pixel_values: torch.Tensor):
        outputs = own.forward(self, pixel_values=pixel_values)
        return kind.output(**{name: outputs[name] for name in kind.units})

    model.__class__ = type(own.__name__, (own,), {"forward": forward, "__module__": own.__module__})


def _image_size(model, processor, image_size) -> tuple[int, int] | None:
    """What is asked for, or the model's own; None for the processor's, where there is one."""
    if image_size is None and processor is not None:
        return None
    size = image_size if image_size is not None else model.config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _write(
    model: PreTrainedModel, pixels: torch.Tensor, chosen: Format, folder: Path, free_batch: bool, quantizer=None
) -> None:
    from transformers import exporters

    shapes = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=4096)}} if free_batch else None
    config = getattr(exporters, chosen.config)(dynamic_shapes=shapes, quantizer=quantizer)
    # torch.onnx reports its progress on standard output, which belongs to our caller.
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        exported = getattr(exporters, chosen.exporter)().export(model, {"pixel_values": pixels}, config)
    exported.save_pretrained(folder)


@torch.no_grad()
def _difference(
    model, program, pixels: torch.Tensor, batches: tuple[int, ...], units: Mapping[str, float | None]
) -> float:
    differences = []
    for batch in batches:
        answered, ran = model(pixel_values=pixels[:batch]), program(pixel_values=pixels[:batch])
        for name, unit in units.items():
            expected, got = answered[name], ran[name].to(answered[name])
            if not (expected.isfinite().all() and got.isfinite().all()):
                whose = "the exported program's" if expected.isfinite().all() else "the model's own"
                raise ValueError(f"source: {whose} {name} are not finite for random images; nothing was written.")
            spread = expected.std().item() if expected.numel() > 1 else expected.abs().item()
            differences.append((got - expected).abs().max().item() / (unit or max(spread, 1e-12)))
    return max(differences)
