"""Switch PyramidDrop on and off."""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from .settings import DEFAULT_RATIOS, PyramidDropSettings, check_decoder, default_layers
from .staged import StagedBase, StagedDecoder, StagedHead, staged_class, unstage, visual_token_ids


def apply_pyramid_drop(
    model: PreTrainedModel,
    layers: Sequence[int] | None = None,
    ratios: Sequence[float] | None = None,
    scope: str | None = None,
    position_mode: str | None = None,
) -> PreTrainedModel:
    """
    Let image tokens leave `model` in stages, in place. Its weights stay as they are.

    From then on `logits`, hidden states and attentions of a prompt have the length of what is left of it (the loss is
    taken of that, too), and the cache of each block is as long as what the block saw. With `labels`, image tokens are
    ranked by the tokens before the answers, and rows without answers keep theirs; without, by the last token.

    Args:
        model: a vision-language model with a head, such as `LlavaForConditionalGeneration`, whose decoder is one of
            `DECODERS`.
        layers: after so many blocks tokens leave; None is what `model.config.pyramid_drop` says, or a quarter, a half
            and three quarters of the depth.
        ratios: share of the original image tokens that stays after each; None is as of `layers`, 0.5, 0.25, 0.125.
        scope: "joint" ranks all image tokens of a row together, "image" those of each image by themselves; None is as
            of `layers`, "joint".
        position_mode: "renumber" (the paper's) or "keep" positions; None is as of `layers`, "keep" for positions with
            three axes, else "renumber".

    Returns:
        The same model. `model.config.pyramid_drop` has the settings: after `from_pretrained`,
        `apply_pyramid_drop(model)` brings them back.

    Raises:
        ValueError: a model without images, an unknown decoder, layers it does not have, a wrapped forward.
    """
    base, decoder = _parts(model)
    stored = (getattr(model.config, "pyramid_drop", None) or {}) if layers is None else {}
    given = {"layers": layers, "ratios": ratios, "scope": scope, "position_mode": position_mode}
    chosen = {**stored, **{name: value for name, value in given.items() if value is not None}}
    chosen.setdefault("layers", default_layers(decoder.config.num_hidden_layers))
    chosen.setdefault("ratios", DEFAULT_RATIOS[: len(chosen["layers"])])
    settings = PyramidDropSettings(**chosen)
    check_decoder(decoder.config, settings)
    for module in (model, base, decoder):
        if "forward" in vars(module):
            raise ValueError(
                f"model: the forward of its {type(module).__name__} is wrapped (as a device map over several devices "
                "does), which would go past what is done here; apply it first."
            )
    remove_pyramid_drop(model)
    for module, mixin in ((model, StagedHead), (base, StagedBase), (decoder, StagedDecoder)):
        module.__class__ = staged_class(mixin, type(module))
    decoder.pyramid_drop = settings
    model.config.pyramid_drop = settings.to_dict()
    return model


def remove_pyramid_drop(model: PreTrainedModel) -> PreTrainedModel:
    """`model` as it was before `apply_pyramid_drop`, in place; one that has no PyramidDrop is left as it is."""
    base, decoder = _parts(model)
    for module in (model, base, decoder):
        unstage(module)
    vars(decoder).pop("pyramid_drop", None)
    vars(model.config).pop("pyramid_drop", None)
    return model


def _parts(model: PreTrainedModel) -> tuple[nn.Module, nn.Module]:
    """Base model and decoder of a vision-language model."""
    base = getattr(model, "base_model", model)
    decoder = next((d for n in ("language_model", "text_model") if (d := getattr(base, n, None)) is not None), None)
    if base is model or decoder is None or not hasattr(decoder, "layers") or not visual_token_ids(model.config):
        raise ValueError(
            f"model: got {type(model).__name__}, accepted is a vision-language model with a head whose images are "
            "tokens in the text, such as LlavaForConditionalGeneration."
        )
    return base, decoder
