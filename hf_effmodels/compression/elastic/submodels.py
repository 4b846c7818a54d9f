"""Sub-models of any transformers model: the first layers, neurons, heads and channels of one checkpoint
(SortedNet, https://arxiv.org/abs/2309.00255).

A sub-model is a model of the same class with a smaller configuration, each weight of which is the leading part of the
larger one's weight of the same name. So every sub-model is a plain checkpoint, and what holds for the class (its
cache, generation, attention) holds for the sub-model.
"""

import copy
import re

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.func import functional_call
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

#: Layers (and single parameters) the leading part of whose weights is that of a narrower network: each output and each
#: input is one structure. A layer that holds several in one (a fused query, key and value) is none.
_SLICEABLE = re.compile(
    r"(^|\.)((q|k|v|o|out|gate|up|down)_proj|query|key|value|dense|fc[12]|dense_h_to_4h|dense_4h_to_h|convolution"
    r"|projection|embed_tokens|embed_in|embed_out|word_embeddings|lm_head|score|classifier(\.\d)?"
    r"|cls_token|position_embeddings|act_fn\.(scale|bias)"
    r"|[a-z_]*norm[a-z_]*)(\.(weight|bias|running_mean|running_var))?$"
)


def submodel_config(config: PreTrainedConfig, **sizes) -> PreTrainedConfig:
    """The configuration of a sub-model; nothing of `config` changes.

    Args:
        sizes: fields with smaller values, such as `num_hidden_layers=4` or `intermediate_size=256`, `depths=[1, 1, 2,
            1]` of a network of stages. Lists with a value for each layer follow by themselves, and so do the
            key/value heads where only query heads are given. The size of a head never changes.

    Raises:
        ValueError: an unknown field, a value that is larger or no size, or heads that do not go together.
    """
    if not sizes:
        raise ValueError("sizes: got none, accepted are fields of the configuration such as num_hidden_layers=4.")
    fields = dict(sizes)
    for name, value in sizes.items():
        whole = getattr(config, name, None)
        if not _is_size(whole):
            raise ValueError(f"{name}: {config.model_type} has no such size.")
        accepted = (
            f"1 to {whole}" if isinstance(whole, int) else f"{len(whole)} whole numbers from 1 up to {list(whole)}"
        )
        if not _fits(value, whole):
            raise ValueError(f"{name}: got {value}, accepted are {accepted}.")
    layers = getattr(config, "num_hidden_layers", None)
    if isinstance(sizes.get("num_hidden_layers"), int):
        for name, value in config.to_dict().items():
            if isinstance(value, list) and len(value) == layers and name not in fields:
                fields[name] = value[: sizes["num_hidden_layers"]]
    fields |= _head_fields(config, sizes)
    try:
        return type(config).from_dict(config.to_dict() | fields)
    except (ValueError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{', '.join(sizes)}: {config.model_type} does not accept {sizes}: {reason}") from error


def _is_size(value) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_is_size, value))
    return isinstance(value, int) and not isinstance(value, bool)


def _fits(value, whole) -> bool:
    if isinstance(whole, int):
        return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= whole
    is_list = isinstance(value, list | tuple) and len(value) == len(whole)
    return is_list and all(_fits(*pair) for pair in zip(value, whole, strict=True))


