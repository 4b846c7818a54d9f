"""A classifier in two: the head turns images into features, the tail features into logits; each is a folder."""

import contextvars
import copy
import hashlib
import importlib
import json
import logging
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..._files import mapping_in, whole_folder, write_json
from ...hub.ids import reading
from ..codecs.wire import RawCodec, Tensors, codec_from
from .facts import FORMAT, SPLIT, TENSORS, SplitFacts, check_half_folder, read_facts
from .points import Cut, Trace, logits_of, tensors_in, with_tensor

logger = logging.getLogger(__name__)

#: Files of a half.
CARD, CONFIG = "README.md", "config.json"
_PROCESSOR = "preprocessor_config.json"
#: What transformers' Auto classes hand on: for downloads, and for their own use.
_OF_DOWNLOADS = frozenset(("cache_dir", "force_download", "local_files_only"))
_OF_AUTO_MODEL = frozenset(("trust_remote_code", "adapter_kwargs", "proxies", "subfolder", "code_revision"))


class _Reached(BaseException):
    """The head has its features; the rest of the network is not computed. No Exception: models may catch those."""

    def __init__(self, features: torch.Tensor):
        self.features = features


#: The pass under way in this thread: `_HEAD`, or the features that a tail goes on from.
_PASS: contextvars.ContextVar = contextvars.ContextVar("pass of a split model", default=None)
_HEAD = object()


