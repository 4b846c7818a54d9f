"""The commands `split`, `serve-tail` and `measure-split`."""

import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from ..._command_line import Parser, in_words_of_the_command, show
from ..._files import check_folder
from ..._kinds import check_head, check_saved_for
from ..._option_types import positive, whole
from ..._places import check_apart, check_folder_or_id
from ..._written import OVERWRITE, check_free
from .checks import check_costs_file, check_watts, clean_token, listen
from .facts import check_half_folder, read_facts

#: The environment may hold the token, which a command line shows to everybody on the machine.
TOKEN = "HF_EFFMODELS_TAIL_TOKEN"
_CLASSIFIER = "AutoModelForImageClassification"


def main_split(argv: Sequence[str]) -> None:
    """Cut a model: `OUTPUT/head` and `OUTPUT/tail`, or with `--list` where that can be done."""
    parser = Parser(prog="hf-effmodels split", description="Cut a classifier of images into a head and a tail.")
    parser.add_argument("model", metavar="MODEL", help="a folder or an id of the Hub")
    parser.add_argument("output", metavar="OUTPUT", nargs="?", help="folder for head and tail")
    parser.add_argument("--at", help="module after which to cut, or the end of its name")
    parser.add_argument("--list", action="store_true", help="show where it can be cut")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE)
    _add_codec(parser)
    _add_size(parser)
    arguments = _parse(parser, argv)

    def run() -> None:
        if not arguments.list and arguments.output is None:
            raise ValueError("at: name a module and an OUTPUT folder; --list shows the modules.")
        if not arguments.list:
            check_apart("output", arguments.output, "MODEL", arguments.model)
            for half in ("head", "tail"):
                check_half_folder(Path(arguments.output) / half)
                check_free("output", Path(arguments.output) / half, arguments.overwrite)
        check_head("MODEL", arguments.model, _CLASSIFIER)
        check_saved_for("MODEL", arguments.model, "image-classification")
        from ...registry import is_in_halves
        from .halves import split
        from .points import split_points

        model, processor = load_classifier(arguments.model)
        if arguments.list:
            size = _size(arguments, model, processor)
            rows = split_points(model, size)
            lines = [
                f"{'bytes':>10}  {'parameters before':>17}  after, with images of {_in_words_of_size(model, size)}"
            ]
            lines += [f"{row.num_bytes:>10}  {row.head_parameters:>17}  {row.name} {list(row.shape)}" for row in rows]
            show("\n".join(lines) + "\n")
            return
        codec = _codec(arguments)
        if is_in_halves(model.config.model_type):
            if codec is not None or arguments.at not in (None, model.config.at):
                raise ValueError(
                    f"at: MODEL is coded after {model.config.at} already; it goes without --at and --bits."
                )
            halves = model.halves(processor)
        elif arguments.at is None:
            raise ValueError("at: name a module and an OUTPUT folder; --list shows the modules.")
        else:
            halves = split(
                model, arguments.at, codec=codec, processor=processor, image_size=_size(arguments, model, processor)
            )
        for half in halves:
            half.save_pretrained(Path(arguments.output) / half.half)
        out = arguments.output
        following = shlex.join(["hf-effmodels", "serve-tail", f"{out}/tail"])
        show(f"{out}/head  {out}/tail  cut after {halves[0].facts.at}\nnext: {following}\n")

    _in_words(parser, run)


