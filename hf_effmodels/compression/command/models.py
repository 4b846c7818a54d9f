"""The model that a step reads."""

from .words import first_line


def load_config(name: str):
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise OSError(f"--model: {name!r} cannot be found or read. {first_line(error)}") from error
