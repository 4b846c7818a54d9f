"""Networks whose training has rules of its own: a sharpening surrogate, gradients that are scaled once per step."""

import numpy as np
import pytest
import torch

from hf_effmodels.modeling.layers.pixels import PixelsMixin
from hf_effmodels.training import main

from ....processes import run_in_two
from ..contract import history, run_until_killed, same, weights

SIZES = '"depths": [1], "image_size": 8'
NETWORKS = {
    "adabin": [
        *("--model", "adabin-resnet20-cifar10", "--model_config"),
        f'{{"progressive": true, "hidden_sizes": [4, 4], {SIZES}}}',
    ],
    "addernet": [
        *("--model", "addernet-resnet20-cifar10", "--gradient_accumulation_steps", "2", "--model_config"),
        f'{{"hidden_sizes": [4, 4], {SIZES}}}',
    ],
    "bimlp": [*("--model", "bimlp-s", "--model_config"), '{"hidden_sizes": [4, 4], "depths": [1], "image_size": 32}'],
}


def run_of(network, digits_run):
    """Two epochs of ten steps; AdaBin's surrogate of the second is another one."""
    return [*digits_run[2:], *NETWORKS[network], "--per_device_train_batch_size", "4", "--eval_strategy", "no"]


@pytest.mark.parametrize(
    "network", ["adabin", *(pytest.param(n, marks=pytest.mark.thorough) for n in ("addernet", "bimlp"))]
)
def test_a_killed_run_ends_in_the_same_bits(network, digits_run, tmp_path):
    run = [
        *run_of(network, digits_run),
        "--load_best_model_at_end",
        "false",
        "--save_strategy",
        "steps",
        "--save_steps",
        "3",
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    main([*run, "--output_dir", str(whole)])
    run_until_killed([*run, "--output_dir", str(killed)], 9)
    main([*run, "--output_dir", str(killed), "--resume_from_checkpoint", "true"])
    assert np.array_equal(history(whole, "loss", "grad_norm"), history(killed, "loss", "grad_norm"))
    assert same(weights(whole), weights(killed))


def in_float64(argv):
    """`main` in double precision throughout."""
    before, prepare = torch.get_default_dtype(), PixelsMixin.prepare_pixels
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PixelsMixin, "prepare_pixels", lambda self, pixels: prepare(self, pixels.double()))
        torch.set_default_dtype(torch.float64)
        try:
            main(argv)
        finally:
            torch.set_default_dtype(before)


@pytest.mark.parametrize("network", ["addernet", pytest.param("bimlp", marks=pytest.mark.thorough)])
def test_two_processes_are_one(network, digits_run, tmp_path):
    run = [
        *run_of(network, digits_run),
        "--save_strategy",
        "no",
        "--load_best_model_at_end",
        "false",
        "--sync_batch_norm",
        "true",
    ]
    # BiMLP's three levels in double precision: in single, rounding errors move inputs over their thresholds.
    train, steps, close = (in_float64, 8, 1e-9) if network == "bimlp" else (main, 3, 1e-3)
    run += ["--max_grad_norm", "0", "--train_crop", "none", "--max_steps", str(steps)]
    run_in_two(train, [*run, "--per_device_train_batch_size", "2", "--output_dir", str(tmp_path / "two")])
    train([*run, "--output_dir", str(tmp_path / "one")])
    two, one = (history(tmp_path / name, "loss", "grad_norm") for name in ("two", "one"))
    np.testing.assert_allclose(two[:, 0], one[:, 0], rtol=max(close, 1e-6))  # the Trainer's losses are float32
    np.testing.assert_allclose(two[:, 1], one[:, 1], rtol=close)
    expected = weights(tmp_path / "one")
    for name, value in weights(tmp_path / "two").items():
        torch.testing.assert_close(value, expected[name], rtol=close, atol=close)
