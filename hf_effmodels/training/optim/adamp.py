"""AdamP (https://arxiv.org/abs/2006.08217): Adam without the steps that only make weights before a norm longer."""

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F
from torch.optim import Optimizer


class AdamP(Optimizer):
    """Algorithm 3 of the paper: where the length of a weight changes nothing, which its gradient tells by standing
    upright on it, the part of Adam's update along the weight is left out, and the weight decays less. Whether it is so
    is asked of the rows of a weight (channels), then of the weight as a whole (layer).

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        betas: decay rates of the two moments.
        eps: added to the denominator.
        weight_decay: decoupled, times `lr`.
        delta: the cosine of gradient and weight below which a weight of n numbers counts as free of scale is
            delta / sqrt(n).
        wd_ratio: factor of the decay of such weights.
        nesterov: take the gradient into the first moment once more.
    """

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        nesterov: bool = False,
    ):
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay), ("delta", delta)):
            if not value >= 0:
                raise ValueError(f"{name}: got {value}, accepted are numbers from 0.")
        if not 0 <= wd_ratio <= 1 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"got betas {betas} and wd_ratio {wd_ratio}, accepted are numbers from 0 to 1.")
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "delta": delta, "wd_ratio": wd_ratio, "nesterov": bool(nesterov)})

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        """One step; returns the closure's loss, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)
        return loss

    def _update(self, weight: torch.Tensor, group: dict) -> None:
        grad, state, (beta1, beta2) = weight.grad, self.state[weight], group["betas"]
        if grad.is_sparse:
            raise ValueError("sparse gradients are not supported.")
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["step"] += 1
        step, first, second = state["step"].item(), state["exp_avg"], state["exp_avg_sq"]
        first.lerp_(grad, 1 - beta1)
        second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        denominator = (second.sqrt() / math.sqrt(1 - beta2**step)).add_(group["eps"])
        update = (first.lerp(grad, 1 - beta1) if group["nesterov"] else first) / denominator
        update, decay = _without_radial_part(weight, grad, update, group)
        if group["weight_decay"] > 0:
            weight.mul_(1 - group["lr"] * group["weight_decay"] * decay)
        weight.add_(update, alpha=-group["lr"] / (1 - beta1**step))


def _without_radial_part(
    weight: torch.Tensor, grad: torch.Tensor, update: torch.Tensor, group: dict
) -> tuple[torch.Tensor, float]:
    """The update, without its part along a weight that is free of scale, and the factor of the weight's decay."""
    if weight.ndim < 2:
        return update, 1.0
    for rows in (len(weight), 1):  # channels, then the layer
        flat = weight.reshape(rows, -1)
        cosines = F.cosine_similarity(grad.reshape(rows, -1), flat, dim=1, eps=group["eps"]).abs()
        if float(cosines.max()) < group["delta"] / math.sqrt(flat.shape[1]):
            unit = flat / flat.norm(dim=1, keepdim=True).add(group["eps"])
            along = unit * (unit * update.reshape(rows, -1)).sum(1, keepdim=True)
            return update - along.reshape(update.shape), group["wd_ratio"]
    return update, 1.0
