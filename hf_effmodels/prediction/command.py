"""`hf-effmodels predict MODEL INPUT ...` and `hf-effmodels chat MODEL`."""

import csv
import io
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .._command_line import Parser, in_words_of_the_command, show
from .._files import whole_file
from .inputs import STDIN, Input, check_inputs, find_inputs
from .predictor import MODULES, Options, Predictor, Source, load_predictor

#: Of an answer, what is not for JSON or a table.
_PICTURES = ("picture", "numbers", "maps")
#: What the pictures that are written say of themselves, by which the next call knows them again.
_MARK = ("Software", "hf-effmodels predict")


def main(argv: Sequence[str]) -> int:
    """Predict, and print an answer a line as they come.

    Returns:
        The exit code: 1 where an input could not be read, which is said, and the others were predicted.

    Raises:
        ValueError, OSError: wrong arguments, before anything is predicted.
    """
    parser = _parser()
    arguments = parser.parse_args(list(argv))
    _check(arguments)
    options = Options(**{name: getattr(arguments, name) for name in Options.__dataclass_fields__})
    try:
        predictor = load_predictor(source_of(arguments), task=arguments.task, options=options, device=arguments.device)
        if arguments.save is not None and predictor.draw is None:
            raise ValueError(f"save: got {arguments.save!r}, but {predictor.task} has nothing to draw.")
        if predictor.task == "super-resolution" and arguments.save is None:
            raise ValueError("save: where to write the enlarged images, such as --save enlarged")
    except (ValueError, OSError, ImportError) as error:
        raise type(error)(in_words_of_the_command(str(error), parser.words())) from error
    check_inputs(arguments.inputs, predictor.takes)
    if arguments.save is not None:
        names = _Names(arguments.save)
        for item in find_inputs([name for name in arguments.inputs if name != STDIN], predictor.takes):
            names.of(item)
    return _predict(predictor, arguments)


class ModelParser(Parser):
    """Knows what functions call its options."""

    def words(self) -> dict[str, str]:
        return {action.dest: action.option_strings[-1] for action in self.declared if action.option_strings}


def _parser() -> ModelParser:
    parser = ModelParser(
        prog="hf-effmodels predict",
        description="What a model says of pictures or texts, one line each.",
        epilog="examples:  hf-effmodels predict out photo.jpg   |   predict out photos/ --csv > found.csv   |   "
        "find . -name '*.png' | hf-effmodels predict out - --json",
    )
    add_model(parser)
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="image files and folders of them; of models of text, texts and files with one text a line; -: standard "
        "input, with a file name or a text a line",
    )
    parser.add_argument("--task", help=f"what to do, where a model can do more: {', '.join(MODULES)}")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print a JSON object for each input")
    how.add_argument("--csv", action="store_true", help="print a table, with a row for each class or box")
    parser.add_argument("--save", metavar="DIR", help="write pictures: boxes and masks drawn, enlarged images")
    parser.add_argument("--top-k", type=int, default=5, help="classes to tell (default: 5)")
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score of a box (default: 0.5)")
    parser.add_argument("--prompt", help="question to a vision-language model")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="longest text that is generated (default: 64)")
    parser.add_argument(
        "--labels", nargs="+", default=(), metavar="NAME", help="behind the inputs: names to choose from (zero-shot)"
    )
    parser.add_argument(
        "--template", default=Options.template, help=f"what is said of a name (default: {Options.template!r})"
    )
    parser.add_argument("--steps", type=int, help="steps of diffusion (default: the model's)")
    parser.add_argument("--points", type=int, default=16, help="masks: points along a side (default: 16)")
    parser.add_argument("--batch-size", type=int, default=8, help="inputs at a time (default: 8)")
    return parser


def add_model(parser: Parser) -> None:
    """The arguments that say which model, and how to read it."""
    parser.add_argument("model", metavar="MODEL", help="a preset, a folder, an id of the Hub, or what export wrote")
    parser.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    parser.add_argument("--token", help="for gated or private models on the Hub")
    parser.add_argument("--trust-remote-code", action="store_true", help="run model code that lies beside the weights")
    parser.add_argument("--device", help="where to compute: cpu, cuda, mps (default: an accelerator, if there is one)")


def source_of(arguments) -> Source:
    """What `add_model` has read."""
    return Source(arguments.model, arguments.revision, arguments.token, arguments.trust_remote_code)


def _check(arguments) -> None:
    for name in ("top_k", "max_new_tokens", "steps", "points", "batch_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')}: got {value}, accepted are whole numbers from 1.")
    if not 0 <= arguments.threshold <= 1:
        raise ValueError(f"--threshold: got {arguments.threshold}, accepted are numbers from 0 to 1.")
    check_device(arguments.device)


