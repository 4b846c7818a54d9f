"""A language model as a program for ONNX Runtime: one graph that reads a prompt and, with the keys and
values of what it has read, goes on token by token.

`export_language_model` writes it, `load_language_model` runs it: the result has `generate`, and goes into
`pipeline("text-generation", model=..., tokenizer=...)`.
"""

import contextlib
import copy
import inspect
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
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
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from ._files import check_folder, whole_folder, write_json, write_text
from .edge_files import as_one_file, halve, size_of, summed_up
from .edge_formats import AGREEMENTS, TOLERANCES, Format, check_format, check_precision
from .edge_text import Comparison, compare, read_text
from .hub.ids import reading
from .hub.made_of import with_origin
from .hub.whole import load_whole
from .quantization.stored import quantizer_of
from .texts import longest_text

FACTS = "language_model.json"
#: The places whose logits are wanted, where a model can be told: of a long prompt the last alone.
_KEEP = "logits_to_keep"
#: Format -> what its exporter is asked for beside shapes that are free: what is kept of a text goes in and out.
FORMATS: dict[str, dict[str, Any]] = {"onnx": {}, "openvino": {"stateful": False}}


@dataclass(frozen=True)
class LanguageReport:
    """What was exported.

    Attributes:
        folder: where it is.
        format: "onnx" or "openvino".
        model: class of the exported model.
        difference: largest difference of a logit from PyTorch's, over their standard deviation: of a prompt, of three
            prompts one of which is filled up in front, and of further tokens with what was kept of a prompt.
        bytes: of the program.
        precision: "float32", "float16", "int8" or "int4".
        text: what it was compared on; None without a tokenizer, and so are the following.
        tokens, perplexity, perplexity_in_pytorch, agreement, continued: see `edge_text.Comparison`.
        warnings: of the exporters, as far as they say something of the model.
    """

    folder: str
    format: str
    model: str
    difference: float
    bytes: int
    precision: str = "float32"
    text: str | None = None
    tokens: int | None = None
    perplexity: float | None = None
    perplexity_in_pytorch: float | None = None
    agreement: float | None = None
    continued: float | None = None
    warnings: tuple[str, ...] = ()


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
    tolerance: float | None = None,
    precision: str = "float32",
    calibration: str | Path | Iterable[str] | None = None,
    min_agreement: float | None = None,
) -> LanguageReport:
    """Export a causal language model; batches and texts are of any size.

    Args:
        source: a causal language model of transformers or of this package whose layers keep keys and values (left as
            it is), a folder or an id of the Hub. Layers that see a window keep all of a text in the program.
        folder: where to write; must not exist or be empty.
        format: "onnx" or "openvino".
        tokenizer: to put beside the program; by default the source's own.
        tolerance: largest `difference` (see `LanguageReport`) that is accepted; 1e-4 by default, 2e-2 in float16.
            Integers are judged by `min_agreement` alone.
        precision: "float32", "float16" or, in ONNX, "int8" or "int4". Integers are weights alone, see `edge_weights`.
        calibration: text that the program is compared with PyTorch on, see `edge_text.read_text`. Nothing is fitted to
            it.
        min_agreement: the smallest share of places whose likeliest next token must be the same; by default 0.9, of
            "int4" 0.75.

    Raises:
        ValueError: another format, a model of another kind, or a program that gives other logits; nothing is written.
        ImportError: the extra `edge` is not installed.
        FileExistsError: `folder` has something in it.
    """
    if format not in FORMATS:
        raise ValueError(f"format: got {format!r}, accepted of language models are {', '.join(map(repr, FORMATS))}.")
    chosen, precision, folder = check_format(format), check_precision(precision, format), Path(folder)
    if min_agreement is not None and not 0 <= min_agreement <= 1:
        raise ValueError(f"min_agreement: got {min_agreement}, accepted are shares from 0 to 1.")
    check_folder(folder)
    model, tokenizer = _load_source(source, tokenizer)
    if not is_language_model(getattr(model, "config", None)):
        raise ValueError(f"source: got {type(model).__name__}, accepted are causal language models.")
    _check_plain(model.config, type(model).__name__)
    _check_kept(model)
    text = None
    if tokenizer is not None or calibration is not None or precision not in TOLERANCES:
        text = read_text(calibration, tokenizer, longest_text(model, tokenizer))
    model = copy.deepcopy(model).eval().float().cpu()
    with whole_folder(folder) as new:
        with summed_up() as said:
            past = _write(model, chosen, FORMATS[format], precision, new)
        if format == "onnx":
            as_one_file(new)
        elif precision == "float16":
            halve(new, format)
        written = size_of(new)
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(new)
        model.generation_config.save_pretrained(new)
        if tokenizer is not None:
            tokenizer.save_pretrained(new)
        write_json(new / FACTS, {"past": past, "precision": precision})
        program = load_language_model(new)
        difference = _difference(model, program)
        tolerance = TOLERANCES.get(precision, math.inf) if tolerance is None else tolerance
        if not difference <= tolerance:
            raise ValueError(
                f"{format}: the program's logits differ from PyTorch's by {difference:.1e} of their standard "
                f"deviation, accepted is tolerance={tolerance:g}; nothing was written."
            )
        compared = None if text is None else compare(model, program, text)
        least = AGREEMENTS.get(precision, 0.9) if min_agreement is None else min_agreement
        if compared is not None and compared.agreement < least:
            raise ValueError(
                f"precision: at {100 * compared.agreement:.0f} % of {compared.tokens} places of {text.name} the "
                f"likeliest next token is PyTorch's, accepted is min_agreement={least:g}; nothing was written."
            )
        told = _checked(difference, compared, text and text.name)
        readme = _readme(type(model).__name__, format, precision, told, tokenizer is not None)
        write_text(new / "README.md", with_origin(readme, model))
    return LanguageReport(
        folder=str(folder),
        format=format,
        model=type(model).__name__,
        difference=difference,
        bytes=written,
        precision=precision,
        text=text and text.name,
        **({} if compared is None else asdict(compared)),
        warnings=tuple(said),
    )


