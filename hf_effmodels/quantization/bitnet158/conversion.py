"""Any model's linear layers as ternary ones, for training from random or trained weights."""

from typing import TYPE_CHECKING

from ...hub.checkpoints import check_model
from .configuration_bitnet158 import BitNet158Config
from .replacement import heads, replace_linears

# Imported while transformers' models are.
if TYPE_CHECKING:
    from transformers import PreTrainedModel


def convert_to_bitlinear(model: "PreTrainedModel", config: BitNet158Config | None = None) -> "PreTrainedModel":
    """Change all linear layers of a model but its head; embeddings and norms have no linear layers and stay.

    The weights that are there are trained on. The model is changed; its configuration says so, and `from_pretrained`
    builds the same layers where this package is imported.

    Raises:
        ValueError: the model is quantised already, has no layers to convert, or weights that are not finite.
    """
    config = config or BitNet158Config()
    if getattr(model.config, "quantization_config", None) is not None:
        raise ValueError("model: it is quantised already.")
    check_model("model", model)
    left = [*(config.modules_to_not_convert or []), *heads(model)]
    if not replace_linears(model, config, left):
        raise ValueError(f"model: {type(model).__name__} has no linear layers beside its head.")
    config.modules_to_not_convert = sorted(set(left))
    # As it stands in a file: what is loaded with this configuration object reads it so.
    model.config.quantization_config = config.to_dict()
    return model
