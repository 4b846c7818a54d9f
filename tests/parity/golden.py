"""Parity cases: weights and inputs are drawn by rule from the case's seed, outputs are compared with stored samples.

A tensor's values follow from its name alone: RandomState((crc32(name) + seed) mod 2³²), shaped by the first rule of
the case that matches the name and the number of dimensions. So a case needs no weights in the file.
"""

import functools
import json
import re
import zlib

import numpy as np
import pytest
import torch

DTYPES = {"float64": torch.float64, "float32": torch.float32}


def load(path) -> dict:
    return json.loads(path.read_text()) | {"path": str(path)}


def _draw(random: np.random.RandomState, rule: dict, shape: list[int]) -> np.ndarray:
    kind = rule["dist"]
    if kind == "normal":
        return np.asarray(rule.get("a", 1.0) * random.standard_normal(tuple(shape)))
    if kind == "fan_in":
        return np.asarray(rule.get("a", 1.0) * random.standard_normal(tuple(shape)) / np.sqrt(_fan_in(shape)))
    if kind == "uniform":
        return np.asarray(rule["a"] + (rule["b"] - rule["a"]) * random.random_sample(tuple(shape)))
    if kind == "constant":
        return np.full(tuple(shape), float(rule["a"]))
    if kind == "randint":
        return random.randint(rule["low"], rule["high"], size=tuple(shape)).astype(np.int64)
    raise ValueError(f"unknown distribution {kind!r}")


def _fan_in(shape: list[int]) -> int:
    return max(1, int(np.prod(shape[1:])))


def _rule(case: dict, name: str, ndim: int) -> dict:
    for rule in case["rules"]:
        if re.search(rule["match"], name) and rule.get("min_ndim", 0) <= ndim <= rule.get("max_ndim", 99):
            return rule
    raise ValueError(f"no rule for {name!r}")


def state_dict(case: dict, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """The weights of the official layout; those the model computes for itself ("skip") are left out."""
    weights = {}
    for name, shape in case["state_dict"].items():
        rule = _rule(case, name, len(shape))
        if rule["dist"] != "skip":
            weights[name] = _tensor(_drawn(case, name, rule, shape), dtype)
    return weights


@functools.lru_cache(maxsize=1)
def _kept(path: str) -> dict[tuple, np.ndarray]:
    """What has been drawn for the case at hand, which runs in one precision after the other."""
    return {}


def _drawn(case: dict, name: str, rule: dict, shape: list[int]) -> np.ndarray:
    kept, seed = _kept(case.get("path", "")), (zlib.crc32(name.encode()) + case.get("seed", 0)) % 2**32
    key = (seed, *sorted(rule.items()), *shape)
    if key not in kept:
        kept[key] = _draw(np.random.RandomState(seed), rule, shape)
    return kept[key]


def inputs(case: dict, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    return {
        name: _tensor(_draw(np.random.RandomState(rule["seed"]), rule, rule["shape"]), dtype)
        for name, rule in case["inputs"].items()
    }


def _tensor(values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.to(dtype, copy=True) if tensor.is_floating_point() else tensor.clone()


def difference(expected: dict, got) -> float:
    """Largest difference of the stored samples, and of mean and deviation, over the expected standard deviation."""
    got = np.asarray(got.detach().double() if isinstance(got, torch.Tensor) else got, dtype=np.float64)
    assert list(got.shape) == expected["shape"], f"shape {list(got.shape)}, expected {expected['shape']}"
    flat = got.reshape(-1)
    values = np.asarray(expected["values"])
    scale = max(expected["std"], 1e-12) if len(values) > 1 else max(abs(values[0]), 1e-12)
    moments = max(abs(flat.mean() - expected["mean"]), abs(flat.std() - expected["std"]))
    return float(max(np.abs(flat[expected["index"]] - values).max(), moments) / scale)


def check(case: dict, outputs: dict, tolerance) -> None:
    """Every output of the case is there and agrees; `tolerance(name)` says how closely."""
    uncompared = case["outputs"].keys() - outputs.keys()
    assert not uncompared, f"outputs that nothing compares: {sorted(uncompared)}"
    differences = {name: difference(expected, outputs[name]) for name, expected in case["outputs"].items()}
    wrong = {name: value for name, value in differences.items() if not value <= tolerance(name)}
    if wrong:
        pytest.fail("\n".join(f"{name}: off by {value:.2e} > {tolerance(name):.0e}" for name, value in wrong.items()))
