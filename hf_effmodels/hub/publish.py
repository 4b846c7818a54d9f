"""Upload an exported folder to the Hub in one commit, or renew only the code of a repository that is there."""

import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    get_session,
)
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx
from safetensors import SafetensorError, safe_open
from transformers.core_model_loading import revert_weight_conversion

from .. import __version__
from .._exported import check_export, check_request, is_codeless, is_elsewhere, is_export
from .._token import stated_token
from ..architecture import Architecture
from ..quantization.stored import with_quantized_layers
from ..registry import ARCHITECTURES
from .bundle import is_bundled
from .card import find_architecture
from .card_text import NO_LICENSE, check_license
from .contents import (
    CARD,
    CONFIG,
    IMAGE_PROCESSOR,
    MODEL_INDEX,
    PROCESSOR,
    is_weights,
    model_files,
    needed_weights,
    read_json,
    reference_fields,
    refuse_link,
)
from .export import (
    architecture_code,
    auto_map,
    export,
    image_processor_auto_map,
    is_portable,
    with_auto_map,
)
from .ids import first_line, hub_id
from .pipelines import (
    LOCAL_PIPELINE_ID,
    export_pipeline,
    is_pipeline,
    package_of,
    pipeline_card,
    pipeline_code,
    pipeline_of,
    weights_of_components,
)
from .stock_card import stock_usage
from .usage import LOCAL_MODEL_ID, auto_class_of, usage_section
from .wrappers import unwrap

logger = logging.getLogger(__name__)


def publish(
    folder_or_model: Any,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    refresh_code: bool = False,
    license: str | None = None,
    processor: Any = None,
    endpoint: str | None = None,
    timeout: float = 30,
    **card: Any,
) -> CommitInfo:
    """Upload a model to the Hub, in one commit: after an interruption the repository is what it was before.

    What is uploaded is what a model needs (`hub.contents`), with the code that this package writes for it; other files
    of a folder are left out, and named in the log.

    Args:
        folder_or_model: a folder that `export` wrote, or a model (then `processor` is needed; it is exported first);
            or a diffusers pipeline of this package, or a folder that its `save_pretrained` or `export` wrote; or a
            folder with a model of transformers' own classes and its card, such as a training leaves.
            With `refresh_code` also None: the code is then that of the repository's `model_type` or pipeline.
        repo_id: `"namespace/name"`; created if it is not there.
        token: with the right to write to the namespace; by default that of `hf auth login` or `HF_TOKEN`.
        private: whether a repository that is created is private.
        revision: branch to commit to (created from main if it is not there); main by default.
        commit_message: first line of the commit.
        create_pr: open a pull request instead of committing.
        refresh_code: replace only the Python files (and `auto_map`) of an existing repository, delete those of an
            earlier export that are no longer needed, and touch nothing else.
        license: licence of the weights, for a folder whose card states none.
        processor: the image processor that belongs to a model.
        endpoint: address of another Hub; by default `HF_ENDPOINT` or huggingface.co.
        timeout: seconds to wait for an answer of the Hub.
        card: with a model, further arguments of `build_card`.

    Returns:
        `huggingface_hub.CommitInfo`: `oid` is the revision to pin, `commit_url` (and `pr_url`) where to look at it.

    Raises:
        ValueError: wrong `repo_id`, no licence, a folder that is not a whole export or has links or other code in it.
        PermissionError: no token, or one that may not write there.
        ConnectionError: the Hub cannot be reached or does not answer. OSError: any other refusal of the Hub.
    """
    check_request(folder_or_model, repo_id, revision=revision, create_pr=create_pr, refresh_code=refresh_code)
    from_model = folder_or_model is not None and not isinstance(folder_or_model, (str, os.PathLike))
    if card and not from_model:
        raise ValueError(f"{sorted(card)[0]}: goes into the card of a model; the folder has its card already")
    if from_model and not refresh_code and license is None:
        raise _no_license(type(folder_or_model).__name__)
    if not isinstance(timeout, (int, float)) or not 0 < timeout < float("inf"):
        raise ValueError(f"timeout: got {timeout!r}, accepted are seconds above 0")
    commit = {"revision": revision, "create_pr": create_pr, "commit_message": commit_message}
    if refresh_code:
        api = HfApi(endpoint=endpoint, token=stated_token(token))
        with explained(repo_id, timeout):
            return _refresh_code(api, folder_or_model, repo_id, commit, timeout)
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder_or_model
        if from_model:
            folder = Path(temporary, "model")
            facts = {"license": license, "repo_id": repo_id, **card}
            if is_pipeline(folder_or_model):
                export_pipeline(folder_or_model, folder, **facts)
            else:
                export(folder_or_model, processor, folder, **facts)
        operations = _upload_operations(Path(folder), repo_id, license)
        if left_out := _left_out(Path(folder), operations):
            more = f" and {len(left_out) - 10} more" if len(left_out) > 10 else ""
            logger.warning("not published, as a model does not need it: %s%s", ", ".join(left_out[:10]), more)
        api = HfApi(endpoint=endpoint, token=stated_token(token))
        with explained(repo_id, timeout):
            # Not `private=False`: an organisation may have chosen that its new repositories are private.
            api.create_repo(repo_id, private=private or None, exist_ok=True)
            if revision is not None and not revision.startswith("refs/"):
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            head, present = head_of(api, repo_id, revision, timeout)
            new = {operation.path_in_repo for operation in operations}
            operations += _deletions(api, repo_id, head, present, new, weights=True)
            return commit_all(api, repo_id, head, operations, commit, f"Upload {_title(Path(folder))}")


