"""Optimizers that transformers' Trainer lacks: LAMB, AdamP, TensorFlow's RMSprop, SGD with momentum by default."""

import inspect
import math
from collections.abc import Callable

import torch
import yaml
from torch.optim import SGD, Optimizer

from .adamp import AdamP


class Lamb(Optimizer):
    r"""LAMB (https://arxiv.org/abs/1904.00962, algorithm 2), as timm has it: for each parameter tensor :math:`w`

    .. math::
        m &\leftarrow \beta_1 m + (1-\beta_1) g, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2 \\
        u &= \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \epsilon} + \lambda w \\
        w &\leftarrow w - \eta \, \frac{\lVert w \rVert}{\lVert u \rVert} \, u

    The trust ratio :math:`\lVert w \rVert / \lVert u \rVert` is 1 where either norm is 0, and in parameter groups
    without weight decay (biases, norms) unless `always_adapt`.

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        betas: decay rates of the two moments.
        eps: added to the denominator.
        weight_decay: decay, inside the trust ratio.
        bias_correction: divide the moments by :math:`1-\beta^t`.
        max_grad_norm: first scale all gradients so that their joint norm is at most this; None for no clipping.
        trust_clip: limit the trust ratio to 1.
        always_adapt: use the trust ratio in groups without weight decay, too.
    """

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        bias_correction: bool = True,
        max_grad_norm: float | None = 1.0,
        trust_clip: bool = False,
        always_adapt: bool = False,
    ):
        _check_at_least_zero(lr=lr, eps=eps, weight_decay=weight_decay, max_grad_norm=max_grad_norm or 0.0)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas: got {betas}, accepted are numbers from 0 to below 1.")
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "max_grad_norm": max_grad_norm,
            "trust_clip": trust_clip,
            "always_adapt": always_adapt,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        """One step; returns the closure's loss, if there is one."""
        loss = _evaluate(closure)
        clip = self._clip_coefficient()
        for group in self.param_groups:
            params, grads = _with_gradients(group)
            if not params:
                continue
            if clip is not None:
                grads = torch._foreach_mul(grads, clip)
            states = [self.state[p] for p in params]
            for p, state in zip(params, states, strict=True):
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32)
                    state["exp_avg"] = torch.zeros_like(p)
                    state["exp_avg_sq"] = torch.zeros_like(p)
                state["step"] += 1
            beta1, beta2 = group["betas"]
            first = [state["exp_avg"] for state in states]
            second = [state["exp_avg_sq"] for state in states]
            torch._foreach_lerp_(first, grads, 1 - beta1)
            torch._foreach_mul_(second, beta2)
            torch._foreach_addcmul_(second, grads, grads, value=1 - beta2)
            denominators = torch._foreach_sqrt(second)
            updates = first
            if group["bias_correction"]:
                steps = [state["step"].item() for state in states]
                torch._foreach_div_(denominators, [math.sqrt(1 - beta2**t) for t in steps])
                updates = torch._foreach_div(first, [1 - beta1**t for t in steps])
            torch._foreach_add_(denominators, group["eps"])
            updates = torch._foreach_div(updates, denominators)
            if group["weight_decay"] > 0:
                torch._foreach_add_(updates, params, alpha=group["weight_decay"])
            if group["weight_decay"] > 0 or group["always_adapt"]:
                torch._foreach_mul_(updates, _trust_ratios(params, updates, group["trust_clip"]))
            torch._foreach_add_(params, updates, alpha=-group["lr"])
        return loss

    def _clip_coefficient(self) -> torch.Tensor | None:
        limit = self.defaults["max_grad_norm"]
        if limit is None:
            return None
        grads = [grad for group in self.param_groups for grad in _with_gradients(group)[1]]
        if not grads:
            return None
        norm = torch.linalg.vector_norm(torch.stack([n.float() for n in torch._foreach_norm(grads)]))
        return (limit / norm).clamp(max=1.0).to(grads[0].dtype)


