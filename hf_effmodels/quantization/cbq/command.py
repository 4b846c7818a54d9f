"""`hf-effmodels quantize MODEL OUT ...`"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path

from ..._command_line import Parser
from ..._files import check_folder
from ..._kinds import check_generates, check_head, stated_config
from ..._licenses import check_license
from ..._option_types import count, finite, from_zero
from ..._places import check_apart
from ..._written import OVERWRITE, check_free, check_rewritable
from ...compression.command.corpus import add_corpus, check_named, find_texts
from ...compression.command.models import check_device_name
from ...compression.command.words import in_words_of_the_command
from .report import REPORT, as_table
from .settings import FORMATS, METHODS, TARGETS, CbqSettings
from .settings import check_format as check_settings

#: Arguments without an option.
PLACES = ("model", "out")
#: Bytes of text that are read for a token that is wanted: more than a token ever has on average.
_BYTES_PER_TOKEN = 16
#: Of the tokenizer, the report and its picture, which are written beside the weights.
_BESIDE = 10_000_000
#: How many times the text that is needed is read, for samples to be drawn from.
_CHOICE = 4


def main(argv: Sequence[str]) -> None:
    """Quantise a language model and write it.

    Raises:
        ValueError, OSError: for wrong input, before any long work; nothing has been written then.
    """
    parser = _parser()
    arguments, rest = parser.parse_known_args(list(argv))
    parser.check_no_rest(rest)
    try:
        report = _run(arguments)
    except (ValueError, OSError) as error:
        kind = ValueError if isinstance(error, ValueError) else OSError
        raise kind(in_words_of_the_command(str(error), vars(arguments), PLACES)) from error
    sys.stdout.write((json.dumps(report, indent=2) if arguments.json else as_table(report)) + "\n")


def or_none(of):
    """A value that may be `none`."""

    def read(text: str):
        try:
            return None if text.lower() == "none" else of(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"got {text}, accepted are whole numbers and none") from None
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error} and none") from None

    return read


def _parser() -> Parser:
    parser = Parser(
        prog="hf-effmodels quantize",
        description="Quantise the blocks of a language model (CBQ, https://arxiv.org/abs/2312.07950), on a CPU or a "
        "GPU. A call that was killed goes on when it is given again, and ends in the same result.",
    )
    parser.add_argument("model", metavar="MODEL", help="a Hub id or a folder")
    parser.add_argument("out", metavar="OUT", help="folder to write: new, empty, or with --overwrite")
    parser.add_argument(
        "--format", default=None, help=f"{', '.join(FORMATS)} (default: compressed-tensors; 3 bits: cbq)"
    )
    parser.add_argument("--samples", type=count, default=64, help="calibration samples")
    parser.add_argument("--segment-length", type=count, default=512, help="tokens of a sample")
    parser.add_argument(
        "--eval-samples", type=from_zero, default=64, help="held-out samples for the perplexity; 0: none"
    )
    parser.add_argument("--offload", action="store_true", help="keep the blocks that are not in use on disk")
    parser.add_argument("--work", help="folder for the progress (default: OUT.work); it goes when all is written")
    parser.add_argument("--license", help="licence of the weights, for the card")
    parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda, ...")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    how = parser.add_argument_group("how")
    how.add_argument("--bits", type=count, help="of the weights: 2, 3, 4 or 8")
    how.add_argument("--group-size", type=or_none(int), help="inputs that share a step; none: one step a row")
    how.add_argument("--activation-bits", type=or_none(count), help="of the layers' inputs: 4, 6, 8 or none")
    how.add_argument("--asymmetric", dest="symmetric", action="store_false", help="grids with zero points")
    how.add_argument("--method", choices=METHODS)
    how.add_argument("--window", type=count, help="blocks learned together")
    how.add_argument("--overlap", type=from_zero, help="blocks that a window shares with the next")
    how.add_argument("--target", choices=TARGETS, help="outputs to come near to")
    how.add_argument("--kld-weight", type=finite, help="of the divergence beside the squared distance")
    how.add_argument(
        "--rank",
        type=or_none(count),
        help="of the learned rounding (default: the published 5); none: one for each weight, better where measured",
    )
    how.add_argument("--rounding", choices=("hard", "soft"), help="of the weights while they are learned")
    how.add_argument("--rounding-init", choices=("fraction", "zero"), help="begin at the weights, or half-way")
    how.add_argument("--fixed-steps", dest="learn_steps", action="store_false", help="learn only the rounding")
    how.add_argument("--no-cfp", dest="cfp", action="store_false", help="no coarse-to-fine pre-processing")
    how.add_argument("--lambda1", type=finite, help="of the pre-processing's coarse step")
    how.add_argument("--lambda2", type=finite, help="of its fine step")
    how.add_argument("--cfp-rounds", type=count, help="how often it looks for outliers")
    how.add_argument("--rounding-lr", type=finite, help="learning rate of the rounding")
    how.add_argument("--step-lr", type=finite, help="learning rate of the steps of the grid, relative to themselves")
    how.add_argument("--rounding-weight", type=finite, help="of the term that drives the rounding to a side")
    how.add_argument("--damping", type=finite, help="of GPTQ's Hessian, as a share of its mean diagonal")
    how.add_argument("--batch-size", type=count, help="samples of a step")
    how.add_argument("--epochs", type=from_zero, help="passes over the samples for each window")
    how.add_argument("--seed", type=from_zero, help="of the rounding at the start and of the samples' order")
    how.add_argument("--modules-to-not-convert", nargs="+", help="names, or their ends, of layers to leave")
    how.add_argument("--blocks", help="name of the list of blocks, where it is not found")
    defaults = CbqSettings()
    how.set_defaults(**{f.name: getattr(defaults, f.name) for f in fields(CbqSettings) if f.name != "format"})
    add_corpus(parser, "document")
    return parser


def _run(arguments) -> dict:
    named = {f.name: getattr(arguments, f.name) for f in fields(CbqSettings) if f.name != "format"}
    form = arguments.format or ("cbq" if arguments.bits == 3 else "compressed-tensors")
    check_settings(form, CbqSettings(**named))
    output = Path(arguments.out)
    work = Path(arguments.work) if arguments.work else output.absolute().with_name(f"{output.name}.work")
    check_apart("out", output, "MODEL", arguments.model, inside=False)
    _check_places(output, work)
    check_free("out", output, arguments.overwrite)
    if arguments.segment_length < 2:
        raise ValueError(
            f"segment_length: got {arguments.segment_length}, accepted are 2 and more: a token is predicted."
        )
    if arguments.method != "rtn" or arguments.dataset is not None:
        check_named(arguments)
    check_license(arguments.license)
    check_device_name(arguments.device)
    check_head("MODEL", arguments.model, "AutoModelForCausalLM")
    if stated_config(arguments.model).get("quantization_config") is not None:
        raise ValueError(f"model: {arguments.model} is quantised already.")
    # What follows imports torch and transformers.
    from ...training import set_up_logging
    from .configuration_cbq import CbqConfig
    from .files import check_format, sizes

    config = CbqConfig(**named)
    set_up_logging()
    model, tokenizer = _load(arguments)
    from .blocks import find_blocks

    # What cannot be quantised or written is said before any text is read.
    blocks = find_blocks(model, config)
    check_format(form, config, model, blocks.left)
    batches, evaluation = _texts(arguments, tokenizer, config)
    from .quantization import quantize
    from .room import bytes_of_work, check_room

    tokens = sum(batch.numel() for batch in batches or ())
    of_work, of_output = bytes_of_work(model, tokens, arguments.offload), sizes(model, blocks, config)["bytes"]
    check_room({"work": (work, of_work), "out": (output, of_output + _BESIDE)}, kept=work)
    result = quantize(
        model,
        batches,
        config,
        work=work,
        offload=arguments.offload,
        evaluation=evaluation,
        progress=sys.stderr.isatty(),
    )
    try:
        report = result.save(output, form, tokenizer, arguments.license)
    except OSError as error:
        said = str(error).removeprefix("folder: ")
        raise OSError(f"out: {said} What was computed stays in {work}: the same call goes on from there.") from error
    shutil.rmtree(work, ignore_errors=True)
    return {**report, "folder": str(output)}


def _check_places(output: Path, work: Path) -> None:
    for argument, check in (
        ("out", lambda: check_rewritable(output, "quantize", (REPORT, "config.json", "model.safetensors"))),
        ("work", lambda: check_folder(work, accepts_content=True)),
    ):
        try:
            check()
        except OSError as error:
            raise ValueError(f"{argument}: {str(error).removeprefix('folder: ')}") from None
    out, inner = output.resolve(), work.resolve()
    if out == inner or out in inner.parents or inner in out.parents:
        raise ValueError(f"work: {work} and OUT lie in each other; accepted is a folder of its own.")


def _load(arguments):
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoTokenizer

    from ...compression.command.models import check_device, load_config, load_model
    from ...hub.ids import reading

    check_device(arguments.device)
    config = load_config(arguments.model, "model")
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"model: {arguments.model} is quantised already.")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and "AutoModelForCausalLM" not in getattr(
        config, "auto_map", {}
    ):
        raise ValueError(f"model: {arguments.model} is a {config.model_type}, accepted are causal language models.")
    check_generates("model", arguments.model, config.to_dict())
    with reading("model", arguments.model):
        tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    return load_model(arguments.model, "model").to(arguments.device), tokenizer


def _texts(arguments, tokenizer, config: CbqSettings):
    """Calibration batches, drawn at random from the beginning of the training text, and held-out ones."""
    import torch

    needs_text = config.method != "rtn" or arguments.dataset is not None
    if not needs_text:
        return None, None
    train, held_out = find_texts(arguments)
    wanted = arguments.samples
    blocks = _segments(train, tokenizer, arguments, _CHOICE * wanted, "the calibration text")
    if len(blocks) < wanted:
        raise ValueError(
            f"samples: got {wanted}, but the calibration text has only {len(blocks)} segments of "
            f"{arguments.segment_length} tokens."
        )
    order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(config.seed))[:wanted]
    batches = [torch.stack([blocks[int(number)]["input_ids"] for number in order])]
    if not arguments.eval_samples:
        return batches, None
    held_out = _segments(held_out, tokenizer, arguments, arguments.eval_samples, "the held-out text")
    rows = range(min(len(held_out), arguments.eval_samples))
    return batches, [torch.stack([held_out[number]["input_ids"] for number in rows])]


def _segments(rows, tokenizer, arguments, wanted: int, name: str):
    import datasets

    from ...training.data.text.packing import Block, Encoder, PackedBlocks, Separators

    texts, left = [], _BYTES_PER_TOKEN * (wanted + 1) * arguments.segment_length
    for row in islice(rows, arguments.max_documents):
        texts.append((row["text"] or "")[:left])  # a document may be large
        left -= len(texts[-1])
        if left <= 0:
            break
    separators = Separators.of(tokenizer)
    try:
        return PackedBlocks(
            datasets.Dataset.from_dict({"text": texts}),
            Encoder(tokenizer, separators),
            Block(arguments.segment_length, separators, False),
            name=name,
        )
    except ValueError as error:
        raise ValueError(str(error).replace("--block_size", "--segment-length")) from error