@dataclass(frozen=True)
class Upload:
    """What `publish` would do with a folder.

    Args:
        repo_id: the repository.
        revision: the branch there.
        create_pr: it would be a pull request against that branch.
        files: name -> bytes of what would be uploaded; of files that are there already and the same the Hub keeps its
            own.
        left_out: names of the folder's other files.
    """

    repo_id: str
    revision: str
    create_pr: bool
    files: dict[str, int]
    left_out: list[str]


def dry_run(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    revision: str | None = None,
    create_pr: bool = False,
    license: str | None = None,
) -> Upload:
    """What `publish` of the same arguments would upload, and what it would refuse; the Hub is not asked.

    Raises:
        ValueError: as `publish`.
    """
    check_request(folder, repo_id, revision=revision, create_pr=create_pr, refresh_code=False)
    operations = _upload_operations(Path(folder), repo_id, license)
    files = {operation.path_in_repo: operation.upload_info.size for operation in operations}
    left_out = _left_out(Path(folder), operations)
    return Upload(repo_id, revision or "main", create_pr, dict(sorted(files.items())), left_out)


# what is uploaded


def _upload_operations(folder: Path, repo_id: str, license: str | None) -> list[CommitOperationAdd]:
    """What a model needs of the folder's files, checked: an export of ours, whole, unchanged code, with a licence."""
    check_export(folder, repo_id)
    if is_codeless(folder):
        return _codeless_operations(folder, repo_id, license)
    is_pipeline_there = (folder / MODEL_INDEX).is_file()
    names = model_files(folder)
    if is_pipeline_there:
        index = read_json(folder, MODEL_INDEX)
        code, mapping, of_images = pipeline_code(index, str(folder)), {}, {}
        needed = weights_of_components(folder, index)
    else:
        architecture = _architecture(folder)
        code, mapping = architecture_code(architecture, read_json(folder, CONFIG)), auto_map(architecture)
        of_images = image_processor_auto_map(architecture)
        needed = ["model.safetensors"]
        config = _config(folder, architecture)
        _check_frozen_parts(folder)
    _check_code(folder, code)
    for weights in needed:
        _check_weights(folder, weights)
    if not is_pipeline_there:
        _check_fit(folder, architecture, config)
    for name in names:
        if name.endswith(".json"):
            _check_settings(folder, name, mapping, of_images)
    readme = (_pipeline_readme if is_pipeline_there else _readme)(folder, repo_id, license)
    operations = [CommitOperationAdd(name, folder / name) for name in names if name != CARD]
    operations += [CommitOperationAdd(name, content) for name, content in code.items()]
    return [*operations, CommitOperationAdd(CARD, readme.encode())]


def _codeless_operations(folder: Path, repo_id: str, license: str | None) -> list[CommitOperationAdd]:
    """The same of a model that no code lies beside."""
    config = read_json(folder, CONFIG)
    if config["model_type"] in ARCHITECTURES and is_portable(_network_inside(folder, config)):
        raise ValueError(
            f"folder_or_model: {folder} is not an exported model; write one with "
            "hf_effmodels.hub.export(model, processor, folder)"
        )
    names = model_files(folder)
    _check_weights(folder, "model.safetensors")
    for name in names:
        if name.endswith(".json") and not is_elsewhere(read_json(folder, name).get("auto_map")):
            raise ValueError(
                f"folder_or_model: {folder / name} has an auto_map to code beside it, which is not published; remove "
                "it, or upload the folder with `hf upload`"
            )
    readme = _codeless_readme(folder, repo_id, license)
    operations = [CommitOperationAdd(name, folder / name) for name in names if name != CARD]
    return [*operations, CommitOperationAdd(CARD, readme.encode())]


