"""A classifier in two halves as graphs for ONNX Runtime and OpenVINO: what a device computes, and what its server.

The bytes in between are no graph's work: bits are packed, and numbers coded one after the other, each by what came
before it. A graph ends, and the other begins, with the tensors that a codec packs (`Codec.between`); the codec itself
does the rest on either side, so what is sent is what halves of PyTorch send, and a graph works with such a half, too.

`export_halves` writes them, `load_halves` runs them.
"""

import copy
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from ._files import check_folder, whole_folder, write_json, write_text
from ._places import first_line
from .collaboration.codecs.wire import RawCodec, Tensors, codec_from
from .collaboration.splitting.facts import SplitFacts, facts_in
from .collaboration.splitting.halves import SplitHead, SplitTail
from .collaboration.splitting.points import Trace, input_shape, logits_of, tensors_in, with_tensor
from .edge_files import summed_up
from .edge_graphs import BACKENDS, check_packages, load_graph, to_openvino

FACTS, CODEC = "halves.json", "codec.safetensors"
#: So near are the logits of graphs and halves, over their standard deviation.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class HalvesReport:
    """What was exported.

    Attributes:
        folder: where it is.
        graphs: `head` (of a codec of several widths one for each) and `tail`.
        format: "onnx" or "openvino".
        model: class of the whole.
        image_size: (height, width) of the images in pixels.
        difference: largest difference of logits from those of the halves in PyTorch, over their standard deviation.
        other_numbers: the share of the numbers between the halves that are other ones, by rounding at a level's edge.
        batches: the batch sizes that they were compared at.
        bytes: of all graphs.
        warnings: of the exporters, as far as they say something of the model.
    """

    folder: str
    graphs: tuple[str, ...]
    format: str
    model: str
    image_size: tuple[int, int]
    difference: float
    other_numbers: float
    batches: tuple[int, ...]
    bytes: int
    warnings: tuple[str, ...] = ()


class _Network(nn.Module):
    """The network of a half with something in the place of what has no storage: none of it goes into the graph."""

    def __init__(self, half: SplitHead | SplitTail):
        super().__init__()
        self.network = copy.deepcopy(half.network).float().eval()
        self.codec = copy.deepcopy(half.codec).cpu().float().eval()
        for module in self.network.modules():
            own = dict((*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)))
            for name, value in {**vars(module), **own}.items():
                if isinstance(value, torch.Tensor) and value.is_meta:
                    zeros = torch.zeros(value.shape, dtype=value.dtype)
                    setattr(module, name, nn.Parameter(zeros, False) if isinstance(value, nn.Parameter) else zeros)
        self.network.cpu()
        self.given = self.taken = None
        self.network.get_submodule(half.facts.at).register_forward_hook(self._at_the_cut)

    def _at_the_cut(self, module, args, output):
        (self.taken,) = tensors_in(output)
        return None if self.given is None else with_tensor(output, self.given)


class _Head(_Network):
    def __init__(self, head: SplitHead, width: int | None):
        super().__init__(head)
        self.options = {} if width is None else {"width": width}

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = pixel_values
        if not getattr(self.codec, "takes_images", False):
            self.network(pixel_values)
            features = self.taken
        return tuple(self.codec.between(features, **self.options).values())


class _Tail(_Network):
    def __init__(self, tail: SplitTail, shape: tuple[int, ...], image: tuple[int, ...], names: tuple[str, ...]):
        super().__init__(tail)
        self.shape, self.image, self.names = shape, image, names

    def forward(self, *between: torch.Tensor) -> torch.Tensor:
        tensors = dict(zip(self.names, between, strict=True))
        batch = between[0].shape[0]
        self.given = self.codec.restore(tensors, (batch, *self.shape[1:]), torch.float32)
        return logits_of(self.network(between[0].new_zeros((batch, *self.image[1:]), dtype=torch.float32)))


