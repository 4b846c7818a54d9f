"""`hf-effmodels demo MODEL`."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._command_line import in_words_of_the_command, show
from .._places import check_repo_id
from ..prediction.command import ModelParser, add_model, check_device, source_of
from ..prediction.predictor import Source, is_exported, task_early
from . import APP_TASKS

if TYPE_CHECKING:
    import gradio

_LOOPBACK = "127.0.0.1"
#: What a Space's folder has no use for.
_OF_SERVING = ("task", "device", "host", "port", "open", "trust_remote_code")


def main(argv: Sequence[str]) -> None:
    """Serve a model's app until the program is interrupted, or write it as a Space's folder.

    Raises:
        ValueError, OSError: wrong arguments, a model that cannot be read or has no app.
        ImportError: gradio is missing.
    """
    parser = _parser()
    arguments = parser.parse_args(list(argv))
    if not 0 <= arguments.port <= 65535:
        raise ValueError(f"--port: got {arguments.port}, accepted are 0 (a free one) to 65535.")
    if arguments.space is not None:
        for name in _OF_SERVING:
            if getattr(arguments, name) != parser.get_default(name):
                raise ValueError(f"--space: does not go with --{name.replace('_', '-')}: nothing is served.")
    try:
        if arguments.space is None:
            _check_app(arguments)
        else:
            _check_on_hub(arguments.model)
        check_device(arguments.device)
        if arguments.space is not None:
            _write(arguments)
        else:
            _serve(arguments)
    except (ValueError, OSError, ImportError) as error:
        words = parser.words() | {"repo_id": "MODEL", "model_id": "MODEL", "folder": "--space"}
        raise type(error)(in_words_of_the_command(str(error), words)) from error


def _parser() -> ModelParser:
    parser = ModelParser(
        prog="hf-effmodels demo",
        description="Show a model in the browser, on this machine only: pictures or texts in, what it says out.",
        epilog="examples:  hf-effmodels demo out   |   demo your-name/model --examples photos   |   "
        "demo your-name/model --space folder",
    )
    add_model(parser, "a preset, a folder or an id of the Hub, no exported program; with --space an id of the Hub")
    parser.add_argument("--task", help="what to do, where a model can do more")
    parser.add_argument("--examples", metavar="FOLDER", help="pictures to try (default: some that come along)")
    parser.add_argument("--host", default=_LOOPBACK, help=f"address to listen at (default: {_LOOPBACK}, this machine)")
    parser.add_argument("--port", type=int, default=7860, help="0: a free one (default: 7860, or the next free one)")
    parser.add_argument("--open", action="store_true", help="open a browser")
    parser.add_argument("--space", metavar="FOLDER", help="do not serve, write a Space for a model on the Hub")
    return parser


def _check_app(arguments) -> None:
    """ValueError or OSError of a model that has no app, as far as names and files tell it."""
    task = task_early(source := source_of(arguments), arguments.task)
    check_no_program(source)
    if task is not None:
        check_has_app(source.name, task)


def check_no_program(source: Source) -> None:
    """ValueError of what `export` wrote."""
    if is_exported(source):
        raise ValueError(f"MODEL: {source.name} is an exported program; give the model that was exported.")


def check_has_app(name: str, task: str) -> None:
    """ValueError of a task that there is no app for."""
    if task not in APP_TASKS:
        known = ", ".join(APP_TASKS)
        raise ValueError(f"MODEL: {name} is for {task}, of which there is no app; apps are for {known}.")


def _check_on_hub(name: str) -> None:
    """ValueError of a model that no Space can load."""
    try:
        check_repo_id(name)
    except ValueError:
        raise ValueError(
            f"--space: a Space shows a model on the Hub: MODEL is its 'namespace/name', got {name!r}; "
            "hf-effmodels publish FOLDER namespace/name --space uploads a folder and shows it."
        ) from None


def _pictures(folder: str | None) -> list[str] | None:
    if folder is None:
        return None
    from ..prediction.inputs import find_inputs

    try:
        return [str(found.value) for found in find_inputs([folder], "image")]
    except (ValueError, OSError) as error:
        raise type(error)(str(error).replace("INPUT", "--examples", 1)) from error


def _write(arguments) -> None:
    from ..hub.space import write_space

    written = write_space(
        arguments.model,
        arguments.space,
        revision=arguments.revision,
        token=arguments.token,
        examples=_pictures(arguments.examples),
    )
    show(f"{written}\n")


def _serve(arguments) -> None:
    examples = _pictures(arguments.examples)
    app = open_app(source_of(arguments), task=arguments.task, device=arguments.device, examples=examples)
    from .app import launch

    if arguments.host != _LOOPBACK:
        sys.stderr.write(f"hf-effmodels: whoever reaches {arguments.host} can use the model.\n")
    where = {"server_name": arguments.host, "server_port": _port(arguments.host, arguments.port)}
    _, url, _ = launch(app, prevent_thread_lock=True, inbrowser=arguments.open, quiet=True, **where)
    show(f"{url}    (Ctrl+C ends it)\n")
    app.block_thread()


def open_app(
    source: str | Source,
    *,
    task: str | None = None,
    device: str | None = None,
    examples: Sequence[str] | None = None,
) -> "gradio.Blocks":
    """The app (`gradio.Blocks`) of a model.

    Args:
        source: a preset (its published weights), a folder or an id of the Hub; or a `prediction.predictor.Source`.
        task, device, examples: of `app.build`; the task that the model has a head for by default.

    Raises:
        ValueError: a model that cannot be found or has no app. ImportError: gradio is missing.
    """
    import importlib.util

    from ..prediction.predictor import find_task

    source = Source(source) if isinstance(source, str) else source
    check_no_program(source)
    named = source.name
    source, task = find_task(source, task)
    if importlib.util.find_spec("gradio") is None:
        raise ImportError("demo needs gradio: pip install 'hf_effmodels[demo]'")
    from ..hub.ids import reading
    from .app import build

    check_has_app(named, task)
    with reading("MODEL", source.name, revision=("--revision", source.revision)):
        return build(source.name, task, device=device, examples=examples, title=_title(named), **source.options())


def _title(name: str) -> str:
    from pathlib import Path

    return Path(name).resolve().name if name in (".", "..") else name.rstrip("/").rpartition("/")[2]


def _port(host: str, port: int) -> int | None:
    """0 as a port that is free now; the default as None, for which gradio looks for the next free one."""
    if port == 7860:
        return None
    if port:
        return port
    import socket

    with socket.socket() as free:
        free.bind((host, 0))
        return free.getsockname()[1]
