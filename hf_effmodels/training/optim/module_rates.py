"""Learning rates of their own for parts of a network."""

import difflib
from collections.abc import Iterable, Mapping

import torch


def rate_factors(names: Iterable[str], factors: Mapping[str, float]) -> dict[str, float]:
    """The factor of the learning rate for each parameter.

    Args:
        names: of the parameters.
        factors: of modules or parameters by their path or a part of it, whole names between dots: `classifier` is
            `student.classifier.1.weight`, too. Of several that fit, that of the most names counts.

    Raises:
        ValueError: one fits no parameter.
    """
    names = list(names)
    found, used = dict.fromkeys(names, 1.0), set()
    for path, factor in sorted(factors.items(), key=lambda item: item[0].count(".")):
        for name in names:
            if f".{path}." in f".{name}.":
                found[name] = float(factor)
                used.add(path)
    for path in factors:
        if path not in used:
            known = sorted({".".join(name.split(".")[:n]) for name in names for n in range(1, name.count(".") + 2)})
            near = difflib.get_close_matches(path, known, n=5, cutoff=0.4) or known[:10]
            raise ValueError(f"--learning_rate_factors: {path!r} is of no parameter; nearest: {', '.join(near)}.")
    return found


def scale_rates(optimizer: torch.optim.Optimizer, factors: Mapping[torch.Tensor, float]) -> None:
    """Multiply the learning rates of some parameters, in place: each group is divided by its parameters' factors.

    Args:
        factors: of parameters; those that are not among them keep their rate.
    """
    by_id = {id(parameter): factor for parameter, factor in factors.items()}
    for group in list(optimizer.param_groups):
        parts: dict[float, list] = {}
        for parameter in group["params"]:
            parts.setdefault(by_id.get(id(parameter), 1.0), []).append(parameter)
        shared = {key: value for key, value in group.items() if key != "params"}
        for number, (factor, parameters) in enumerate(parts.items()):
            if number == 0:
                group["params"], group["lr"] = parameters, shared["lr"] * factor
            else:
                optimizer.add_param_group({**shared, "params": parameters, "lr": shared["lr"] * factor})