def _head_fields(config: PreTrainedConfig, sizes: dict) -> dict:
    """What follows for the heads from sizes that they depend on."""
    if not {"hidden_size", "num_attention_heads", "num_key_value_heads"} & sizes.keys():
        return {}
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int):
        return {}
    new_heads, fields = sizes.get("num_attention_heads", heads), {}
    keys = getattr(config, "num_key_value_heads", None)
    if isinstance(keys, int):
        new_keys = sizes.get("num_key_value_heads", new_heads * keys // heads)
        if new_heads * keys != new_keys * heads or not new_keys:
            raise ValueError(
                f"num_attention_heads, num_key_value_heads: got {new_heads} and {new_keys}, accepted are heads in "
                f"whole groups of {heads // keys} for each key/value head."
            )
        fields["num_key_value_heads"] = new_keys
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    if "head_dim" in config.to_dict():
        fields["head_dim"] = head_dim
    elif sizes.get("hidden_size", config.hidden_size) != new_heads * head_dim:
        raise ValueError(
            f"hidden_size, num_attention_heads: got {sizes.get('hidden_size', config.hidden_size)} and {new_heads}, "
            f"accepted are {head_dim} channels for each head: {config.model_type} has no head_dim of its own."
        )
    return fields


def submodel_weights(model: PreTrainedModel, smaller: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers of a sub-model by name, as leading parts of the larger model's; differentiable.

    Args:
        model: the larger model.
        smaller: a model of `submodel_config`, of whose weights only the shapes are read.

    Raises:
        ValueError: a weight that the larger model does not have, that is no part of its own, or that is several
            structures in one and gets narrower.
    """
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    weights = {}
    for name, like in (*smaller.named_parameters(), *smaller.named_buffers()):
        weight = own.get(name)
        if (
            weight is None
            or weight.ndim != like.ndim
            or any(a > b for a, b in zip(like.shape, weight.shape, strict=True))
        ):
            has = "none" if weight is None else tuple(weight.shape)
            raise ValueError(f"model: the sub-model's {name} is {tuple(like.shape)}, the model's is {has}.")
        if weight.shape != like.shape:
            if not _SLICEABLE.search(name):
                raise ValueError(
                    f"model: {name} of {type(model).__name__} would become narrower, {tuple(weight.shape)} -> "
                    f"{tuple(like.shape)}, and is not known to be one structure in each row; accepted is less depth."
                )
            weight = weight[tuple(slice(size) for size in like.shape)]
        weights[name] = weight
    return weights


def submodel(model: PreTrainedModel, **sizes) -> PreTrainedModel:
    """A sub-model as a model of the same class that shares the memory of `model`, for inference and saving.

    It generates, and assists the larger one in `model.generate(..., assistant_model=smaller)`; `save_pretrained`
    writes a plain checkpoint. To train sub-models together see `training.elastic.SortedTraining`.

    Args:
        sizes: see `submodel_config`.

    Raises:
        ValueError: see `submodel_config` and `submodel_weights`.
    """
    smaller = _skeleton(model, submodel_config(model.config, **sizes))
    with torch.no_grad():
        weights = submodel_weights(model, smaller)
    parameters = dict(smaller.named_parameters())
    for name, weight in weights.items():
        owner, _, attribute = name.rpartition(".")
        owner = smaller.get_submodule(owner)
        if name in parameters:
            setattr(owner, attribute, nn.Parameter(weight.detach(), requires_grad=False))
        else:
            owner._buffers[attribute] = weight.detach()
    smaller.tie_weights()
    if model.can_generate():
        smaller.generation_config = copy.deepcopy(model.generation_config)
    return smaller.train(model.training)


def extract_submodel(model: PreTrainedModel, **sizes) -> PreTrainedModel:
    """A sub-model with weights of its own: `submodel`, copied."""
    smaller = submodel(model, **sizes)
    for parameter in smaller.parameters():
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
        parameter.requires_grad_(parameter.is_floating_point())
    for module in smaller.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.clone()
    return smaller


class SubmodelView(nn.Module):
    """A sub-model that is trained: it computes with the weights of `model`, into which gradients flow. To the bit what
    `submodel` gives. It has no weights of its own.

    Args:
        model: the larger model.
        sizes: see `submodel_config`; {} for the whole model.

    Raises:
        ValueError: see `submodel_config` and `submodel_weights`; or activation checkpointing, which would compute a
            second time with other weights.
    """

    def __init__(self, model: PreTrainedModel, sizes: dict):
        super().__init__()
        if sizes and any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
            raise ValueError("gradient_checkpointing: got True, accepted is False for sub-models in training.")
        self._whole = (model,)  # in a tuple: its weights are not this module's
        # What runs: the whole, or a module that has the shapes of weights alone. Its modes are this module's.
        self.network = _skeleton(model, submodel_config(model.config, **sizes)) if sizes else model
        self.training = model.training
        if sizes:
            submodel_weights(model, self.network.train(model.training))

    def forward(self, **inputs):
        (model,) = self._whole
        if self.network is model:
            return model(**inputs)
        return functional_call(self.network, submodel_weights(model, self.network), (), inputs)


def run_submodel(model: PreTrainedModel, sizes: dict, inputs: dict):
    """What a sub-model gives for `inputs`, once; see `SubmodelView`."""
    return SubmodelView(model, sizes)(**inputs)


def _skeleton(model: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """A model of `config` without memory for its weights."""
    config._attn_implementation = model.config._attn_implementation
    with init.no_init_weights(), torch.device("meta"):
        smaller = type(model)._from_config(config, dtype=model.dtype)
    smaller.tie_weights()
    return smaller