def _architecture(folder: Path) -> Architecture:
    """The architecture of an exported folder, whose configuration must be one of its."""
    config = read_json(folder, CONFIG)
    model_type = config.get("model_type")
    architecture = ARCHITECTURES.get(model_type) if isinstance(model_type, str) else None
    if architecture is None:
        raise ValueError(
            f"folder_or_model: {folder / CONFIG} is of {config.get('model_type')!r}, accepted are "
            f"{', '.join(ARCHITECTURES)}"
        )
    classes = config.get("architectures")
    if not (isinstance(classes, list) and len(classes) == 1 and classes[0] in architecture.auto_classes.values()):
        raise ValueError(
            f"folder_or_model: {folder / CONFIG} has the architectures {classes!r}, accepted is one of "
            f"{', '.join(sorted(set(architecture.auto_classes.values())))}"
        )
    return architecture


def _config(folder: Path, architecture: Architecture):
    """The configuration of an exported folder; ValueError if it is none of its architecture."""
    try:
        return architecture.config_class.from_dict(read_json(folder, CONFIG))
    except Exception as error:  # whatever its values make the checks of the configuration stumble over
        reason = next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)
        raise ValueError(f"folder_or_model: {folder / CONFIG} is no configuration ({reason})") from error


def _check_fit(folder: Path, architecture: Architecture, config) -> None:
    """ValueError unless the weights are those of the configuration's model (of adapters, which are a part, some)."""
    auto_class = auto_class_of(architecture, config.architectures[0])
    with torch.device("meta"):
        model = architecture.model_class(auto_class)(config)
        try:
            with_quantized_layers(model)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"folder_or_model: the quantization_config in {folder / CONFIG} is none that can be read "
                f"({first_line(error)})"
            ) from error
    found = {}
    for name in needed_weights(folder, "model.safetensors"):
        if not name.endswith(".json"):
            with safe_open(folder / name, framework="pt") as file:
                found |= {key: list(file.get_slice(key).get_shape()) for key in file.keys()}
    wrong = _misfits(found, model, lambda state: state)
    if wrong:  # transformers' own parts may have other names on disk than in memory (`vit.encoder.layer.0`)
        on_disk = _misfits(found, model, lambda state: revert_weight_conversion(model, state))
        wrong = min(wrong, on_disk, key=len)
    if wrong or not found:
        raise ValueError(
            f"folder_or_model: the weights in {folder} are not those of the model in its {CONFIG}: missing, "
            f"superfluous or of another shape are {', '.join(wrong[:5]) or 'all'}"
        )


def _misfits(found: Mapping[str, list[int]], model, named: Callable[[dict], dict]) -> list[str]:
    """Names of weights that are missing, superfluous or of another shape; `named` gives those of the model the names
    that they have on disk."""
    state = model.state_dict()
    expected = {name: list(value.shape) for name, value in named(dict(state)).items()}
    tied: dict[str, set[str]] = {}  # by the one whose value the others have
    for name, source in model.all_tied_weights_keys.items():
        tied.setdefault(source, {source}).add(name)
    groups = [set(named({name: state[name] for name in names})) for names in tied.values()]
    may_be_missing = {name for names in groups if names & found.keys() for name in names}
    missing = set()
    if not getattr(model.config, "adapter_only", False):
        missing = expected.keys() - found.keys() - may_be_missing
    return sorted(missing) + sorted(name for name, shape in found.items() if expected.get(name) != shape)


def _check_code(folder: Path, code: dict[str, bytes]) -> None:
    """ValueError unless the code in the folder is what this package writes: users run it by our name."""
    for name, content in code.items():
        if not (folder / name).is_file():
            raise ValueError(
                f"folder_or_model: {folder} has no {name}, without which it loads only where hf_effmodels is "
                "installed; export the model again"
            )
        refuse_link(folder, name)
        if (folder / name).read_bytes() != content:
            raise ValueError(
                f"folder_or_model: {folder / name} is not what hf_effmodels {__version__} writes: it was edited, or "
                "written by another version; export the model again"
            )


