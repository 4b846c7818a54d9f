"""How every kind of weight begins, by the papers and the official code: its law, its deviation, and zeros and ones.

`LAWS` says for each architecture what a weight is, by the first pattern that its class and name (such as
"Linear.classifier.bias") match. All weights of a law, each divided by the deviation or bound it should have, are
looked at together.
"""

import math
import re
from collections import defaultdict

import pytest
import torch

from hf_effmodels import FastMimConfig, FastMimForPreTraining, LocalMimConfig, LocalMimForPreTraining
from hf_effmodels.registry import ARCHITECTURES

from .test_initialization import HEADS, MASKED, PATCHES
from .tiny import tiny_config


def fan_in(layer) -> int:
    return layer.weight[0].numel()


def torchs(layer, name):
    """PyTorch's own: uniform in ±1/√fan-in, biases likewise."""
    return "uniform", fan_in(layer) ** -0.5


def he_fan_in(layer, name):
    return "normal", (2 / fan_in(layer)) ** 0.5


def he_fan_out(layer, name):
    """Variance 2 / (outputs · kernel area), of one group."""
    return "normal", (2 / (layer.weight.shape[0] * layer.weight[0, 0].numel())) ** 0.5


def he_fan_out_of_group(layer, name):
    return "normal", (2 * getattr(layer, "groups", 1) / (layer.weight.shape[0] * layer.weight[0, 0].numel())) ** 0.5


def xavier(layer, name):
    return "uniform", (6 / sum(layer.weight.shape)) ** 0.5


def of_expert(layer, name):
    """Each as a convolution of its own."""
    return "uniform", math.prod(layer.kernel_shape[1:]) ** -0.5


def normal(deviation):
    return lambda layer, name: ("normal", deviation)


def constant(value):
    return lambda layer, name: ("constant", value)


ZERO, ONE = constant(0.0), constant(1.0)
#: Tables and matrices that other tests hold value by value.
ELSEWHERE = None
NORMS = {r"^\w*Norm\w*\..*weight$": ONE, r"^\w*Norm\w*\..*bias$": ZERO}
TORCH = {r"^(Conv2d|Linear|BinaryConv2d)\.": torchs}
RESNET20 = {r"^(Linear|\w*Conv2d)\..*weight$": he_fan_in}
ADABIN = {r"\.positive_scale$": ONE, r"\.negative_scale$": constant(0.25), r"\.alpha$": ONE, r"\.beta$": ZERO}
VIG = {
    r"^(Conv2d|Linear)\..*weight$": he_fan_in,
    r"^(Conv2d|Linear)\..*bias$": ZERO,
    r"\.(position_embedding|eps)$": ZERO,
}
LINEARS = {r"^Linear\..*weight$": normal(0.2), r"^Linear\..*bias$": ZERO}
LLAMA = {r"^(Linear|Embedding)\.": normal(0.3)}
OF_STOCK_ENCODER = {r"\.encoder\.": ELSEWHERE}