class _Half(nn.Module):
    """The whole network, of which the other half has no storage."""

    half = ""

    def __init__(self, model: nn.Module, codec: nn.Module, facts: SplitFacts, names: frozenset[str], processor=None):
        super().__init__()
        self.facts, self.codec, self.processor = facts, codec.eval(), processor
        self.network = _without(model, names).eval()
        self.names = names
        self.network.get_submodule(facts.at).register_forward_hook(_at_the_cut)

    @property
    def config(self):
        """Of the whole network."""
        return self.network.config

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        tensors = (*self.network.parameters(), *self.network.buffers())
        return next((t.device for t in tensors if t.device.type != "meta"), torch.device("cpu"))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `from_pretrained` loads by itself: settings, own weights alone, a card."""
        check_half_folder(folder)
        weights = {f"network.{name}": value for name, value in _tensors(self.network).items() if name in self.names}
        weights |= {f"codec.{name}": value for name, value in self.codec.state_dict().items()}
        weights = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
        with whole_folder(folder, replaces=lambda name, path: name in own_files()) as new:
            self.config.save_pretrained(new)
            if self.processor is not None:
                self.processor.save_pretrained(new)
            save_file(weights, new / f"{self.half}.safetensors", metadata={"format": "pt"})
            facts = {"format": FORMAT, "half": self.half, TENSORS: len(weights), **asdict(self.facts)}
            write_json(new / SPLIT, facts)
            (new / CARD).write_text(self.card(), encoding="utf-8")

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Upload what `save_pretrained` writes and the code of this package that it needs, but none that a
        configuration or a processor brings with it; the address of the commit.

        Raises:
            ValueError: what can be no token. OSError: there is none, the Hub cannot be reached, or refuses.
            ImportError: the half is loaded by its own code, where this package is not.
        """
        try:
            publishing = importlib.import_module("hf_effmodels.hub.halves")
        except ModuleNotFoundError as error:
            raise ImportError("push_to_hub: it needs the package hf_effmodels") from error
        return publishing.publish_half(self, repo_id, private=private, token=token)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        token: str | None = None,
        revision: str | None = None,
        processor=None,
        config=None,
        **options,
    ):
        """A half out of its folder, or by its id on the Hub. Nothing in it is executed.

        Args:
            folder: or id.
            token, revision: of the Hub.
            processor: the image processor, instead of the one in the folder.
            config: of the whole network, instead of the one in the folder.
            options: what `AutoModel.from_pretrained` hands on to code beside the weights.

        Raises:
            ValueError: no half, the other half, or weights that do not fit. OSError: nothing of that name.
        """
        given = {name for name in options if not name.startswith("_")}
        if unknown := given - _OF_AUTO_MODEL - _OF_DOWNLOADS:
            raise TypeError(f"from_pretrained: {cls.__name__} does not take {', '.join(sorted(unknown))}.")
        folder = Path(folder)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            name, how = str(folder), {key: value for key, value in options.items() if key in _OF_DOWNLOADS}
            how |= {"token": token, "revision": revision, "allow_patterns": list(own_files())}
            with reading("folder", name):
                folder = Path(snapshot_download(name, **how))
        facts, count = read_facts(folder, cls.half)
        codec = codec_from(facts.codec, facts.codec_settings)
        model = _build(folder, facts, config)
        try:
            weights = load_file(folder / f"{cls.half}.safetensors")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"folder: {folder} has no readable {cls.half}.safetensors: {error}") from error
        if count not in (None, len(weights)):
            raise ValueError(f"folder: {folder} holds {len(weights)} tensors of the {count} that it was saved with.")
        own = {n.removeprefix("network."): v for n, v in weights.items() if n.startswith("network.")}
        if foreign := [name for name in weights if not name.startswith(("network.", "codec."))]:
            raise ValueError(f"folder: {folder}: {foreign[0]} is neither the network's nor the codec's.")
        expected = {name: tuple(value.shape) for name, value in _tensors(model).items()}
        wrong = [name for name, value in own.items() if expected.get(name) != tuple(value.shape)]
        if wrong:
            raise ValueError(f"folder: {folder}: {wrong[0]} does not belong to {facts.architecture}.")
        for name, value in own.items():
            _assign(model, name, value.clone())  # aligned in memory: some kernels round by that
        of_codec = {n.removeprefix("codec."): v for n, v in weights.items() if n.startswith("codec.")}
        codec.to(next((v.dtype for v in of_codec.values() if v.is_floating_point()), None))
        try:
            codec.load_state_dict(of_codec)
        except RuntimeError as error:
            raise ValueError(f"folder: {folder}: the codec's weights do not fit: {error}") from error
        processor = _load_processor(folder) if processor is None else processor
        return cls(model, codec, facts, frozenset(own), processor)

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoModel") -> None:
        """Asked for by `AutoModel.from_pretrained`, where a half is loaded by its own code; nothing is to be done."""

    def card(self, with_code: bool = False) -> str:
        """The folder's `README.md`.

        Args:
            with_code: the code that the half needs lies beside it.
        """
        other = {"head": "tail", "tail": "head"}[self.half]
        use = {
            "head": 'SplitClassifier("this folder", "http://127.0.0.1:8000")("cat.jpg")',
            "tail": "hf-effmodels serve-tail . --port 8000",
        }[self.half]
        call = {
            "head": "sent = half(pixel_values)  # a dictionary of tensors, for the tail",
            "tail": "logits = half(sent, input_shape)  # what the head has sent, and the shape of its images",
        }[self.half]
        here = sum(value.numel() for name, value in _tensors(self.network).items() if name in self.names)
        codec = sum(value.numel() for value in self.codec.parameters())
        lines = (
            "",
            "Without `hf_effmodels`, transformers runs the code of this repository; read it first:\n",
            "```python\nfrom transformers import AutoModel\n",
            f'half = AutoModel.from_pretrained(".", trust_remote_code=True)\n{call}\n```\n',
        )
        alone = "\n".join(lines) if with_code else ""
        return (
            f"---\nlibrary_name: hf_effmodels\ntags:\n- split-computing\n---\n\n# The {self.half} of a "
            f"{self.facts.architecture}, cut after `{self.facts.at}`\n\nIt needs its {other}, made in the same cut "
            f"(digest `{self.facts.digest[:16]}`). Use, with `hf_effmodels`: `{use}`. Features are sent by the codec "
            f"`{self.facts.codec}` {json.dumps(self.facts.codec_settings)}. It holds {here / 1e6:.3f} M numbers of "
            f"the network and {codec / 1e6:.3f} M of the codec. What the whole was trained on, and the licence of "
            f"its weights, stand with the whole.\n{alone}"
        )