def _check_settings(folder: Path, name: str, mapping: dict[str, str], of_images: dict) -> None:
    """ValueError if a file says that other code than ours is to be run."""
    of_processor = {k: v for k, v in mapping.items() if k == "AutoProcessor"}
    accepted = {CONFIG: mapping, PROCESSOR: of_processor, IMAGE_PROCESSOR: of_images}.get(name)
    named = read_json(folder, name).get("auto_map")
    if named != (accepted or None):
        raise ValueError(
            f"folder_or_model: the auto_map in {folder / name} is not what hf_effmodels {__version__} writes: it was "
            "edited, or written by another version; export the model again"
        )


def _left_out(folder: Path, operations: list[CommitOperationAdd]) -> list[str]:
    """The files of a folder that are not among those that are uploaded."""
    published = {operation.path_in_repo for operation in operations}
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted({path.relative_to(folder).as_posix() for path in paths} - published)


def _check_weights(folder: Path, weights: str) -> None:
    for name in sorted(needed_weights(folder, weights)):
        if not (folder / name).is_file():
            raise ValueError(f"folder_or_model: {folder} has no {name}")
        if name.endswith(".json"):
            continue
        refuse_link(folder, name)
        try:
            with safe_open(folder / name, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(f"folder_or_model: {folder / name} is truncated or damaged ({error})") from error


def _check_frozen_parts(folder: Path) -> None:
    """Adapters say where the frozen parts are: a place that only this machine has is of no use on the Hub."""
    config = read_json(folder, CONFIG)
    if not config.get("adapter_only"):
        return
    for name in reference_fields(ARCHITECTURES[config["model_type"]].config_class).values():
        if hub_id(where := config.get(name)) is None:
            raise ValueError(
                f"folder_or_model: {folder} holds adapters whose {name} is {where!r}, which is no id of the Hub (such "
                f"as a path of one machine); write that of the model into {CONFIG}"
            )


def _readme(folder: Path, repo_id: str, license: str | None) -> str:
    """The folder's card with the licence in it, its snippets naming the repository."""
    if not (folder / CARD).is_file():
        raise ValueError(f"folder_or_model: {folder} has no {CARD}")
    text = _with_license(_card_text(folder), folder, license)
    for has_processor in (True, False):  # a language model may lie there without its tokenizer
        text = text.replace(*(_usage(folder, where, has_processor) for where in (LOCAL_MODEL_ID, repo_id)))
    return text


def _network_inside(folder: Path, config: dict) -> str:
    """The type of the network that one with a code is made around."""
    network = config.get("network")
    if not isinstance(network, dict) or not isinstance(model_type := network.get("model_type"), str):
        raise ValueError(f"folder_or_model: {folder / CONFIG} does not say which network there is a code in")
    return model_type


def _codeless_readme(folder: Path, repo_id: str, license: str | None) -> str:
    """The same of a model that no code lies beside."""
    text = _with_license(_card_text(folder), folder, license)
    data = ModelCard(text).data
    if data.pipeline_tag is None:
        return text
    snippets = (stock_usage(data.pipeline_tag, data.library_name, where) for where in (LOCAL_MODEL_ID, repo_id))
    return text.replace(*snippets)


def _pipeline_readme(folder: Path, repo_id: str, license: str | None) -> str:
    """The same of a pipeline, whose `save_pretrained` writes no card."""
    if not (folder / CARD).is_file():
        if license is None:
            raise _no_license(folder)
        return pipeline_card(folder, license=license, repo_id=repo_id)
    text = _with_license(_card_text(folder), folder, license)
    return text.replace(f'"{LOCAL_PIPELINE_ID}"', f'"{repo_id}"')


def _card_text(folder: Path) -> str:
    try:
        return (folder / CARD).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"folder_or_model: {folder / CARD} is no text in UTF-8 ({error})") from error


def _with_license(text: str, folder: Path, license: str | None) -> str:
    if license is not None:
        check_license(license)
    try:
        card = ModelCard(text)
    except Exception as error:  # of YAML, or of the client, which has no common kind for them
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"folder_or_model: the metadata of {folder / CARD} cannot be read ({reason})") from error
    stated = card.data.license
    if license is not None and stated is not None and license != stated:
        raise ValueError(f"license: got {license!r}, but the card in {folder} says {stated!r}")
    if license is None and stated is None:
        raise _no_license(folder)
    if stated is None:
        card.data.license = license
        text = str(card).replace(NO_LICENSE, license)
    check_license(card.data.license, card.data.license_name, card.data.license_link)
    return text


