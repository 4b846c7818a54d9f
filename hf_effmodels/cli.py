"""The `hf-effmodels` command: `hf-effmodels -h` lists what it does."""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, is_dataclass
from pathlib import Path

from . import __version__
from ._command_line import TRACEBACK, UNFORESEEN, Parser, in_words_of_the_command, keeping_progress_bars, nearest, show
from ._model_place import check_model
from ._option_types import share, whole
from .models import (
    SOURCES,
    check_known,
    check_source,
    create_image_processor,
    create_model,
    is_pipeline,
    list_models,
    model_info,
    names_in_source,
)
from .registry import ARCHITECTURES


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0, 1 where nothing was found, 2 after a line on standard error that says what is wrong.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with keeping_progress_bars(), nullcontext() if argv[:1] and argv[0] in RUNS else _ending_in_order():
            return _run(argv)
    except (ValueError, OSError, ImportError) as error:
        return _refuse(str(error))
    except Exception as error:
        # Input that nobody foresaw, found by a library on its way. Runs show where: they may have gone on for days.
        if argv[:1] and argv[0] in RUNS or os.environ.get(TRACEBACK):
            raise
        return _refuse(f"{type(error).__name__}: {error} ({UNFORESEEN})")


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """What is being written goes when the program is told to end (SIGTERM), as after Ctrl+C."""
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number, frame):
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        show(_help())
        return 0
    if argv[0] == "--version":
        show(f"hf_effmodels {__version__}\n")
        return 0
    if argv[0] in PASSED_ON:
        return PASSED_ON[argv[0]](argv[1:]) or 0
    parser, commands = _parser()
    if argv[0] not in commands:
        near = nearest(argv[0], [*commands, *PASSED_ON], "; hf-effmodels -h lists them")
        from .compression.command import step_names

        if argv[0] in step_names():
            near = f"; it is a step of another: hf-effmodels tiny-lm {argv[0]}"
        raise ValueError(f"there is no command {argv[0]!r}{near}.")
    chosen = commands[argv[0]]
    arguments, rest = parser.parse_known_args(argv)
    chosen.check_no_rest(rest)
    try:
        result = arguments.run(arguments)
    except (ValueError, OSError, ImportError) as error:
        raise type(error)(in_words_of_the_command(str(error), _words(chosen))) from error
    show(f"{json.dumps(_plain(result), indent=2) if arguments.json else arguments.show(result)}\n")
    return 1 if result == [] else 0


#: What functions call an argument -> what this command does.
_RENAMED = {"folder_or_model": "folder", "source": "preset", "calibration": "calibrate"}


def _words(command: Parser) -> dict[str, str]:
    """What a command calls the arguments of the function that it runs."""
    named = {a.dest: a.option_strings[-1] if a.option_strings else a.metavar for a in command.declared}
    return {name: named[ours] for name, ours in _RENAMED.items() if ours in named} | named


def _refuse(reason: str) -> int:
    reason = " ".join(reason.split()) or "no reason was given"
    sys.stderr.write(f"hf-effmodels: error: {reason}\n")
    return 2


