"""Predicting: read, answer, and say or write it."""

import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from .._command_line import show
from .answers import Answers
from .forms import ENDINGS, in_form, on_one_line, place_of, save, without_pictures
from .inputs import STDIN, Input, Numbered, find_inputs, numbered, with_stems_of_their_own
from .predictor import Options, Predictor
from .processes import Processes

#: The files of a model's folder that make it what it is.
_OF_A_MODEL = ("*config.json", "*.safetensors", "*.bin", "*.onnx", "*.xml", "*.pte")


def predict(predictor: Predictor, options: Options, rows: Numbered | None, arguments, processes: Processes) -> int:
    """Predict on files, or on rows of a data set.

    Args:
        rows: of a data set; None for `arguments.inputs`.
        arguments: with `inputs`, `json`, `csv`, `save`, `output`, `batch_size`, `model`, `revision`.

    Returns:
        How many inputs could not be read; they are named on standard error.

    Raises:
        ValueError: there is nothing to predict on. FileExistsError: something else is where pictures would go.
    """
    if arguments.save is not None:
        for item in _known(predictor, rows, arguments):
            place_of(item, arguments.save)
    if arguments.output is None:
        return _print(predictor, rows, arguments)
    return _write(predictor, options, rows, arguments, processes)


def _known(predictor: Predictor, rows: Numbered | None, arguments) -> Iterator[Input]:
    """The inputs that can be told before one is read, as far as their pictures' names go."""
    if rows is not None:
        return (Input("", None, rows.stem(number)) for number in range(rows.count))
    given = [name for name in arguments.inputs if name != STDIN]
    return with_stems_of_their_own(find_inputs(given, predictor.takes))


def _print(predictor: Predictor, rows: Numbered | None, arguments) -> int:
    """Say the answers as they come."""
    if rows is None:
        items = with_stems_of_their_own(find_inputs(arguments.inputs, predictor.takes))
    else:
        items = map(rows.get, range(rows.count))
    as_text = in_form("json" if arguments.json else "csv" if arguments.csv else "lines", predictor)
    failed = seen = 0
    # A bar and answers on one screen would tear each other up.
    hidden = sys.stdout.isatty()
    for count, found in _answers(predictor, enumerate(items), arguments, hidden, rows and rows.count):
        seen, failed = seen + count, failed + count - len(found)
        for item, said in found.values():
            show(as_text(item.name, said))
    if not seen:
        raise ValueError("INPUT: there is nothing to predict on.")
    return failed


def _write(predictor: Predictor, options: Options, rows: Numbered | None, arguments, processes: Processes) -> int:
    """Write the answers into a file, this process its share of them."""
    if rows is None:
        rows = numbered(with_stems_of_their_own(find_inputs(arguments.inputs, predictor.takes)), predictor.takes)
    if not rows.count:
        raise ValueError("INPUT: there is nothing to predict on.")
    file, first = Path(arguments.output), processes.index == 0
    settings = {"model": arguments.model, "revision": arguments.revision, **_facts(Path(arguments.model))}
    settings |= {"task": predictor.task, **asdict(options), "save": arguments.save, **rows.facts()}
    answers = Answers(file, rows.count, settings, first, processes.wait)
    own = answers.missing(processes.index, processes.count)
    items = ((number, rows.get(number)) for number in own)
    for _, found in _answers(predictor, items, arguments, not first, len(own)):
        answers.add({number: {"input": item.name, **said} for number, (item, said) in found.items()})
    form = "json" if arguments.json else "csv" if arguments.csv else ENDINGS.get(file.suffix.lower(), "lines")
    as_text = in_form(form, predictor)
    failed = answers.finish(lambda said: as_text(said.pop("input"), said))
    if not first:
        return 0  # the first speaks for all
    show(f"{file}: {rows.count - failed} answers\n")
    return failed


def _facts(folder: Path) -> dict[str, str]:
    """By what a model that lies here is known again."""
    if not folder.is_dir():
        return {}
    from ..training.data.fingerprints import fingerprint

    # A pipeline has a folder for each part.
    where = [folder, *(path.parent for path in folder.glob("*/config.json") if (folder / "model_index.json").exists())]
    files = sorted(file for place in where for pattern in _OF_A_MODEL for file in place.glob(pattern))
    return {"weights": fingerprint(files)}


def _answers(
    predictor: Predictor, items: Iterable[tuple[int, Input]], arguments, hidden: bool, total: int | None
) -> Iterator[tuple[int, dict[int, tuple[Input, dict]]]]:
    """Batch by batch, how many inputs there were, and of those that could be read number -> what is said."""
    from tqdm import tqdm

    with tqdm(
        desc=predictor.task, unit=predictor.takes, total=total, disable=hidden or not sys.stderr.isatty()
    ) as bar:
        for batch in _batches(items, arguments.batch_size):
            read = []
            for number, item in batch:
                try:
                    read.append((number, item, _read(item, predictor)))
                except (ValueError, OSError) as error:
                    why = " ".join(str(error).split())
                    bar.write(f"hf-effmodels: {on_one_line(item.name)}: {why}", file=sys.stderr)
            found = {}
            answers = predictor.answer([value for *_, value in read]) if read else []
            for (number, item, value), said in zip(read, answers, strict=True):
                if arguments.save is not None:
                    place = place_of(item, arguments.save)
                    said = said | {"saved": str(save(predictor.draw(value, said), place))}
                found[number] = item, without_pictures(said)
            yield len(batch), found
            bar.update(len(batch))


def _batches(items: Iterable, size: int) -> Iterator[list]:
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def _read(item: Input, predictor: Predictor):
    if predictor.takes == "text":
        if not (item.value or "").strip():
            raise ValueError("there is no text")
        return item.value
    from ..images import read_image

    return read_image(item.value, predictor.num_channels)
