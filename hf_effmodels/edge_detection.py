"""A detector from image to kept boxes in one graph, for ONNX Runtime and OpenVINO: suppression is part of it.

`export_detector` writes it, `load_detector` runs it on images. Without suppression, any detector is exported by
`hf_effmodels.edge.export`.
"""

import contextlib
import copy
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor

from ._files import check_folder, whole_folder, write_json, write_text
from ._image_size import blaming_image_size
from .edge_files import summed_up
from .edge_graphs import BACKENDS, check_packages, load_graph, to_openvino
from .edge_ties import may_be_kept
from .hub.made_of import with_origin
from .hub.wrappers import unwrap, unwrap_parts
from .images import read_image
from .modeling.layers.nms import nms
from .models import sized_processor

FACTS, GRAPH = "detector.json", "detector"
#: So near are boxes, in pixels of the network's input, and scores of graph and model.
TOLERANCE = 1e-2


@dataclass(frozen=True)
class Suppression:
    """Which boxes a graph keeps; as `post_process_object_detection` of the image processor has them, whose further
    limit of candidates the graph has not.

    Attributes:
        threshold: scores must be above it. nms_threshold: a box goes where a better one overlaps it by more.
        max_detections: of an image. multi_label: a point may stand for several classes.
        class_agnostic: boxes of other classes suppress, too.
    """

    threshold: float = 0.4
    nms_threshold: float = 0.45
    max_detections: int = 300
    multi_label: bool = False
    class_agnostic: bool = False

    def __post_init__(self):
        for name in ("threshold", "nms_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted is [0, 1].")
        if not 1 <= self.max_detections <= 10000:
            raise ValueError(f"max_detections: got {self.max_detections}, accepted are 1 to 10000.")
        if self.multi_label and self.class_agnostic:
            raise ValueError("multi_label: got True with class_agnostic, accepted is one of the two.")


@dataclass(frozen=True)
class DetectorReport(Suppression):
    """What was exported.

    Attributes:
        folder: where it is. format: "onnx" or "openvino". model: class of the exported model.
        image_size: (height, width) of the images in pixels. folded: branches and batch norms were folded first.
        bytes: of the graph. warnings: of the exporters, as far as they say something of the model.
    """

    folder: str = ""
    format: str = ""
    model: str = ""
    image_size: tuple[int, int] = (0, 0)
    folded: bool = False
    bytes: int = 0
    warnings: tuple[str, ...] = ()


@torch.library.custom_op("hf_effmodels::kept_scores", mutates_args=())
def kept_scores(
    boxes: torch.Tensor, scores: torch.Tensor, most: int, iou_threshold: float, threshold: float
) -> torch.Tensor:
    """The scores that survive suppression within their class, 0 for the others.

    Args:
        boxes: corners, (batch, points, 4). scores: (batch, classes, points).
        most: of each class of an image.

    Returns:
        (batch, classes, points). In exported graphs it is ONNX's NonMaxSuppression.
    """
    kept = torch.zeros_like(scores)
    for image, classes in enumerate(scores):
        for number, values in enumerate(classes):
            index = (values > threshold).nonzero()[:, 0]
            index = index[nms(boxes[image, index], values[index], iou_threshold, most)]
            kept[image, number, index] = values[index]
    return kept


@kept_scores.register_fake
def _(boxes, scores, most, iou_threshold, threshold):
    return torch.empty_like(scores)


def _kept_scores_in_onnx(boxes, scores, most: int, iou_threshold: float, threshold: float):
    from onnxscript.onnx_opset import opset18 as op

    found = op.NonMaxSuppression(
        boxes,
        scores,
        op.Constant(value_ints=[most]),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[threshold]),
    )  # (kept, 3): image, class, point
    nothing = op.Mul(scores, op.Constant(value_float=0.0))
    return op.ScatterND(nothing, found, op.GatherND(scores, found))


