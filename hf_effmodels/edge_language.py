"""A language model as a program for ONNX Runtime: one graph that reads a prompt and, with the keys and
values of what it has read, goes on token by token.

`export_language_model` writes it, `load_language_model` runs it: the result has `generate`, and goes into
`pipeline("text-generation", model=..., tokenizer=...)`.
"""

import contextlib
import copy
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from ._files import check_folder, whole_folder, write_json, write_text
from .edge_files import as_one_file, size_of, summed_up
from .edge_formats import check_format
from .hub.ids import reading

FACTS = "language_model.json"
FORMATS = ("onnx",)
#: So near are the logits of program and model, in their standard deviation; the largest difference of any.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class LanguageReport:
    """What was exported.

    Attributes:
        folder: where it is.
        format: "onnx".
        model: class of the exported model.
        difference: largest difference of a logit from PyTorch's, over their standard deviation: of a prompt, of three
            prompts one of which is filled up in front, and of further tokens with what was kept of a prompt.
        bytes: of the program.
        warnings: how many the exporters gave.
    """

    folder: str
    format: str
    model: str
    difference: float
    bytes: int
    warnings: int = 0


def is_language_model(config) -> bool:
    """Whether a configuration is of a causal language model, by the class that it names, if it does."""
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    names = getattr(config, "architectures", None) or ()
    return model is not None and (not names or model.__name__ in names)


def export_language_model(
    source: str | Path | PreTrainedModel,
    folder: str | Path,
    format: str = "onnx",
    *,
    tokenizer: Any = None,
    tolerance: float = TOLERANCE,
) -> LanguageReport:
    """Export a causal language model in float32; batches and texts are of any size.

    Args:
        source: a causal language model of transformers or of this package whose layers keep all keys and values (left
            as it is), a folder or an id of the Hub.
        folder: where to write; must not exist or be empty.
        format: "onnx".
        tokenizer: to put beside the program; by default the source's own.
        tolerance: largest `difference` (see `LanguageReport`) that is accepted.

    Raises:
        ValueError: another format, a model of another kind, or a program that gives other logits; nothing is written.
        ImportError: the extra `edge` is not installed.
        FileExistsError: `folder` has something in it.
    """
    if format not in FORMATS:
        raise ValueError(f"format: got {format!r}, accepted of language models are {', '.join(map(repr, FORMATS))}.")
    chosen, folder = check_format(format), Path(folder)
    check_folder(folder)
    model, tokenizer = _load_source(source, tokenizer)
    if not is_language_model(getattr(model, "config", None)):
        raise ValueError(f"source: got {type(model).__name__}, accepted are causal language models.")
    if getattr(model.config, "quantization_config", None) is not None:
        raise ValueError("source: its weights are packed; accepted are language models that are not quantised.")
    model = copy.deepcopy(model).eval().float().cpu()
    with whole_folder(folder) as new:
        with summed_up() as said:
            past = _write(model, chosen, new)
        as_one_file(new)
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(new)
        model.generation_config.save_pretrained(new)
        if tokenizer is not None:
            tokenizer.save_pretrained(new)
        write_json(new / FACTS, {"past": past})
        difference = _difference(model, load_language_model(new))
        if not difference <= tolerance:
            raise ValueError(
                f"{format}: the program's logits differ from PyTorch's by {difference:.1e} of their standard "
                f"deviation, accepted is tolerance={tolerance:g}; nothing was written."
            )
        write_text(new / "README.md", _readme(type(model).__name__, format, difference))
        written = size_of(new)
    return LanguageReport(str(folder), format, type(model).__name__, difference, written, len(said))


def load_language_model(folder: str | Path, **options: Any) -> "LanguageProgram":
    """Run an exported folder: a model with `generate`. `options` are those of `edge.load`."""
    from transformers.exporters import ExportedModel

    facts = json.loads(Path(folder, FACTS).read_text(encoding="utf-8"))
    format = json.loads(Path(folder, "export.json").read_text(encoding="utf-8"))["export_format"]
    program = ExportedModel.from_pretrained(folder, **{**check_format(format).options, **options})
    # pipeline() looks at the class's name, and complains about those it does not know.
    own = type(program.config.architectures[0], (LanguageProgram, GenerationMixin), {})
    model = own(program, facts["past"])
    model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()