def export_halves(
    head: SplitHead,
    tail: SplitTail,
    folder: str | Path,
    format: str = "onnx",
    *,
    image_size: int | tuple[int, int] | None = None,
    tolerance: float = TOLERANCE,
) -> HalvesReport:
    """Write the graphs of two halves, and check them against these. Batches are of any size, images have one.

    Args:
        head, tail: of `split`, or of a coded classifier's `halves()`; they stay as they are.
        folder: where to write; must not exist or be empty.
        format: "onnx" or "openvino".
        image_size: side, or (height, width), of the images in pixels; by default the configuration's, or 224.
        tolerance: largest `difference` (see `HalvesReport`) that is accepted.

    Raises:
        ValueError: another format, halves of two networks, or graphs that give other logits; nothing is written.
        ImportError: the extra `edge` is not installed.
        FileExistsError: `folder` has something in it.
    """
    if format not in BACKENDS:
        raise ValueError(f"format: got {format!r}, accepted of halves are {', '.join(map(repr, BACKENDS))}.")
    if head.facts != tail.facts:
        raise ValueError(f"tail: it was cut after {tail.facts.at} of another network than the head, {head.facts.at}.")
    check_packages(format)
    folder = Path(folder)
    check_folder(folder)
    head, tail = _in_float32(head), _in_float32(tail)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    shape, image = Trace(head.network, size).cut(head.facts.at).point.shape, input_shape(head.network, size)
    widths = getattr(head.codec, "widths", (None,))
    names = {width: "head" if width is None else f"head-{width}" for width in widths}
    pixels = torch.randn(3, *image[1:], generator=torch.Generator().manual_seed(0))
    heads = {width: _Head(head, width).eval() for width in widths}
    between = heads[widths[-1]].codec.between  # of a copy: the halves stay as they are
    keys = tuple(between(pixels if getattr(head.codec, "takes_images", False) else torch.zeros(shape)))
    with torch.no_grad():
        examples = heads[widths[-1]](pixels)
    batch = torch.export.Dim("batch", min=1, max=4096)
    with whole_folder(folder) as new:
        with summed_up() as said:
            for width, module in heads.items():
                _write(module, (pixels,), new / f"{names[width]}.onnx", ["pixel_values"], list(keys), batch)
            server = _Tail(tail, shape, image, keys).eval()
            _write(server, examples, new / "tail.onnx", list(keys), ["logits"], batch)
            if format == "openvino":
                for name in (*names.values(), "tail"):
                    to_openvino(new, name)
        facts = {"format": format, "image_size": list(image[2:]), "shape": list(shape), "between": list(keys)}
        write_json(new / FACTS, facts | {"facts": asdict(head.facts), "widths": [w for w in widths if w is not None]})
        state = {name: value.detach().cpu().contiguous().clone() for name, value in head.codec.state_dict().items()}
        save_file(state, new / CODEC, metadata={"format": "pt"})
        if head.processor is not None:
            head.processor.save_pretrained(new)
        difference, other = _compared(*load_halves(new), head, tail, pixels, widths)
        if not difference <= tolerance:
            raise ValueError(
                f"{format}: the graphs' logits differ from PyTorch's by {difference:.1e} of their standard deviation, "
                f"accepted is tolerance={tolerance:g}; nothing was written."
            )
        graphs = (*names.values(), "tail")
        write_text(new / "README.md", _readme(head.facts, format, image[1:], difference))
        sizes = [path.stat().st_size for name in graphs for path in new.glob(f"{name}.*")]
    return HalvesReport(
        folder=str(folder),
        graphs=graphs,
        format=format,
        model=head.facts.architecture,
        image_size=tuple(image[2:]),
        difference=difference,
        other_numbers=other,
        batches=(1, 3),
        bytes=sum(sizes),
        warnings=tuple(said),
    )


