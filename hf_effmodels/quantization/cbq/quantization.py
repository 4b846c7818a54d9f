"""`quantize`: the blocks of a language model, a window at a time, by CBQ or what it is compared with."""

import hashlib
import logging
import math
import resource
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from ...compression.pruning.calibration import Batch, evaluating, loss_of, read_batches
from .blocks import Blocks, find_blocks
from .capture import BlockInputs, Call, capture, first
from .configuration_cbq import CbqConfig
from .gptq import gptq
from .grid import Grid
from .learning import LearnedBlock, LearnedLayer, QuantizedLayer, learn_window, nearest, quantized_inputs
from .preprocessing import State, largest_inputs, scaled, truncated
from .reconstruction import windows
from .room import bytes_of_work, check_room
from .store import BlockStore, Progress

logger = logging.getLogger(__name__)


class Quantized:
    """A model whose blocks have been quantised; it computes with the values that the integers stand for.

    Attributes:
        model: the model that was given, with its new weights.
        config: how it was quantised.
        blocks: which of its layers.
        report: what was measured, as JSON takes it.
    """

    def __init__(
        self, model: PreTrainedModel, config: CbqConfig, blocks: Blocks, store: BlockStore, progress: Progress
    ):
        self.model, self.config, self.blocks = model, config, blocks
        self.report: dict = {}
        self.dtype = next(blocks.modules.parameters()).dtype
        self._store, self._progress = store, progress
        self._finished: dict[int, State] = {}

    def finish_block(self, i: int, layers: dict[str, QuantizedLayer], rest: State, dtype: torch.dtype) -> None:
        tensors = {f"rest.{name}": value.to(dtype) for name, value in rest.items()}
        for name, layer in layers.items():
            tensors |= {f"{name}.integers": layer.integers, f"{name}.scale": layer.grid.scale}
            if not self.config.symmetric:
                tensors[f"{name}.zero_point"] = layer.grid.zero_point.to(torch.int8)
        self._progress.save(f"quantized-{i:05d}", tensors)
        if self._progress.folder is None:
            self._finished[i] = tensors

    def layers_of(self, i: int) -> dict[str, QuantizedLayer]:
        """The quantised layers of block `i` by their names in it."""
        tensors, found = self._tensors(i), {}
        for name in self.blocks.layers[i]:
            scale = tensors[f"{name}.scale"].float()
            zero_point = tensors.get(f"{name}.zero_point", torch.zeros_like(scale)).to(scale.dtype)
            found[name] = QuantizedLayer(tensors[f"{name}.integers"], Grid(scale, zero_point))
        return found

    def rest_of(self, i: int) -> State:
        """All weights of block `i` but those of its quantised layers."""
        return {n.removeprefix("rest."): value for n, value in self._tensors(i).items() if n.startswith("rest.")}

    def _tensors(self, i: int) -> State:
        return self._finished[i] if i in self._finished else self._progress.load(f"quantized-{i:05d}")

    def put_in_place(self, i: int, dtype: torch.dtype) -> None:
        """Give block `i` of the model its new weights."""
        weights = {f"{name}.weight": layer.weight() for name, layer in self.layers_of(i).items()}
        block = self._store.fetch(i)
        state = {name: value.to(dtype) for name, value in {**self.rest_of(i), **weights}.items()}
        device = next(block.parameters()).device
        block.load_state_dict({name: value.to(device) for name, value in state.items()}, assign=True)
        block.requires_grad_(False)
        self._store.put_away(i)

    def in_use(self):
        """Inside, the model computes as the quantised one does, activations included, also where its blocks lie on
        disk."""
        return _computing(self.blocks, self._store, self.config.activation_bits)

    def save(self, folder, format: str = "compressed-tensors", tokenizer=None, license: str | None = None) -> dict:
        """Write a folder that `from_pretrained` loads; see `files.save`."""
        from .files import save

        return save(self, folder, format, tokenizer, license)