class RMSpropTF(Optimizer):
    r"""RMSprop as TensorFlow has it: the running average starts at 1, and epsilon stands under the root.

    .. math::
        v &\leftarrow v + (1-\alpha)(g^2 - v) \\
        b &\leftarrow \mu b + \eta \, g / \sqrt{v + \epsilon}, \quad w \leftarrow w - b

    The learning rate is part of the momentum buffer :math:`b`, so a change of rate acts with delay, as in TensorFlow.

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        alpha: decay rate of the running average.
        eps: added under the root.
        weight_decay: multiple of the weights added to the gradient.
        momentum: decay rate of the momentum buffer.
    """

    def __init__(
        self,
        params,
        lr: float = 1e-2,
        alpha: float = 0.9,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
    ):
        _check_at_least_zero(lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)
        super().__init__(
            params,
            {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum},
        )

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        """One step; returns the closure's loss, if there is one."""
        loss = _evaluate(closure)
        for group in self.param_groups:
            params, grads = _with_gradients(group)
            if not params:
                continue
            states = [self.state[p] for p in params]
            for p, state in zip(params, states, strict=True):
                if not state:
                    state["square_avg"] = torch.ones_like(p)
                    if group["momentum"] > 0:
                        state["momentum_buffer"] = torch.zeros_like(p)
            if group["weight_decay"] > 0:
                grads = torch._foreach_add(grads, params, alpha=group["weight_decay"])
            averages = [state["square_avg"] for state in states]
            torch._foreach_lerp_(averages, torch._foreach_mul(grads, grads), 1 - group["alpha"])
            roots = torch._foreach_sqrt(torch._foreach_add(averages, group["eps"]))
            updates = torch._foreach_mul(torch._foreach_div(grads, roots), group["lr"])
            if group["momentum"] > 0:
                buffers = [state["momentum_buffer"] for state in states]
                torch._foreach_mul_(buffers, group["momentum"])
                torch._foreach_add_(buffers, updates)
                updates = buffers
            torch._foreach_sub_(params, updates)
        return loss


#: `--optim` name -> class and the settings it gets from the training arguments. All other names are transformers'.
OPTIMIZERS = {
    # The Trainer clips gradients itself (max_grad_norm), before it logs their norm.
    "adamp": (AdamP, lambda args: _adam_settings(args)),
    "lamb": (Lamb, lambda args: {**_adam_settings(args), "max_grad_norm": None}),
    "rmsprop_tf": (RMSpropTF, lambda args: {}),
    "sgd": (SGD, lambda args: {"momentum": 0.9, "nesterov": True}),
}


def _adam_settings(args) -> dict:
    return {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}


def optimizer_class_and_settings(args) -> tuple[type[Optimizer], dict] | None:
    """What the Trainer calls `optimizer_cls_and_kwargs`, or None where the optimizer is one of its own.

    Raises:
        ValueError: `args.optim_args` has a setting that the optimizer does not take.
    """
    if args.optim not in OPTIMIZERS:
        return None
    optimizer_class, settings = OPTIMIZERS[args.optim]
    chosen = read_optimizer_settings(args.optim_args)
    accepted = [name for name in inspect.signature(optimizer_class).parameters if name not in ("params", "lr")]
    for name in chosen:
        if name not in accepted:
            optimizer = getattr(args.optim, "value", args.optim)
            raise ValueError(f"--optim_args: {optimizer} takes no {name!r}, accepted are {', '.join(accepted)}.")
    settings = {"lr": args.learning_rate, **settings(args), **chosen}
    optimizer_class([torch.zeros(1)], **settings)  # refuses what does not go together, before training starts
    return optimizer_class, settings


def read_optimizer_settings(text: str | None) -> dict:
    """`"momentum=0.9,nesterov=true"` as a dict."""
    pairs = [pair.partition("=") for pair in text.replace(" ", "").split(",")] if text else []
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise ValueError(f"--optim_args: got {text!r}, accepted is such as 'momentum=0.9,nesterov=true'.")
    return {name: _scalar(value) for name, _, value in pairs}


def _scalar(text: str):
    try:
        return float(text) if not text.lstrip("-").isdigit() else int(text)
    except ValueError:
        return yaml.safe_load(text)


def _trust_ratios(params: list, updates: list, limit_to_one: bool) -> list[torch.Tensor]:
    ratios = []
    for w, u in zip(torch._foreach_norm(params), torch._foreach_norm(updates), strict=True):
        ratio = torch.where((w > 0) & (u > 0), w / u, torch.ones_like(w))
        ratios.append(ratio.clamp(max=1.0) if limit_to_one else ratio)
    return ratios


def _with_gradients(group: dict) -> tuple[list, list]:
    params = [p for p in group["params"] if p.grad is not None]
    grads = [p.grad for p in params]
    if any(grad.is_sparse for grad in grads):
        raise ValueError("sparse gradients are not supported.")
    return params, grads


def _evaluate(closure: Callable | None):
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _check_at_least_zero(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name}: got {value}, accepted are numbers from 0.")
