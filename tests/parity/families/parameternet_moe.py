"""ParameterNet-MoE: logits, losses, routing of every layer, and gradients of router, expert bias and gate."""

import torch

from hf_effmodels.hub.convert import convert_state_dict
from hf_effmodels.registry import ARCHITECTURES

from ..golden import inputs, state_dict

SYSTEMS = ("parameternet_moe",)


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    architecture = ARCHITECTURES["parameternet_moe"]
    fields = dict(case["config"])
    fields["num_local_experts"] = fields.pop("num_experts")
    model, ignored = convert_state_dict(architecture, architecture.config_class(**fields), state_dict(case, dtype))
    model.train()  # no dropout anywhere: this alone brings the balance loss

    results = {}
    decoder = model.model
    for index, layer in enumerate(decoder.layers):
        layer.mlp.router.register_forward_hook(
            lambda module, args, output, index=index: results.update({f"expert_index_{index}": output[2]})
        )
    decoder.norm.register_forward_hook(lambda module, args, output: results.update(final_hidden=output))
    input_ids = inputs(case)["input_ids"]
    outputs = model(input_ids, labels=input_ids, use_cache=False, output_hidden_states=True)
    outputs.loss.backward()

    # As transformers counts them: the last one is after the final norm.
    results |= {f"hidden_after_layer{index}": hidden for index, hidden in enumerate(outputs.hidden_states[1:])}
    results |= {f"router_logits_{index}": logits for index, logits in enumerate(outputs.router_logits)}
    results |= {"logits": outputs.logits, "loss": outputs.loss[None], "aux_loss": outputs.aux_loss[None]}
    balance = model.config.router_aux_loss_coef * outputs.aux_loss
    results["ce_loss"] = (outputs.loss - balance)[None]
    for index, layer in enumerate(decoder.layers):
        results[f"grad_router_{index}"] = layer.mlp.router.weight.grad
        results[f"grad_gate_proj_{index}"] = layer.mlp.gate_proj.weight.grad
        for expert, gradient in enumerate(layer.mlp.experts.bias.grad):
            results[f"grad_expert{expert}_bias_{index}"] = gradient
    return results
