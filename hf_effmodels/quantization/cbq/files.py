"""Quantised models as folders: compressed-tensors' `pack-quantized`, GPTQ's layout, and our own for 3 bits."""

import errno
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from ..._files import write_json
from ..._written import rewritten
from ...hub.card_text import About, check_license, write_card
from ...hub.contents import CARD
from ...hub.ids import hub_id
from ...hub.usage import LOCAL_MODEL_ID, snippet
from .blocks import Blocks
from .configuration_cbq import CbqConfig
from .learning import QuantizedLayer
from .packing import pack
from .report import PICTURE, REPORT, picture
from .settings import check_format as check_settings

logger = logging.getLogger(__name__)

_PACKAGE = __name__.partition(".")[0]
_HELD_OUT = {"dataset": "held-out text", "source": "hf-effmodels quantize"}


def check_format(format: str, config: CbqConfig, model: PreTrainedModel | None = None, left: list[str] = ()) -> None:
    """ValueError where a format cannot hold what a configuration makes of a model; weights `left` stay as they are."""
    check_settings(format, config)
    if format != "cbq" and type(model).__module__.startswith("transformers."):
        experts = [name for name in left if model.get_parameter(name).ndim > 2]
        if experts:
            raise ValueError(
                f"format: got {format!r}, but {experts[0]} holds several experts in one tensor, which transformers "
                "cannot load beside packed layers of that format; accepted is cbq."
            )


def save(
    result, folder: str | Path, format: str = "compressed-tensors", tokenizer=None, license: str | None = None
) -> dict:
    """Write the quantised model, its tokenizer and its report.

    Args:
        result: what `quantize` returned.
        folder: new, empty, or written by this before.
        format: "compressed-tensors": stock transformers, vLLM and llm-compressor load it. "gptq": with gptqmodel.
            "cbq": with this package; the only one for 3 bits.
        tokenizer: or processor, saved beside.
        license: of the weights, for the card; publishing asks for one.

    Returns:
        the report.

    Raises:
        ValueError: the format cannot hold it, or it would not be smaller than the model was. FileExistsError: the
            folder holds something else, or what was changed since it was written. OSError: it cannot be written.
    """
    check_format(format, result.config, result.model, result.blocks.left)
    check_license(license)
    report = {**result.report, "format": format}
    if report["bytes"] >= report["bytes_before"]:
        raise ValueError(
            f"bits: with {result.config.bits} bits and group_size {result.config.group_size} the model takes "
            f"{report['bytes']} bytes, no less than the {report['bytes_before']} it had; nothing was written."
        )
    model = result.model
    with _saying_what_is_full(folder), rewritten(folder, "quantize") as new:
        with _described(model, _description(result, format)):
            model.save_pretrained(new, state_dict=_state(result, format))
        if tokenizer is not None:
            tokenizer.save_pretrained(new)
        write_json(new / REPORT, report)
        figures = (PICTURE,) if picture(report, new / PICTURE) else ()
        (new / CARD).write_text(str(card(report, model, tokenizer, license, figures)), encoding="utf-8")
    return report