def main_serve_tail(argv: Sequence[str]) -> None:
    """Serve a tail until the process is told to end."""
    parser = Parser(prog="hf-effmodels serve-tail", description="Answer heads over HTTP.")
    parser.add_argument("folder", metavar="FOLDER", help="the tail's folder, or its id on the Hub")
    parser.add_argument(
        "--images", action="store_true", help="FOLDER is a whole classifier or a DeViT of one part, which gets images"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=whole(1, 65535), default=8000, help="default: 8000")
    parser.add_argument("--token", help=f"that heads must show (default: the environment's {TOKEN}, or none)")
    parser.add_argument("--max-bytes", type=whole(1, 2**40), default=64 * 2**20, help="of a request (default: 64 MiB)")
    parser.add_argument("--max-images", type=whole(1, 2**30), default=64, help="of a request (default: 64)")
    parser.add_argument(
        "--max-pixels", type=whole(1, 2**50), default=2**25, help="of a request, all images (default: 2^25)"
    )
    parser.add_argument(
        "--workers", type=whole(1, 1024), default=1, help="requests computed at the same time (default: 1)"
    )
    parser.add_argument("--queue", type=whole(0, 2**30), default=64, help="requests that may wait (default: 64)")
    parser.add_argument(
        "--timeout", type=positive, default=30.0, help="seconds to arrive and to compute (default: 30)"
    )
    arguments = _parse(parser, argv)

    def run() -> None:
        if arguments.images:
            check_head("FOLDER", arguments.folder, _CLASSIFIER)
        else:
            check_folder_or_id("FOLDER", arguments.folder)
            if os.path.isdir(arguments.folder):
                read_facts(Path(arguments.folder), "tail")
        token = clean_token(arguments.token if arguments.token is not None else os.environ.get(TOKEN))
        if token is None and arguments.host not in ("127.0.0.1", "::1", "localhost"):
            sys.stderr.write("hf-effmodels: everybody who reaches this address may compute; --token asks for one.\n")
        with listen(arguments.host, arguments.port) as listener:
            try:
                from .service import ServiceLimits, serve
            except ImportError as error:
                raise ImportError('serve-tail needs: pip install "hf_effmodels[serve]"') from error
            from .halves import SplitTail

            names = ("max_bytes", "max_images", "max_pixels", "workers", "queue", "timeout")
            limits = ServiceLimits(**{name: getattr(arguments, name) for name in names})
            tail = _with_images(arguments.folder) if arguments.images else SplitTail.from_pretrained(arguments.folder)
            show(f"{tail.facts.architecture} after {tail.facts.at}: http://{arguments.host}:{arguments.port}\n")
            serve(tail, host=arguments.host, port=arguments.port, token=token, limits=limits, listener=listener)

    _in_words(parser, run)


def _with_images(folder: str):
    """What answers heads that send images: of a DeViT of one part what it sends to the fusion, else logits."""
    from .whole import part, whole

    model, processor = load_classifier(folder, "folder")
    is_part = model.config.model_type == "devit" and len(model.config.parts) == 1
    return (part if is_part else whole)(model, processor=processor)[1]


def main_measure_split(argv: Sequence[str]) -> None:
    """Measure what the points of a model cost."""
    parser = Parser(prog="hf-effmodels measure-split", description="What it costs to cut a model, point by point.")
    parser.add_argument("model", metavar="MODEL", help="a folder, an id of the Hub or a preset (random weights)")
    parser.add_argument("--at", nargs="*", help="modules (default: up to eight, ever smaller)")
    parser.add_argument("--bandwidth", type=positive, nargs="+", default=[1e6, 1e7, 1e8], help="of the link, bits/s")
    parser.add_argument("--device-slowdown", type=positive, default=1.0, help="the device is so many times slower")
    parser.add_argument("--watts", type=float, default=2.5, help="of the device while it computes (not measured)")
    parser.add_argument(
        "--repeats", type=whole(1, 10**6), default=5, help="of each measurement, of which the median counts"
    )
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="of all threads: other work on the machine does not lengthen it",
    )
    parser.add_argument(
        "--shrink", type=whole(1, 2**20), help="send so many times fewer channels, by 1×1 convolutions"
    )
    parser.add_argument("--output", help="JSON file, for `hf-effmodels offload --profile`")
    parser.add_argument("--picture", help="new PNG file: milliseconds over the bandwidth, a line for each point")
    parser.add_argument("--json", action="store_true", help="print JSON")
    _add_codec(parser)
    _add_size(parser)
    arguments = _parse(parser, argv)

    def run() -> None:
        check_watts(arguments.watts)
        if arguments.output:
            check_costs_file(arguments.output)
        if arguments.picture and len(set(arguments.bandwidth)) < 2:
            raise ValueError("picture: it goes over two bandwidths and more, see --bandwidth.")
        if arguments.picture and os.path.exists(arguments.picture):
            raise FileExistsError(f"picture: {arguments.picture} is there already; name a new file.")
        if arguments.picture and Path(arguments.picture).suffix.lower() != ".png":
            raise ValueError(f"picture: got {arguments.picture!r}, accepted are names that end in .png.")
        for name in ("output", "picture"):
            if getattr(arguments, name):
                with _of(name):
                    check_folder(Path(getattr(arguments, name)).parent, accepts_content=True)
        check_head("MODEL", arguments.model, _CLASSIFIER)
        check_saved_for("MODEL", arguments.model, "image-classification")
        from .measure import draw_latencies, measure_split, save_costs

        model, processor = load_classifier(arguments.model)
        size = _size(arguments, model, processor)
        costs = measure_split(
            model,
            arguments.at,
            bits=arguments.bits,
            shrink=arguments.shrink,
            image_size=size,
            repeats=arguments.repeats,
            device_slowdown=arguments.device_slowdown,
            processor_time=arguments.processor_time,
        )
        if arguments.output:
            with _of("output"):
                save_costs(arguments.output, costs, arguments.watts)
        if arguments.picture:
            with _of("picture"):
                draw_latencies(arguments.picture, costs, min(arguments.bandwidth), max(arguments.bandwidth))
        if arguments.json:
            show(json.dumps([asdict(cost) for cost in costs], indent=2) + "\n")
            return
        columns = [f"{b:g} bit/s" for b in arguments.bandwidth]
        best = [min(costs, key=lambda cost, b=b: cost.latency(b)) for b in arguments.bandwidth]
        lines = ["".join([f"{'bits':>10} {'head ms':>9} {'tail ms':>9}", *(f"{c:>14}" for c in columns), "  after"])]
        for cost in costs:
            cells = [
                f"{1e3 * cost.latency(b):>12.2f}{' *' if cost is best[i] else '  '}"
                for i, b in enumerate(arguments.bandwidth)
            ]
            times = f"{cost.bits:>10} {1e3 * cost.head_seconds:>9.2f} {1e3 * cost.tail_seconds:>9.2f}"
            lines.append("".join([times, *cells, f"  {cost.at}"]))
        told = f"milliseconds of one image of {_in_words_of_size(model, size)}; * the fastest"
        show("\n".join([*lines, told]) + "\n")

    _in_words(parser, run)


