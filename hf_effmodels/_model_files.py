"""Files of a model's folder, looked at before libraries read them: their words name neither the file nor its kind."""

import json
from pathlib import Path

from ._checkpoint_files import check_checkpoint, not_safetensors

#: What makes a folder that of a pipeline of diffusers.
MODEL_INDEX = "model_index.json"
#: Beginnings of the names of weights in a model's folder.
_WEIGHTS = ("model", "adapter_model", "diffusion_pytorch_model")
_SETTINGS = ("config", "generation_config", "preprocessor_config", "processor_config", "tokenizer_config")


def check_model_files(argument: str, folder: str | Path, *, pickled: bool = False) -> None:
    """Look at the headers of a folder's weights, and at whether its settings are any; of a pipeline in each part.

    Args:
        argument: as the user knows the folder.
        pickled: also files of torch.save, which are read whole for it.

    Raises:
        OSError: a file is truncated or of another kind; all weights are whole numbers, which are those of no model.
        ValueError: a file holds Python objects that would run code.
    """
    folder = Path(folder)
    if (folder / MODEL_INDEX).is_file():
        for part in sorted(part for part in folder.iterdir() if part.is_dir()):
            check_model_files(argument, part, pickled=pickled)
    for name in (f"{name}.json" for name in _SETTINGS):
        try:
            held = json.loads((folder / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            continue  # there is none, or libraries say what is wrong with it
        if not isinstance(held, dict):
            raise OSError(f"{argument}: {folder / name} holds a {type(held).__name__}, accepted is a mapping.")
    for path in sorted(folder.glob("*.safetensors")):
        if path.name.startswith(_WEIGHTS):
            _check_header(argument, path)
    for path in sorted(folder.glob("pytorch_model*.bin")) if pickled else ():
        try:
            check_checkpoint(path)
        except (OSError, ValueError) as error:
            raise type(error)(str(error).replace("checkpoint:", f"{argument}:", 1)) from None


def _check_header(argument: str, path: Path) -> None:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            kinds = {file.get_slice(name).get_dtype() for name in file.keys()}
    except Exception as error:  # what is thrown depends on where the file is broken
        raise OSError(str(not_safetensors(path, error)).replace("checkpoint:", f"{argument}:", 1)) from None
    if kinds and all(kind.startswith(("I", "U", "BOOL")) for kind in kinds):
        raise OSError(
            f"{argument}: {path} holds whole numbers alone ({', '.join(sorted(kinds))}), accepted are weights, which "
            "are floating-point numbers."
        )