class LanguageProgram(PreTrainedModel, GenerationMixin):
    """An exported language model, called as the model is.

    Args:
        program: transformers' `ExportedModel`.
        past: of each layer the numbers of heads and of channels of its keys, and of its values.
    """

    main_input_name = "input_ids"
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, program, past: list[list[list[int]]]):
        super().__init__(program.config)
        self._program, self._past = program, past

    @property
    def device(self) -> torch.device:
        return self._program.device

    @property
    def dtype(self) -> torch.dtype:
        return self._program.dtype

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (rows, tokens, vocabulary) of `input_ids` (rows, tokens), which follow `past_key_values`.

        `attention_mask` (rows, tokens so far and these) is 0 where a row is filled up in front.
        """
        rows, length = input_ids.shape
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        if attention_mask is None:
            attention_mask = torch.ones(rows, seen + length, dtype=torch.long)
        if position_ids is None:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        outputs = self._program(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids.expand(rows, -1).contiguous(),
            past_key_values=past_key_values if seen else self._nothing(rows),
        )
        return CausalLMOutputWithPast(logits=outputs.logits, past_key_values=outputs.past_key_values)

    def _nothing(self, rows: int) -> DynamicCache:
        """What was kept before the first token."""
        cache = DynamicCache(config=self.config)
        for number, shapes in enumerate(self._past):
            cache.update(*(torch.zeros(rows, heads, 0, channels) for heads, channels in shapes), number)
        return cache


def _load_source(source, tokenizer):
    if not isinstance(source, str | Path):
        return source, tokenizer
    with reading("source", str(source)):
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        if tokenizer is None:
            with contextlib.suppress(OSError, ValueError):  # it has none
                tokenizer = AutoTokenizer.from_pretrained(source)
        return model, tokenizer


def is_exported_language_model(folder: str | Path) -> bool:
    """Whether a folder is one that `export_language_model` has written."""
    return Path(folder, FACTS).is_file()


def is_folder_of_a_language_model(name: str) -> bool:
    """Whether a folder or an id of the Hub has a causal language model."""
    with reading("MODEL", name):
        return is_language_model(AutoConfig.from_pretrained(name))


def _prompts(model, rows: int, length: int) -> dict[str, torch.Tensor]:
    """Random prompts, the first of which, where there are several, is filled up in front."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.get_text_config().vocab_size, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    if rows > 1:
        mask[0, :2] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _write(model: PreTrainedModel, chosen, folder: Path) -> list[list[list[int]]]:
    """Write the program; gives the shapes of what a layer keeps, see `LanguageProgram`."""
    from transformers import exporters
    from transformers.exporters.utils import decompose_for_generation

    # A generation of its own settings: as long as the exporter asks for, and by the likeliest.
    plain = GenerationConfig(pad_token_id=0, bos_token_id=None, eos_token_id=None, do_sample=False)
    try:
        # torch.onnx reports its progress on standard output, which belongs to our caller.
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            stages = decompose_for_generation(
                model, _prompts(model, 2, 5), generation_config=plain, multi_token_decode=True
            )
            step, inputs = stages["decode"]
            layers = _layers(inputs.get("past_key_values"))
            config = getattr(exporters, chosen.config)(dynamic=True)
            exported = getattr(exporters, chosen.exporter)().export(step, inputs, config)
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ValueError(f"source: {type(model).__name__} cannot be exported: {reason}") from error
    exported.save_pretrained(folder)
    return [[[part.shape[1], part.shape[3]] for part in (layer.keys, layer.values)] for layer in layers]


def _layers(cache) -> list[DynamicLayer]:
    layers = getattr(cache, "layers", None)
    if not layers or any(type(layer) is not DynamicLayer for layer in layers):
        kept = sorted({type(layer).__name__ for layer in layers or (cache,)})
        raise ValueError(f"its layers keep {', '.join(kept)}; accepted are those that keep all keys and values.")
    return layers


@torch.no_grad()
def _difference(model: PreTrainedModel, program: LanguageProgram) -> float:
    differences = []
    for rows, length, more in ((1, 4, 1), (3, 7, 3)):
        prompts = _prompts(model, rows, length + more)
        ids, mask = prompts.values()
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        expected = model(**prompts, position_ids=positions).logits
        first = program(ids[:, :length], mask[:, :length])
        second = program(ids[:, length:], mask, past_key_values=first.past_key_values)
        got = torch.cat([first.logits, second.logits], dim=1)
        seen = mask.bool()  # what stands before a text's beginning says nothing
        if not (expected[seen].isfinite().all() and got[seen].isfinite().all()):
            raise ValueError("source: logits are not finite for random tokens; nothing was written.")
        differences.append(((got - expected)[seen].abs().max() / expected[seen].std()).item())
    return max(differences)


def _readme(model: str, format: str, difference: float) -> str:
    return f"""# {model}, exported

An {format} program (float32) of a language model, for texts of any number and length, which keeps what it has read.
Its logits differ from PyTorch's by {difference:.1e} of their standard deviation.

```bash
hf-effmodels predict . "The beginning of a text"
```

```python
from hf_effmodels.edge_language import load_language_model
from transformers import AutoTokenizer, pipeline

program = load_language_model(".")
generate = pipeline("text-generation", model=program, tokenizer=AutoTokenizer.from_pretrained("."))
```

`export.json` says what was exported with which versions; `{FACTS}` what the layers keep.
"""