def _add_codec(parser: Parser) -> None:
    parser.add_argument("--bits", type=whole(1, 8), help="of each number that is sent, 1 to 8 (default: as computed)")


def _add_size(parser: Parser) -> None:
    parser.add_argument(
        "--image-size",
        type=whole(1, 16384),
        help="side of the images (default: what the image processor makes, else the model's, or 224)",
    )


def _codec(arguments):
    from ..codecs.wire import UniformCodec

    return None if arguments.bits is None else UniformCodec(arguments.bits)


def _size(arguments, model, processor) -> tuple[int, int] | None:
    """Height and width that are asked for, or of every picture that the image processor makes; None where there is
    none or it keeps their shapes."""
    if arguments.image_size is not None:
        return arguments.image_size, arguments.image_size
    from ..._shapes import size_of_all

    return None if processor is None else size_of_all(processor, getattr(model.config, "num_channels", None) or 3)


def _in_words_of_size(model, size: tuple[int, int] | None) -> str:
    from .points import input_shape

    return "{} × {} pixels".format(*input_shape(model, size)[2:])


def load_classifier(name: str, argument: str = "model"):
    """A classifier, by a preset (random weights), a folder or an id of the Hub, and its image processor or None.
    Raises as `load_whole`."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from ...hub.whole import load_whole
    from ...models import create_image_processor, create_model, list_models

    if name in list_models() and not os.path.exists(name):
        sys.stderr.write("hf-effmodels: the preset's weights are random.\n")
        return create_model(name).eval(), create_image_processor(name)
    model = load_whole(AutoModelForImageClassification, argument, name, dtype="auto").eval()
    try:
        return model, AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError):
        return model, None  # many folders have none; the head then takes pixel values


@contextmanager
def _of(name: str) -> Iterator[None]:
    """What cannot be written is told of the argument that named it."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{name}: {str(error).removeprefix('folder: ')}") from error


def _parse(parser: Parser, argv: Sequence[str]):
    arguments, rest = parser.parse_known_args(list(argv))
    parser.check_no_rest(rest)
    return arguments


def _in_words(parser: Parser, run) -> None:
    words = {a.dest: a.option_strings[-1] if a.option_strings else a.metavar for a in parser.declared}
    words.setdefault("folder", words.get("output", "folder"))
    try:
        run()
    except (ValueError, OSError) as error:
        raise type(error)(in_words_of_the_command(str(error), words)) from error