class SplitHead(_Half):
    """What runs on the device."""

    half = "head"

    @torch.no_grad()
    def features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) -> what the module at the cut gives."""
        token = _PASS.set(_HEAD)
        try:
            self.network(pixel_values)
        except _Reached as reached:
            return reached.features
        finally:
            _PASS.reset(token)
        raise ValueError(f"pixel_values: the pass has not come to {self.facts.at!r}.")

    def forward(self, pixel_values: torch.Tensor, *, width: int | None = None) -> Tensors:
        """What is sent for images (batch, channels, height, width).

        Args:
            width: of the encoder, where the codec has several; by default the largest.
        """
        options = {} if width is None else {"width": width}
        if options and not hasattr(self.codec, "widths"):
            raise ValueError(f"width: got {width!r}, but the codec {self.codec.kind} has no widths to choose from.")
        with torch.no_grad():
            takes_images = getattr(self.codec, "takes_images", False)
            return self.codec.encode(pixel_values if takes_images else self.features(pixel_values), **options)


class SplitTail(_Half):
    """What runs on the server."""

    half = "tail"

    @torch.no_grad()
    def forward(self, sent: Tensors, input_shape: tuple[int, ...]) -> torch.Tensor:
        """Logits (batch, labels) of what a head has sent.

        Args:
            sent: see `SplitHead.forward`.
            input_shape: of the images that the head had.

        Raises:
            ValueError: tensors that no head of this network gives for such images.
        """
        pixels = torch.empty(input_shape, device="meta", dtype=getattr(torch, self.facts.dtype))
        token = _PASS.set((self, sent))
        try:
            logits = logits_of(self.network(pixels))
        finally:
            _PASS.reset(token)
        if logits.device.type == "meta":
            raise ValueError(f"input_shape: the pass has not come to {self.facts.at!r}.")
        return logits


def _at_the_cut(module: nn.Module, args, output):
    state = _PASS.get()
    if state is None:
        return None
    (tensor,) = tensors_in(output)
    if state is _HEAD:
        raise _Reached(tensor)
    tail, sent = state
    features = tail.codec.decode(sent, tuple(tensor.shape), tensor.dtype)
    return with_tensor(output, features.to(tail.device))


def split(
    model: nn.Module,
    at: str,
    *,
    codec: nn.Module | None = None,
    processor=None,
    image_size: tuple[int, int] | None = None,
) -> tuple[SplitHead, SplitTail]:
    """Cut a classifier of images in two.

    Without a codec both together give the numbers of the whole, bit for bit, which is tried once.

    Args:
        model: of transformers or this package; it stays as it is. The halves share its weights until they are saved.
        at: the module after which to cut, or the end of its name (`split_points` lists them).
        codec: how features are sent; by default as they are. See `collaboration.codecs.wire`.
        processor: its image processor, saved with the halves.
        image_size: height and width of the images it is tried with; by default the configuration's, or 224.

    Raises:
        ValueError: a module that does not exist, or is not the only way through; the connection around it is named.
    """
    trace = Trace(model, image_size)
    cut = trace.cut(at)
    codec = codec or RawCodec()
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    config = getattr(model, "config", None)
    facts = SplitFacts(
        at=cut.point.name,
        digest=_digest(model, codec, cut),
        architecture=type(model).__name__,
        codec=codec.kind,
        codec_settings=codec.settings(),
        attention=getattr(config, "_attn_implementation", None),
        dtype=str(dtype).removeprefix("torch."),
    )
    names = frozenset() if getattr(codec, "takes_images", False) else cut.head
    head = SplitHead(model, codec, facts, names, processor)
    tail = SplitTail(model, codec, facts, cut.tail, processor)
    _try(model, head, tail, trace.input_shape, dtype, cut)
    return head, tail


def _try(model, head: SplitHead, tail: SplitTail, shape, dtype, cut: Cut) -> None:
    """Compute images by the halves and by the whole."""
    device = next(iter(_tensors(model).values())).device
    pixels = torch.randn((2, *shape[1:]), generator=torch.Generator().manual_seed(0)).to(device, dtype)
    try:
        found = tail(head(pixels), tuple(pixels.shape))
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(f"at: the network cannot be computed in two parts at {cut.point.name!r}: {error}") from error
    if not isinstance(head.codec, RawCodec):
        return
    with torch.no_grad():
        expected = logits_of(evaluating(model)(pixels))
    if not torch.equal(found, expected):
        raise ValueError(f"at: cut after {cut.point.name!r} the network gives other numbers than whole.")


def evaluating(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that shares all tensors."""
    return _without(model, frozenset(_tensors(model))).eval()


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, also those that are not saved with the whole."""
    return dict((*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)))


def _without(model: nn.Module, names: frozenset[str]) -> nn.Module:
    """A copy of `model` that shares the tensors of `names` and has no storage for others."""
    keep = {id(value) for name, value in _tensors(model).items() if name in names}
    memo = {}
    for value in (*model.parameters(), *model.buffers()):
        if id(value) in keep:
            memo[id(value)] = value
        else:
            empty = torch.empty_like(value, device="meta")
            memo[id(value)] = nn.Parameter(empty, False) if isinstance(value, nn.Parameter) else empty
    return copy.deepcopy(model, memo)


def _assign(model: nn.Module, name: str, value: torch.Tensor) -> None:
    owner, _, own = name.rpartition(".")
    module = model.get_submodule(owner)
    if own in dict(module.named_parameters(recurse=False)):
        setattr(module, own, nn.Parameter(value, value.is_floating_point()))
    else:
        setattr(module, own, value)


def _digest(model: nn.Module, codec: nn.Module, cut: Cut) -> str:
    found = hashlib.sha256(json.dumps([cut.point.name, codec.kind, codec.settings()]).encode())
    for part in (_tensors(model), codec.state_dict()):
        for name, value in sorted(part.items()):
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _build(folder: Path, facts: SplitFacts, config=None) -> nn.Module:
    from transformers import AutoConfig, AutoModelForImageClassification

    if not isinstance(getattr(torch, facts.dtype, None), torch.dtype):
        raise ValueError(f"folder: {SPLIT} of {folder} is damaged: there are no weights of the dtype {facts.dtype!r}.")
    # A configuration out of a folder's own code is another class there than the one that its network knows.
    config = AutoConfig.from_pretrained(folder) if config is None else AutoConfig.for_model(**config.to_dict())
    options = {"attn_implementation": facts.attention} if facts.attention else {}
    model = AutoModelForImageClassification.from_config(config, dtype=getattr(torch, facts.dtype), **options)
    if type(model).__name__ != facts.architecture:
        raise ValueError(f"folder: {folder} builds a {type(model).__name__}, expected a {facts.architecture}.")
    if facts.at not in dict(model.named_modules()):
        raise ValueError(f"folder: {folder} is cut after {facts.at!r}, which a {facts.architecture} does not have.")
    return model.eval()


def _load_processor(folder: Path):
    if not (folder / _PROCESSOR).is_file():
        return None
    if not (content := mapping_in(folder / _PROCESSOR)):
        raise ValueError(f"folder: the {_PROCESSOR} of {folder} cannot be read: it holds no settings by their names.")
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    except ValueError as error:
        if "AutoImageProcessor" not in content.get("auto_map", {}):
            raise ValueError(f"folder: the {_PROCESSOR} of {folder} cannot be read: {error}") from error
        logger.warning(
            "the image processor of %s is neither transformers' nor registered with it, and code of folders is not "
            "run: the half is loaded without it. Give it as from_pretrained(folder, processor=...).",
            folder,
        )
        return None


def own_files() -> tuple[str, ...]:
    """What `save_pretrained` writes of its own, as far as it may be downloaded and replaced."""
    return (CONFIG, _PROCESSOR, SPLIT, CARD, "head.safetensors", "tail.safetensors")
