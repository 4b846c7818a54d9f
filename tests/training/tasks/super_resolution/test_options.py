"""Every option of a recipe away from the value at which it does nothing, against values derived here."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from hf_effmodels import metrics
from hf_effmodels.pipelines import SamDiffSRPipeline
from hf_effmodels.pipelines.sam_diffsr.matlab_resize import imresize
from hf_effmodels.training import evaluate, prepare

from ....pipelines.sam_diffsr.tiny import seeded


@pytest.fixture
def prepared(short_run, tmp_path):
    """A run with these options more, that has not begun."""

    def call(dataset, *options):
        folders = ["--dataset", str(dataset), "--output_dir", str(tmp_path / "run")]
        return prepare("prepare_training", [*short_run, *folders, *map(str, options)])

    return call


def batch_of(run, size: int = 4) -> dict[str, torch.Tensor]:
    samples = [run.trainer.train_dataset[number] for number in range(size)]
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def cosine(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """β and ᾱ of the cosine schedule (arXiv:2102.09672, equation 17)."""
    f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    return betas, np.cumprod(1 - betas)


def similarity(x: np.ndarray, y: np.ndarray) -> float:
    """SSIM at a range of 1: a Gaussian window of 11×11, zeros beyond the border."""
    line = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    window = np.outer(line, line) / line.sum() ** 2

    def blurred(image: np.ndarray) -> np.ndarray:
        padded = np.pad(image, [(0, 0), (0, 0), (5, 5), (5, 5)])
        parts = np.lib.stride_tricks.sliding_window_view(padded, (11, 11), axis=(2, 3))
        return (parts * window).sum((-1, -2))

    x_mean, y_mean = blurred(x), blurred(y)
    x_variance, y_variance = blurred(x * x) - x_mean**2, blurred(y * y) - y_mean**2
    covariance = blurred(x * y) - x_mean * y_mean
    numerator = (2 * x_mean * y_mean + 1e-4) * (2 * covariance + 9e-4)
    return (numerator / ((x_mean**2 + y_mean**2 + 1e-4) * (x_variance + y_variance + 9e-4))).mean()


@pytest.mark.parametrize("form", ["code", "paper", "one", None])
@pytest.mark.parametrize("loss", ["l1", "l2", "ssim"])
def test_the_loss_is_that_of_the_shifted_noise(prepared, table, loss, form):
    """x_t = √ᾱ x_0 + √(1-ᾱ) (ε + c E); the network predicts ε + c' E. Without maps E is not there."""
    scheduler = {"num_train_timesteps": 10, "structure_coefficient": form or "code"}
    config = json.dumps({"unet": {"hidden_size": 8, "dim_mults": [1, 2]}, "scheduler": scheduler})
    maps = ["--structure_maps", form is not None]
    run = prepared(table, "--loss", loss, "--residual_scale", 30, "--model_config", config, *maps)
    batch, network = batch_of(run), run.trainer.model.eval()
    t = batch["timestep"].numpy()
    betas, alphas = cosine(10)
    phi = [sum(np.sqrt(alphas[s] / alphas[i] * betas[i]) for i in range(s + 1)) for s in range(10)]
    in_noise, in_target = {
        "code": (np.sqrt(1 - alphas) * betas,) * 2,
        "paper": (np.array(phi) / np.sqrt(1 - alphas), np.sqrt(1 - alphas) / np.sqrt(betas)),
        "one": (np.ones(10),) * 2,
        None: (np.zeros(10),) * 2,
    }[form]
    assert ("structure" in batch) == (form is not None)
    structure = batch["structure"].double().numpy() if form is not None else 0.0

    def at(values: np.ndarray) -> np.ndarray:
        return values[t][:, None, None, None]

    high, upsampled, noise = (batch[name].double().numpy() for name in ("high", "upsampled", "noise"))
    original = (high - upsampled) * 30
    assert 0.01 < (np.abs(original) > 1).mean() < 0.9
    original = np.clip(original, -1, 1)
    noisy = at(np.sqrt(alphas)) * original + at(np.sqrt(1 - alphas)) * (noise + at(in_noise) * structure)
    target = noise + at(in_target) * structure
    with torch.no_grad():
        condition = run.trainer.complete.condition_encoder(batch["low"]).features[2::3]
        predicted = network(torch.from_numpy(noisy).float(), batch["timestep"], condition).sample.double().numpy()
        seen = []
        network.register_forward_pre_hook(lambda module, given: seen.append(given[0].double().numpy()))
        got = run.trainer.objective(network, batch).item()
    np.testing.assert_allclose(seen[0], noisy, atol=1e-5)
    error = predicted - target
    expected = {
        "l1": np.abs(error).mean(),
        "l2": (error**2).mean(),
        "ssim": np.abs(error).mean() + 1 - similarity(predicted / 2 + 0.5, target / 2 + 0.5),
    }[loss]
    assert got == pytest.approx(expected, rel=1e-5)


def test_the_encoder_s_loss_is_the_mean_error_of_its_image(short_run, pictures, tmp_path):
    from .conftest import TINY

    rest = short_run[short_run.index("--eval_holdout") :]
    rrdb = ["--task", "super-resolution", *TINY["rrdb"], *rest, "--dataset", str(pictures), "--loss", "l2"]
    run = prepare("prepare_training", [*rrdb, "--output_dir", str(tmp_path / "run")])
    batch = batch_of(run)
    assert set(batch) == {"low", "high", "upsampled"}
    with torch.no_grad():
        image = run.trainer.model(batch["low"]).sample
        assert run.trainer.objective(run.trainer.model, batch).item() == pytest.approx(
            (image - batch["high"]).abs().mean().item()
        )


