"""The model that a step reads."""

from ..._kinds import stated_type
from ..._model_place import check_model
from ..._option_types import DEVICES, names_device
from ..pruning.choices import check_type


def check_kind(name: str, accepted: tuple[str, ...], argument: str = "--model") -> str | None:
    """The type of model that a folder's configuration states; nothing heavy is imported.

    Raises:
        OSError: there is no such model. ValueError: one of another type.
    """
    check_model(argument, name)
    if (model_type := stated_type(name)) is not None:
        check_type(argument, model_type, accepted)
    return model_type


def check_device_name(device: str) -> None:
    """ValueError of a word that names no place to compute."""
    if not names_device(device):
        raise ValueError(
            f"device: got {device!r}, where torch cannot compute here; accepted are such as {', '.join(DEVICES)}."
        )


def load_config(name: str, argument: str = "--model"):
    """A model's configuration."""
    from transformers import AutoConfig

    from ...hub.ids import reading

    with reading(argument, name):
        return AutoConfig.from_pretrained(name)


def load_model(name: str, argument: str = "--model"):
    """A causal language model with all of its weights, in the precision it was saved in."""
    from transformers import AutoModelForCausalLM

    from ...hub.whole import load_whole

    return load_whole(AutoModelForCausalLM, argument, name, dtype="auto")


def check_device(device: str) -> None:
    """ValueError where nothing can be computed on a device."""
    import torch

    from ...hub.ids import first_line

    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device: got {device!r}, where torch cannot compute here ({first_line(error)}); accepted is cpu."
        ) from error
