"""Networks whose training has rules of its own: a sharpening surrogate, gradients that are scaled once per step,
binary blocks in a transformer of transformers."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification

from hf_effmodels.modeling.layers.bivit import BiVitLinear
from hf_effmodels.modeling.layers.pixels import PixelsMixin
from hf_effmodels.training import evaluate, main

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
    "bivit": [
        *("--model", "vit", "--bivit", "all", "--image_size", "8", "--model_config"),
        '{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, '
        '"patch_size": 4}',
    ],
}


def run_of(network, digits_run):
    """Two epochs of ten steps; AdaBin's surrogate of the second is another one."""
    return [*digits_run[2:], *NETWORKS[network], "--per_device_train_batch_size", "4", "--eval_strategy", "no"]


@pytest.mark.parametrize(
    "network", ["adabin", *(pytest.param(n, marks=pytest.mark.thorough) for n in ("addernet", "bimlp", "bivit"))]
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


@pytest.mark.parametrize(
    "network", ["addernet", *(pytest.param(n, marks=pytest.mark.thorough) for n in ("adabin", "bimlp", "bivit"))]
)
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
    # Levels of inputs in double precision: in single, rounding errors move inputs over their thresholds.
    train, steps, close = (main, 3, 1e-3) if network in ("addernet", "bivit") else (in_float64, 8, 1e-9)
    run += ["--max_grad_norm", "0", "--train_crop", "none", "--max_steps", str(steps)]
    run_in_two(train, [*run, "--per_device_train_batch_size", "2", "--output_dir", str(tmp_path / "two")])
    train([*run, "--output_dir", str(tmp_path / "one")])
    two, one = (history(tmp_path / name, "loss", "grad_norm") for name in ("two", "one"))
    np.testing.assert_allclose(two[:, 0], one[:, 0], rtol=max(close, 1e-6))  # the Trainer's losses are float32
    np.testing.assert_allclose(two[:, 1], one[:, 1], rtol=close)
    expected = weights(tmp_path / "one")
    for name, value in weights(tmp_path / "two").items():
        torch.testing.assert_close(value, expected[name], rtol=close, atol=close)


@pytest.mark.thorough
def test_accumulated_batches_of_one_make_the_steps_of_one_batch(digits_run, tmp_path):
    """Of a network without batch norms, which see each batch by itself."""
    run = [*run_of("bivit", digits_run), "--save_strategy", "no", "--load_best_model_at_end", "false"]
    run += ["--train_crop", "none", "--max_steps", "3", "--max_grad_norm", "0"]
    main([*run, "--output_dir", str(tmp_path / "one")])
    ones = ["--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "4"]
    main([*run, *ones, "--output_dir", str(tmp_path / "ones")])
    one, ones = (history(tmp_path / name, "loss", "grad_norm") for name in ("one", "ones"))
    np.testing.assert_allclose(ones, one, rtol=1e-4)
    for name, value in weights(tmp_path / "ones").items():
        torch.testing.assert_close(value, weights(tmp_path / "one")[name], rtol=1e-3, atol=1e-4)


def test_binary_blocks_are_trained_evaluated_on_bits_and_refused_where_there_are_none(digits_run, tmp_path):
    run = [*digits_run[2:], *NETWORKS["bivit"], "--num_train_epochs", "1"]
    results = main(
        [*run, "--bivit_skip", "layers.1", "--bivit_binary_inputs", "true", "--output_dir", str(tmp_path / "run")]
    )
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    layers = {name: m for name, m in model.named_modules() if isinstance(m, BiVitLinear)}
    assert len(layers) == 6 and all(".0." in name and layer.binary_inputs for name, layer in layers.items())
    assert model.config.quantization_config.attention

    # A folder is trained on as it is, and with what is binary already asked for again.
    on = [*digits_run[2:], "--model", str(tmp_path / "run"), "--max_steps", "2"]
    options = ["--bivit", "all", "--bivit_binary_inputs", "true", "--bivit_skip", "layers.1"]
    for name, given in (("as-it-is", []), ("again", options)):
        main([*on, *given, "--output_dir", str(tmp_path / name)])
    assert same(weights(tmp_path / "as-it-is"), weights(tmp_path / "again"))
    assert not same(weights(tmp_path / "as-it-is"), weights(tmp_path / "run"))

    chosen = ["--model", str(tmp_path / "run"), "--dataset", "digits", "--max_eval_samples", "11"]
    measured = evaluate([*chosen, "--deploy", "true", "--output", str(tmp_path / "evaluation.json")])
    assert measured["loss"] == pytest.approx(results["eval_loss"], rel=1e-5)

    for given, message in (
        (["--bivit_skip", "nothing"], "^--bivit_skip: got .*'nothing'.*no module of the model"),
        (["--bivit", "none", "--bivit_binary_inputs", "true"], "--bivit_binary_inputs"),
        (["--bitnet", "mean"], "^--bivit: got all, but for model: it is quantised already"),
        (["--bivit", "some"], "--bivit"),
    ):
        with pytest.raises((ValueError, SystemExit), match=message if "some" not in given else None):
            main([*run, *given, "--output_dir", str(tmp_path / "other")])
        assert not (tmp_path / "other").exists()
    with pytest.raises(
        ValueError, match="^--bivit: got all, but for attention: ConvNextForImageClassification does not"
    ):
        main([*digits_run, "--bivit", "all", "--output_dir", str(tmp_path / "other")])
    with pytest.raises(ValueError, match="^--deploy: ConvNextForImageClassification has no binary layers to pack"):
        evaluate(["--model", digits_run[1], *chosen[2:], "--deploy", "true", "--output", str(tmp_path / "x.json")])