class DetectorGraph(nn.Module):
    """pixel_values (batch, channels, height, width) -> boxes (batch, most, 4), corners in pixels of the input; scores
    (batch, most), best first and 0 where there is no box; labels (batch, most), -1 there."""

    def __init__(self, model, suppression: Suppression):
        super().__init__()
        self.model, self.suppression = model, suppression

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        chosen = self.suppression
        boxes, scores = self.candidates(pixel_values)
        classes, points = scores.shape[1:]
        best = scores.argmax(1, keepdim=True)
        if chosen.class_agnostic:
            scores = scores.amax(1, keepdim=True)
        elif not chosen.multi_label:
            numbers = torch.arange(classes, device=scores.device)[:, None]
            scores = torch.where(numbers == best, scores, 0.0)
        # ONNX would take two corners in any order; a box of negative sides overlaps nothing.
        first, second = boxes.split(2, dim=-1)
        upright = torch.cat([first, torch.maximum(first, second)], dim=-1)
        kept = kept_scores(upright, scores, chosen.max_detections, chosen.nms_threshold, chosen.threshold)
        kept, index = kept.flatten(1).topk(min(chosen.max_detections, scores.shape[1] * points))
        point = index % points
        labels = best[:, 0].gather(1, point) if chosen.class_agnostic else index // points
        boxes = boxes.gather(1, point[..., None].expand(-1, -1, 4))
        return boxes, kept, torch.where(kept > 0, labels, -1)

    def candidates(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All boxes, (batch, points, 4), corners in pixels; and their scores, (batch, classes, points)."""
        outputs = self.model(pixel_values=pixel_values)
        height, width = pixel_values.shape[-2:]
        centre, size = outputs.pred_boxes.split(2, dim=-1)
        boxes = torch.cat([centre - size / 2, centre + size / 2], dim=-1)
        return boxes * boxes.new_tensor([width, height, width, height]), outputs.logits.sigmoid().transpose(1, 2)


def export_detector(
    model,
    folder: str | Path,
    format: str = "onnx",
    *,
    processor,
    suppression: Suppression | None = None,
    image_size: tuple[int, int] | None = None,
) -> DetectorReport:
    """Write a detector and its suppression of overlapping boxes as one graph with a free batch size, and check it.

    Args:
        model: a detector whose boxes overlap and whose classes are sigmoids, such as Gold-YOLO; left as it is, a copy
            in float32 is folded. In evaluation mode, on the CPU.
        folder: new or empty: the graph, `config.json`, `preprocessor_config.json`, `detector.json`.
        format: "onnx" or "openvino".
        processor: its image processor.
        suppression: which boxes are kept.
        image_size: (height, width) of the input; by default the processor's.

    Raises:
        ValueError: another format; a model that needs no suppression; sizes that the model refuses; the graph finds
            other boxes than model and processor, and scores that are equal but for rounding do not explain it. Nothing
            is written then.
        ImportError: the extra `edge` is not installed. FileExistsError: `folder` has something in it.
    """
    if format not in BACKENDS:
        raise ValueError(f"format: got {format!r}, accepted with suppression are {', '.join(map(repr, BACKENDS))}.")
    check_packages(format)
    check_suppresses(processor)
    check_folder(Path(folder))
    chosen = suppression or Suppression()
    model = unwrap_parts(copy.deepcopy(unwrap(model)))
    if model.training:
        raise ValueError("model: it is in training mode; call model.eval() first.")
    if model.dtype != torch.float32:
        model.float()
        model.config.dtype = torch.float32
    if hasattr(model, "reparameterize"):
        model.reparameterize()
    model.to(memory_format=torch.contiguous_format)
    model.config.architectures = [type(model).__name__]
    height, width = image_size or (processor.size["height"], processor.size["width"])
    pixels = torch.rand(2, model.config.num_channels, height, width, generator=torch.Generator().manual_seed(0))
    graph = DetectorGraph(model, chosen).eval()
    with blaming_image_size((height, width), is_asked_for=image_size is not None), torch.no_grad():
        graph(pixels[:1])  # a size that the model refuses is refused before the long work
    with whole_folder(folder) as new:
        with summed_up() as said, contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            torch.onnx.export(
                graph,
                (pixels,),
                input_names=["pixel_values"],
                output_names=["boxes", "scores", "labels"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
                custom_translation_table={torch.ops.hf_effmodels.kept_scores.default: _kept_scores_in_onnx},
                dynamo=True,
                verbose=False,
            ).save(new / f"{GRAPH}.onnx")
            _check_at_a_threshold_that_keeps_some(new / f"{GRAPH}.onnx", graph, pixels)
        if format == "openvino":
            to_openvino(new, GRAPH)
        model.config.save_pretrained(new)
        (processor if image_size is None else sized_processor(processor, image_size)).save_pretrained(new)
        write_json(new / FACTS, {"format": format, **asdict(chosen)})
        pixels = torch.cat([pixels, pixels[:1].flip(-1)])  # another batch size
        with torch.no_grad():
            got = load_graph(new, GRAPH, format)(pixel_values=pixels)
            try:
                _check_graph(got, graph, pixels)
            except ValueError as error:  # it was right at another threshold
                raise ValueError(
                    f"{error} Scores lie near one another: take a higher one than threshold={chosen.threshold:g}."
                ) from error
        size = sum(file.stat().st_size for file in new.glob(f"{GRAPH}.*") if file.suffix != ".json")
        readme = _readme(type(model).__name__, format, (height, width), chosen)
        write_text(new / "README.md", with_origin(readme, model))
    return DetectorReport(
        **asdict(chosen),
        folder=str(folder),
        format=format,
        model=type(model).__name__,
        image_size=(height, width),
        folded=bool(getattr(model.config, "reparameterized", False)),
        bytes=size,
        warnings=tuple(said),
    )


def _readme(model: str, format: str, size: tuple[int, int], chosen: Suppression) -> str:
    return f"""# {model}, exported

An {format} graph (float32) from images of {size[0]} x {size[1]} pixels to kept boxes, for batches of any size.
Scores are above {chosen.threshold:g}, overlapping boxes are suppressed from {chosen.nms_threshold:g} on, an image has
{chosen.max_detections} at most. As good as all boxes are PyTorch's, to {TOLERANCE:g} pixels.

In this folder, with a picture of yours as `photo.jpg`:

```bash
hf-effmodels predict . photo.jpg --save drawn
```

```python
from hf_effmodels.edge_detection import load_detector

detect = load_detector(".")
print(detect("photo.jpg"))
```
"""


def check_suppresses(processor) -> None:
    """ValueError unless boxes are to be suppressed after the model."""
    if not hasattr(processor, "geometry"):
        raise ValueError(
            f"processor: got {type(processor).__name__}, which keeps boxes by their scores alone: there is nothing to "
            "suppress. Export the model without suppression."
        )


def _check_at_a_threshold_that_keeps_some(file: Path, graph: DetectorGraph, pixels: torch.Tensor) -> None:
    """Compare an ONNX graph with PyTorch on noise, where a threshold for photographs would keep nothing."""
    import onnx
    import onnxruntime

    scores = graph.model(pixel_values=pixels).logits.sigmoid().flatten().sort(descending=True).values
    ranks = torch.arange(min(500, len(scores) // 2), min(1500, len(scores) - 1))
    rank = ranks[(scores[ranks] - scores[ranks + 1]).argmax()]  # the widest gap: rounding does not cross it
    threshold = (scores[rank] + scores[rank + 1]).item() / 2
    program = onnx.load(file)
    values = {value.name: value for value in program.graph.initializer}
    node = next(node for node in program.graph.node if node.op_type == "NonMaxSuppression")
    values[node.input[4]].CopyFrom(onnx.numpy_helper.from_array(np.float32([threshold]), node.input[4]))
    session = onnxruntime.InferenceSession(program.SerializeToString(), providers=["CPUExecutionProvider"])
    got = [torch.from_numpy(output) for output in session.run(None, {"pixel_values": pixels.numpy()})]
    _check_graph(got, DetectorGraph(graph.model, replace(graph.suppression, threshold=threshold)), pixels)


def _check_graph(got: Sequence[torch.Tensor], graph: DetectorGraph, pixels: torch.Tensor) -> None:
    """ValueError unless a program's boxes are those of PyTorch, or such as PyTorch could have kept where scores are
    equal but for rounding: of a network that has learned little thousands are."""
    candidates = None

    def excused(image: int, kept: tuple[torch.Tensor, ...]) -> bool:
        nonlocal candidates
        if candidates is None:
            candidates = graph.candidates(pixels)
        return may_be_kept(kept, *(part[image] for part in candidates), graph.suppression)

    _check_same(got, graph(pixels), excused)


def _check_same(
    got: Sequence[torch.Tensor],
    expected: Sequence[torch.Tensor],
    excused: Callable[[int, tuple[torch.Tensor, ...]], bool] = lambda image, kept: False,
) -> None:
    """ValueError unless as good as all boxes of either are boxes of the other, or those of an image are excused."""
    for image, (boxes, scores, labels, *theirs) in enumerate(zip(*got, *expected, strict=True)):
        ours = boxes[scores > 0], scores[scores > 0], labels[scores > 0]
        theirs = [part[theirs[1] > 0] for part in theirs]
        same = (
            (torch.cdist(ours[0], theirs[0], p=torch.inf) <= TOLERANCE)
            & ((ours[1][:, None] - theirs[1]).abs() <= TOLERANCE)
            & (ours[2][:, None] == theirs[2])
        )
        matched = same.any(1).sum().item() + same.any(0).sum().item()
        if matched < 0.95 * sum(same.shape) and not excused(image, ours):
            raise ValueError(
                f"export: of {same.shape[1]} boxes of the model and {same.shape[0]} of the graph in sample {image}, "
                f"{sum(same.shape) - matched} are not those of the other; nothing was written."
            )


class ExportedDetector:
    """Images in, boxes out, as `pipeline("object-detection")` gives them.

    Attributes:
        config, image_processor: of the model. suppression: what the graph keeps.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        if not (folder / FACTS).is_file():
            raise ValueError(f"folder: {folder} was not written by export_detector: it has no {FACTS}.")
        facts = json.loads((folder / FACTS).read_text())
        self._run = load_graph(folder, GRAPH, facts.pop("format"))
        self.suppression = Suppression(**facts)
        self.config = AutoConfig.from_pretrained(folder)
        self.image_processor = AutoImageProcessor.from_pretrained(folder)
        self.image_processor.letterbox_auto = False  # the graph is of one size

    def run(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Boxes, scores and labels, see `DetectorGraph`."""
        return tuple(self._run(pixel_values=pixel_values.float()))

    def __call__(self, images) -> list:
        """For an image (or a list of them; whatever `hf_effmodels.images.read_image` takes) its detections, best
        first: `score`, `label` by name, `box` as xmin, ymin, xmax, ymax in pixels of the image."""
        several = isinstance(images, Sequence) and not isinstance(images, (str, bytes))
        read = [read_image(image, 3) for image in (images if several else [images])]
        found = []
        outputs = self.run(self.image_processor(read, return_tensors="pt")["pixel_values"])
        for image, boxes, scores, labels in zip(read, *outputs, strict=True):
            kept = scores > 0
            boxes = self.image_processor.geometry(image.height, image.width).inverse(boxes[kept])
            boxes = boxes.minimum(boxes.new_tensor([image.width, image.height] * 2)).clamp(min=0)
            rows = zip(boxes.tolist(), scores[kept].tolist(), labels[kept].tolist(), strict=True)
            found.append([
                {
                    "score": score,
                    "label": self.config.id2label[label],
                    "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), map(int, box), strict=True)),
                }
                for box, score, label in rows
            ])  # fmt: skip
        return found if several else found[0]


def load_detector(folder: str | Path) -> ExportedDetector:
    """The graph of a folder that `export_detector` wrote, ready for images."""
    return ExportedDetector(folder)
