"""PanGu-π: features of the first layer, logits and loss; the activation with its gradients; the two diagnostics."""

import torch

from hf_effmodels.hub.convert import convert_state_dict
from hf_effmodels.modeling.pangu_pi.diagnostics import diversity, effective_dimension
from hf_effmodels.modeling.pangu_pi.modeling_pangu_pi import series_activation
from hf_effmodels.registry import ARCHITECTURES

from ..golden import inputs, state_dict

SYSTEMS = ("pangu_pi",)


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    if case["state_dict"]:
        return network(case, dtype)
    values = inputs(case, dtype)
    if "noise" in values:
        features = values["noise"] * values["mix"] ** 4 + 0.5
        thresholds = {name: float(name.removeprefix("d_")) for name in case["outputs"]}
        return {name: torch.tensor([effective_dimension(features, t)]) for name, t in thresholds.items()}
    if "z" in values:
        features = values["z"] + 3
        return {
            "d_M": torch.tensor([diversity(features)], dtype=torch.float64),
            "d_M_relative": torch.tensor([diversity(features, relative=True)], dtype=torch.float64),
        }
    return activation(case, values)


def activation(case: dict, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    from transformers.activations import ACT2FN

    functions = [ACT2FN[name] for name in case["config"]["series_activations"]]
    arguments = [values[name].requires_grad_() for name in ("x", "scale", "bias")]
    y = series_activation(*arguments, functions)
    gradients = torch.autograd.grad(y, arguments, values["grad_output"])
    return {"y": y} | dict(zip(("grad_x", "grad_scale", "grad_bias"), gradients, strict=True))


def configuration(published: dict) -> dict:
    fields = dict(published)
    if not fields.pop("use_series_activation"):
        fields["series_activations"] = []
    fields["rope_parameters"] = {"rope_type": "default", "rope_theta": fields.pop("rope_theta")}
    return fields


@torch.no_grad()
def network(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    architecture = ARCHITECTURES["pangu_pi"]
    config = architecture.config_class(**configuration(case["config"]))
    model, _ = convert_state_dict(architecture, config, state_dict(case, dtype))
    features = {}

    def keep(name):
        def hook(module, args, output):
            output = output[0] if isinstance(output, tuple) else output
            features[name] = features[name] + output if name in features else output

        return hook

    first = model.model.layers[0]
    first.self_attn.register_forward_hook(keep("layer0_attn"))
    first.mlp.act_fn.register_forward_hook(keep("layer0_series_activation"))
    first.post_attention_layernorm.register_forward_pre_hook(lambda m, a: keep("layer0_after_attention")(m, a, a[0]))
    for shortcut in first.augmented_shortcuts:
        shortcut.register_forward_hook(keep("layer0_augmented"))
    for index, layer in enumerate(model.model.layers):
        layer.register_forward_hook(keep(f"layer{index}_out"))
    model.model.norm.register_forward_hook(keep("final_hidden"))
    model.model.embed_tokens.register_forward_hook(keep("embed"))

    input_ids = inputs(case)["input_ids"]
    outputs = model(input_ids, labels=input_ids)
    return features | {"logits": outputs.logits, "loss": outputs.loss[None]}