@contextmanager
def _saying_what_is_full(folder: str | Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        raise OSError(f"folder: {folder} cannot be written ({error}).") from error


#: Format -> what transformers reads it with, beside itself.
_READ_WITH = {"compressed-tensors": "compressed-tensors", "gptq": "gptqmodel optimum"}


def card(
    report: dict,
    model: PreTrainedModel,
    tokenizer=None,
    license: str | None = None,
    figures: tuple[str, ...] = (),
):
    """The model card: what was quantised, how, what was measured, and the figures that lie beside it."""
    from ...hub.card import inputs_and_outputs, parameters

    own = model.config._name_or_path
    group = f", a step for {report['group_size']} weights" if report["group_size"] else ", a step for each row"
    inputs = f", inputs of {report['activation_bits']} bits" if report["activation_bits"] else ""
    method = {"cbq": "CBQ (https://arxiv.org/abs/2312.07950)", "gptq": "GPTQ", "rtn": "rounding to nearest"}
    facts = [("Type", f"{type(model).__name__} ({model.config.model_type})"), *parameters(model)]
    facts += [("method", method[report["method"]]), ("weights", f"{report['bits']} bits{group}{inputs}")]
    facts += [("bytes", f"{report['bytes']:,}, before {report['bytes_before']:,}")]
    if report["perplexity_after"] is not None:
        facts.append(("perplexity before, on the held-out text", f"{report['perplexity_before']:.3f}"))
    registered = {"the format": report["format"] == "cbq", "the model": model.__module__.startswith(f"{_PACKAGE}.")}
    registers = " and ".join(name for name, is_so in registered.items() if is_so)
    lines = [f"import {_PACKAGE}  # registers {registers}"] if registers else []
    lines += [f"from transformers import {'AutoModelForCausalLM' if tokenizer is None else 'pipeline'}", ""]
    lines += [f'model_id = "{LOCAL_MODEL_ID}"']
    if tokenizer is None:
        lines += ["model = AutoModelForCausalLM.from_pretrained(model_id)"]
    else:
        lines += ['pipe = pipeline("text-generation", model=model_id)']
        lines += ['print(pipe("Once upon a time", max_new_tokens=20)[0]["generated_text"])']
    needed = _READ_WITH.get(report["format"])
    needs = f" transformers reads this format with another package: `pip install {needed}`." if needed else ""
    facts += [row for row in inputs_and_outputs(model, None) if row[0] in ("Vocabulary", "Longest sequence")]
    title = f"{Path(own).name or type(model).__name__} in {report['bits']} bits"
    about = About(
        title=title,
        introduction="A language model whose decoder has been quantised.",
        library="transformers",
        task="text-generation",
        tags=(report["format"],),
        facts=tuple(facts),
        usage=f"## Usage\n\nThe snippet runs in this folder; elsewhere write its path for `model_id`.{needs}\n\n"
        + snippet(lines),
        figures=figures,
    )
    after = report["perplexity_after"]
    measured = [] if after is None else [{"metric": "perplexity", "value": after, **_HELD_OUT}]
    return write_card(about, license=license, base_model=hub_id(own), results=measured)


@contextmanager
def _described(model: PreTrainedModel, description: dict) -> Iterator[None]:
    model.config.quantization_config = description
    try:
        yield
    finally:
        del model.config.quantization_config


def _state(result, format: str) -> dict[str, torch.Tensor]:
    name, dtype = result.blocks.name, result.dtype
    state = {key: value for key, value in result.model.state_dict().items() if not key.startswith(f"{name}.")}
    tensors = gptq_tensors if format == "gptq" else packed_tensors
    for i in range(len(result.blocks.modules)):
        state |= {f"{name}.{i}.{key}": value for key, value in result.rest_of(i).items()}
        for layer, quantised in result.layers_of(i).items():
            packed = tensors(quantised, result.config, dtype)
            state |= {f"{name}.{i}.{layer}.{key}": value for key, value in packed.items()}
    return state


def packed_tensors(layer: QuantizedLayer, config: CbqConfig, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A layer as compressed-tensors stores it."""
    tensors = {
        "weight_packed": pack(layer.integers, config.bits),
        "weight_scale": layer.grid.scale.to(dtype),
        "weight_shape": torch.tensor(layer.integers.shape),
    }
    if not config.symmetric:
        tensors["weight_zero_point"] = pack(layer.grid.zero_point.T, config.bits).T.contiguous()
    return tensors


def gptq_tensors(layer: QuantizedLayer, config: CbqConfig, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A layer in the layout of GPTQ: words along the inputs, zero points stored less one."""
    rows, inputs = layer.integers.shape
    groups = layer.grid.scale.shape[1]
    # All zero points are 2^(b-1); what `pack` adds to integers it adds to the zeros, too.
    zeros = torch.full((groups, rows), -1)
    return {
        "qweight": pack(layer.integers, config.bits).T.contiguous(),
        "qzeros": pack(zeros, config.bits),
        "scales": layer.grid.scale.to(dtype).T.contiguous(),
        "g_idx": (torch.arange(inputs) // (inputs // groups)).to(torch.int32),
    }


def _description(result, format: str) -> dict:
    """`quantization_config` of config.json."""
    config, blocks = result.config, result.blocks
    quantised = {f"{blocks.name}.{i}.{name}" for i in range(len(blocks.modules)) for name in blocks.layers[i]}
    others = [
        name
        for name, module in result.model.named_modules()
        if isinstance(module, nn.Linear) and name not in quantised
    ]
    if format == "cbq":
        return {**config.to_dict(), "modules_to_not_convert": others}
    if format == "gptq":
        return {
            "quant_method": "gptq",
            "bits": config.bits,
            "group_size": config.group_size or -1,
            "sym": True,
            "desc_act": False,
            "checkpoint_format": "gptq",
            "modules_in_block_to_quantize": [sorted({name for names in blocks.layers for name in names})],
        }
    weights = {
        "num_bits": config.bits,
        "type": "int",
        "symmetric": config.symmetric,
        "strategy": "group" if config.group_size else "channel",
        "dynamic": False,
    }
    if config.group_size:
        weights["group_size"] = config.group_size
    activations = None
    if config.activation_bits:
        activations = {
            "num_bits": config.activation_bits,
            "type": "int",
            "symmetric": True,
            "strategy": "token",
            "dynamic": True,
        }
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": activations,
        # Beside quantised activations the library would look for integers in bytes.
        "format": "pack-quantized",
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": others,
        "config_groups": {"group_0": group},
    }


def sizes(model: PreTrainedModel, blocks: Blocks, config: CbqConfig) -> dict:
    """Bytes of all weights before and after, of which those of the quantised layers, and bits of each of their weights
    with all that belongs to it."""
    width = next(blocks.modules.parameters()).element_size()
    total = sum(weight.numel() * weight.element_size() for name, weight in _distinct(model))
    count = size = 0
    for i, names in enumerate(blocks.layers):
        for name in names:
            rows, inputs = blocks.modules[i].get_submodule(name).weight.shape
            groups = inputs // (config.group_size or inputs)
            count += rows * inputs
            size += rows * math.ceil(inputs * config.bits / 32) * 4 + rows * groups * width
            size += 0 if config.symmetric else math.ceil(rows * config.bits / 32) * 4 * groups
    return {
        "weights": count,
        "bits_per_weight": round(8 * size / count, 4),
        "bytes_before": total,
        "bytes": total - count * width + size,
    }


def _distinct(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights, and buffers that are saved; each once, tied ones as well."""
    yield from model.named_parameters()
    saved = model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in saved)