def quantize(
    model: PreTrainedModel,
    batches: Iterable[Batch] | None = None,
    config: CbqConfig | None = None,
    *,
    work: str | Path | None = None,
    offload: bool = False,
    evaluation: Iterable[Batch] | None = None,
    progress: bool = False,
) -> Quantized:
    """Quantise the linear layers in the decoder blocks of a language model; embeddings and head stay as they are.

    Args:
        model: any causal language model of transformers whose blocks hold `torch.nn.Linear`. It is changed.
        batches: calibration samples: token ids (samples, length), or what the model takes. "rtn" needs none.
        config: how.
        work: a folder for what a later call with the same arguments goes on from, after this one was killed: at most
            one window is lost, and the result is the same.
        offload: keep the blocks that are not in use in `work`, too.
        evaluation: batches to measure the perplexity on, before and after.
        progress: show a bar on standard error.

    Raises:
        ValueError: a model, a size or samples that do not fit, or a folder with other or damaged work; nothing was
            done then.
        OSError: the disk has too little room, or cannot be written.
    """
    config = config or CbqConfig()
    began = time.monotonic()
    blocks = find_blocks(model, config)
    if blocks.left:
        more = f" and {len(blocks.left) - 8} more" if len(blocks.left) > 8 else ""
        logger.warning("These weights stay as they are: %s%s", ", ".join(blocks.left[:8]), more)
    samples = _samples(batches, config)
    evaluation = (
        None if evaluation is None else _regrouped(read_batches(evaluation, "the perplexity", "evaluation"), 8)
    )
    _check_tokens(model, samples or (), "calibration")
    _check_tokens(model, evaluation or (), "evaluation")
    if evaluation is not None and not any(map(_predicted, evaluation)):
        raise ValueError(
            "evaluation: none of its tokens is predicted; accepted are texts of two and more with labels."
        )
    if offload and work is None:
        raise ValueError("work: offload needs a folder for the blocks that are not in use.")
    dtype = next(blocks.modules.parameters()).dtype
    call = {"config": config.to_dict(), "samples": _digest(samples), "model": _model_digest(model, blocks)}
    work = None if work is None else Path(work)
    if work is not None:
        tokens = sum(batch["labels"].numel() for batch in samples or ())
        check_room({"work": (work, bytes_of_work(model, tokens, offload))}, kept=work)
    state = Progress(work, call)
    store = BlockStore(blocks.modules, work / "blocks" if offload else None)
    result = Quantized(model, config, blocks, store, state)
    with evaluating(model), torch.no_grad():
        perplexity = None
        if evaluation is not None:
            with _computing(blocks, store, None):
                perplexity = _perplexity(model, evaluation)
        run = _Run(result, samples, dtype, state)
        bar = _bar(progress, len(run.plan), state.step + 1)
        for number in range(state.step + 1, len(run.plan)):
            run.window(number)
            bar.update(1)
        bar.close()
        for i in range(len(blocks.modules)):
            result.put_in_place(i, dtype)
        after = None
        if evaluation is not None:
            with result.in_use():
                after = _perplexity(model, evaluation)
    result.report = _report(result, state.rows, perplexity, after, time.monotonic() - began)
    return result


