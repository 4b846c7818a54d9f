"""Features of any network: which modules give them, of which shape they are, and forward passes that hand them out."""

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import nn

from ...losses.interface import LOGITS, POOLED, FeatureSpec

#: Behind a module's path: its input is meant, not its output; behind a stage's name: before its last activation.
INPUT, BEFORE_ACTIVATION = ":input", ":pre"
#: What one forward pass is to collect; None for one that collects nothing.
_collected: ContextVar[dict[str, torch.Tensor] | None] = ContextVar("features of a distillation", default=None)

_ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.Mish, nn.Sigmoid),
)


@dataclass(frozen=True)
class _Call:
    """A module's call in the dry run."""

    path: str
    module: nn.Module
    shape: tuple[int, ...]  # of the output, without the batch
    input_shape: tuple[int, ...]


@dataclass(frozen=True)
class DryRun:
    """What one forward pass of two images has shown: calls in the order in which they ended, and the logits' shape."""

    calls: tuple[_Call, ...]
    num_classes: int

    @property
    def by_path(self) -> dict[str, _Call]:
        return {call.path: call for call in self.calls}


def first_tensor(output) -> torch.Tensor | None:
    """The tensor of what a module takes or returns: itself, or the first of a tuple or of a `ModelOutput`."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, list | tuple) and output:
        return first_tensor(output[0])
    return None


@torch.no_grad()
def dry_run(model: nn.Module, pixel_values: torch.Tensor) -> DryRun:
    """Run a network once, in evaluation mode, and note what each of its modules gives.

    Args:
        model: returns `logits`; it is left as it was.
        pixel_values: (batch, channels, height, width), as the network takes them.
    """
    calls, handles, training = [], [], {module: module.training for module in model.modules()}

    def note(path: str):
        def hook(module, args, kwargs, output):
            found, given = first_tensor(output), first_tensor([*args, *kwargs.values()])
            if found is not None and found.ndim >= 2 and len(found) == len(pixel_values):
                shape = () if given is None else tuple(given.shape[1:])
                calls.append(_Call(path, module, tuple(found.shape[1:]), shape))

        return hook

    try:
        handles += [m.register_forward_hook(note(path), with_kwargs=True) for path, m in model.named_modules() if path]
        logits = model.eval()(pixel_values=pixel_values)["logits"]
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return DryRun(tuple(calls), logits.shape[-1])


def stage_taps(model: nn.Module, count: int = 4, *, pixel_values: torch.Tensor | None = None) -> list[str]:
    """Paths of the modules after which the stages of a network end, from shallow to deep.

    Stages are the parts that work at one resolution; a transformer that has one only is divided as OFA-KD does it:
    after the second and fourth block, the third but last, and the last. Of a stage that ends with a step down the
    block before it counts. A network that is made of fewer stages than are asked for has no others.

    Args:
        model: an image classifier (or anything that returns `logits`) of transformers, timm or this package.
        count: number of stages; of a network with more, the deepest.
        pixel_values: what to try it with; an image of the size in its configuration by default.

    Raises:
        ValueError: the network has fewer stages, or nothing in it looks like some.
    """
    return find_stages(model, dry_run(model, example_input(model) if pixel_values is None else pixel_values), count)


def example_input(model: nn.Module) -> torch.Tensor:
    """Two images of noise of the size that a model's configuration states, 224 pixels where it states none."""
    config = getattr(model, "config", None)
    size = getattr(config, "image_size", None) or 224
    if not isinstance(size, int):
        size = tuple(size.values()) if isinstance(size, Mapping) else tuple(size)
    height, width = (size, size) if isinstance(size, int) else size[-2:]
    parameter = next(model.parameters())
    shape = 2, getattr(config, "num_channels", 3), height, width
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(parameter.device, parameter.dtype)


def find_stages(model: nn.Module, run: DryRun, count: int) -> list[str]:
    """`stage_taps` of a dry run."""
    own = own_stages(run)
    # Of fewer stages the blocks inside would be taken for some.
    for group in _groups(run) if not own or len(own) >= count else ():
        ends = _ends_of_stages(group, run, count)
        if ends is not None:
            return ends
    shown = ", ".join(candidates(run)[:20])
    has = f"; it has {len(own)} of its own, {', '.join(own)}" if own else ""
    raise ValueError(
        f"{type(model).__name__}: {count} stages cannot be told by the shapes of its features{has}; name the modules "
        f"yourself. There are: {shown}."
    )


