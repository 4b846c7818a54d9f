"""`hf-effmodels predict MODEL INPUT ...` and `hf-effmodels chat MODEL`."""

import os
from collections.abc import Sequence

from .._command_line import Parser, in_words_of_the_command
from .._option_types import DEVICES, names_device, seed
from .._places import check_place
from .inputs import STDIN, check_inputs
from .predictor import MODULES, OF_TEXT, Options, Source, check_drawn, check_used, find_task, load_for_task, task_early

#: What goes with a data set alone.
_OF_A_DATASET = ("split", "column", "dataset_config", "dataset_revision", "data_files", "data_dir")
#: What functions that read data sets call an argument -> what this command does.
_RENAMED = {"image_column": "--column", "text_column": "--column"}


def main(argv: Sequence[str]) -> int:
    """Predict, and print an answer a line as they come, or write them into a file.

    Returns:
        The exit code: 1 where an input could not be read, which is said, and the others were predicted.

    Raises:
        ValueError, OSError: wrong arguments, before anything is predicted.
    """
    argv = list(argv)
    parser = _parser(any(word.partition("=")[0] == "--dataset" for word in argv))
    arguments, rest = parser.parse_known_args(argv)
    if arguments.dataset is not None and rest and not rest[0].startswith("-"):
        arguments.inputs += rest  # behind an option argparse takes none
    else:
        parser.check_no_rest(rest)
    _check(arguments)
    options = Options(**{name: getattr(arguments, name) for name in Options.__dataclass_fields__})
    takes = None
    try:
        if (early := task_early(source_of(arguments), arguments.task)) is not None:
            check_used(early, options)
            check_drawn(early, arguments.save)
            takes = "text" if early in OF_TEXT else "image"
            check_inputs(arguments.inputs, takes)
        if arguments.dataset is not None and "/" in arguments.dataset:
            check_place("--dataset", arguments.dataset)
        check_device(arguments.device)
    except (ValueError, OSError) as error:
        raise type(error)(in_words_of_the_command(str(error), parser.words())) from error
    from .processes import find_processes
    from .rows import load_rows
    from .run import predict

    processes = find_processes(arguments.device)
    try:
        if processes.count > 1:
            _check_sharing(arguments)
        device = arguments.device or processes.device
        source, task = find_task(source_of(arguments), arguments.task)
        check_used(task, options)
        check_drawn(task, arguments.save)
        if task == "super-resolution" and arguments.save is None:
            raise ValueError("save: where to write the enlarged images, such as --save enlarged")
        # What is not clear of a data set is said before a model is loaded, which may take long.
        rows = None if arguments.dataset is None else load_rows(arguments, "text" if task in OF_TEXT else "image")
        predictor = load_for_task(source, task, options, device)
    except (ValueError, OSError, ImportError) as error:
        raise type(error)(in_words_of_the_command(str(error), _RENAMED | parser.words())) from error
    if takes != predictor.takes:
        check_inputs(arguments.inputs, predictor.takes)
    return 1 if predict(predictor, options, rows, arguments, processes) else 0


class ModelParser(Parser):
    """Knows what functions call its options."""

    def words(self) -> dict[str, str]:
        return {action.dest: action.option_strings[-1] for action in self.declared if action.option_strings}


def _parser(of_a_dataset: bool) -> ModelParser:
    parser = ModelParser(
        prog="hf-effmodels predict",
        description="What a model says of pictures or texts, one line each.",
        epilog="examples:  hf-effmodels predict out photo.jpg | hf-effmodels predict out photos/ --csv > found.csv"
        " | find . -name '*.png' | hf-effmodels predict out - --json | accelerate launch -m hf_effmodels predict"
        " out --dataset your/photos --split test --output found.jsonl",
    )
    add_model(parser)
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        # With "*" argparse takes none where an option stands before the first.
        nargs="*" if of_a_dataset else "+",
        help="image files and folders of them; of models of text, texts and files with one text a line; -: standard "
        "input, with a file name or a text a line",
    )
    parser.add_argument("--task", help=f"what to do, where a model can do more: {', '.join(MODULES)}")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print a JSON object for each input")
    how.add_argument("--csv", action="store_true", help="print a table, with a row for each class or box")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write all answers into it (.jsonl, .csv, or lines of text): the same call after a kill goes on, and "
        "processes that accelerate or torchrun has started share the inputs",
    )
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
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="in the place of INPUT the rows of a data set: on the Hub, a folder, a format (imagefolder, parquet, "
        "csv, ...) with --data-files or --data-dir, a file of texts, or digits",
    )
    parser.add_argument("--split", help="of the data set (default: the only one)")
    parser.add_argument("--column", help="with the pictures or texts (default: the only one of this type)")
    for name, text in (
        ("config", "configuration of the data set on the Hub"),
        ("revision", "branch, tag or commit of the data set on the Hub"),
    ):
        parser.add_argument(f"--dataset_{name}", f"--dataset-{name}", metavar="NAME", help=text)
    parser.add_argument("--data_files", "--data-files", metavar="FILES", help="a path, a pattern, or {split: paths}")
    parser.add_argument("--data_dir", "--data-dir", metavar="DIR", help="folder of the files")
    parser.add_argument("--batch-size", type=int, default=8, help="inputs at a time (default: 8)")
    return parser


def add_model(parser: Parser, accepted: str = "a preset, a folder, an id of the Hub, or what export wrote") -> None:
    """The arguments that say which model, and how to read it."""
    parser.add_argument("model", metavar="MODEL", help=accepted)
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
    if arguments.dataset is None:
        for name in _OF_A_DATASET:
            if getattr(arguments, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} goes with --dataset.")
    elif arguments.inputs:
        raise ValueError(f"INPUT: got {arguments.inputs[0]!r}, which does not go with --dataset {arguments.dataset}.")
    if arguments.output is not None and os.path.lexists(arguments.output):
        raise ValueError(f"--output: {arguments.output} is there already; name another file.")


def _check_sharing(arguments) -> None:
    """ValueError where several processes cannot share the inputs."""
    if arguments.output is None:
        raise ValueError("output: several processes share the inputs; name the file that their answers go into.")
    if STDIN in arguments.inputs:
        raise ValueError(f"INPUT: got {STDIN!r}, but several processes cannot share standard input.")


def check_device(device: str | None) -> None:
    """ValueError unless torch can compute there."""
    if device is None:
        return
    if not names_device(device):
        raise ValueError(f"--device: got {device!r}, accepted are such as {', '.join(DEVICES)}, and cuda:1.")
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or ["it cannot be used"])[0]
        if "not compiled with" in reason or "not linked with" in reason:
            reason = "the torch that is installed here cannot compute there; cpu is always there."
        raise ValueError(f"--device: got {device!r}: {reason}") from None


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
    parser.add_argument("--seed", type=seed, default=0, help="of the random choice, with a temperature (default: 0)")
    arguments = parser.parse_args(list(argv))
    if arguments.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens: got {arguments.max_new_tokens}, accepted are whole numbers from 1.")
    if not 0 <= arguments.temperature < float("inf"):
        raise ValueError(f"--temperature: got {arguments.temperature}, accepted are numbers from 0.")
    task_early(source_of(arguments), "text-generation")
    check_device(arguments.device)
    from .talk import talk

    talk(source_of(arguments), arguments.device, arguments.max_new_tokens, arguments.temperature, arguments.seed)
    return 0
