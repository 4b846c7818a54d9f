"""Halves of split classifiers on the Hub: with the code that loads them where this package is not installed."""

import json
import tempfile
from pathlib import Path

from huggingface_hub import HfApi

from .._token import stated_token
from .bundle import bundle_code
from .contents import CARD, CONFIG
from .export import is_portable, network_code, with_auto_map
from .publish import explained

_MODULE = "hf_effmodels.collaboration.splitting.halves"


def export_half(half, folder: str | Path) -> None:
    """Write a half with its code: `AutoModel.from_pretrained(folder, trust_remote_code=True)` loads it without this
    package; with it nothing in the folder is executed.

    Args:
        half: a `SplitHead` or a `SplitTail`.
        folder: see `save_pretrained`.

    Raises:
        ValueError: the code of the network cannot be put beside it: it is neither transformers' nor this package's.
    """
    mapping, code = _code_of(half)
    folder = Path(folder)
    half.save_pretrained(folder)
    for name, content in code.items():
        (folder / name).write_bytes(content)
    (folder / CONFIG).write_bytes(with_auto_map(json.loads((folder / CONFIG).read_bytes()), mapping))
    (folder / CARD).write_text(half.card(with_code=True), encoding="utf-8")


def _code_of(half) -> tuple[dict[str, str], dict[str, bytes]]:
    """The `auto_map` and the files."""
    modules, made = network_code(half.config.model_type)
    also = dict.fromkeys([_MODULE], next(iter(made))) if made else {}
    mapping = {"AutoModel": f"halves.{type(half).__name__}"}
    if made:
        config = type(half.config)
        mapping["AutoConfig"] = f"{config.__module__.rpartition('.')[2]}.{config.__name__}"
    return mapping, bundle_code({_MODULE, *modules}, also=also, made=made)


def publish_half(half, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
    """See `push_to_hub` of halves. One of somebody else's network goes without code, and its card says so."""
    from ..collaboration.splitting.halves import own_files

    api, names = HfApi(token=stated_token(token)), list(own_files())
    with tempfile.TemporaryDirectory() as temporary, explained(repo_id, timeout=30):
        folder = Path(temporary) / half.half
        if is_portable(half.config.model_type):
            export_half(half, folder)
            names += _code_of(half)[1]  # and no code that a configuration or a processor brings with it
        else:
            half.save_pretrained(folder)
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=names))
