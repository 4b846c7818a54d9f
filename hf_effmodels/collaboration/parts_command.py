"""The commands `decompose`, `assemble` and `assign`: one classifier as several small ones, and these on devices.

What is typed is looked at before anything heavy is imported.
"""

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from .._command_line import Parser, in_words_of_the_command, show
from .._files import check_folder
from .._kinds import check_head, stated_config, stated_type
from .._model_place import check_model
from .._option_types import whole
from .._places import check_apart
from .._written import OVERWRITE, check_free, check_report, check_rewritable
from ..training.run.arguments import ArgumentReader
from ..training.run.early import by_place, look_at
from .assignment import Device, assign

#: In the folder of the parts.
REPORT = "parts.json"


def main_decompose(argv: Sequence[str]) -> dict:
    """Write a smaller network for each group of classes; print and return what became of each.

    Raises:
        ValueError, OSError, ImportError: wrong input, before anything is written.
    """
    reader = ArgumentReader(by_place(argv, "model", "output"), "hf-effmodels decompose")
    read = look_at(reader, Path(__file__).with_name("parts.py"))
    if read is not None:
        try:
            check_apart("--output", read[0].output, "MODEL", read[0].model)
            check_places(read[0])
        except OSError as error:
            words = {"folder": "--output", "output": "--output"}
            raise type(error)(in_words_of_the_command(str(error), words)) from error
        _check_part("--model", read[0].model)
    from .parts import decompose

    return decompose(reader)


def check_places(arguments) -> None:
    """FileExistsError for an `--output` of `decompose` where something would be lost."""
    check_folder(Path(arguments.output), accepts_content=True)
    check_report(Path(arguments.output) / REPORT, ("model", "seed", "parts"), "decompose")
    for folder in folders_of(arguments):
        check_rewritable(folder, "decompose")
        check_free("output", folder, arguments.overwrite)


def folders_of(arguments) -> list[Path]:
    """Of each part."""
    return [Path(arguments.output) / f"part{number}" for number in range(arguments.parts)]


def _check_part(argument: str, name: str) -> None:
    """What is no DeViT of one part and cannot become one, as far as a folder's configuration tells."""
    check_head(argument, name, "AutoModelForImageClassification")
    model_type = stated_type(name)
    if model_type not in (None, "vit", "deit", "devit"):
        raise ValueError(f"{argument}: {name} is a {model_type}, accepted are ViT, DeiT and DeViT of one part.")
    parts = stated_config(name).get("parts")
    if model_type == "devit" and isinstance(parts, list) and len(parts) != 1:
        raise ValueError(f"{argument}: {name} has {len(parts)} parts, accepted is a DeViT of one.")


def main_assemble(argv: Sequence[str]) -> None:
    """Write one model out of several of one part each, with a new fusion."""
    parser = Parser(prog="hf-effmodels assemble", description="One DeViT of trained parts, with a fusion to train.")
    parser.add_argument("output", metavar="OUTPUT", help="folder to write")
    parser.add_argument("parts", metavar="PART", nargs="+", help="folders or ids of DeViTs of one part, ViTs or DeiTs")
    parser.add_argument("--teacher", help="who is going to teach it: the fusion is as wide, and labels have its order")
    parser.add_argument(
        "--fusion-hidden-size", type=whole(1, 2**20), help="width of the fusion (default: the teacher's, or none)"
    )
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE)
    arguments, rest = parser.parse_known_args(list(argv))
    parser.check_no_rest(rest)
    words = {a.dest: a.option_strings[-1] if a.option_strings else a.metavar for a in parser.declared}
    words |= {"class_groups": "PART", "folder": "OUTPUT"}
    try:
        check_rewritable(Path(arguments.output), "assemble")
        check_free("output", arguments.output, arguments.overwrite)
        for name in arguments.parts:
            _check_part("PART", name)
        if arguments.teacher is not None:
            check_model("--teacher", arguments.teacher)
        from .parts import assemble_parts

        model = assemble_parts(arguments)
    except (ValueError, OSError) as error:
        raise type(error)(in_words_of_the_command(str(error), words)) from error
    words = ["hf-effmodels", "train", "--config", "devit/digits_fusion", "--model", arguments.output]
    words += ["--teacher", arguments.teacher or "TEACHER"]
    show(
        f"{arguments.output}: {len(arguments.parts)} parts, {model.num_parameters() / 1e6:.3f} M parameters, "
        f"{model.config.num_labels} classes; the fusion's weights are random\n"
        f"next, such as for digits: {shlex.join(words)}\n"
    )


def main_assign(argv: Sequence[str]) -> dict[str, str]:
    """Say which device each part goes to."""
    from .._option_types import number

    parser = Parser(prog="hf-effmodels assign", description="Which device runs which part, greedily (ED-ViT).")
    parser.add_argument("parts", metavar="PART", nargs="+", help="folders or ids of DeViTs, ViTs or DeiTs of one part")
    parser.add_argument(
        "--device",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "BYTES", "MACS"),
        help="a device, its memory for weights, and the multiply-adds that it can spend on an image (48M, 1.5B)",
    )
    parser.add_argument("--bytes", type=int, default=4, help="of each weight (default: 4)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments, rest = parser.parse_known_args(list(argv))
    parser.check_no_rest(rest)
    if not 1 <= arguments.bytes <= 8:
        raise ValueError(f"--bytes: got {arguments.bytes}, accepted are 1 to 8.")
    devices = {}
    for name, *sizes in arguments.device:
        if name in devices:
            raise ValueError(f"--device: {name} stands there twice.")
        try:
            devices[name] = Device(*map(number, sizes))
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"--device: {name}: {error}.") from None
    if not devices:
        raise ValueError("--device is missing: name one at least, such as --device board 48M 500M.")
    if twice := sorted({name for name in arguments.parts if arguments.parts.count(name) > 1}):
        raise ValueError(f"PART: {twice[0]} stands there twice.")
    for name in arguments.parts:
        _check_part("PART", name)
    from .parts import needs_of

    needs = needs_of(arguments.parts, arguments.bytes)
    try:
        found = assign(needs, devices)
    except ValueError as error:
        raise ValueError(in_words_of_the_command(str(error), {"parts": "PART"})) from error
    rows = [
        {"part": name, "device": found[name], "memory": need.memory, "macs": need.macs} for name, need in needs.items()
    ]
    if arguments.json:
        show(json.dumps(rows, indent=2) + "\n")
        return found
    lines = [f"{'bytes (M)':>10}{'MACs (M)':>10}  {'device':<16}part"]
    lines += [f"{r['memory'] / 1e6:>10.3f}{r['macs'] / 1e6:>10.1f}  {r['device']:<16}{r['part']}" for r in rows]
    for name, device in devices.items():
        used = [needs[part] for part, chosen in found.items() if chosen == name]
        memory, macs = sum(need.memory for need in used), sum(need.macs for need in used)
        lines.append(
            f"{name}: {memory / device.memory:.0%} of its memory, {macs / device.macs:.0%} of its multiply-adds"
        )
    show("\n".join([*lines, ""]))
    return found