#: What one may want -> commands, what each does, an example.
_JOBS = {
    "look around": {
        "list": ("the presets", 'hf-effmodels list "ghostnet*"'),
        "info": ("what is known about one", "hf-effmodels info ghostnetv3-1.0x"),
    },
    "use": {
        "predict": ("what a model says of files, folders or texts", "hf-effmodels predict out photos/"),
        "chat": ("with a language model", "hf-effmodels chat your-name/model"),
        "demo": ("a model in the browser", "hf-effmodels demo out"),
    },
    "train": {
        "quickstart": (
            "a small model trained, measured and shown a picture",
            "hf-effmodels quickstart image-classification",
        ),
        "train": (
            "a recipe, of any task",
            "hf-effmodels train --config quickstart/image-classification --output_dir out",
        ),
        "evaluate": ("a model on a data set", "hf-effmodels evaluate --model out --dataset digits"),
        "probe": (
            "what the frozen features of vision models are worth",
            "hf-effmodels probe out/encoder google/vit-base-patch16-224-in21k --dataset digits --output probes",
        ),
        "prepare": (
            "what is made of a data set once",
            "hf-effmodels prepare super-resolution-masks --dataset photos --segmenter slic --output masks",
        ),
    },
    "make it small and fast": {
        "export": ("for the edge", "hf-effmodels export out edge --format onnx"),
        "tiny-lm": (
            "small language models out of large ones",
            "hf-effmodels tiny-lm suggest-config --params 15M --vocab 4096",
        ),
        "prune": (
            "a language model or vision transformer, to a budget of parameters",
            "hf-effmodels prune out smaller --target-parameters 0.5 --dataset pydoc_topics",
        ),
        "quantize": (
            "a language model, to 2 to 8 bits",
            "hf-effmodels quantize out smaller --bits 4 --dataset pydoc_topics",
        ),
        "benchmark": ("presets beside their peers", "hf-effmodels benchmark ghostnetv3-1.0x --batch 1,8"),
    },
    "run on several machines": {
        "split": ("a classifier into head and tail", "hf-effmodels split out halves --at stages.1"),
        "serve-tail": ("the half on the server", "hf-effmodels serve-tail halves/tail --port 8000"),
        "offload": (
            "devices that share radio channels: who cuts where, learnt in a simulation",
            "hf-effmodels offload --profile resnet18 --output agents",
        ),
        "measure-split": ("what each cut costs", "hf-effmodels measure-split out --bits 8 --device-slowdown 5"),
        "train-codec": (
            "a learnt code for what is sent, and what its bytes cost in accuracy",
            "hf-effmodels train-codec out codecs --at stages.0 --dataset digits --betas 0.02 0.2 2",
        ),
        "decompose": (
            "a vision transformer into small ones, each for some classes",
            "hf-effmodels decompose out parts --dataset digits --parts 2 --macs 0.6",
        ),
        "assign": (
            "which device runs which of these",
            "hf-effmodels assign parts/part0 parts/part1 --device board 4M 20M --device phone 16M 100M",
        ),
        "assemble": ("these into one", "hf-effmodels assemble whole parts/part0 parts/part1 --teacher out"),
    },
    "share": {
        "download": ("the published weights of a preset, converted", "hf-effmodels download ghostnetv3-1.0x"),
        "convert": (
            "an official checkpoint into a model folder",
            "hf-effmodels convert ghostnetv3-1.0x official.pth ghostnetv3",
        ),
        "publish": ("a model folder on the Hub", "hf-effmodels publish ghostnetv3 my-name/ghostnetv3"),
    },
}


def _help() -> str:
    lines = [
        "usage: hf-effmodels COMMAND ...    (each has its own --help)",
        "",
        "Efficient-AI research as native Hugging Face models.",
    ]
    for job, commands in _JOBS.items():
        lines += ["", f"{job}:"]
        for name, (text, example) in commands.items():
            lines += [f"  {name:<15}{text}", f"  {'':<15}$ {example}"]
    return "\n".join([*lines, "", "  --version", ""])