#: name -> model_type, fields of the configuration beside the tiny network's, and the laws.
LAWS = {
    "adabin": (
        "adabin",
        {"stem": "cifar", "shortcut": "conv"},
        ADABIN | {r"^\w*(Conv2d|Linear)\.": torchs},
    ),
    "adabin of the ResNet-20": ("adabin", {"stem": "cifar", "shortcut": "pad"}, ADABIN | RESNET20 | TORCH),
    "adabin of ImageNet": (
        "adabin",
        {"stem": "imagenet"},
        ADABIN | {r"^\w*Conv2d\.": he_fan_out} | TORCH,
    ),
    "addernet": ("addernet", {}, {r"^AdderConv2d\.": normal(1), r"^Conv2d\..*weight$": he_fan_out} | TORCH),
    "addernet, folded": (
        "addernet",
        {"reparameterized": True},
        {
            r"^AdderConv2d\..*weight$": normal(1),
            r"^AdderConv2d\..*scale$": ONE,
            r"^AdderConv2d\..*bias$": lambda layer, name: ("share", 1.0),
            r"^Conv2d\..*weight$": he_fan_out,
            r"^Conv2d\..*bias$": ZERO,
        }
        | TORCH,
    ),
    "bimlp": (
        "bimlp",
        {},
        TORCH | {r"^BiMlpBias\.": ZERO, r"\.slope$": constant(0.25), r"^BiMlpBlock\..*weight$": ZERO},
    ),
    "bimlp, folded": (
        "bimlp",
        {"reparameterized": True},
        TORCH
        | {
            r"^BiMlpBias\.": ZERO,
            r"\.slope$": constant(0.25),
            r"^BiMlpBlock\..*weight$": ZERO,
            r"\.scale$": ONE,
            r"\.shift$": ZERO,
        },
    ),
    "cdfkd_mfs": ("cdfkd_mfs", {}, {r"\.aggregation\.query\.": ZERO} | TORCH),
    "cmt": ("cmt", {}, LINEARS | TORCH | {r"\.relative_positions$": normal(1)}),
    "cmt, folded": (
        "cmt",
        {"reparameterized": True},
        LINEARS | TORCH | {r"\.relative_positions$": normal(1), r"\.scale$": ONE, r"\.shift$": ZERO},
    ),
    **{
        f"devit {kind}": (
            "devit",
            {"initializer_range": 0.2, "part_type": kind},
            LINEARS
            | {
                r"^Conv2d\..*weight$": he_fan_in,
                r"^Conv2d\..*bias$": ZERO,
                r"\.(cls_token|distillation_token|position_embeddings)$": normal(0.2),
                r"^DeViTTokenizer\.": normal(0.2),
            },
        )
        for kind in ("deit", "vit", "cct")
    },
    "dtop": (
        "dtop",
        {},
        {
            r"^(Linear|Conv2d)\..*weight$": normal(0.2),
            r"^(Linear|Conv2d)\..*bias$": ZERO,
            r"^Embedding\.": normal(1),
            r"\.(cls_token|position_embeddings)$": normal(0.2),
        },
    ),
    "fastmim": (
        "fastmim",
        {},
        OF_STOCK_ENCODER
        | {
            r"^Linear\..*weight$": xavier,
            r"^Linear\..*bias$": ZERO,
            r"\.mask_token$": normal(0.2),
        },
    ),
    "ghostnet": ("ghostnet", {}, TORCH),
    "ghostnetv2": ("ghostnetv2", {}, TORCH),
    "ghostnetv3": ("ghostnetv3", {}, TORCH),
    "gold_yolo": (
        "gold_yolo",
        {"head_type": "anchor_aided"},
        {
            r"_embedding\.conv\.weight$|global_gate\.conv\.weight$": he_fan_out,
            r"\.projection\.norm\.weight$": ZERO,
            r"\.head\.\w*classes\.\d+\.bias$": constant(-math.log(99)),
            r"\.head\.(boxes|anchor_boxes)\.\d+\.bias$": ONE,
            r"\.head\.\w+\.\d+\.weight$": ZERO,
            r"\.alpha$": ONE,
        }
        | TORCH,
    ),
    "gold_yolo, distilled": (
        "gold_yolo",
        {"block_type": "conv_silu"},
        {
            r"_embedding\.conv\.weight$|global_gate\.conv\.weight$": he_fan_out,
            r"\.projection\.norm\.weight$": ZERO,
            r"\.head\.classes\.\d+\.bias$": constant(-math.log(99)),
            r"\.head\.(boxes|direct_boxes)\.\d+\.bias$": ONE,
            r"\.head\.\w+\.\d+\.weight$": ZERO,
            r"\.alpha$": ONE,
        }
        | TORCH,
    ),
    "light_clip": (
        "light_clip",
        {"initializer_factor": 3.0, "logit_scale_init_value": 1.5},
        {
            r"\.(text_model|vision_model)\.": ELSEWHERE,
            r"^LightClipZeroLinear\.": ZERO,
            r"^LightClipProjection\..*weight$": lambda layer, name: ("normal", 3 * layer.in_features**-0.5),
            r"^Linear\..*weight$": normal(0.06),
            r"^\w+\..*bias$": ZERO,
            r"\.logit_scale$": constant(1.5),
            r"\.mask_embedding$": normal(0.06),
        },
    ),
    "localmim": (
        "localmim",
        {},
        OF_STOCK_ENCODER
        | {
            r"^Linear\..*weight$": xavier,
            r"^Linear\..*bias$": ZERO,
            r"\.mask_token$": normal(0.2),
            r"\.position_embeddings$": ELSEWHERE,
            r"^(ConvTranspose2d|Conv2d)\..*bias$": ZERO,
            r"^(ConvTranspose2d|Conv2d)\..*weight$": normal(0.2),
        },
    ),
    "ofa_mobilenetv3": (
        "ofa_mobilenetv3",
        {"kernel_sizes": [3, 5]},
        {
            r"^ParameterDict\.": ELSEWHERE,
            r"^Conv2d\..*weight$": he_fan_out_of_group,
            r"^Linear\..*weight$": torchs,
            r"^\w+\..*bias$": ZERO,
        },
    ),
    "ofa_mobilenetv3, folded": (
        "ofa_mobilenetv3",
        {"reparameterized": True},
        {
            r"^Conv2d\..*weight$": he_fan_out_of_group,
            r"^Linear\..*weight$": torchs,
            r"^\w+\..*bias$": ZERO,
        },
    ),
    "pangu_pi": (
        "pangu_pi",
        {"initializer_range": 0.3},
        {
            r"\.augmented_shortcuts\.\d+\.(linear|up_proj)\.weight$": ZERO,
            r"^PanguPiSeriesActivation\..*scale$": ELSEWHERE,
            r"^PanguPiSeriesActivation\..*bias$": ZERO,
        }
        | LLAMA,
    ),
    "parameternet": (
        "parameternet",
        {},
        TORCH
        | {
            r"^DynamicConv\.": of_expert,
        },
    ),
    "parameternet, folded": (
        "parameternet",
        {"reparameterized": True},
        TORCH
        | {
            r"^DynamicConv\..*weight$": of_expert,
            r"^DynamicConv\..*bias$": ZERO,
        },
    ),
    "parameternet_moe": (
        "parameternet_moe",
        {"initializer_range": 0.3},
        {r"^ParameterNetMoeExperts\..*bias$": ZERO, r"^ParameterNetMoe(Router|Experts)\..*weight$": normal(0.3)}
        | LLAMA,
    ),
    "shufflenetv2": ("shufflenetv2", {}, TORCH),
    "tinynet": (
        "tinynet",
        {"num_labels": 5},
        {
            r"^\w+\..*bias$": ZERO,
            r"\.classifier\.weight$": lambda layer, name: ("uniform", 5**-0.5),
            r"^Linear\..*weight$": lambda layer, name: ("normal", (2 / layer.weight.shape[0]) ** 0.5),
            r"^Conv2d\..*weight$": he_fan_out_of_group,
        },
    ),
    "tinyvit": (
        "tinyvit",
        {},
        {r"\.attention_biases$": ZERO, r"\.blocks\.\d+\.conv3\.norm\.weight$": ZERO} | LINEARS | TORCH,
    ),
    "tinysam": (
        "tinysam",
        {},
        {
            # SAM's own parts are transformers'.
            r"\.(shared_image_embedding|prompt_encoder|mask_decoder|neck)\.": ELSEWHERE,
            r"\.attention_biases$": ZERO,
            r"\.blocks\.\d+\.conv3\.norm\.weight$": ZERO,
        }
        | LINEARS
        | TORCH,
    ),
    "vanillanet": ("vanillanet", {}, {r"^Conv2d\..*weight$": normal(0.2), r"^Conv2d\..*bias$": ZERO}),
    "vig": ("vig", {}, VIG),
    "pyramidvig": ("pyramidvig", {}, VIG),
}
BUILT = {
    "fastmim": lambda: FastMimForPreTraining(
        FastMimConfig(
            backbone_config={"model_type": "vit", **PATCHES},
            image_size=64,
            decoder_hidden_size=32,
            initializer_range=0.2,
        )
    ),
    "localmim": lambda: LocalMimForPreTraining(
        LocalMimConfig(
            backbone_config={"model_type": "vit", **PATCHES, "num_hidden_layers": 12},
            decoder_hidden_size=32,
            initializer_range=0.2,
        )
    ),
}