def check_device(device: str | None) -> None:
    """ValueError unless torch can compute there."""
    if device is None:
        return
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or ["it cannot be used"])[0]
        raise ValueError(f"--device: got {device!r}: {reason}") from None


def _predict(predictor: Predictor, arguments) -> int:
    from tqdm import tqdm

    failed, written, names = 0, False, _Names(arguments.save)
    found = find_inputs(arguments.inputs, predictor.takes)
    # A bar and answers on one screen would tear each other up.
    hidden = not sys.stderr.isatty() or sys.stdout.isatty()
    with tqdm(desc=predictor.task, unit=predictor.takes, disable=hidden) as bar:
        for batch in _batches(found, arguments.batch_size):
            read = []
            for item in batch:
                try:
                    read.append((item, _read(item, predictor)))
                except (ValueError, OSError) as error:
                    failed += 1
                    sys.stderr.write(f"hf-effmodels: {item.name}: {' '.join(str(error).split())}\n")
            answers = predictor.answer([value for _, value in read]) if read else []
            for (item, value), said in zip(read, answers, strict=True):
                if arguments.save is not None:
                    said = said | {"saved": str(_save(predictor.draw(value, said), names.of(item)))}
                said = {name: part for name, part in said.items() if name not in _PICTURES}
                _tell(predictor, item.name, said, arguments, header=not written)
                written = True
            bar.update(len(batch))
    if not written and not failed:
        raise ValueError("INPUT: there is nothing to predict on.")
    return 1 if failed else 0


def _batches(items: Iterator[Input], size: int) -> Iterator[list[Input]]:
    while batch := list(itertools.islice(items, size)):
        yield batch


def _read(item: Input, predictor: Predictor):
    if predictor.takes == "text":
        return item.value
    from ..images import read_image

    return read_image(item.value, predictor.num_channels)


def _tell(predictor: Predictor, name: str, said: dict, arguments, header: bool) -> None:
    if arguments.json:
        show(json.dumps({"input": name, **said}, ensure_ascii=False) + "\n")
    elif arguments.csv:
        show(_as_csv(name, predictor.rows(said), header))
    else:
        saved = f"  -> {said['saved']}" if "saved" in said else ""
        show(f"{name}: {predictor.line(said)}{saved}\n")


def _as_csv(name: str, rows: list[dict], header: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header and rows:
        writer.writerow(["input", *rows[0]])
    writer.writerows([name, *row.values()] for row in rows)
    return text.getvalue()


class _Names:
    """Where the pictures go: files of one name, from different folders, do not replace each other, nor what somebody
    else has written there, which may be the inputs."""

    def __init__(self, folder: str | None):
        self.folder = Path(folder or "")
        self.taken: set[str] = set()

    def of(self, item: Input) -> Path:
        stem = Path(item.value).stem
        possible = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        name = next(name for name in possible if name not in self.taken)
        self.taken.add(name)
        file = self.folder / f"{name}.png"
        if os.path.lexists(file) and (not _is_ours(file) or os.path.samefile(file, item.value)):
            raise FileExistsError(f"--save: {file} is there already, and not of an earlier call; name another folder.")
        return file


def _save(picture, file: Path) -> Path:
    from PIL.PngImagePlugin import PngInfo

    file.parent.mkdir(parents=True, exist_ok=True)
    said = PngInfo()
    said.add_text(*_MARK)
    with whole_file(file) as new:
        picture.save(new, format="PNG", pnginfo=said)
    return file


def _is_ours(file: Path) -> bool:
    """Whether a file is a picture that an earlier call has written."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.format == "PNG" and image.info.get(_MARK[0]) == _MARK[1]
    except Exception:  # whatever PIL's parsers make of a file that is none
        return False


def chat(argv: Sequence[str]) -> int:
    """Talk with a language model until the input ends."""
    parser = ModelParser(
        prog="hf-effmodels chat",
        description="Talk with a language model. One without a chat template goes on with what it is given. An empty "
        "line or the end of the input ends it.",
    )
    add_model(parser)
    parser.add_argument("--max-new-tokens", type=int, default=128, help="longest answer (default: 128)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: always the likeliest token (default)")
    parser.add_argument("--seed", type=int, default=0, help="of the random choice, with a temperature (default: 0)")
    arguments = parser.parse_args(list(argv))
    if arguments.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens: got {arguments.max_new_tokens}, accepted are whole numbers from 1.")
    if not 0 <= arguments.temperature < float("inf"):
        raise ValueError(f"--temperature: got {arguments.temperature}, accepted are numbers from 0.")
    check_device(arguments.device)
    from .talk import talk

    talk(source_of(arguments), arguments.device, arguments.max_new_tokens, arguments.temperature, arguments.seed)
    return 0