def own_stages(run: DryRun) -> list[str]:
    """Paths of the modules that end the stages a network is made of, from shallow to deep: a list of several
    resolutions that is called so or whose members have lists of blocks (ResNet, Swin), or several lists of blocks
    (PoolFormer). Empty for a network of single blocks (ViT, MobileNet)."""
    for group in _groups(run):
        resolutions = [_positions(call.shape) for call in group]
        if resolutions != sorted(resolutions, reverse=True) or len({*resolutions}) == 1:
            continue
        lists = {re.sub(r"\d+$", "", call.path): call.path for call in group}
        if len(lists) > 1:
            return [*lists.values()]
        (name,) = lists
        if name.endswith("stages.") or all(_has_blocks(call, run) for call in group):
            return [_before_step_down(call, run).path for call in group]
        return []  # single blocks
    return []


def _has_blocks(call: _Call, run: DryRun) -> bool:
    inside = re.compile(re.escape(call.path) + r"(\.\w+)?\.\d+")
    return any(inside.fullmatch(other.path) and _layout(other.shape) for other in run.calls)


def candidates(run: DryRun) -> list[str]:
    """Paths of modules whose outputs are features, the outermost first."""
    return sorted((call.path for call in run.calls if _layout(call.shape)), key=lambda path: (path.count("."), path))


def _layout(shape: tuple[int, ...]) -> str | None:
    """Maps with channels first or last, or tokens. Of three axes, channels are the one that is not two alike; of a
    cube, the first."""
    if len(shape) == 2:
        return "tokens"
    if len(shape) != 3:
        return None
    first, middle, last = shape
    if first == middle and middle != last:
        return "maps_last"
    return "maps"


def _groups(run: DryRun) -> Iterator[list[_Call]]:
    """Numbered siblings that ran one after the other and give features: blocks or stages; those that hold the most of
    the network first."""
    calls, siblings, alike = run.by_path, {}, {}
    for call in run.calls:
        match = re.fullmatch(r"(.*?)(\d+)", call.path)
        if match and _layout(call.shape) and calls[call.path] is call:
            siblings.setdefault(match[1], []).append((int(match[2]), call))
            alike.setdefault(_pattern(call), []).append(call)
    order = {call.path: place for place, call in enumerate(run.calls)}
    groups = []
    for group in siblings.values():
        members = [call for _, call in sorted(group, key=lambda item: item[0])]
        others = alike[_pattern(members[0])]
        if _resolutions(members) == 1 < _resolutions(others):
            members = others  # blocks of one of several stages, which are no modules themselves
        places = [order[call.path] for call in members]
        if len(members) > 1 and places == sorted(places):
            groups.append(members)
    sizes = [sum(_size(call.module) for call in group) for group in groups]
    chosen = [index for index, size in enumerate(sizes) if 2 * size >= max(sizes)]  # no stem, no head
    yield from (groups[i] for i in sorted(chosen, key=lambda i: (-sizes[i], groups[i][0].path.count("."))))


def _resolutions(calls: Iterable[_Call]) -> int:
    return len({_positions(call.shape) for call in calls})


def _pattern(call: _Call) -> str:
    return re.sub(r"\d+", "#", call.path)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _positions(shape: tuple[int, ...]) -> int:
    """Number of places in the image."""
    layout = _layout(shape)
    return shape[0] if layout == "tokens" else math.prod(shape[1:] if layout == "maps" else shape[:2])


def _ends_of_stages(group: list[_Call], run: DryRun, count: int) -> list[str] | None:
    """Of a group of blocks or stages the last one of each resolution."""
    members = [_before_step_down(call, run) for call in group]
    resolutions = [_positions(call.shape) for call in members]
    if any(later > earlier for earlier, later in zip(resolutions, resolutions[1:], strict=False)):
        return None  # not from fine to coarse
    if len({*resolutions}) == 1:
        if len(members) < count:
            return None
        return [members[number].path for number in _spread(len(members), count)]
    if len(members) == count:
        return [call.path for call in members]  # two stages may share a resolution
    ends = [
        call for call, nearer in zip(members, [*resolutions[1:], 0], strict=True) if _positions(call.shape) != nearer
    ]
    ends[-1] = _after(ends[-1], group, run)
    return [call.path for call in ends[-count:]] if len(ends) >= count else None


