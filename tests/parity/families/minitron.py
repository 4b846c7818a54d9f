"""Minitron: importance by activations, the influence of blocks, and the losses of the distillation afterwards."""

import torch

from hf_effmodels.compression.pruning.activations import aggregate, block_influence
from hf_effmodels.training.losses.language_distillation import language_distillation_losses

from .. import golden

SYSTEMS = ("minitron",)


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values = golden.inputs(case, dtype)
    if "act" in values:
        return {
            "neuron": aggregate(values["act"].abs()),
            "head": aggregate(values["heads"].norm(dim=-1)),
            "channel": sum(aggregate(norm.abs()) for norm in values["norms"]),
        }
    if "gain" in values:
        states = [values["hidden"][0]]
        for gain, change in zip(values["gain"], values["hidden"][1:], strict=True):
            states.append(states[-1] + gain * change)
        return {"block_influence": block_influence(states)}
    student = values["student"].requires_grad_()
    states = (values["h_s"], values["h_t"])
    losses = language_distillation_losses(
        student, values["teacher"], values["mask"], case["config"]["temperature"], *states
    )
    losses["kl"].backward(retain_graph=True)
    results = {name: losses[name].reshape(1) for name in ("kl", "alpha", "total")}
    return results | {"intermediate_mse": losses["intermediate"].reshape(1), "grad_student": student.grad}