class _Run:
    """One call of `quantize`: the hidden states between the window that is finished and the next one."""

    def __init__(self, result: Quantized, samples, dtype: torch.dtype, progress: Progress):
        self.result, self.config, self.dtype, self.progress = result, result.config, dtype, progress
        self.blocks, self.store = result.blocks, result._store
        count = len(self.blocks.modules)
        size = (self.config.window, self.config.overlap) if self.config.method == "cbq" else (1, 0)
        self.plan = windows(count, *size)
        self.learned: dict[int, LearnedBlock] = {}
        self.ahead: dict[int, list[torch.Tensor]] = {}  # full-precision outputs of blocks that are not finished
        self.inputs: BlockInputs | None = None
        if samples is not None:
            self.inputs = capture(result.model, self.blocks, self.store, samples)
            self.full = self.inputs.hidden
            self.quantised = [each.clone() for each in self.full]
        if progress.step >= 0:
            self._resume()

    def calls(self, i: int) -> list[Call]:
        return [calls[i] for calls in self.inputs.calls]

    def window(self, number: int) -> None:
        begin, end = self.plan[number]
        next_begin = self.plan[number + 1][0] if number + 1 < len(self.plan) else end
        began = time.monotonic()
        for i in range(begin, end):
            self.store.fetch(i).float()
        row = {"blocks": [begin, end]}
        if self.config.method == "cbq":
            row |= self._learn(number, begin, end)
        rows = []
        for i in range(begin, next_begin):
            layers, rest, errors = self._finished(i)
            self.result.finish_block(i, layers, rest, self.dtype)
            rows.append(row | errors | {"block": i})
            self.learned.pop(i, None)
        for i in range(begin, next_begin):
            self.store.drop(i)
        for i in range(next_begin, end):
            self.store.drop(i)
        rows[-1]["seconds"] = round(time.monotonic() - began, 3)
        self._save(number, rows)

    # CBQ

    def _learn(self, number: int, begin: int, end: int) -> dict:
        calls = [[self.inputs.calls[b][i] for i in range(begin, end)] for b in range(len(self.full))]
        entering = self.quantised
        for i in range(begin, end):
            module = self.blocks.modules[i]
            if i not in self.learned:
                self.learned[i] = self._enter(i, module, entering)
            entering = _through(module, entering, self.calls(i))
        on_quantised = entering
        targets = [on_quantised]
        if self.config.target != "homologous":
            on_full = self.full
            for i in range(begin, end):
                if i not in self.ahead:
                    self.ahead[i] = _through(self.blocks.modules[i], on_full, self.calls(i))
                on_full = self.ahead[i]
            targets = [on_full] if self.config.target == "accumulated" else [on_quantised, on_full]
        learned = [self.learned[i] for i in range(begin, end)]
        with torch.enable_grad():
            return learn_window(
                learned,
                self.quantised,
                calls,
                list(zip(*targets, strict=True)),
                self.config,
                self.config.seed + number,
            )

    def _enter(self, i: int, module: nn.Module, states: list[torch.Tensor]) -> LearnedBlock:
        layers, config = self.blocks.layers[i], self.config
        state = {name: value.detach() for name, value in module.state_dict().items()}
        if config.cfp:
            state = truncated(state, layers, config)
            if config.activation_bits:
                largest = largest_inputs(module, layers, states, self.calls(i))
                state, _ = scaled(module, state, layers, largest, states[0], self.calls(i)[0], config)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + i)
        learned = {name: LearnedLayer(state.pop(f"{name}.weight"), config, generator) for name in layers}
        return LearnedBlock(module, state, learned)

    # What is written when a block is finished

    def _finished(self, i: int) -> tuple[dict[str, QuantizedLayer], State, dict]:
        module, names = self.blocks.modules[i], self.blocks.layers[i]
        own = {name: value.detach() for name, value in module.state_dict().items()}
        if self.config.method == "cbq":
            learned = self.learned[i]
            layers = {name: layer.hard(self.dtype) for name, layer in learned.layers.items()}
            rest = learned.state
        else:
            rest = {name: value for name, value in own.items() if name.removesuffix(".weight") not in names}
            if self.config.method == "gptq":
                layers = self._gptq(i, module, own)
            else:
                layers = {name: nearest(own[f"{name}.weight"], self.config, self.dtype) for name in names}
        for name, layer in layers.items():
            _check_grid(layer, f"{self.blocks.name}.{i}.{name}")
        errors = {"layers": {name: _relative(layer.weight(), own[f"{name}.weight"]) for name, layer in layers.items()}}
        if self.inputs is not None:
            calls = self.calls(i)
            self.full = self.ahead.pop(i, None) or _through(module, self.full, calls)
            weights = {f"{name}.weight": layer.weight() for name, layer in layers.items()}
            block = LearnedBlock(module, rest, dict.fromkeys(names))
            with quantized_inputs([block], self.config.activation_bits):
                self.quantised = [
                    block.run(weights, states, call) for states, call in zip(self.quantised, calls, strict=True)
                ]
            errors["output"] = _relative(torch.cat(self.quantised), torch.cat(self.full))
        return layers, rest, errors

    def _gptq(self, i: int, module: nn.Module, own: State) -> dict[str, QuantizedLayer]:
        """The layers of a block in the order in which they are called; those that read the same, at once."""
        names, calls, found = self.blocks.layers[i], self.calls(i), {}
        block = LearnedBlock(module, {}, dict.fromkeys(names))
        state = dict(own)
        with quantized_inputs([block], self.config.activation_bits):
            for group in _reading_the_same(module, names, self.quantised[0], calls[0]):
                hessian = self._hessian(block, state, group[0], calls)
                for name in group:
                    weight = own[f"{name}.weight"]
                    if hessian is None:  # an expert that no token has reached
                        found[name] = nearest(weight, self.config, self.dtype)
                        continue
                    c = self.config
                    integers, grid = gptq(weight, hessian, c.bits, c.group_size, c.symmetric, c.damping)
                    grid = Grid(grid.scale.to(self.dtype).float(), grid.zero_point)
                    found[name] = QuantizedLayer(integers, grid)
                    state[f"{name}.weight"] = found[name].weight()
        return found

    def _hessian(self, block: LearnedBlock, state: State, name: str, calls: list[Call]) -> torch.Tensor | None:
        """Mean of x xᵀ over the tokens that a layer reads; None where it reads none."""
        total, count = 0, 0

        def add(module, args):
            nonlocal total, count
            x = args[0].flatten(0, -2)
            total, count = total + x.T @ x, count + len(x)

        handle = block.module.get_submodule(name).register_forward_pre_hook(add)
        for states, call in zip(self.quantised, calls, strict=True):
            block.run(state, states, call)
        handle.remove()
        return total / count if count else None

    # Progress

    def _save(self, number: int, rows: list[dict]) -> None:
        tensors = {}
        if self.inputs is not None:
            for kind, states in (("full", self.full), ("quantised", self.quantised)):
                tensors |= {f"{kind}.{b}": each for b, each in enumerate(states)}
        for i, block in self.learned.items():
            tensors |= {f"state.{i}.{name}": value for name, value in block.state.items()}
            for name, layer in block.layers.items():
                tensors |= {f"layer.{i}.{name}.{key}": value for key, value in layer.tensors().items()}
        self.progress.save(f"window-{number:05d}", tensors)
        self.progress.finish(number, rows)

    def _resume(self) -> None:
        tensors = self.progress.load(f"window-{self.progress.step:05d}")
        if self.inputs is not None:
            count = len(self.full)
            self.full = [tensors[f"full.{b}"] for b in range(count)]
            self.quantised = [tensors[f"quantised.{b}"] for b in range(count)]
        for i in sorted({int(name.split(".")[1]) for name in tensors if name.startswith("layer.")}):
            prefix = f"state.{i}."
            state = {n.removeprefix(prefix): value for n, value in tensors.items() if n.startswith(prefix)}
            layers = {}
            for name in self.blocks.layers[i]:
                own = f"layer.{i}.{name}."
                found = {n.removeprefix(own): value for n, value in tensors.items() if n.startswith(own)}
                layers[name] = LearnedLayer(found["weight"], self.config, torch.Generator().manual_seed(0))
                layers[name].restore(found)
            self.learned[i] = LearnedBlock(self.blocks.modules[i], state, layers)