def _parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and that of each command."""
    parser = Parser(prog="hf-effmodels", description="Efficient-AI research as native Hugging Face models.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run, show, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        sub.set_defaults(run=run, show=show)
        return sub

    sub = command("list", _list, _show_table, "List the presets.")
    sub.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help='a shell pattern, such as "ghostnet*"')
    sub.add_argument("--task", help="only presets with a head for this task of transformers' pipelines")

    sub = command("info", _info, _show_facts, "What is known about a preset.")
    sub.add_argument("preset", metavar="PRESET", help="such as ghostnetv3-1.0x; `hf-effmodels list` shows them")

    sub = command("download", _download, _show_facts, "Fetch and convert the published weights of a preset.")
    sub.add_argument("preset", metavar="PRESET", help="such as ghostnetv3-1.0x; `hf-effmodels list` shows them")
    sub.add_argument("folder", metavar="FOLDER", nargs="?", help="where to copy the model (default: the cache only)")
    sub.add_argument("--source", help=f"{' or '.join(SOURCES)} (default: the first that the preset has)")
    sub.add_argument("--token", help="for the Hub (default: that of `hf auth login`)")

    sub = command("convert", _convert, _show_facts, "Convert an official checkpoint (or timm's) into a model folder.")
    sub.add_argument("preset", metavar="PRESET", help="such as ghostnetv3-1.0x; `hf-effmodels list` shows them")
    sub.add_argument("checkpoint", metavar="CHECKPOINT", help="the official .pth, .pth.tar or .safetensors file")
    sub.add_argument("folder", metavar="FOLDER", help="where to write")
    sub.add_argument("--entry", help="entry of a training checkpoint to read (default: the averaged weights, if any)")
    sub.add_argument("--num-labels", type=int, help="classes of the checkpoint, where it is not the preset's number")
    sub.add_argument("--labels", help="JSON file with the list of class names")
    sub.add_argument("--license", help="licence of the weights (default: that of the preset's official weights)")
    sub.add_argument("--image-tokenizer", help="of DeLVM: the file or folder of the official VQGAN")
    sub.add_argument("--allow-broken-weights", action="store_true", help="convert weights that are not finite, too")
    for part, titles in _base_models().items():
        sub.add_argument(f"--{part}-model", help=f"of adapters ({titles}): the {part} model they were trained for")

    sub = command("export", _export, _show_facts, "Fold a model and export it for the edge.")
    sub.add_argument("preset", metavar="MODEL", help="a preset, a folder or an id of the Hub")
    sub.add_argument("folder", metavar="FOLDER", help="where to write")
    sub.add_argument("--format", required=True, help="onnx, openvino or executorch")
    sub.add_argument("--checkpoint", help="official checkpoint with the preset's weights (default: random weights)")
    sub.add_argument("--image-size", type=whole(1, 16384), help="side of the images in pixels (default: the model's)")
    sub.add_argument(
        "--precision",
        default="float32",
        help="float32; float16 (fp16) in onnx and openvino; in onnx int8 of classifiers (with --calibrate) and of "
        "language models, int4 of language models (default: float32)",
    )
    sub.add_argument(
        "--calibrate",
        metavar="DATA",
        help="of a classifier a folder of pictures, that int8 is calibrated on, and others checked on; of a language "
        "model the text it is checked on, as --dataset of recipes names it (default: Python's help)",
    )
    sub.add_argument(
        "--min-agreement", type=share, help="share of the same answers to reach there (default: 0.9; int4: 0.75)"
    )
    sub.add_argument("--nms", action="store_true", help="of Gold-YOLO: suppress overlapping boxes in the graph")
    sub.add_argument("--threshold", type=share, help="with --nms: scores are above it (default: 0.4)")
    sub.add_argument("--nms-threshold", type=share, help="with --nms: overlap of boxes that both stay (default: 0.45)")
    sub.add_argument("--max-detections", type=whole(1, 10**6), help="with --nms: of an image (default: 300)")

    sub = command(
        "publish",
        _publish,
        _show_publication,
        "Upload a model folder to the Hub: of its files the weights in safetensors, configuration, image processor, "
        "tokenizer, card with its charts, LICENSE and NOTICE that the model reads, and the code that this package "
        "writes for it; nothing else that lies there.",
    )
    sub.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        help="a folder that convert or hf_effmodels.hub.export wrote, or a model of transformers with its card",
    )
    sub.add_argument("repo_id", metavar="namespace/name", help="the repository on the Hub, which is made if it is new")
    sub.add_argument("--license", help="licence of the weights, where the folder's card states none")
    sub.add_argument("--private", action="store_true", help="create the repository as a private one")
    sub.add_argument("--revision", help="branch to commit to")
    sub.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
    sub.add_argument("--refresh-code", action="store_true", help="replace only the repository's Python files")
    sub.add_argument("--space", action="store_true", help="show the model in a Space of the same name, too")
    sub.add_argument("--token", help="a token with the right to write (default: that of `hf auth login`)")
    sub.add_argument(
        "--dry-run", action="store_true", help="show what would be uploaded and what left out; the Hub is not asked"
    )
    return parser, commands.choices


def _list(arguments) -> list:
    return [model_info(name) for name in list_models(arguments.pattern, arguments.task)]


def _info(arguments):
    return model_info(arguments.preset)


def _download(arguments):
    check_known(arguments.preset)
    check_source(arguments.source)
    import shutil

    from ._files import check_folder, whole_folder

    if arguments.folder is not None:
        check_folder(arguments.folder)
    from .hub import pretrained

    info = model_info(arguments.preset)
    licence = f"{info.weights_license or 'not stated'}"
    if info.weights_license_note:
        licence += f" ({info.weights_license_note})"
    sys.stderr.write(f"hf-effmodels: licence of the weights: {licence}\n")
    kept = pretrained(arguments.preset, arguments.source, token=arguments.token)
    if arguments.folder is not None:
        with whole_folder(arguments.folder) as new:
            shutil.copytree(kept, new, dirs_exist_ok=True)
    return {"preset": arguments.preset, "folder": str(arguments.folder or kept), "license": info.weights_license}


def _convert(arguments):
    check_known(arguments.preset)
    given = {f"{part}_model": getattr(arguments, f"{part}_model") for part in _base_models()}
    overrides = {name: value for name, value in given.items() if value is not None}
    if arguments.image_tokenizer is not None:
        overrides["image_tokenizer"] = arguments.image_tokenizer
    if arguments.num_labels is not None:
        if not 1 <= arguments.num_labels <= 1_000_000:
            raise ValueError(f"--num-labels: got {arguments.num_labels}, accepted are 1 to 1000000.")
        overrides["num_labels"] = arguments.num_labels
    if arguments.labels is not None:
        names = _read_labels(arguments.labels)
        if arguments.num_labels not in (None, len(names)):
            raise ValueError(f"--num-labels: got {arguments.num_labels}, but --labels has {len(names)} names.")
        overrides["id2label"] = dict(enumerate(names))
    _check_conversion(arguments)
    from .hub.convert import convert

    return convert(
        arguments.preset,
        arguments.checkpoint,
        arguments.folder,
        entry=arguments.entry,
        license=arguments.license,
        allow_broken_weights=arguments.allow_broken_weights,
        **overrides,
    )


def _check_conversion(arguments) -> None:
    """What `convert` would refuse, as far as names and files tell it before anything heavy is imported."""
    from ._checkpoint_files import check_checkpoint
    from ._exported import check_unless_export
    from ._files import check_folder
    from ._licenses import check_license

    check_license(arguments.license)
    if is_pipeline(arguments.preset):
        check_folder(arguments.folder)
        if os.path.isdir(arguments.checkpoint):  # some are published in several files
            return _check_image_tokenizer(arguments)
    else:
        check_unless_export(arguments.folder)
        check_folder(arguments.folder, accepts_content=True)
    check_checkpoint(arguments.checkpoint)
    _check_image_tokenizer(arguments)


def _check_image_tokenizer(arguments) -> None:
    """Of a file what is said of a checkpoint's; a folder may have several."""
    from ._checkpoint_files import check_checkpoint

    name = arguments.image_tokenizer
    if name is None or os.path.isdir(name):
        return
    try:
        check_checkpoint(name)
    except (ValueError, OSError) as error:
        raise type(error)(str(error).replace("checkpoint:", "--image-tokenizer:", 1)) from error


