"""Where a network can be cut in two: at the output of a module through which alone the rest hears of the image.

A copy of the network without storage (torch's meta device) is run once; the graph that autograd keeps says what
depends on what.
"""

import copy
import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ..._image_size import blaming_image_size
from ..._numbers import is_whole


@dataclass(frozen=True)
class SplitPoint:
    """A module after which a network can be cut.

    Attributes:
        name: of the module, with dots.
        shape: of its output for one image, the batch first.
        dtype: of its output.
        head_parameters: of the half before the cut.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    head_parameters: int

    @property
    def num_bytes(self) -> int:
        """Of the features of an image, as they are."""
        return math.prod(self.shape) * getattr(torch, self.dtype).itemsize


@dataclass(frozen=True)
class Cut:
    """What belongs to which half.

    Attributes:
        point: where.
        head, tail: names of parameters and buffers; what both need is in both.
    """

    point: SplitPoint
    head: frozenset[str]
    tail: frozenset[str]


@dataclass
class _Call:
    """Of a module in the one pass: its output, the node that made it, and which modules were under way then."""

    number: int
    outputs: list[torch.Tensor]
    node: object
    under_way: tuple[str, ...]
    finished_before: frozenset[str]
    passes_on: bool


class Trace:
    """One pass through a network, without its numbers.

    Args:
        model: any classifier of images; it is left as it is.
        image_size: height and width of the images; by default the configuration's, or 224.

    Raises:
        ValueError: a quantised network, one that needs more than shapes to be followed, or that gives no logits.
    """

    def __init__(self, model: nn.Module, image_size: tuple[int, int] | None = None):
        quantization = getattr(getattr(model, "config", None), "quantization_config", None)
        if quantization is not None:
            raise ValueError(
                f"model: the weights of {type(model).__name__} are packed or quantised, and halves are made of "
                "networks whose are not; split what was packed."
            )
        self.model = storageless(model).eval().requires_grad_(True)
        self.input_shape = input_shape(model, image_size)
        self.calls: dict[str, list[_Call]] = {}
        under_way, finished, made_by = [], [], {}
        hooks = []

        def enter(name):
            return lambda module, args: under_way.append(name)

        def leave(name):
            def record(module, args, output):
                under_way.pop()
                tensors = list(tensors_in(output))
                node = tensors[0].grad_fn if len(tensors) == 1 else None
                # nn.Identity and the like give what another module has given, which others may have used already.
                passes_on = not made_by.setdefault(node, name).startswith(name)
                call = _Call(len(finished), tensors, node, tuple(under_way), frozenset(finished), passes_on)
                self.calls.setdefault(name, []).append(call)
                finished.append(name)

            return record

        for name, module in self.model.named_modules():
            hooks += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave(name))]
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        self.pixels = torch.zeros(self.input_shape, device="meta", dtype=dtype, requires_grad=True)
        try:
            with torch.enable_grad(), blaming_image_size(image_size):
                logits = logits_of(self.model(self.pixels))
        except (NotImplementedError, RuntimeError) as error:
            raise ValueError(f"model: it cannot be followed by shapes alone: {error}") from error
        finally:
            for hook in hooks:
                hook.remove()
        self.logits = logits
        if logits.grad_fn is None:
            raise ValueError("model: its logits depend on nothing that could be followed.")

    def points(self) -> Iterator[SplitPoint]:
        """All points, in the order of the pass; of those with the same features the outermost module's."""
        found: dict[object, SplitPoint] = {}
        for name, calls in self.calls.items():
            if name and self._single(name):
                found[calls[0].node] = self._point(name, calls[0])
        yield from found.values()

    def cut(self, at: str) -> Cut:
        """What belongs to which half.

        Args:
            at: a module's name, or the end of one that no other module's name ends with.

        Raises:
            ValueError: there is no such module, its output is not one tensor, or not the only way through.
        """
        name = self._resolve(at)
        calls = self.calls.get(name, [])
        if len(calls) != 1:
            raise ValueError(
                f"at: {name!r} is computed {len(calls)} times for an image, accepted are modules with one."
            )
        call = calls[0]
        if len(call.outputs) != 1 or call.node is None:
            raise ValueError(
                f"at: {name!r} gives {len(call.outputs)} tensors, accepted are modules with one, made of the image."
            )
        if call.passes_on:
            raise ValueError(f"at: {name!r} only passes on what it gets, accepted are modules that compute.")
        if self._around(call):
            better = next((o for o in reversed(call.under_way) if self._single(o)), None)
            hint = f"; {better!r} can be cut after" if better else ""
            merged = call.under_way[-1] or "the model"
            around = f"a residual connection inside {merged!r} goes around it"
            raise ValueError(f"at: {name!r} is not the only way through: {around}{hint}.")
        before, _ = self._reachable(call.node, None)
        after, _ = self._reachable(self.logits.grad_fn, call.node)
        names: dict[int, list[str]] = {}
        for parameter_name, parameter in self.model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(parameter_name)
        head = {n for i in before for n in names.get(i, ())}
        tail = {n for i in after for n in names.get(i, ())}
        tail |= {n for group in names.values() for n in group} - head  # what is not used at all
        finished = call.finished_before | {name}
        for buffer_name, _ in self.model.named_buffers(remove_duplicate=False):
            owner = buffer_name.rpartition(".")[0]
            again = any(c.number > call.number for c in self.calls.get(owner, ()))
            if owner in finished or owner in call.under_way:
                head.add(buffer_name)
            if owner not in finished or again:
                tail.add(buffer_name)
        return Cut(self._point(name, call), frozenset(head), frozenset(tail))

    def _point(self, name: str, call: _Call) -> SplitPoint:
        before, _ = self._reachable(call.node, None)
        count = sum(p.numel() for p in self.model.parameters() if id(p) in before)
        (output,) = call.outputs
        return SplitPoint(name, tuple(output.shape), str(output.dtype).removeprefix("torch."), count)

    def _single(self, name: str) -> bool:
        calls = self.calls.get(name, [])
        if len(calls) != 1 or calls[0].node is None or calls[0].passes_on:
            return False
        return not self._around(calls[0])

    def _around(self, call: _Call) -> bool:
        """Whether the image reaches the logits around this output, or this output does not reach them."""
        variables, met = self._reachable(self.logits.grad_fn, call.node)
        inside, _ = self._reachable(call.node, None)
        return id(self.pixels) in variables or not met or id(self.pixels) not in inside

    @staticmethod
    def _reachable(start, barrier) -> tuple[set[int], bool]:
        """Identities of the leaves that `start` depends on without going through `barrier`, and if that was met."""
        seen, waiting, leaves, met = set(), [start], set(), False
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            if node is barrier:
                met = True
                continue
            seen.add(node)
            if (variable := getattr(node, "variable", None)) is not None:
                leaves.add(id(variable))
            waiting += [following for following, _ in node.next_functions]
        return leaves, met

    def _resolve(self, at: str) -> str:
        modules = [name for name, _ in self.model.named_modules() if name]
        if at in modules:
            return at
        ends = [name for name in modules if name.endswith(f".{at}")]
        if len(ends) == 1:
            return ends[0]
        if ends:
            raise ValueError(f"at: got {at!r}, which may be {', '.join(map(repr, ends[:4]))}.")
        points = [point.name for point in self.points()]
        near = difflib.get_close_matches(at, points, n=3, cutoff=0.6) or points[:: max(1, len(points) // 6)]
        raise ValueError(f"at: got {at!r}, there is no such module; this model can be cut after {', '.join(near)}.")


def split_points(model: nn.Module, image_size: tuple[int, int] | None = None) -> list[SplitPoint]:
    """Where `model` can be cut, in the order of computing.

    Args:
        model: any classifier of images.
        image_size: height and width; by default the configuration's, or 224.
    """
    return list(Trace(model, image_size).points())


def storageless(model: nn.Module) -> nn.Module:
    """A copy of `model` on the meta device, which takes no memory for weights."""
    memo = {}
    for tensor in (*model.parameters(), *model.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, memo)


def input_shape(model: nn.Module, image_size: tuple[int, int] | None = None) -> tuple[int, int, int, int]:
    """(1, channels, height, width) of the images of `model`."""
    config = getattr(model, "config", None)
    if image_size is not None:
        ends = image_size if isinstance(image_size, tuple | list) else (image_size, image_size)
        if len(ends) != 2 or not all(is_whole(side, 1) for side in ends):
            raise ValueError(f"image_size: got {image_size!r}, accepted are height and width, whole numbers from 1.")
    size = image_size or getattr(config, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return 1, getattr(config, "num_channels", None) or 3, height, width


def logits_of(output) -> torch.Tensor:
    """The logits of what a classifier returns."""
    if isinstance(output, torch.Tensor):
        return output
    logits = getattr(output, "logits", None)
    if logits is None:
        raise ValueError(f"model: it returns {type(output).__name__} without logits, accepted are classifiers.")
    return logits


def tensors_in(output) -> Iterator[torch.Tensor]:
    """The tensors of an output: itself, or those of a tuple, a list or a dictionary."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from tensors_in(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from tensors_in(value)


def with_tensor(output, tensor: torch.Tensor):
    """An output like `output`, whose one tensor is `tensor`."""
    if isinstance(output, torch.Tensor):
        return tensor
    if isinstance(output, dict):
        return type(output)(**{key: with_tensor(value, tensor) for key, value in output.items()})
    if isinstance(output, tuple | list):
        values = [with_tensor(value, tensor) for value in output]
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)
    return output
