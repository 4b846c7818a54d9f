"""A Space that shows a published model: the file that `hf-effmodels demo` runs, with pinned versions and pictures."""

import io
import json
import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard
from PIL import Image

from .._token import stated_token
from .._written import rewritten
from ..demo import APP_TASKS
from ..images import read_image
from ..registry import ARCHITECTURES, PIPELINES
from .card_text import one_line
from .contents import CARD, CONFIG, MODEL_INDEX
from .ids import check_repo_id
from .publish import (
    commit_all,
    download_bytes,
    explained,
    head_of,
)
from .usage import task_of

_PACKAGE = Path(__file__).parent.parent
#: Who has written such a folder, for the record in it.
_WRITER = "hf-effmodels demo --space"
#: What every app needs, and more by task.
_REQUIREMENTS = ("gradio", "torch", "transformers", "huggingface_hub", "safetensors", "numpy", "pillow")
_MORE = {"super-resolution": ("diffusers", "accelerate")}
#: Of the pictures that come with the app: by name, as the folder of an installed package may hold anything.
_EXAMPLES = ("README.md", "cat.jpg", "coffee.jpg", "digit-3.png", "digit-7.png", "rocket.jpg", "small-cat.png")
#: Longest side in pixels of pictures that are given along.
_LONGEST_SIDE = 1024


def publish_space(
    model_id: str,
    space_id: str | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
    private: bool = False,
    examples: Sequence[str | os.PathLike] | None = None,
    endpoint: str | None = None,
    timeout: float = 30,
) -> CommitInfo:
    """Show a published model of this package in a Space, in one commit.

    Args:
        model_id: `"namespace/name"` on the Hub.
        space_id: of the Space, which is created where it is not there; the model's by default.
        revision: of the model; the commit that it names now is pinned.
        token, private, endpoint, timeout: as of `publish`.
        examples: picture files to try; some that come with the app by default.

    Raises:
        ValueError: a model of another package, or for a task that has no app; a picture that cannot be read.
        OSError: the Hub cannot be reached, or refuses; there is no such model.
    """
    space_id = space_id or model_id
    for name in (model_id, space_id):
        check_repo_id(name)
    api = HfApi(endpoint=endpoint, token=stated_token(token))
    with explained(model_id, timeout):
        files = space_files(api, model_id, revision, examples=examples, timeout=timeout)
    with explained(space_id, timeout):
        api.create_repo(space_id, private=private or None, exist_ok=True, repo_type="space", space_sdk="gradio")
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        head, _ = head_of(api, space_id, None, timeout, repo_type="space")
        commit = {"commit_message": None, "repo_type": "space"}
        return commit_all(api, space_id, head, operations, commit, f"Show {model_id}")


def write_space(
    model_id: str,
    folder: str | os.PathLike,
    *,
    revision: str | None = None,
    token: str | None = None,
    examples: Sequence[str | os.PathLike] | None = None,
    endpoint: str | None = None,
    timeout: float = 30,
) -> Path:
    """Write what `publish_space` would upload to a folder: new, empty, or written by this function before.

    Raises:
        ValueError, OSError: as `publish_space`. FileExistsError: something of others in the folder would be lost.
    """
    check_repo_id(model_id)
    api = HfApi(endpoint=endpoint, token=stated_token(token) if token else None)
    with explained(model_id, timeout):
        files = space_files(api, model_id, revision, examples=examples, timeout=timeout)
    with rewritten(folder, _WRITER) as new:
        for name, content in files.items():
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_bytes(content)
    return Path(folder)