def _usage(folder: Path, where: str, has_processor: bool) -> str:
    config, architecture = read_json(folder, CONFIG), _architecture(folder)
    name, config = config["architectures"][0], architecture.config_class.from_dict(config)
    return usage_section(architecture, name, config, where, has_processor=has_processor)


def _no_license(model) -> ValueError:
    return ValueError(
        f"license: none is given and {model} states none. Say under which licence its weights are, such as "
        "license='apache-2.0': what others may do with them must be known before they are published"
    )


def _title(folder: Path) -> str:
    if (folder / MODEL_INDEX).is_file():
        return read_json(folder, MODEL_INDEX)["_class_name"][-1]
    config = read_json(folder, CONFIG)
    return (config.get("architectures") or [config["model_type"]])[0]


# what is on the Hub


def download_bytes(api: HfApi, repo_id: str, name: str, revision: str | None) -> bytes:
    """A file of a model repository."""
    with tempfile.TemporaryDirectory() as temporary:
        return Path(api.hf_hub_download(repo_id, name, revision=revision, local_dir=temporary)).read_bytes()


def head_of(
    api: HfApi, repo_id: str, revision: str | None, timeout: float, repo_type: str = "model"
) -> tuple[str, list[str]]:
    """Commit and file names of a branch."""
    info = api.repo_info(repo_id, revision=revision, timeout=timeout, repo_type=repo_type)
    return info.sha, sorted(sibling.rfilename for sibling in info.siblings or ())


def _deletions(api: HfApi, repo_id: str, head: str, present: list[str], new, weights: bool) -> list:
    """What an earlier export has left: its code files and, on request, its weights; never anybody else's files."""

    def is_ours(name: str) -> bool:
        if weights and is_weights(name):  # of a pipeline those in the folders of its components, too
            return not name.startswith("adapter_") and ("/" not in name or MODEL_INDEX in new)
        is_code = "/" not in name and name.endswith(".py")
        return is_code and is_bundled(download_bytes(api, repo_id, name, head))

    return [CommitOperationDelete(name) for name in present if name not in new and is_ours(name)]


def _refresh_code(api: HfApi, folder_or_model, repo_id: str, commit: dict, timeout: float) -> CommitInfo:
    head, present = head_of(api, repo_id, commit["revision"], timeout)
    if MODEL_INDEX in present:
        index = _published_json(api, repo_id, MODEL_INDEX, head)
        code = pipeline_code(index, repo_id)
        if folder_or_model is not None:
            _check_same_pipeline(folder_or_model, index, repo_id)
        operations = [CommitOperationAdd(name, content) for name, content in code.items()]
        return commit_all(api, repo_id, head, operations, commit, "Refresh the pipeline's code")
    if CONFIG not in present:
        raise ValueError(f"repo_id: {repo_id} has no {CONFIG}; refresh_code renews the code of a published model")
    config = _published_json(api, repo_id, CONFIG, head)
    code, mapping = _new_code(folder_or_model, config, repo_id)
    operations = [CommitOperationAdd(name, content) for name, content in code.items()]
    operations += _deletions(api, repo_id, head, present, code, weights=False)
    if config.get("auto_map") != mapping:
        operations.append(CommitOperationAdd(CONFIG, with_auto_map(config, mapping)))
    return commit_all(api, repo_id, head, operations, commit, "Refresh the model's code")


def _published_json(api: HfApi, repo_id: str, name: str, head: str) -> dict:
    try:
        content = json.loads(download_bytes(api, repo_id, name, head))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"repo_id: {name} of {repo_id} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"repo_id: {name} of {repo_id} holds a {type(content).__name__}, expected an object")
    return content


def _check_same_pipeline(folder_or_pipe, index: dict, repo_id: str) -> None:
    """ValueError unless what was given is a pipeline as the one in a repository; of a folder, with unchanged code."""
    wanted = pipeline_of(index, repo_id)
    if isinstance(folder_or_pipe, (str, os.PathLike)):
        folder = Path(folder_or_pipe)
        if not (folder / MODEL_INDEX).is_file():
            raise ValueError(f"folder_or_model: {folder} has no {MODEL_INDEX}, but {repo_id} is a pipeline")
        local = read_json(folder, MODEL_INDEX)
        given = pipeline_of(local, str(folder))
        _check_code(folder, pipeline_code(local, str(folder)))
    else:
        given = package_of(folder_or_pipe)
    if given != wanted:
        what = given or type(folder_or_pipe).__name__
        raise ValueError(f"folder_or_model: is a {what!r}, but {repo_id} holds a {wanted!r}")