@pytest.mark.parametrize("divisor", [255, 256])
def test_images_are_divided_by_what_the_recipe_says(prepared, tmp_path, divisor):
    """A patch as large as its image, so that nothing is cut: the bicubic guess is that of the whole image."""
    (folder := tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{number}.png")
    options = ["--patch_size", 32, "--augment", "false", "--legacy_256", divisor == 256, "--eval_holdout", 1]
    run = prepared(folder, *options)
    source = run.trainer.train_dataset.source
    for number in range(3):
        sample = run.trainer.train_dataset[number]
        high = source.image(number)
        low = imresize(high, 1 / 4)
        torch.testing.assert_close(sample["high"], high / 127.5 - 1)
        torch.testing.assert_close(sample["low"], low / 127.5 - 1)
        torch.testing.assert_close(sample["upsampled"], imresize(low / divisor, 4) * 2 - 1, atol=1e-5, rtol=0)
    assert run.trainer.complete.config.legacy_256 is (divisor == 256)


@pytest.mark.parametrize("mode", ["none", "z_score", "z_score_minus_one"])
@pytest.mark.parametrize("constant_to_zero", [True, False])
def test_maps_are_normalised_patch_by_patch(prepared, table, mode, constant_to_zero):
    plain = prepared(table, "--structure_maps", "true")
    options = ["--structure_normalization", mode, "--structure_constant_to_zero", constant_to_zero]
    run = prepared(table, "--structure_maps", "true", *options)
    kinds = set()
    for number in range(36):
        before = plain.trainer.train_dataset[number]["structure"].double()
        after = run.trainer.train_dataset[number]["structure"].double()
        flat = bool((before == before.flatten()[0]).all())
        kinds.add(flat)
        if flat:
            expected = 0 * before if constant_to_zero else before
        elif mode == "none":
            expected = before
        else:
            expected = (before - before.mean()) / before.std(correction=0) - float(mode == "z_score_minus_one")
        torch.testing.assert_close(after.double(), expected, atol=5e-4, rtol=0)
    assert kinds == {True, False}


def test_a_run_evaluates_as_its_options_say(prepared, pictures, tmp_path):
    options = ["--scheduler", "ddim", "--num_inference_steps", 3, "--eval_size", 20, "--crop_border", 2]
    run = prepared(pictures, *options, "--grid_images", 1, "--seed", 5, "--ema_decay", 0)
    got = run.trainer.evaluate()
    pipe = run.trainer.complete
    own = SamDiffSRPipeline(
        pipe.condition_encoder, pipe.unet, DDIMScheduler.from_config(pipe.scheduler.config), 2.0, legacy_256=False
    )
    own.set_progress_bar_config(disable=True)
    images, references = [], []
    for index, name in enumerate(("0", "5")):  # held out
        whole = torch.from_numpy(np.array(Image.open(pictures / f"{name}.png"))).permute(2, 0, 1)
        height, width = (side // 4 for side in whole.shape[1:])
        low = imresize(whole[:, : 4 * height, : 4 * width], 1 / 4)
        top, left = (height - 5) // 2, (width - 5) // 2  # 20 pixels of the large image
        low = low[:, top : top + 5, left : left + 5]
        references.append(whole[:, 4 * top : 4 * top + 20, 4 * left : 4 * left + 20].permute(1, 2, 0).numpy())
        images.append(np.array(own(low, num_inference_steps=3, generator=seeded(5 + index)).images[0]))
    for metric in ("psnr", "ssim"):
        for channel in ("y", "rgb"):
            options = {"references": references, "channel": channel, "crop_border": 2}
            expected = metrics.load(metric).compute(predictions=images, **options)[metric]
            assert got[f"eval_{metric}_{channel}"] == pytest.approx(expected, rel=1e-6), (metric, channel)
    (grid,) = (tmp_path / "run" / "validation").glob("*.png")
    assert Image.open(grid).size == (4 * 20 + 5 * 4, 4 + 20 + 16 + 4), "one image, in four versions"


def test_an_evaluation_in_tiles_is_that_of_the_pipeline_in_tiles(prepared, pictures, tmp_path):
    pipe = prepared(pictures).trainer.complete
    pipe.save_pretrained(tmp_path / "pipe")
    asked = ["--task", "super-resolution", "--model", str(tmp_path / "pipe"), "--dataset", str(pictures)]
    asked += ["--max_eval_samples", "1", "--num_inference_steps", "2", "--seed", "3", "--tile_size", "4"]
    evaluate([*asked, "--save_images", str(tmp_path / "images"), "--output", str(tmp_path / "e.json")])
    pipe.set_progress_bar_config(disable=True)
    whole = torch.from_numpy(np.array(Image.open(pictures / "0.png"))).permute(2, 0, 1)
    options = {"num_inference_steps": 2, "tile_size": 4, "tile_overlap": 2}
    shown = np.array(Image.open(tmp_path / "images" / "sr" / "0.png"))
    assert np.array_equal(shown, pipe(imresize(whole, 1 / 4), generator=seeded(3), **options).images[0])


def test_patches_of_an_image_and_their_turns_differ(prepared, pictures):
    dataset = prepared(pictures, "--patches_per_image", 5, "--augment", "true").trainer.train_dataset
    assert len(dataset) == 4 * 5
    patches = [dataset[number]["high"] for number in range(0, 20, 4)]  # of the first image
    assert len({patch.numpy().tobytes() for patch in patches}) == 5