def _read_labels(file: str) -> list[str]:
    try:
        with open(file, encoding="utf-8") as opened:
            names = json.load(opened)
    except OSError as error:
        raise OSError(f"--labels: {file} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--labels: {file} is no JSON file ({error}).") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"--labels: {file} holds no list of names.")
    if twice := sorted({name for name in names if names.count(name) > 1})[:3]:
        raise ValueError(f"--labels: {file} has names that stand twice: {', '.join(map(repr, twice))}.")
    return names


def _base_models() -> dict[str, str]:
    """Part of a model that official files leave out -> the architectures where they do."""
    titles: dict[str, list[str]] = {}
    for architecture in ARCHITECTURES.values():
        for part in architecture.base_models:
            titles.setdefault(part, []).append(architecture.title)
    return {part: ", ".join(names) for part, names in titles.items()}


def _names(arguments, task: str, is_of_that_kind: Callable[..., bool]) -> bool:
    """Whether MODEL is a preset of `task`, or a folder or an id whose configuration is of that kind."""
    if arguments.preset in list_models():
        return arguments.preset in list_models(task=task)
    from transformers import AutoConfig

    from ._places import reading

    with reading("MODEL", arguments.preset):
        return is_of_that_kind(AutoConfig.from_pretrained(arguments.preset))


def _export_two_towers(arguments):
    from .edge_two_towers import export_two_towers

    _check_plain(arguments, *_PLAIN["zero-shot-image-classification"])
    source = arguments.preset
    if arguments.checkpoint is not None:
        from .hub.convert import load_checkpoint

        source = load_checkpoint(arguments.preset, arguments.checkpoint)[0]
    elif arguments.preset in list_models():
        raise ValueError(f"MODEL: the weights of {arguments.preset} are random; train it first and name its folder.")
    return export_two_towers(source, arguments.folder, arguments.format, image_size=arguments.image_size)


#: What goes with detectors alone, and with exports of one graph alone.
_OF_DETECTORS = ("nms", "threshold", "nms_threshold", "max_detections")
_OF_ONE_GRAPH = ("precision", "calibrate", "min_agreement", *_OF_DETECTORS)
_BY_PROMPTS = "models that find masks by prompts"
#: Task -> what its models are called, and the options that do not go with them.
_PLAIN = {
    "zero-shot-image-classification": ("two towers", _OF_ONE_GRAPH),
    "text-generation": ("language models", _OF_DETECTORS),
    "mask-generation": (_BY_PROMPTS, _OF_ONE_GRAPH),
}