def build(name: str):
    model_type, fields, _ = LAWS[name]
    if model_type in BUILT:
        return BUILT[model_type]()
    architecture = ARCHITECTURES[model_type]
    head = next((head for head in HEADS if head in architecture.auto_classes), architecture.tasks[0].auto_class)
    return architecture.model_class(head)(tiny_config(architecture, **fields))


def by_law(model, laws) -> dict:
    """kind of law -> the weights, each divided by the deviation or bound it should have, and their names."""
    found, unknown = defaultdict(list), []
    for name, weight in model.named_parameters():
        layer = model.get_submodule(name.rpartition(".")[0])
        place = f"{type(layer).__name__}.{name}"
        law = next((law for pattern, law in (laws | NORMS).items() if re.search(pattern, place)), "unknown")
        if law == "unknown":
            unknown.append(place)
        elif law is not None:
            kind, size = law(layer, name)
            if kind == "constant":
                assert (weight == torch.tensor(size)).all(), f"{place}: not {size} throughout"
                continue
            found[law, kind].append((place, weight.detach().flatten().double() / size))
    assert not unknown
    return found


def check(place: str, kind: str, values: torch.Tensor) -> None:
    """Five deviations of what so many draws have for mean and deviation."""
    count = len(values)
    middle, deviation = {"normal": (0, 1), "uniform": (0, 3**-0.5), "share": (0.5, 12**-0.5)}[kind]
    assert abs(values.mean().item() - middle) <= 5 * deviation / count**0.5, f"{place}: the mean is off"
    got = (values - middle).square().mean().sqrt().item()
    assert abs(got / deviation - 1) <= 5 / (2 * count) ** 0.5, f"{place}: {got:.3g} times the deviation it should have"
    if kind == "uniform":
        assert values.abs().max() <= 1.000001, f"{place}: beyond its bound"
    elif kind == "share":
        assert values.min() >= 0 and values.max() <= 1
    elif count > 300:
        assert values.abs().max() > 2, f"{place}: uniform rather than normal"


@pytest.mark.parametrize("name", LAWS)
def test_weights_begin_by_the_published_laws(name):
    model = build(name)
    for (_, kind), weights in by_law(model, LAWS[name][2]).items():
        check(weights[0][0], kind, torch.cat([values for _, values in weights]))
        # And none by itself is of another size.
        for place, values in weights:
            if len(values) >= 200:
                check(place, kind, values)


def test_every_architecture_with_weights_of_its_own_has_laws():
    # The others are stock models but for a few layers, which have tests beside them.
    others = {"adem_vl", "simmim", "spark", "coded_classifier", "channel_coded_classifier"}
    assert {model_type for model_type, *_ in LAWS.values()} | others == set(ARCHITECTURES)
    assert MASKED.keys() - others == BUILT.keys()
