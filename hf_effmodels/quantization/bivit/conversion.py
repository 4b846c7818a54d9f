"""Any vision transformer's blocks as binary ones, for training from random or trained weights."""

from typing import TYPE_CHECKING

from ...hub.checkpoints import check_model
from ..stored import quantizer_of
from .configuration_bivit import BiVitConfig
from .replacement import begin_scales, make_binary

# Imported while transformers' models are.
if TYPE_CHECKING:
    from transformers import PreTrainedModel


def convert_to_bivit(model: "PreTrainedModel", config: BiVitConfig | None = None) -> "PreTrainedModel":
    """`binarize_transformer`, written into the model's configuration: `from_pretrained` builds the same layers where
    this package is imported.

    The weights that are there are trained on; learnt scales begin at their mean magnitudes. A model that has binary
    layers already may be given again, with less to skip: the second of the paper's two stages.

    Raises:
        ValueError: the model is quantised otherwise, has no layers to convert, no attention interface, or weights that
            are not finite.
    """
    config = config or BiVitConfig()
    before = quantizer_of(model.config)
    if before not in (None, "bivit"):
        raise ValueError("model: it is quantised already.")
    if before is not None:
        _check_second_stage(model.config.quantization_config, config)
    check_model("model", model)
    begin_scales(make_binary(model, config))
    # As it stands in a file: what is loaded with this configuration object reads it so.
    model.config.quantization_config = config.to_dict()
    return model


def _check_second_stage(before, config: BiVitConfig) -> None:
    """What is binary already stays as it is."""
    stored = before if isinstance(before, dict) else before.to_dict()
    for name in ("scale", "binary_inputs"):
        if stored[name] != getattr(config, name):
            raise ValueError(
                f"{name}: got {getattr(config, name)!r}, but the model has binary layers with {stored[name]!r}."
            )
    if stored["attention"] and not config.attention:
        raise ValueError("attention: got False, but the model's attention is binary already.")