def _in_float32(half: SplitHead | SplitTail) -> SplitHead | SplitTail:
    """Itself, or a copy of one in another precision: runtimes of CPUs have no operators of those."""
    if half.facts.dtype == "float32":
        return half
    half = copy.deepcopy(half).float()
    half.facts = replace(half.facts, dtype="float32")
    return half


def _write(module: nn.Module, examples, file: Path, inputs: list[str], outputs: list[str], batch) -> None:
    with torch.no_grad():
        program = torch.onnx.export(
            module,
            tuple(examples),
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=({0: batch},) if inputs == ["pixel_values"] else (({0: batch},) * len(examples),),
            dynamo=True,
            verbose=False,
        )
    program.save(file)


@torch.no_grad()
def _compared(own: "ExportedHead", server: "ExportedTail", head, tail, pixels, widths) -> tuple[float, float]:
    """The largest difference of logits for the same bytes, and the share of numbers that the graphs make others."""
    differences, others = [], []
    for width in widths:
        options = {} if width is None else {"width": width}
        for count in (1, 3):
            given = pixels[:count]
            sent = head(given, **options)
            expected, got = tail(sent, tuple(given.shape)).float(), server(sent, tuple(given.shape))
            if not (expected.isfinite().all() and got.isfinite().all()):
                raise ValueError("head: of random images the logits are not finite; nothing was written.")
            spread = expected.std().item() if expected.numel() > 1 else expected.abs().item()
            differences.append((got - expected).abs().max().item() / max(spread, 1e-12))
            features = given if getattr(head.codec, "takes_images", False) else head.features(given)
            for name, numbers in head.codec.between(features, **options).items():
                if not isinstance(head.codec, RawCodec) and name in ("levels", "code"):
                    others.append((own.between(given, **options)[name] != numbers).float().mean().item())
            server(own(given, **options), tuple(given.shape))  # its own bytes can be read
    return max(differences), max(others, default=0.0)


def _readme(facts: SplitFacts, format: str, image, difference: float) -> str:
    channels, *size = image
    return f"""# The halves of a {facts.architecture}, cut after `{facts.at}`

{format} graphs of images of {size[0]} x {size[1]} pixels, batches of any size: `head` for the device, `tail` for the
server. Their logits differ from PyTorch's by {difference:.1e} of their standard deviation. What goes from one to the
other is made into bytes by the codec `{facts.codec}` {json.dumps(facts.codec_settings)}, which is no graph.

```python
import torch
from hf_effmodels.edge_halves import load_halves

head, tail = load_halves(".")
pixel_values = torch.rand(1, {channels}, {size[0]}, {size[1]})  # images as the model's processor prepares them
sent = head(pixel_values)
print(tail(sent, tuple(pixel_values.shape)))
```
"""


class _Exported:
    def __init__(self, folder: Path, content: dict, codec: nn.Module):
        self.folder, self.codec, self.facts = folder, codec, content["facts"]
        self.image_size, self.shape = tuple(content["image_size"]), tuple(content["shape"])
        self.names, self.widths, self._format = content["between"], tuple(content["widths"]), content["format"]

    def _load(self, name: str):
        try:
            return load_graph(self.folder, name, self._format)
        except ImportError:
            raise
        except Exception as error:  # each runtime has kinds of its own
            raise ValueError(f"folder: {self.folder} has no graph {name} to be read ({first_line(error)}).") from error

    def _check_size(self, name: str, shape: tuple[int, ...]) -> None:
        if len(shape) != 4 or tuple(shape[2:]) != self.image_size:
            raise ValueError(f"{name}: got {tuple(shape)}, exported for images of {self.image_size} pixels.")


