"""What our presets are timed against. A new peer is one line in `PEERS`, for another architecture one in its table."""

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from torch import nn

from ..modeling.decoders.configuration_decoder import DecoderConfig
from ..models import create_model, find_preset, get_config
from ..registry import find
from . import layers
from .places import is_place, load


def model_type(preset: str) -> str:
    """The architecture or pipeline of a preset, the kind of a layer; a ValueError if there is no such preset."""
    if preset in layers.LAYERS:
        return layers.LAYERS[preset].kind
    found = find(preset)
    return found[0].key if found is not None else find_preset(preset)[0].key


def ours(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """The preset itself, or the model of a folder; of a pipeline the part that is timed."""
    if preset in layers.LAYERS:
        return layers.build(preset)
    if is_place(preset):
        return load(preset, folded)
    model = create_model(preset, **overrides)
    if (part := TIMED_PART.get(model_type(preset))) is not None:
        return part(model)
    return model.reparameterize() if folded and hasattr(model, "reparameterize") else model


def _denoising_step(pipe) -> nn.Module:
    from .official_denoiser import DenoisingStep

    return DenoisingStep(pipe.unet)


#: diffusers pipeline -> the part of it that is timed.
TIMED_PART: dict[str, Callable[[object], nn.Module]] = {
    "sam_diffsr": _denoising_step,
    "delvm": lambda pipe: pipe.language_model,
}

#: model_type -> (our preset's pattern, timm's name), tried in order.
TIMM = {
    "ghostnet": (r"ghostnet-(\d)\.(\d)x", r"ghostnet_\g<1>\g<2>0"),
    "ghostnetv2": (r"ghostnetv2-(\d)\.(\d)x", r"ghostnetv2_\g<1>\g<2>0"),
    "ghostnetv3": (r"ghostnetv3-(\d)\.(\d)x", r"ghostnetv3_\g<1>\g<2>0"),
    "tinynet": (r"tinynet-([a-e])", r"tinynet_\g<1>"),
    "tinyvit": (r"tinyvit-(\d+)m", r"tiny_vit_\g<1>m_224"),
}


def timm_name(preset: str) -> str:
    """timm's name of a preset; a ValueError where timm has none."""
    if not has_peer("timm", preset):
        raise ValueError(f"--against: timm has no {preset}; it has peers of {', '.join(TIMM)}.")
    return re.sub(*TIMM[model_type(preset)], preset)


def timm(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """timm's model, folded by timm's own means."""
    name = timm_name(preset)
    try:
        import timm
        from timm.utils import reparameterize_model
    except ImportError as error:
        raise ImportError(f"--against: timm needs timm and torchvision ({error}): pip install timm") from error

    if overrides:
        raise ValueError(f"--model-config: got {json.dumps(overrides)}, but timm's models have other settings.")
    model = timm.create_model(name).eval()
    return reparameterize_model(model) if folded else model


def _of(module: str, name: str) -> Callable[[str, bool, dict], nn.Module]:
    """The function `name` of a module beside this one, which is imported when it is called."""

    def build(preset: str, folded: bool, overrides: dict) -> nn.Module:
        return getattr(import_module(f".{module}", __package__), name)(preset, folded, overrides)

    return build


def official_like(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """The published formulas, layer by layer, in the contiguous layout, with only the folding of the official code."""
    return OFFICIAL_LIKE[model_type(preset)](preset, folded, overrides)


def _ghostnet(preset: str, folded: bool, overrides: dict) -> nn.Module:
    from .official_ghostnet import OfficialGhostNet

    return OfficialGhostNet(get_config(preset, **overrides), fused=folded).eval()


def _vig(preset: str, folded: bool, overrides: dict) -> nn.Module:
    from .official_vig import naive_vig

    return naive_vig(ours(preset, folded, overrides))


def _parameternet(preset: str, folded: bool, overrides: dict) -> nn.Module:
    from .official_parameternet import grouped, plain_parameternet

    return plain_parameternet(ours(preset, folded, overrides), grouped)


def convolutions_per_image(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """ParameterNet with an ordinary convolution for each image."""
    from .official_parameternet import per_image, plain_parameternet

    return plain_parameternet(ours(preset, folded, overrides), per_image)


def _denoiser(preset: str, folded: bool, overrides: dict) -> nn.Module:
    from .official_denoiser import OfficialDenoiser

    return OfficialDenoiser(create_model(preset, **overrides).unet)


def _tinyvit(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """The official network has its batch norms in use and attention as two products of matrices."""
    model = create_model(preset, **overrides)
    model.set_attn_implementation("eager")
    return model


def _addernet(preset: str, folded: bool, overrides: dict) -> nn.Module:
    from .official_adder import broadcast_adders

    return broadcast_adders(ours(preset, folded, overrides))


def cdist(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """The AdderNet with torch's own distances."""
    from .official_adder import cdist_adders

    return cdist_adders(ours(preset, folded, overrides))


#: model_type -> plain rendering of the published network.
OFFICIAL_LIKE: dict[str, Callable[[str, bool, dict], nn.Module]] = {
    "ghostnet": _ghostnet,
    "ghostnetv2": _ghostnet,
    "ghostnetv3": _ghostnet,
    "vig": _vig,
    "pyramidvig": _vig,
    "parameternet": _parameternet,
    "sam_diffsr": _denoiser,
    "gold_yolo": _of("detectors", "official_gold_yolo"),
    "tinyvit": _tinyvit,
    "tinysam": _tinyvit,
    "addernet": _addernet,
    "adder_layer": _addernet,
}


def bare_convolutions(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """The network's convolutions alone, see `BareConvolutions`."""
    from .bare_convolutions import BareConvolutions

    return BareConvolutions(ours(preset, folded, overrides))


def ghostnet_width(macs: int) -> float:
    """Width multiplier, in steps of 0.05, of the GhostNet whose multiply-adds come nearest to `macs` (at 224 px)."""
    from .counting import count_preset

    @cache
    def cost(step: int) -> int:
        return count_preset("ghostnet-1.0x", overrides={"width_multiplier": step / 20}).macs

    low, high = 1, 200
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) < macs else (low, middle)
    return min((low, high), key=lambda step: abs(cost(step) - macs)) / 20


def ghostnet(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """Our GhostNet with as many multiply-adds as the preset."""
    from .counting import count_preset

    width = ghostnet_width(count_preset(preset, overrides=overrides).macs)
    return ours("ghostnet-1.0x", folded, {"width_multiplier": width, **_of_task(preset, overrides)})


def ghostnet_official_like(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """The plain rendering of GhostNet with as many multiply-adds as the preset."""
    from .counting import count_preset

    width = ghostnet_width(count_preset(preset, overrides=overrides).macs)
    return _ghostnet("ghostnet-1.0x", folded, {"width_multiplier": width, **_of_task(preset, overrides)})


def _of_task(preset: str, overrides: dict) -> dict:
    """What a network takes and tells apart, as that of the preset."""
    config = get_config(preset, **overrides)
    return {"num_channels": config.num_channels, "num_labels": config.num_labels}


def llama(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """transformers' LLaMA of the same sizes: PanGu-π without its two modules."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = get_config(preset, **overrides)
    return LlamaForCausalLM(
        LlamaConfig(**{name: getattr(config, name) for name in DecoderConfig.__annotations__})
    ).eval()


def in_bfloat16(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """The preset in bfloat16."""
    return ours(preset, folded, overrides).bfloat16().eval()


def in_four_bits(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """The preset in bfloat16 with the layers of its blocks packed in 4 bits, in groups of 128."""
    from ..quantization import CbqConfig
    from ..quantization.cbq.packed_linear import pack_linears

    model = in_bfloat16(preset, folded, overrides)
    model.config.quantization_config = CbqConfig(method="rtn", bits=4, group_size=128).to_dict()
    linears = {name: module for name, module in model.base_model.named_modules() if isinstance(module, nn.Linear)}
    pack_linears(model.base_model, [n for n, module in linears.items() if not module.in_features % 128], 4, 128)
    return model


def on_bits(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """The preset with its binary weights packed to bits."""
    return create_model(preset, **overrides).eval().deploy()


def real_resnet(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """transformers' ResNet of the same widths and depths, in the layout that is faster."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    config = get_config(preset, **overrides)
    if config.stem != "imagenet":
        raise ValueError(f"--against: real-resnet has the stem of ImageNet's networks, which {preset} has not.")
    first, *widths = config.hidden_sizes
    sizes = {"embedding_size": first, "hidden_sizes": widths, "depths": config.depths, "layer_type": "basic"}
    sizes |= {"num_channels": config.num_channels, "num_labels": config.num_labels}
    model = ResNetForImageClassification(ResNetConfig(**sizes))
    return model.eval().to(memory_format=torch.channels_last)


def _binary_layers(form: str) -> Callable[[str, bool, dict], nn.Module]:
    def build(preset: str, folded: bool, overrides: dict) -> nn.Module:
        from . import binary_layers

        return binary_layers.Layers(ours(preset, True, overrides), getattr(binary_layers, form))

    return build


def visual_tokens(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """The same towers with the visual tokens in the decoder's sequence, as LLaVA has them."""
    from .visual_tokens import VisualTokenModel

    return VisualTokenModel(create_model(preset, **overrides)).eval()


def _distilled(*losses: str) -> Callable[[str, bool, dict], nn.Module]:
    def build(preset: str, folded: bool, overrides: dict) -> nn.Module:
        from .distilled import Distilled

        return Distilled(ours(preset, folded, overrides), losses)

    return build


def distilled_stored(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """A student that learns by what a teacher has said beforehand."""
    from .distilled import DistilledByStored

    return DistilledByStored(ours(preset, folded, overrides))


#: What learns from a teacher: classifiers.
CLASSIFIERS = (
    "ghostnet",
    "ghostnetv2",
    "ghostnetv3",
    "tinynet",
    "tinyvit",
    "vanillanet",
    "parameternet",
    "pyramidvig",
)
#: What has binary 3×3 convolutions to be timed by themselves.
BINARY_LAYERS = ("adabin", "binary_layer")
#: Those whose logits come from one linear layer.
LINEAR_HEADS = ("ghostnet", "ghostnetv2", "ghostnetv3", "tinynet", "tinyvit", "parameternet")


@dataclass(frozen=True)
class Peer:
    """`build(preset, folded, overrides)` makes the module that runs in the place of ours; `of` are the architectures
    (model types) it has something to set beside, None for all."""

    build: Callable[[str, bool, dict], nn.Module]
    of: Collection[str] | None


#: name on the command line -> peer. `ours` is the preset itself.
PEERS = {
    "ours": Peer(ours, None),
    "timm": Peer(timm, TIMM),
    "official-like": Peer(official_like, OFFICIAL_LIKE),
    "bare-convolutions": Peer(bare_convolutions, ("vanillanet", "gold_yolo")),
    "convolutions-per-image": Peer(convolutions_per_image, ("parameternet",)),
    "ghostnet": Peer(ghostnet, ("parameternet",)),
    "ghostnet-official-like": Peer(ghostnet_official_like, ("parameternet",)),
    "teacher-beside": Peer(_distilled(), CLASSIFIERS),
    "distilled-kd": Peer(_distilled("kd"), CLASSIFIERS),
    "distilled-ofa": Peer(_distilled("ofa"), CLASSIFIERS),
    "distilled-stored": Peer(distilled_stored, CLASSIFIERS),
    "source-estimate": Peer(_of("without_data", "estimate"), LINEAR_HEADS),
    "data-free-turn": Peer(_of("without_data", "turn"), ("cdfkd_mfs",)),
    "data-free-parts": Peer(_of("without_data", "turn_in_parts"), ("cdfkd_mfs",)),
    "llama": Peer(llama, ("pangu_pi",)),
    "bfloat16": Peer(in_bfloat16, ("pangu_pi",)),
    "int4": Peer(in_four_bits, ("pangu_pi",)),
    "pruned": Peer(_of("smaller", "pruned"), ("pangu_pi",)),
    "fresh": Peer(_of("smaller", "fresh"), ("pangu_pi",)),
    "importance": Peer(_of("smaller", "importance"), ("pangu_pi",)),
    "forward-pass": Peer(_of("smaller", "forward_pass"), ("pangu_pi",)),
    "sorted": Peer(_of("smaller", "sorted_step"), ("pangu_pi",)),
    "bits": Peer(on_bits, ("adabin", "bimlp")),
    "real-resnet": Peer(real_resnet, ("adabin",)),
    "layers-float32": Peer(_binary_layers("in_float32"), BINARY_LAYERS),
    "layers-int8": Peer(_binary_layers("Int8Conv2d"), BINARY_LAYERS),
    "layers-bits": Peer(_binary_layers("on_bits"), BINARY_LAYERS),
    "cdist": Peer(cdist, ("addernet", "adder_layer")),
    "visual-tokens": Peer(visual_tokens, ("adem_vl",)),
    "llava": Peer(_of("llava", "llava"), ("adem_vl",)),
    "llava-pyramid-drop": Peer(_of("llava", "llava_pyramid_drop"), ("adem_vl",)),
    "pruned-vit": Peer(_of("pruned_vit", "pruned"), ("devit",)),
    "built-vit": Peer(_of("pruned_vit", "built"), ("devit",)),
    "vit-like": Peer(_of("pruned_vit", "vit_like"), ("devit",)),
    "pruned-stock-vit": Peer(_of("pruned_vit", "stock_pruned"), ("devit",)),
    "fresh-stock-vit": Peer(_of("pruned_vit", "stock_fresh"), ("devit",)),
    "clip": Peer(_of("two_towers", "clip"), ("light_clip",)),
    "rt-detr-r18": Peer(_of("detectors", "rt_detr_r18"), ("gold_yolo",)),
    "d-fine-n": Peer(_of("detectors", "d_fine_n"), ("gold_yolo",)),
    "simmim": Peer(_of("masked_images", "simmim"), ("fastmim", "localmim")),
    "simmim-224": Peer(_of("masked_images", "simmim_224"), ("fastmim",)),
    "mae": Peer(_of("masked_images", "mae"), ("localmim",)),
    "target-at-hand": Peer(_of("masked_images", "target_at_hand"), ("fastmim", "localmim")),
}


def has_peer(peer: str, preset: str) -> bool:
    """Whether `peer` has something to set beside `preset`; a ValueError if there is no such preset."""
    if is_place(preset):
        return peer == "ours"
    known = PEERS[peer].of
    if peer == "timm":
        return re.fullmatch(TIMM.get(model_type(preset), ("(?!)",))[0], preset) is not None
    return known is None or model_type(preset) in known


def check(peer: str, presets: Collection[str]) -> None:
    """Raise a ValueError where `peer` has nothing to set beside any of `presets`."""
    if not any(has_peer(peer, preset) for preset in presets):
        raise ValueError(
            f"--against: {peer} has no {', '.join(presets)}; it has peers of {', '.join(PEERS[peer].of)}."
        )