def _before_step_down(call: _Call, run: DryRun) -> _Call:
    """A stage, or the last block inside it where the stage ends with a step to a coarser map (Swin)."""
    inner = [
        c for c in run.calls if re.fullmatch(re.escape(call.path) + r"(\.\w+)?\.\d+", c.path) and _layout(c.shape)
    ]
    inner = [
        c for c in inner if c.path.rpartition(".")[0].rpartition(".")[2] in ("blocks", "layers", "layer", "stages")
    ]
    if inner and _positions(inner[-1].shape) > _positions(call.shape):
        return inner[-1]
    return call


def _after(last: _Call, group: list[_Call], run: DryRun) -> _Call:
    """Of a network of single blocks the last map of all, where a convolution follows them (MobileNet)."""
    if _layout(last.shape) != "maps":
        return last
    calls, place = list(run.calls), max(run.calls.index(call) for call in group)
    behind = [c for c in calls[place + 1 :] if len(c.shape) == 3 and c.shape[1:] == last.shape[1:] and "." in c.path]
    outermost = [c for c in behind if not last.path.startswith(f"{c.path}.")]
    outermost = [c for c in outermost if not any(c.path.startswith(f"{o.path}.") for o in outermost)]
    return outermost[-1] if outermost else last


def _spread(blocks: int, count: int) -> list[int]:
    """Which of equal blocks end the stages: as of a network of 2, 2, n - 6 and 2, where four are asked for."""
    if count == 4 and blocks >= 7:
        return [1, 3, blocks - 3, blocks - 1]
    return [math.ceil(blocks * (number + 1) / count) - 1 for number in range(count)]


def classifier_path(model: nn.Module, run: DryRun) -> str:
    """Path of the module that makes the logits: its input are the pooled features."""
    for call in reversed(run.calls):
        if isinstance(call.module, nn.Linear | nn.Conv2d) and math.prod(call.shape) == run.num_classes:
            return call.path
    raise ValueError(f"{type(model).__name__}: no linear layer gives its {run.num_classes} logits.")


class Taps:
    """Named features of one network.

    Args:
        model: the network.
        run: its dry run.
        names: of the features: `pooled`, `stage1`, `stage2:pre`, ..., paths of modules, or `path:input`.
        stages: paths of the stages instead of those of `stage_taps`.
        argument: for messages.

    Raises:
        ValueError: a path that is none, or that never ran; lists those nearest.
    """

    def __init__(
        self,
        model: nn.Module,
        run: DryRun,
        names: Iterable[str],
        stages: Sequence[str] | None = None,
        argument: str = "taps",
    ):
        names = [name for name in dict.fromkeys(names) if name != LOGITS]
        numbers = [int(match[1]) for name in names if (match := _STAGE.fullmatch(name))]
        if stages:
            if numbers and max(numbers) > len(stages):
                raise ValueError(f"{argument}: got {len(stages)} stages, a loss asks for stage {max(numbers)}.")
            for path in stages:
                _call_at(path, run, argument)
        elif numbers:
            try:
                stages = find_stages(model, run, max(min(4, len(own_stages(run)) or 4), *numbers))
            except ValueError:
                try:
                    stages = find_stages(model, run, max(numbers))
                except ValueError as error:
                    raise ValueError(f"{argument} is missing: {error}") from error
        self.stages = list(stages or ())
        self.sources: dict[str, tuple[str, bool]] = {}
        self.specs: dict[str, FeatureSpec] = {}
        for name in names:
            self.sources[name], self.specs[name] = self._find(name, model, run, argument)

    def _find(self, name: str, model: nn.Module, run: DryRun, argument: str) -> tuple[tuple[str, bool], FeatureSpec]:
        if name == POOLED:
            path = classifier_path(model, run)
            call = run.by_path[path]
            return (path, True), FeatureSpec((math.prod(call.input_shape),), "vector", 0, f"{path}{INPUT}")
        if match := _STAGE.fullmatch(name):
            path = self.stages[int(match[1]) - 1]
            if match[2]:
                path = _before_last_activation(path, run)
        else:
            path = name
            if argument.startswith("--"):  # a setting of a loss names it, or is so by default
                argument = f"--losses, {argument.removeprefix('--').removesuffix('_taps')}"
        path, is_input = path.removesuffix(INPUT), path.endswith(INPUT)
        call = _call_at(path, run, argument)
        shape = call.input_shape if is_input else call.shape
        layout = "vector" if len(shape) == 1 else _layout(shape)
        if layout is None:
            raise ValueError(
                f"{argument}: {path} gives {(*shape,)} for each image, accepted are maps, tokens and vectors."
            )
        prefix = prefix_tokens(model, shape[0]) if layout == "tokens" else 0
        return (path, is_input), FeatureSpec(shape, layout, prefix, path + INPUT * is_input)