def _through(module: nn.Module, hidden: Sequence[torch.Tensor], calls: list[Call]) -> list[torch.Tensor]:
    return [first(module(states, *call.args, **call.kwargs)) for states, call in zip(hidden, calls, strict=True)]


def _reading_the_same(module: nn.Module, names: list[str], states: torch.Tensor, call: Call) -> list[list[str]]:
    """The layers in the order in which they are called; those with the same input together."""
    order: dict[int, list[str]] = {}
    kept = []

    def before(inner, args, name):
        kept.append(args[0])
        order.setdefault(id(args[0]), []).append(name)

    # Ahead of what quantises the inputs: that makes a tensor of its own for each layer.
    handles = [
        module.get_submodule(name).register_forward_pre_hook(
            lambda inner, args, name=name: before(inner, args, name), prepend=True
        )
        for name in names
    ]
    first(module(states, *call.args, **call.kwargs))
    for handle in handles:
        handle.remove()
    called = {name for group in order.values() for name in group}
    return [*order.values(), *([name] for name in names if name not in called)]


def _check_grid(layer: QuantizedLayer, name: str) -> None:
    scale = layer.grid.scale
    if not (torch.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError(f"{name}: it has steps that are zero or not finite; its weights or samples are not usable.")


def _relative(value: torch.Tensor, expected: torch.Tensor) -> float:
    return ((value - expected).norm() / expected.norm().clamp(min=1e-12)).item()


def _computing(blocks: Blocks, store: BlockStore, activation_bits: int | None):
    stack = ExitStack()
    stack.enter_context(store.streaming())
    if activation_bits:
        learned = [
            LearnedBlock(module, {}, dict.fromkeys(names))
            for module, names in zip(blocks.modules, blocks.layers, strict=True)
        ]
        stack.enter_context(quantized_inputs(learned, activation_bits))
    return stack


def _perplexity(model: PreTrainedModel, batches: list[dict]) -> float:
    counted = [(batch, count) for batch in batches if (count := _predicted(batch))]
    total = sum(loss_of(model, batch).double().item() * count for batch, count in counted)
    return math.exp(total / sum(count for _, count in counted))


def _predicted(batch: dict[str, torch.Tensor]) -> int:
    """How many tokens of a batch have a label and one before them."""
    return int((batch["labels"][:, 1:] != -100).sum())


def _check_tokens(model: PreTrainedModel, batches: Sequence[dict[str, torch.Tensor]], name: str) -> None:
    rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    largest = max((int(batch["input_ids"].max()) for batch in batches if "input_ids" in batch), default=0)
    if rows is not None and largest >= rows:
        raise ValueError(
            f"{name}: got token {largest}, but the model's embeddings have {rows} rows; its tokenizer is that of "
            "another model."
        )


def _samples(batches: Iterable[Batch] | None, config: CbqConfig) -> list[dict[str, torch.Tensor]] | None:
    if batches is None and config.method == "rtn":
        return None
    return _regrouped(read_batches(batches, f"the method {config.method}"), config.batch_size)


def _regrouped(batches: list[dict[str, torch.Tensor]], size: int) -> list[dict[str, torch.Tensor]]:
    """Batches of `size` samples where all samples are of one form; the batches as they are otherwise."""
    forms = {tuple((n, tuple(v.shape[1:]), v.dtype) for n, v in sorted(batch.items())) for batch in batches}
    if len(forms) > 1:
        return batches
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    count = len(next(iter(whole.values())))
    return [{name: value[i : i + size] for name, value in whole.items()} for i in range(0, count, size)]


def _digest(samples: list[dict[str, torch.Tensor]] | None) -> str:
    digest = hashlib.sha256()
    for batch in samples or ():
        for name, value in sorted(batch.items()):
            digest.update(name.encode() + value.cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _model_digest(model: nn.Module, blocks: Blocks) -> str:
    """Of names, shapes and a few values of each weight: enough to tell models apart, and quick."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        values = weight.detach().flatten()[:: max(1, weight.numel() // 64)]
        digest.update(
            f"{name} {tuple(weight.shape)} {weight.dtype}".encode() + values.cpu().double().numpy().tobytes()
        )
    return digest.hexdigest()


def _bar(show: bool, total: int, initial: int):
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=initial, unit="window", disable=not show, file=sys.stderr)


def _report(result: Quantized, rows: list[dict], before, after, seconds: float) -> dict:
    from .files import sizes

    config = result.config
    return {
        "method": config.method,
        "bits": config.bits,
        "group_size": config.group_size,
        "activation_bits": config.activation_bits,
        **sizes(result.model, result.blocks, config),
        "perplexity_before": before,
        "perplexity_after": after,
        "seconds": round(seconds, 2),
        # The whole process, on Linux in KiB.
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "left_as_they_are": result.blocks.left,
        "config": config.to_dict(),
        "blocks": rows,
    }
