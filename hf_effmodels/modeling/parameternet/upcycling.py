"""A trained GhostNet as the start of a ParameterNet: every convolution becomes experts that add up to it."""

import torch
from transformers.modeling_utils import PreTrainedModel

from .configuration_parameternet import ParameterNetConfig
from .dynamic_conv import DynamicConv

#: Fields that mean the same in both configurations.
SHARED = (
    "num_channels",
    "image_size",
    "width_multiplier",
    "stem_size",
    "stages",
    "final_size",
    "head_size",
    "classifier_dropout",
    "batch_norm_eps",
    "batch_norm_momentum",
    "out_indices",
    "problem_type",
    "id2label",
    "label2id",
)


@torch.no_grad()
def upcycle_ghostnet(
    ghostnet: PreTrainedModel, model_class: type[PreTrainedModel], *, num_experts: int = 4
) -> PreTrainedModel:
    """A ParameterNet with the outputs of `ghostnet`, in its dtype, on its device and in its mode.

    Each of the M experts gets 2/M of the static kernel. The routers are drawn in pairs of opposite weights without
    biases, so that the gates of a pair, σ(z) and σ(-z), add up to 1 for every image, and all M to M/2 (an odd one
    stays at 1/2). The mixture is thus the static kernel exactly, while the gates already differ between images: the
    experts get different gradients from the first step, which equal gates would never give them.

    Args:
        ghostnet: a GhostNet (the first generation) of the class that matches: a `GhostNetModel`, or a
            `GhostNetForImageClassification` with its head; unfolded.
        model_class: the ParameterNet class to build.
        num_experts: M, from 1.

    Raises:
        ValueError: another model, a later generation, or a folded one.
    """
    _check(ghostnet, model_class)
    config = {name: getattr(ghostnet.config, name) for name in SHARED}
    model = model_class(ParameterNetConfig(num_experts=num_experts, hidden_act="relu", **config))
    model = model.to(ghostnet.device, ghostnet.dtype)

    weights = {_renamed(name, ghostnet, model): value for name, value in ghostnet.state_dict().items()}
    for name, module in model.named_modules():
        if isinstance(module, DynamicConv):
            kernel = weights[f"{name}.weight"].flatten()
            weights[f"{name}.weight"] = (kernel * (2 / num_experts)).expand(num_experts, -1)
            half = module.router.linear.weight[: num_experts // 2]
            idle = torch.zeros_like(module.router.linear.weight[: num_experts % 2])
            weights[f"{name}.router.linear.weight"] = torch.cat((half, -half, idle))
            weights[f"{name}.router.linear.bias"] = torch.zeros_like(module.router.linear.bias)
    model.load_state_dict(weights)
    return model.train(ghostnet.training)


def _renamed(name: str, ghostnet: PreTrainedModel, model: PreTrainedModel) -> str:
    prefix = f"{ghostnet.base_model_prefix}."
    return f"{model.base_model_prefix}.{name.removeprefix(prefix)}" if name.startswith(prefix) else name


def _check(ghostnet: PreTrainedModel, model_class: type[PreTrainedModel]) -> None:
    expected = model_class.__name__.replace("ParameterNet", "GhostNet")
    found = type(ghostnet).__name__
    if found != expected:
        raise ValueError(f"ghostnet: got a {found}, {model_class.__name__} is made of a {expected}.")
    config = ghostnet.config
    if config.dfc_attention or config.num_conv_branches:
        raise ValueError(
            f"ghostnet: got a GhostNet with dfc_attention={config.dfc_attention} and num_conv_branches="
            f"{config.num_conv_branches}, accepted is one without either: ParameterNet has neither."
        )
    if config.reparameterized:
        raise ValueError("ghostnet: got a folded model, accepted is the unfolded one: the result is to be trained.")