def _new_code(folder_or_model, config: dict, repo_id: str) -> tuple[dict[str, bytes], dict[str, str]]:
    """Code files and auto_map for a repository with this `config.json`: of a folder, or of the installed package."""
    model_type = config.get("model_type")
    is_folder = isinstance(folder_or_model, (str, os.PathLike))
    if is_folder and not is_export(Path(folder_or_model)):
        raise ValueError(f"folder_or_model: {folder_or_model} is not an exported model")
    if is_folder:
        given = _architecture(Path(folder_or_model)).model_type
    else:
        given = model_type if folder_or_model is None else find_architecture(unwrap(folder_or_model)).model_type
    if given not in ARCHITECTURES:
        raise ValueError(f"repo_id: {repo_id} is a {given!r}, accepted are {', '.join(ARCHITECTURES)}")
    if given != model_type:
        raise ValueError(f"folder_or_model: is a {given!r}, but {repo_id} holds a {model_type!r}")
    code, mapping = architecture_code(ARCHITECTURES[given], config), auto_map(ARCHITECTURES[given])
    if is_folder:
        _check_code(Path(folder_or_model), code)
    return code, mapping


def commit_all(api: HfApi, repo_id: str, head: str, operations: list, commit: dict, message: str) -> CommitInfo:
    """One commit on top of `head`; `commit` has further arguments of `create_commit`."""
    # create_commit rather than upload_folder: the latter may split a folder into several commits.
    options = {**commit, "commit_message": commit["commit_message"] or message, "parent_commit": head}
    return api.create_commit(repo_id, operations, **options)


# what went wrong


@contextmanager
def explained(repo_id: str, timeout: float) -> Iterator[None]:
    """Waits no longer than `timeout` for an answer, and turns the client's errors into ones that say what to do;
    nothing has been committed when they are raised."""
    session = get_session()
    before, session.timeout = session.timeout, timeout  # by itself the client waits for ever
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ConnectionError(f"{repo_id}: HF_HUB_OFFLINE is set; publishing needs the network") from error
    except (HfHubHTTPError, RuntimeError) as error:
        cause = error if isinstance(error, HfHubHTTPError) else error.__cause__
        if isinstance(cause, HfHubHTTPError):
            raise _refusal(repo_id, cause) from error
        if isinstance(cause, HTTPError):
            raise _unreachable(repo_id, cause, timeout) from error
        raise
    except HTTPError as error:
        raise _unreachable(repo_id, error, timeout) from error
    finally:
        session.timeout = before


def _unreachable(repo_id: str, error: Exception, timeout: float) -> ConnectionError:
    if isinstance(error, httpx.TimeoutException):
        what = f"the Hub did not answer within {timeout:g} seconds (timeout; {type(error).__name__})"
    else:
        what = f"the connection to the Hub failed or broke off ({type(error).__name__}: {error})"
    return ConnectionError(
        f"{repo_id}: {what}. A commit arrives whole or not at all; publish again, and what has arrived is not sent "
        "twice"
    )


def _refusal(repo_id: str, error: HfHubHTTPError) -> OSError:
    status = error.response.status_code
    said = re.sub(r"\s+", " ", error.server_message or str(error)).strip()
    namespace = repo_id.split("/")[0]
    if status == 401:
        return PermissionError(
            f"token: the Hub does not accept it for {repo_id} ({said}). It may be mistyped or expired, or the "
            "repository does not exist; run `hf auth login` or make a token at https://huggingface.co/settings/tokens"
        )
    if status == 403:
        return PermissionError(
            f"token: it may not write to {repo_id} ({said}). Give a token with write access to {namespace!r} (see "
            "https://huggingface.co/settings/tokens), ask to join that organisation, or publish with create_pr=True"
        )
    if status == 404:
        return FileNotFoundError(f"repo_id: {repo_id} is not on the Hub, or not for this token ({said})")
    if status in (409, 412):
        return OSError(f"{repo_id}: somebody else committed meanwhile ({said}); look at it and publish again")
    return OSError(
        f"{repo_id}: the Hub answered {status} ({said}). The repository is as it was; publish again, and what has "
        "arrived is not sent twice"
    )