def _check_plain(arguments, what: str, names: Sequence[str] = _OF_ONE_GRAPH) -> None:
    """ValueError if an option is given that does not go with `what`."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value is not False and value not in ("float32", "fp32"):  # 0 is one that is given
            raise ValueError(f"--{name.replace('_', '-')}: got {value!r}, which {what} are not exported with.")


def _halves_in(folder: str) -> tuple[str, str] | None:
    """The folders of head and tail that `split` wrote there."""
    head, tail = (os.path.join(folder, half) for half in ("head", "tail"))
    return (head, tail) if all(os.path.isfile(os.path.join(half, "split.json")) for half in (head, tail)) else None


def _halves(arguments):
    """Head and tail: those of `split`, or of a coded classifier; None where MODEL is neither."""
    from .registry import is_in_halves

    if arguments.checkpoint is not None or arguments.preset in list_models():
        return None
    if (halves := _halves_in(arguments.preset)) is not None:
        from .collaboration.splitting import SplitHead, SplitTail

        _check_plain(arguments, "halves")
        return SplitHead.from_pretrained(halves[0]), SplitTail.from_pretrained(halves[1])
    from transformers import AutoConfig

    from ._places import reading
    from .collaboration.splitting.command import load_classifier

    with reading("MODEL", arguments.preset):
        if not is_in_halves(AutoConfig.from_pretrained(arguments.preset).model_type):
            return None
    _check_plain(arguments, "halves")
    model, processor = load_classifier(arguments.preset)
    return model.halves(processor)


def _export_promptable(arguments):
    from .edge_masks import export_promptable, load_source

    _check_plain(arguments, *_PLAIN["mask-generation"])
    if arguments.format not in (accepted := ("onnx", "openvino")):
        raise ValueError(
            f"--format: got {arguments.format!r}, accepted of {_BY_PROMPTS} are {' and '.join(accepted)}."
        )
    if arguments.image_size is not None:
        raise ValueError(
            f"--image-size: got {arguments.image_size}, but {_BY_PROMPTS} have one size, the model's own."
        )
    if arguments.checkpoint is not None:
        from .hub.convert import load_checkpoint

        model = load_checkpoint(arguments.preset, arguments.checkpoint)[0].eval()
        processor = create_image_processor(arguments.preset)
    elif arguments.preset in list_models():
        raise ValueError(f"MODEL: the weights of {arguments.preset} are random; train it first and name its folder.")
    else:
        model, processor = load_source(arguments.preset)
    return export_promptable(model, arguments.folder, arguments.format, processor=processor)


def _export_language_model(arguments):
    from .edge_language import export_language_model

    _check_plain(arguments, *_PLAIN["text-generation"])
    if arguments.image_size is not None:
        raise ValueError(f"--image-size: got {arguments.image_size}, but language models take no images.")
    source = arguments.preset
    if arguments.checkpoint is not None:
        from .hub.convert import load_checkpoint

        source = load_checkpoint(arguments.preset, arguments.checkpoint)[0]
    elif arguments.preset in list_models():
        raise ValueError(f"MODEL: the weights of {arguments.preset} are random; train it first and name its folder.")
    return export_language_model(
        source,
        arguments.folder,
        arguments.format,
        precision=arguments.precision,
        calibration=arguments.calibrate,
        min_agreement=arguments.min_agreement,
    )


def _export(arguments):
    if arguments.checkpoint is not None:
        if os.path.isdir(arguments.preset):
            raise ValueError(
                f"--checkpoint: got {arguments.checkpoint!r}, but {arguments.preset} is a folder, which has its "
                "weights; checkpoints go with presets."
            )
        check_known(arguments.preset)
    from .edge_formats import check_format, check_precision

    _check_kind(arguments)
    check_format(arguments.format)
    check_precision(arguments.precision, arguments.format)
    from ._files import check_folder

    check_folder(arguments.folder)
    suppression = {
        name: value
        for name in ("threshold", "nms_threshold", "max_detections")
        if (value := getattr(arguments, name)) is not None
    }
    if suppression and not arguments.nms:
        raise ValueError(f"--{next(iter(suppression)).replace('_', '-')} goes with --nms.")
    is_folder = os.path.isdir(arguments.preset) and arguments.preset not in (names_in_source() or list_models())
    if arguments.checkpoint is None and is_folder and _halves_in(arguments.preset) is None:
        from ._kinds import check_head

        check_head("MODEL", arguments.preset)
    elif arguments.checkpoint is None:
        check_model("MODEL", arguments.preset)
    else:
        from ._checkpoint_files import check_checkpoint

        check_checkpoint(arguments.checkpoint)
    _check_calibration(arguments)
    from .edge import check_preset, export, load_source
    from .hub.convert import load_checkpoint

    if (halves := _halves(arguments)) is not None:
        from .edge_halves import export_halves

        return export_halves(*halves, arguments.folder, arguments.format, image_size=arguments.image_size)
    from .edge_language import is_language_model
    from .edge_masks import is_promptable
    from .edge_two_towers import is_two_towers

    for task, is_of_that_kind, export_it in (
        ("zero-shot-image-classification", is_two_towers, _export_two_towers),
        ("text-generation", is_language_model, _export_language_model),
        ("mask-generation", is_promptable, _export_promptable),
    ):
        if _names(arguments, task, is_of_that_kind):
            return export_it(arguments)
    if arguments.checkpoint is not None or arguments.preset in list_models():
        check_preset(arguments.preset)
    source, processor = arguments.preset, None
    if arguments.checkpoint is not None:
        source = load_checkpoint(arguments.preset, arguments.checkpoint)[0]
        processor = create_image_processor(arguments.preset)
    elif arguments.preset in list_models():
        sys.stderr.write(
            "hf-effmodels: the preset's weights are random; --checkpoint, or a folder of `download`, gives "
            "trained ones.\n"
        )
        source, processor = create_model(arguments.preset), create_image_processor(arguments.preset)
    if arguments.min_agreement is not None and arguments.calibrate is None:
        raise ValueError("--min-agreement goes with --calibrate.")
    if arguments.nms:
        from .edge_detection import Suppression, export_detector

        model, processor = load_source(source, processor)
        size = arguments.image_size and (arguments.image_size, arguments.image_size)
        return export_detector(
            model,
            arguments.folder,
            arguments.format,
            processor=processor,
            suppression=Suppression(**suppression),
            image_size=size,
        )
    agreement = {} if arguments.min_agreement is None else {"min_agreement": arguments.min_agreement}
    return export(
        source,
        arguments.folder,
        arguments.format,
        processor=processor,
        image_size=arguments.image_size,
        precision=arguments.precision,
        calibration=arguments.calibrate,
        **agreement,
    )


def _check_kind(arguments) -> None:
    """ValueError for a format that models of this kind have not, before its packages are asked for."""
    from .prediction.predictor import Source, task_early

    if arguments.format == "executorch":
        task = task_early(Source(arguments.preset), None)
        if task in ("text-generation", "mask-generation", "zero-shot-image-classification"):
            raise ValueError(f"--format: got 'executorch', accepted of {task} are onnx and openvino.")


def _check_calibration(arguments) -> None:
    """ValueError or OSError for options that models of this kind have not, and pictures that are missing, as far as
    that can be said before anything heavy is imported."""
    from .prediction.predictor import Source, task_early

    if arguments.nms and (arguments.precision not in ("float32", "fp32") or arguments.calibrate is not None):
        raise ValueError(f"--precision: got {arguments.precision!r}, accepted with --nms is float32.")
    asked = arguments.nms or arguments.calibrate is not None or arguments.min_agreement is not None
    if not asked and arguments.precision not in ("int8", "int4"):
        return
    task = task_early(Source(arguments.preset), None)
    if task in _PLAIN:
        _check_plain(arguments, *_PLAIN[task])
    if arguments.nms:
        return _check_suppresses(arguments.preset, task)
    of_integers = {"int8": ("image-classification", "text-generation"), "int4": ("text-generation",)}
    if task not in (None, *(accepted := of_integers.get(arguments.precision, (task,)))):
        raise ValueError(
            f"--precision: got {arguments.precision!r}, which goes with models for {' and '.join(accepted)}; "
            f"{arguments.preset} is for {task}."
        )
    if arguments.calibrate is not None and task is not None:
        _check_calibrates(arguments, task)
    elif task == "image-classification" and arguments.precision == "int8":
        raise ValueError("--calibrate: int8 is calibrated on pictures; give a folder of them.")
    elif task == "image-classification":
        raise ValueError("--min-agreement goes with --calibrate.")


def _check_calibrates(arguments, task: str) -> None:
    """The same of `--calibrate` by itself."""
    from .edge_pictures import find_pictures

    if task == "text-generation":
        if "/" in arguments.calibrate:
            from ._places import check_place

            check_place("--calibrate", arguments.calibrate)
    elif task != "image-classification":
        raise ValueError(f"--calibrate: pictures are compared by their classes, which {task} has not.")
    elif arguments.precision in ("float32", "fp32"):
        raise ValueError("--calibrate: pictures go with --precision int8 and --precision float16.")
    else:
        find_pictures(arguments.calibrate)


def _check_suppresses(name: str, task: str | None) -> None:
    """ValueError unless boxes of a model may be suppressed after it, as far as its task and its type tell it."""
    from ._kinds import stated_type

    own = {a.model_type: a.title for a in ARCHITECTURES.values() if "AutoModelForObjectDetection" in a.auto_classes}
    if task not in (None, "object-detection"):
        raise ValueError(f"--nms: {name} is for {task}; boxes are suppressed of {', '.join(own.values())}.")
    model_type = stated_type(name)
    if model_type is not None and model_type not in own:
        raise ValueError(
            f"--nms: {name} is a {model_type}, which keeps boxes by their scores alone: there is nothing to suppress."
        )


def _publish(arguments):
    if arguments.folder is not None and not os.path.isdir(arguments.folder):
        raise ValueError(f"FOLDER: {arguments.folder} is not a folder")
    _check_publication(arguments)
    if arguments.dry_run:
        from .hub.publish import dry_run

        how = {name: getattr(arguments, name) for name in ("revision", "create_pr", "license")}
        return dry_run(arguments.folder, arguments.repo_id, **how)
    from ._token import stated_token

    stated_token(arguments.token)
    from .hub import publish

    if arguments.space:
        return _publish_space(arguments)
    commit = publish(
        arguments.folder,
        arguments.repo_id,
        token=arguments.token,
        private=arguments.private,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        refresh_code=arguments.refresh_code,
        license=arguments.license,
    )
    return commit.pr_url or commit.commit_url


def _check_publication(arguments) -> None:
    """What `publish` would refuse, as far as names and files tell it before anything heavy is imported."""
    from ._exported import check_export, check_request, is_codeless
    from ._kinds import tasks_of_folder
    from ._licenses import check_license
    from ._places import check_repo_id
    from .demo import APP_TASKS

    if arguments.dry_run:
        for name in ("space", "refresh_code"):
            if getattr(arguments, name):
                raise ValueError(
                    f"--dry-run: does not go with --{name.replace('_', '-')}, which begins with what is on the Hub."
                )
    if arguments.space:
        for name in ("create_pr", "refresh_code", "revision"):
            if getattr(arguments, name):
                raise ValueError(f"--space: does not go with --{name.replace('_', '-')}; publish the model first.")
        check_repo_id(arguments.repo_id)
        if arguments.folder is not None and is_codeless(Path(arguments.folder)):
            raise ValueError(f"--space: {arguments.folder} holds no model of this package, and apps are for these.")
        own = [] if arguments.folder is None else tasks_of_folder(arguments.folder)
        if own and not {*own} & {*APP_TASKS}:
            accepted = ", ".join(APP_TASKS)
            raise ValueError(f"--space: FOLDER is for {own[0]}, of which there is no app; apps are for {accepted}.")
    else:
        how = {name: getattr(arguments, name) for name in ("revision", "create_pr", "refresh_code")}
        check_request(arguments.folder, arguments.repo_id, **how)
    check_license(arguments.license)
    if arguments.folder is not None and not arguments.refresh_code:
        check_export(Path(arguments.folder), arguments.repo_id)


def _publish_space(arguments) -> str:
    from .hub import publish
    from .hub.space import publish_space

    how = {"token": arguments.token, "private": arguments.private}
    if arguments.folder is not None:
        publish(arguments.folder, arguments.repo_id, license=arguments.license, **how)
    return publish_space(arguments.repo_id, **how).commit_url


def _show_publication(result) -> str:
    if isinstance(result, str):
        return result
    size = {name: f"{number:,} bytes" for name, number in result.files.items()}
    name_width, size_width = (max(map(len, column)) for column in (size, size.values()))
    place = f"a pull request against {result.revision}" if result.create_pr else f"branch {result.revision}"
    lines = [
        f"would be uploaded to {result.repo_id}, {place}; nothing has been sent:",
        *(f"  {name.ljust(name_width)}  {text.rjust(size_width)}" for name, text in size.items()),
        f"  {'in all'.ljust(name_width)}  {f'{sum(result.files.values()):,} bytes'.rjust(size_width)}",
        "left out, as the model does not need it:" if result.left_out else "left out: nothing",
        *(f"  {name}" for name in result.left_out),
    ]
    return "\n".join(lines)


def _show_table(infos: list) -> str:
    if not infos:
        return "no preset matches"
    columns = ("preset", "params M", "MACs M", "folded", "top-1", "published", "architecture")
    rows = [
        (
            info.name,
            f"{info.parameters:.2f}",
            f"{info.macs:.1f}" if info.macs else "",
            f"{info.folded_parameters:.2f} / {info.folded_macs:.1f}" if info.folded_macs else "",
            f"{info.top1}" if info.top1 else "",
            "; ".join(map(str, info.published[:1])) if info.top1 is None else "",
            info.architecture,
        )
        for info in infos
    ]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (columns, *rows)]
    return "\n".join(line.rstrip() for line in lines)


def _show_facts(result) -> str:
    facts = _plain(result)
    if hasattr(result, "published"):
        facts["published"] = "; ".join(map(str, result.published))
    for name, value in facts.items():
        if isinstance(value, tuple) and all(isinstance(one, str) for one in value):
            facts[name] = "; ".join(value)
    width = max(map(len, facts))
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in facts.items() if value not in (None, [], ""))


def _plain(result):
    """Dataclasses as dictionaries, for JSON."""
    if isinstance(result, list):
        return [_plain(item) for item in result]
    if is_dataclass(result):
        return asdict(result)
    return result if isinstance(result, (str, dict)) else str(result)


def _train(argv: list[str]) -> None:
    from .training import main as train

    _as_program(train, "train", argv)


def _quickstart(argv: list[str]) -> int:
    from .training.quickstart import main as quickstart

    return quickstart(argv)


def _evaluate(argv: list[str]) -> None:
    from .training import evaluate

    _as_program(evaluate, "evaluate", argv)


def _predict(argv: list[str]) -> int:
    from .prediction.command import main as predict

    return predict(argv)


def _chat(argv: list[str]) -> int:
    from .prediction.command import chat

    return chat(argv)


def _demo(argv: list[str]) -> None:
    from .demo.command import main as demo

    demo(argv)


def _prepare(argv: list[str]) -> None:
    from .training.preparation import main as prepare

    prepare(argv)


def _as_program(run: Callable, name: str, argv: list[str]) -> None:
    """Run what reads the command line itself: it logs and reports errors as its script does."""
    kept, sys.argv = sys.argv, [f"hf-effmodels {name}", *argv]
    try:
        run()
    finally:
        sys.argv = kept


def _benchmark(argv: list[str]) -> None:
    from .benchmarking import main as benchmark

    # `hf-effmodels benchmark ghostnetv3-1.0x`: the preset may be given without its option.
    benchmark(["--presets", *argv] if argv and not argv[0].startswith("-") else argv, "hf-effmodels benchmark")


def _tiny_lm(argv: list[str]) -> None:
    from .compression.command import main as tiny_lm

    tiny_lm(argv)


def _prune(argv: list[str]) -> None:
    from .compression.command.prune import main as prune

    prune(argv)


def _quantize(argv: list[str]) -> None:
    from .quantization.cbq.command import main as quantize

    quantize(argv)


def _probe(argv: list[str]) -> None:
    from .training.probing.command import main as probe

    probe(argv)


def _split(argv: list[str]) -> None:
    from .collaboration.splitting.command import main_split

    main_split(argv)


def _serve_tail(argv: list[str]) -> None:
    from .collaboration.splitting.command import main_serve_tail

    main_serve_tail(argv)


def _measure_split(argv: list[str]) -> None:
    from .collaboration.splitting.command import main_measure_split

    main_measure_split(argv)


def _offload(argv: list[str]) -> None:
    from .collaboration.offloading.command import main as offload

    offload(argv)


def _train_codec(argv: list[str]) -> None:
    from .collaboration.codecs.command import main as train_codec

    train_codec(argv)


def _decompose(argv: list[str]) -> None:
    from .collaboration.parts_command import main_decompose

    main_decompose(argv)


def _assign(argv: list[str]) -> None:
    from .collaboration.parts_command import main_assign

    main_assign(argv)


def _assemble(argv: list[str]) -> None:
    from .collaboration.parts_command import main_assemble

    main_assemble(argv)


#: Commands that run for long.
RUNS = ("quickstart", "train", "evaluate", "benchmark", "offload", "prune", "quantize", "decompose", "train-codec")
#: Commands with argument parsers of their own.
PASSED_ON: dict[str, Callable[[list[str]], int | None]] = {
    "predict": _predict,
    "chat": _chat,
    "demo": _demo,
    "quickstart": _quickstart,
    "train": _train,
    "evaluate": _evaluate,
    "prepare": _prepare,
    "probe": _probe,
    "benchmark": _benchmark,
    "tiny-lm": _tiny_lm,
    "prune": _prune,
    "quantize": _quantize,
    "split": _split,
    "serve-tail": _serve_tail,
    "measure-split": _measure_split,
    "offload": _offload,
    "train-codec": _train_codec,
    "decompose": _decompose,
    "assign": _assign,
    "assemble": _assemble,
}
