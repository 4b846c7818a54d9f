"""What our presets are timed against. A new peer of an architecture is one line in `OFFICIAL_LIKE` or `TIMM`."""

import re
from collections.abc import Callable

from torch import nn

from ..models import create_model, find_preset, get_config


def ours(preset: str, folded: bool) -> nn.Module:
    """The preset itself."""
    model = create_model(preset)
    return model.reparameterize() if folded and hasattr(model, "reparameterize") else model


#: model_type -> (our preset's pattern, timm's name), tried in order.
TIMM = {
    "ghostnet": (r"ghostnet-(\d)\.(\d)x", r"ghostnet_\g<1>\g<2>0"),
    "ghostnetv2": (r"ghostnetv2-(\d)\.(\d)x", r"ghostnetv2_\g<1>\g<2>0"),
    "ghostnetv3": (r"ghostnetv3-(\d)\.(\d)x", r"ghostnetv3_\g<1>\g<2>0"),
    "tinynet": (r"tinynet-([a-e])", r"tinynet_\g<1>"),
}


def timm_name(preset: str) -> str:
    """timm's name of a preset; a ValueError where timm has none."""
    architecture, _ = find_preset(preset)
    pattern, name = TIMM.get(architecture.model_type, ("(?!)", ""))
    if not re.fullmatch(pattern, preset):
        raise ValueError(f"against: timm has no {preset}; it has peers of {', '.join(TIMM)}.")
    return re.sub(pattern, name, preset)


def timm(preset: str, folded: bool) -> nn.Module:
    """timm's model, folded by timm's own means."""
    name = timm_name(preset)
    try:
        import timm
        from timm.utils import reparameterize_model
    except ImportError as error:
        raise ImportError(f"against: timm needs timm and torchvision ({error}): pip install timm") from error

    model = timm.create_model(name).eval()
    return reparameterize_model(model) if folded else model


def official_like(preset: str, folded: bool) -> nn.Module:
    """The published formulas, layer by layer, in the contiguous layout, with only the folding of the official code."""
    check("official-like", preset)
    return OFFICIAL_LIKE[find_preset(preset)[0].model_type](preset, folded)


def _ghostnet(preset: str, folded: bool) -> nn.Module:
    from .official_ghostnet import OfficialGhostNet

    return OfficialGhostNet(get_config(preset), fused=folded).eval()


def _vig(preset: str, folded: bool) -> nn.Module:
    from .official_vig import naive_vig

    return naive_vig(ours(preset, folded))


#: model_type -> plain rendering of the published network.
OFFICIAL_LIKE: dict[str, Callable[[str, bool], nn.Module]] = {
    "ghostnet": _ghostnet,
    "ghostnetv2": _ghostnet,
    "ghostnetv3": _ghostnet,
    "vig": _vig,
    "pyramidvig": _vig,
}

#: name on the command line -> builder (preset, folded) of a module that takes pixels (B, C, H, W).
PEERS: dict[str, Callable[[str, bool], nn.Module]] = {"ours": ours, "timm": timm, "official-like": official_like}


def check(peer: str, preset: str) -> None:
    """Raise a ValueError where `peer` has nothing to set beside `preset`."""
    if peer == "timm":
        timm_name(preset)
    architecture, _ = find_preset(preset)
    if peer == "official-like" and architecture.model_type not in OFFICIAL_LIKE:
        raise ValueError(
            f"against: official-like has no {preset} ({architecture.title}); it has {', '.join(OFFICIAL_LIKE)}."
        )