_STAGE = re.compile(r"stage([1-9]\d*)(:pre)?")


def _call_at(path: str, run: DryRun, argument: str) -> _Call:
    path = path.removesuffix(INPUT)
    if path in run.by_path:
        return run.by_path[path]
    names = candidates(run)
    near = difflib.get_close_matches(path, names, n=5, cutoff=0.5) or names[:12]
    raise ValueError(f"{argument}: there is no feature at {path!r}; nearest: {', '.join(near)}.")


def _before_last_activation(path: str, run: DryRun) -> str:
    """The input of the activation that a stage ends with, or its output where it ends with none."""
    inside = [call for call in run.calls if call.path.startswith(f"{path}.") and not [*call.module.children()]]
    own = run.by_path[path]
    if inside and inside[-1].shape == own.shape and _is_activation(inside[-1].module):
        return inside[-1].path + INPUT
    return path


def _is_activation(module: nn.Module) -> bool:
    """torch's, and transformers' own classes of them: no parameters, and a name that tells."""
    name = type(module).__name__.lower()
    return isinstance(module, _ACTIVATIONS) or (not _size(module) and ("activation" in name or "relu" in name))


def prefix_tokens(model: nn.Module, length: int) -> int:
    """How many of `length` tokens stand for no place: as the network says, or what is left of a square.

    Class and distillation tokens come first in all the networks that are known here.
    """
    for module in model.modules():
        for name in ("num_prefix_tokens", "num_tokens"):
            count = getattr(module, name, None)
            if isinstance(count, int) and 0 <= count < length and math.isqrt(length - count) ** 2 == length - count:
                return count
    registers = getattr(getattr(model, "config", None), "num_register_tokens", 0) or 0
    for count in (0, 1 + registers, 1, 2):
        if count < length and math.isqrt(length - count) ** 2 == length - count:
            return count
    return 0


def attach(model: nn.Module, taps: Taps) -> list:
    """Hooks by which the passes inside `collecting` hand out features; the others pay next to nothing.

    Returns:
        The hooks' handles.
    """
    by_module: dict[tuple[str, bool], list[str]] = {}
    for name, source in taps.sources.items():
        by_module.setdefault(source, []).append(name)
    handles = []
    for (path, is_input), names in by_module.items():
        module = model.get_submodule(path)
        if is_input:
            handles.append(module.register_forward_pre_hook(_take_input(names, taps.specs), with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(_take_output(names, taps.specs)))
    return handles


def _take_output(names: Sequence[str], specs: Mapping[str, FeatureSpec]):
    def hook(module, args, output):
        _keep(names, specs, first_tensor(output))

    return hook


def _take_input(names: Sequence[str], specs: Mapping[str, FeatureSpec]):
    def hook(module, args, kwargs):
        given = first_tensor([*args, *kwargs.values()])
        # What works in place would overwrite it.
        _keep(names, specs, given.clone() if getattr(module, "inplace", False) else given)

    return hook


def _keep(names: Sequence[str], specs: Mapping[str, FeatureSpec], features: torch.Tensor) -> None:
    collected = _collected.get()
    if collected is None:
        return
    for name in names:
        collected[name] = features.flatten(1) if specs[name].layout == "vector" else features


@contextmanager
def collecting() -> Iterator[dict[str, torch.Tensor]]:
    """Within it the forward passes of a network with hooks by `attach` put their features here, by name; the last call
    of a module counts."""
    collected: dict[str, torch.Tensor] = {}
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)