def load_language_model(folder: str | Path, **options: Any) -> "LanguageProgram":
    """Run an exported folder: a model with `generate`. `options` are those of `edge.load`; of ONNX Runtime's
    `session_options` the passes that lay out pictures are switched off."""
    from transformers.exporters import ExportedModel

    facts = json.loads(Path(folder, FACTS).read_text(encoding="utf-8"))
    format = json.loads(Path(folder, "export.json").read_text(encoding="utf-8"))["export_format"]
    if format == "onnx":
        options = {**options, "session_options": _without_layouts(options.get("session_options"))}
    program = ExportedModel.from_pretrained(folder, **{**check_format(format).options, **options})
    # pipeline() looks at the class's name, and complains about those it does not know.
    own = type(program.config.architectures[0], (LanguageProgram, GenerationMixin), {})
    model = own(program, facts["past"])
    model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()


def _without_layouts(options):
    """ONNX Runtime's options (None: its own) without its last passes, which lay out pictures for convolutions: with
    weights in float16 they end the process at some language models (1.31: Phi)."""
    from onnxruntime import GraphOptimizationLevel, SessionOptions

    options = options or SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return options


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
        self._can_keep = any(_KEEP in runner.metadata.kwargs for runner in program.runners.values())

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
        logits_to_keep: int = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (rows, tokens, vocabulary) of `input_ids` (rows, tokens), which follow `past_key_values`.

        `attention_mask` (rows, tokens so far and these) is 0 where a row is filled up in front; `logits_to_keep` is
        how many of the last tokens are asked for, 0 for all.
        """
        rows, length = input_ids.shape
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        if attention_mask is None:
            attention_mask = torch.ones(rows, seen + length, dtype=torch.long)
        if position_ids is None:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        keep = {}
        if self._can_keep:
            keep[_KEEP] = torch.arange(length - logits_to_keep if logits_to_keep else 0, length)
        outputs = self._program(
            **keep,
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids.expand(rows, -1).contiguous(),
            past_key_values=past_key_values if seen else self._nothing(rows),
        )
        return CausalLMOutputWithPast(logits=outputs.logits.float(), past_key_values=outputs.past_key_values)

    def _nothing(self, rows: int) -> DynamicCache:
        """What was kept before the first token."""
        cache = DynamicCache()  # of layers that keep all, whatever the model's own keep
        for number, shapes in enumerate(self._past):
            cache.update(
                *(torch.zeros(rows, heads, 0, channels, dtype=self.dtype) for heads, channels in shapes), number
            )
        return cache


def _load_source(source, tokenizer):
    if not isinstance(source, str | Path):
        return source, tokenizer
    with reading("source", str(source)):
        config = AutoConfig.from_pretrained(source)
    _check_plain(config, str(source))  # before its weights are read, which takes packages that may be missing
    model = load_whole(AutoModelForCausalLM, "source", str(source), dtype=torch.float32)
    with reading("source", str(source)):
        if tokenizer is None:
            with contextlib.suppress(OSError, ValueError):  # it has none
                tokenizer = AutoTokenizer.from_pretrained(source)
        return model, tokenizer


def _check_plain(config, name: str) -> None:
    """ValueError of a model whose weights are quantised: a program has other layers."""
    if (method := quantizer_of(config)) is None:
        return
    instead = "name the one it was made of, whose weights precision='int8' and precision='int4' round in the program"
    if method.startswith("bitnet"):  # there was none
        instead = "`hf-effmodels predict` and `chat` run it as it is"
    raise ValueError(f"source: {name} is quantised ({method}); accepted are language models that are not; {instead}.")


def is_exported_language_model(folder: str | Path) -> bool:
    """Whether a folder is one that `export_language_model` has written."""
    return Path(folder, FACTS).is_file()


def _prompts(model, rows: int, length: int) -> dict[str, torch.Tensor]:
    """Random prompts, the first of which, where there are several, is filled up in front."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.get_text_config().vocab_size, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    if rows > 1:
        mask[0, :2] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _write(
    model: PreTrainedModel, chosen: Format, options: Mapping[str, Any], precision: str, folder: Path
) -> list[list[list[int]]]:
    """Write the program; gives the shapes of what a layer keeps, see `LanguageProgram`."""
    from transformers import exporters
    from transformers.exporters.utils import decompose_for_generation

    if precision == "float16" and chosen.exporter == "OnnxExporter":
        # The model's own code says what it computes in more than half precision.
        model = copy.deepcopy(model).half()
    # A generation of its own settings: as long as the exporter asks for, and by the likeliest.
    plain = GenerationConfig(pad_token_id=0, bos_token_id=None, eos_token_id=None, do_sample=False)
    try:
        # torch.onnx reports its progress on standard output, which belongs to our caller.
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            asked = _prompts(model, 2, 5) | {"past_key_values": DynamicCache()}
            stages = decompose_for_generation(model, asked, generation_config=plain, multi_token_decode=True)
            step, inputs = stages["decode"]
            if _KEEP in inspect.signature(model.forward).parameters:
                inputs[_KEEP] = torch.tensor([0, 1, 1])  # more than there are tokens: a size of its own
            layers = inputs["past_key_values"].layers
            quantizer = None
            if precision in AGREEMENTS:
                from .edge_weights import quantizer_of

                quantizer = quantizer_of(precision)
            config = getattr(exporters, chosen.config)(dynamic=True, quantizer=quantizer, **options)
            exported = getattr(exporters, chosen.exporter)().export(step, inputs, config)
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        reason = (str(_first_of(error)).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ValueError(f"source: {type(model).__name__} cannot be exported: {reason}") from error
    exported.save_pretrained(folder)
    return [[[part.shape[1], part.shape[3]] for part in (layer.keys, layer.values)] for layer in layers]


def _first_of(error: BaseException) -> BaseException:
    """What went wrong first, as far as it is a sentence: the exporters put their own words around it."""
    found = error
    while (error := error.__cause__) is not None:
        found = error if " " in str(error).strip() else found
    return found


def _check_kept(model: PreTrainedModel) -> None:
    """ValueError unless all that a model's layers keep of a text are keys and values."""
    kept = {type(layer) for layer in DynamicCache(config=model.config).layers}
    others = sorted(one.__name__ for one in kept - {DynamicLayer, DynamicSlidingWindowLayer})
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        others = others or ["a state"]
    if others:
        raise ValueError(
            f"source: {type(model).__name__} cannot be exported: its layers keep {', '.join(others)}; accepted are "
            "those that keep keys and values."
        )


@torch.no_grad()
def _difference(model: PreTrainedModel, program: LanguageProgram) -> float:
    differences = []
    for rows, length, more in ((1, 4, 1), (3, 7, 3)):
        prompts = _prompts(model, rows, length + more)
        ids, mask = prompts.values()
        positions = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
        if "position_ids" not in inspect.signature(model.forward).parameters:
            positions = {}  # it counts by the mask
        expected = model(**prompts, **positions).logits
        first = program(ids[:, :length], mask[:, :length])
        second = program(ids[:, length:], mask, past_key_values=first.past_key_values)
        got = torch.cat([first.logits, second.logits], dim=1)
        seen = mask.bool()  # what stands before a text's beginning says nothing
        if not (expected[seen].isfinite().all() and got[seen].isfinite().all()):
            raise ValueError("source: logits are not finite for random tokens; nothing was written.")
        differences.append(((got - expected)[seen].abs().max() / expected[seen].std()).item())
    return max(differences)


def _checked(difference: float, compared: Comparison | None, text: str | None) -> str:
    """What the README says of the program beside PyTorch."""
    told = f"Its logits differ from PyTorch's (float32) by {difference:.1e} of their standard deviation at most."
    if compared is None:
        return told
    agreement, continued = 100 * compared.agreement, 100 * compared.continued
    return f"""{told}
On {compared.tokens} tokens of {text} its perplexity is {compared.perplexity:.4g},
PyTorch's {compared.perplexity_in_pytorch:.4g}; at {agreement:.1f} % of the places the likeliest token is the same.
Going on by the likeliest, the first {continued:.0f} % of the tokens are the same."""


def _readme(model: str, format: str, precision: str, checked: str, has_tokenizer: bool) -> str:
    return f"""# {model}, exported

An {format} program ({precision}) of a language model, which keeps what it has read; for any number of texts.
{checked}

In this folder:

{_WITH_TOKENIZER if has_tokenizer else _WITHOUT_TOKENIZER}
`export.json` says what was exported with which versions; `{FACTS}` what the layers keep.
"""


_WITH_TOKENIZER = """```bash
hf-effmodels predict . "The beginning of a text"
hf-effmodels chat .
```

```python
from hf_effmodels.edge_language import load_language_model
from transformers import AutoTokenizer, pipeline

program = load_language_model(".")
generate = pipeline("text-generation", model=program, tokenizer=AutoTokenizer.from_pretrained("."))
print(generate("The beginning of a text", max_new_tokens=20)[0]["generated_text"])
```
"""
_WITHOUT_TOKENIZER = """```python
import torch
from hf_effmodels.edge_language import load_language_model

program = load_language_model(".")
ids = torch.tensor([[1, 2, 3]])  # of the model's tokenizer, which is not here
print(program.generate(ids, max_new_tokens=20))
```
"""