class ExportedHead(_Exported):
    """A graph in the place of a `SplitHead`: what it sends, a tail of PyTorch reads, and the other way round."""

    def __init__(self, *given):
        super().__init__(*given)
        names = {width: f"head-{width}" for width in self.widths} or {None: "head"}
        self._graphs = {width: self._load(name) for width, name in names.items()}

    def between(self, pixel_values: torch.Tensor, *, width: int | None = None) -> Tensors:
        """What the graph gives, before the codec makes bytes of it."""
        self._check_size("pixel_values", tuple(pixel_values.shape))
        if width is None and self.widths:
            width = self.widths[-1]
        if width not in self._graphs:
            raise ValueError(f"width: got {width!r}, accepted are {', '.join(map(str, self.widths)) or 'none'}.")
        return dict(zip(self.names, self._graphs[width](pixel_values=pixel_values.float()), strict=True))

    def __call__(self, pixel_values: torch.Tensor, *, width: int | None = None) -> Tensors:
        """What is sent for images (batch, channels, height, width), see `SplitHead.forward`."""
        options = {} if width is None else {"width": width}
        return self.codec.pack(self.between(pixel_values, **options), **options)


class ExportedTail(_Exported):
    """A graph in the place of a `SplitTail`."""

    def __init__(self, *given):
        super().__init__(*given)
        self._graph = self._load("tail")

    def __call__(self, sent: Tensors, input_shape: tuple[int, ...]) -> torch.Tensor:
        """Logits (batch, labels) of what a head has sent for images of `input_shape`.

        Raises:
            ValueError: images of another size, or tensors that no head of this network gives for such ones.
        """
        self._check_size("input_shape", tuple(input_shape))
        tensors = self.codec.unpack(sent, (input_shape[0], *self.shape[1:]), torch.float32)
        if self.widths:  # channels that a narrower encoder does not have count for nothing in the decoder
            code = tensors["code"]
            tensors["code"] = F.pad(code, (0, 0, 0, 0, 0, self.widths[-1] - code.shape[1]))
        return self._graph(**tensors)[0]


def load_halves(folder: str | Path) -> tuple[ExportedHead, ExportedTail]:
    """The graphs of a folder that `export_halves` wrote, ready to run; threads may share them.

    Raises:
        ValueError: another folder, or one that is damaged. ImportError: the extra `edge` is not installed.
    """
    folder = Path(folder)
    if not (folder / FACTS).is_file():
        raise ValueError(f"folder: {folder} was not written by export_halves: it has no {FACTS}.")
    content = _read(folder / FACTS)
    try:
        codec = codec_from(content["facts"].codec, content["facts"].codec_settings).eval()
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"folder: {folder / FACTS} is damaged: {first_line(error)}.") from error
    try:
        codec.load_state_dict(load_file(folder / CODEC))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"folder: {folder / CODEC} holds no {content['facts'].codec} ({first_line(error)})."
        ) from error
    codec.requires_grad_(False)
    return ExportedHead(folder, content, codec), ExportedTail(folder, content, codec)


def _are_whole(values, count: int | None = None) -> bool:
    fitting = isinstance(values, list) and (count is None or len(values) == count)
    return fitting and all(type(value) is int and value > 0 for value in values)


def _are_names(values) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(value, str) for value in values)


#: What stands in `FACTS` beside the facts of the cut -> whether it may, and what it is.
_ACCEPTED = {
    "format": (lambda value: value in list(BACKENDS), " or ".join(BACKENDS)),
    "image_size": (lambda value: _are_whole(value, 2), "height and width in pixels"),
    "shape": (lambda value: _are_whole(value) and len(value) > 1, "a list of whole numbers from 1"),
    "between": (_are_names, "a list of names of tensors"),
    "widths": (_are_whole, "a list of whole numbers from 1"),
}


def _read(file: Path) -> dict:
    """What `export_halves` has written there; ValueError of anything else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"folder: {file} is damaged ({first_line(error)}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"folder: {file} is damaged: it holds no facts by their names.")
    for name, (is_accepted, words) in _ACCEPTED.items():
        if not is_accepted(content.get(name)):
            raise ValueError(f"folder: {file} is damaged: {name} is {content.get(name)!r}, expected {words}.")
    return {**content, "facts": facts_in(content.get("facts"), str(file))}