def space_files(
    api: HfApi,
    model_id: str,
    revision: str | None = None,
    *,
    examples: Sequence[str | os.PathLike] | None = None,
    timeout: float = 30,
) -> dict[str, bytes]:
    """The files of a Space for a published model of this package: app.py and what it reads, requirements, card."""
    commit, names = head_of(api, model_id, revision, timeout)
    task, takes_pictures, with_code = _what_it_is(api, model_id, commit, names)
    license = ModelCard(download_bytes(api, model_id, CARD, commit).decode()).data.license if CARD in names else None
    settings = {"model": model_id, "task": task, "revision": commit, "trust_remote_code": with_code}
    files = {
        "app.py": (_PACKAGE / "demo" / "app.py").read_bytes(),
        **{name: (_PACKAGE / name).read_bytes() for name in ("images.py", "texts.py")},
    }
    if takes_pictures:
        own = _own_pictures(examples) if examples else {}
        bundled = _PACKAGE / "demo" / "examples"
        files |= own or {f"examples/{name}": (bundled / name).read_bytes() for name in _EXAMPLES}
        if own:
            settings["examples"] = list(own)
    files["demo.json"] = (json.dumps(settings, indent=2) + "\n").encode()
    files["requirements.txt"] = _requirements(task).encode()
    files[CARD] = _readme(model_id, task, commit, license).encode()
    return files


def _what_it_is(api: HfApi, model_id: str, commit: str, names: list[str]) -> tuple[str, bool, bool]:
    """A model's task, whether it takes pictures, and whether its code lies beside it."""
    if MODEL_INDEX in names:
        index = json.loads(download_bytes(api, model_id, MODEL_INDEX, commit))
        named = index.get("_class_name")
        module = named[0] if isinstance(named, list) else ""
        entry = PIPELINES.get(str(module).removeprefix("pipeline_"))
        task, with_code = entry.tasks[0] if entry else None, True
    else:
        config = json.loads(download_bytes(api, model_id, CONFIG, commit)) if CONFIG in names else {}
        entry = ARCHITECTURES.get(str(config.get("model_type")))
        classes = config.get("architectures") or [""]
        task = task_of(entry, classes[0]) if entry and classes[0] in entry.auto_classes.values() else None
        with_code = "auto_map" in config
    if task is None or task.name not in APP_TASKS:
        accepted = f"models of this package for {', '.join(APP_TASKS)}"
        raise ValueError(
            f"model_id: {model_id} is for {task.name if task else 'no known task'}, accepted are {accepted}."
        )
    return task.name, "text" not in task.takes, with_code


def _own_pictures(files: Sequence[str | os.PathLike]) -> dict[str, bytes]:
    """Pictures written anew: without what a camera or an editor has put beside the pixels."""
    found = {}
    for number, file in enumerate(files, 1):
        try:
            picture = read_image(file)
        except (ValueError, OSError) as error:
            raise ValueError(f"examples: {file}: {error}") from error
        picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        pixels = Image.frombytes(picture.mode, picture.size, picture.tobytes())
        content = io.BytesIO()
        pixels.save(content, "JPEG", quality=90)
        found[f"examples/{number}.jpg"] = content.getvalue()
    return found


def _requirements(task: str) -> str:
    """The versions that are installed here, of what an app imports."""
    lines = []
    for name in (*_REQUIREMENTS, *_MORE.get(task, ())):
        try:
            lines.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:
            raise ImportError(f"a Space pins the versions that are installed, and {name} is not: "
                              f"pip install 'hf_effmodels[demo]' {name}") from None  # fmt: skip
    return "\n".join(lines) + "\n"


def _readme(model_id: str, task: str, commit: str, license: str | None) -> str:
    name = model_id.partition("/")[2]
    facts = {
        "title": name,
        "emoji": "🔎",
        "colorFrom": "blue",
        "colorTo": "gray",
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "app_file": "app.py",
        "pinned": False,
        "models": [model_id],
        "short_description": one_line(f"{name}: {task}", 60),
    }
    if license:
        facts["license"] = license
    return (
        f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---\n\n"
        f"[{model_id}](https://huggingface.co/{model_id}) at commit `{commit}`, written by hf_effmodels.\n\n"
        "Here: `pip install -r requirements.txt && python app.py`. The pictures in `examples/` that came with the app "
        "are in the public domain or CC0 (a cat by Stefan van der Walt, coffee by Rachel Michetti, a rocket by "
        "SpaceX).\n"
    )
