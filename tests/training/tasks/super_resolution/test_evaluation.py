"""scripts/eval.py --task super-resolution: PSNR and SSIM beside bicubic's, samplers, images, optional metrics."""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hf_effmodels import metrics
from hf_effmodels.pipelines.sam_diffsr.matlab_resize import imresize
from hf_effmodels.training import evaluate
from hf_effmodels.training.tasks.super_resolution import evaluation
from hf_effmodels.training.tasks.super_resolution.arguments import SCHEDULERS
from hf_effmodels.training.tasks.super_resolution.evaluation import (
    by_encoder,
    by_pipeline,
    check_measurable,
    compare,
    enlarge_and_measure,
    reference_and_low,
    tile_overlap,
)

from ....pipelines.sam_diffsr.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def pipeline_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline(legacy_256=False, scheduler={"num_train_timesteps": 20}).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(pipeline_folder, pictures, tmp_path):
    def call(*arguments, model=pipeline_folder, dataset=str(pictures)) -> dict:
        chosen = ["--task", "super-resolution", "--model", model, "--dataset", dataset]
        return evaluate([*chosen, "--output", str(tmp_path / "e.json"), "--overwrite", "true", *arguments])

    return call


def test_the_numbers_are_those_of_the_saved_images(run, pictures, tmp_path, capsys):
    images = tmp_path / "images"
    results = run("--num_inference_steps", "2", "--crop_border", "4", "--save_images", str(images))
    names = [f"{number}.png" for number in range(6)]
    loaded = {kind: [Image.open(images / kind / name) for name in names] for kind in ("sr", "bicubic", "hr")}
    for metric in ("psnr", "ssim"):
        for channel in ("y", "rgb"):
            for kind, prefix in (("sr", ""), ("bicubic", "bicubic_")):
                options = {"references": loaded["hr"], "channel": channel, "crop_border": 4}
                expected = metrics.load(metric).compute(predictions=loaded[kind], **options)[metric]
                assert results[f"{prefix}{metric}_{channel}"] == pytest.approx(expected), (metric, channel, kind)
    original = torch.from_numpy(np.array(Image.open(pictures / "1.png"))).permute(2, 0, 1)[:, :, :40]
    assert np.array_equal(loaded["hr"][1], original.permute(1, 2, 0)), "sides are cut to multiples of the scale"
    assert np.array_equal(loaded["bicubic"][1], imresize(imresize(original, 1 / 4), 4).permute(1, 2, 0))
    written = json.loads((tmp_path / "e.json").read_text())
    assert written == results and len(written["images"]) == 6 and written["num_inference_steps"] == 2
    assert (
        f"psnr_y   {results['psnr_y']:9.2f} dB   bicubic {results['bicubic_psnr_y']:.2f} dB" in capsys.readouterr().out
    )


def test_image_i_is_sampled_with_the_seed_and_i():
    from .test_patches import images

    seeds = []

    def enlarge(low, seed):
        seeds.append(seed)
        return Image.new("RGB", (4 * low.shape[2], 4 * low.shape[1]))

    source = images(*[Image.new("RGB", (24, 20), (n, n, n)) for n in (1, 2, 3)])
    results = enlarge_and_measure(enlarge, source, 4, seed=7, size=None, crop_border=0)
    assert seeds == [7, 8, 9] and [r.name for r in results] == ["picture 0", "picture 1", "picture 2"]
    assert [r.measured["psnr_rgb"] for r in results] == pytest.approx([20 * np.log10(255 / n) for n in (1, 2, 3)])


def test_the_centre_of_an_image_is_measured_with_its_reduction():
    from .test_patches import images

    rows, columns = np.indices((40, 48))
    source = images(Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8)))
    image, low = reference_and_low(source, 0, 4, size=16)
    assert image.shape == (3, 16, 16) and low.shape == (3, 4, 4)
    assert image[0, 0].tolist() == list(range(16, 32)) and image[1, :, 0].tolist() == list(range(12, 28))
    whole_image, whole_low = reference_and_low(source, 0, 4, size=None)
    assert torch.equal(low, whole_low[:, 3:7, 4:8]) and whole_image.shape == (3, 40, 48)
    assert reference_and_low(source, 0, 4, size=100)[0].shape == (3, 40, 48)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_sampler_can_be_chosen_and_is_repeatable(run, scheduler):
    choice = ["--scheduler", scheduler, "--num_inference_steps", "4", "--max_eval_samples", "1"]
    first, again, other = run(*choice), run(*choice), run(*choice, "--seed", "7")
    assert first["psnr_rgb"] == again["psnr_rgb"] != other["psnr_rgb"]


def test_timesteps_can_be_given_themselves(run):
    short = ["--max_eval_samples", "1"]
    few = run(*short, "--timesteps", "17", "12", "6")
    assert few["num_inference_steps"] == 3 and few["timesteps"] == [17, 12, 6]
    every = run(*short, "--timesteps", *map(str, range(19, -1, -1)))
    assert every["psnr_rgb"] == run(*short)["psnr_rgb"] != few["psnr_rgb"]


def test_prepared_low_resolution_images_are_taken(run, pictures, tmp_path):
    low = tmp_path / "low"
    low.mkdir()
    for path in pictures.glob("*.png"):
        Image.open(path).resize((10, 9)).save(low / f"{path.stem}x4.png")
    short = ["--num_inference_steps", "1", "--max_eval_samples", "1"]
    assert run(*short, "--low_folder", str(low))["bicubic_psnr_y"] != run(*short)["bicubic_psnr_y"]
    (low / "0x4.png").unlink()
    with pytest.raises(ValueError, match="--low_folder: .* has no image for 0.png"):
        run("--low_folder", str(low))


def test_perceptual_metrics_are_never_skipped(run, monkeypatch, tmp_path):
    with pytest.raises(ImportError, match="--metrics lpips fid needs the library pyiqa: pip install pyiqa"):
        run("--metrics", "lpips", "fid")
    assert not (tmp_path / "e.json").exists()

    calls = []

    def create_metric(name, device):
        def metric(*paths):
            calls.append((name, [path.rpartition("/")[0].rpartition("/")[2] or path for path in paths]))
            return torch.tensor([[0.25 if name == "lpips" else 0.5]])

        return metric

    fake = ModuleType("pyiqa")
    fake.create_metric, fake.__spec__ = create_metric, object()
    monkeypatch.setitem(sys.modules, "pyiqa", fake)
    short = ["--num_inference_steps", "1", "--max_eval_samples", "2", "--metrics", "lpips", "fid", "maniqa"]
    assert run(*short)["perceptual"] == {"lpips": 0.25, "fid": 0.5, "maniqa": 0.5}
    assert [name for name, _ in calls] == ["lpips", "lpips", "fid", "maniqa", "maniqa"]
    assert calls[0][1] == ["sr", "hr"] and calls[3][1] == ["sr"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--scheduler", "dpm"], "--scheduler: got 'dpm', accepted are "),
        (["--num_inference_steps", "21"], "--num_inference_steps: got 21, accepted are 1 to 20"),
        (["--timesteps", "20", "3"], r"--timesteps: got \[20, 3\], accepted are descending numbers from 19 to 0"),
        (["--timesteps", "3", "9"], r"--timesteps: got \[3, 9\], accepted are descending"),
        (["--timesteps", "3", "--scheduler", "unipc"], "--timesteps: UniPCMultistepScheduler takes a number of steps"),
        (["--timesteps", "3", "--num_inference_steps", "2"], "exclude each other"),
        (["--metrics", "psnr"], "--metrics: got 'psnr', accepted are lpips, fid, maniqa"),
        (["--tile_size", "3"], "tile_size: got 3, accepted are multiples of"),
        (["--model", "nowhere/at-all"], "--model: 'nowhere/at-all' cannot be found or reached"),
        (["--crop_border", "13"], "without a border of 13 are less than"),
        (["--legacy_256", "true"], "--legacy_256 goes with training"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_done(run, tmp_path, arguments, message):
    with pytest.raises((ValueError, OSError), match=message):
        run(*arguments)
    assert not (tmp_path / "e.json").exists()


def test_a_grey_transparent_or_broken_image_is_handled_or_named(run, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    Image.linear_gradient("L").resize((24, 20)).save(folder / "grey.png")
    Image.fromarray(np.arange(480, dtype=np.uint16).reshape(20, 24) * 100).save(folder / "deep.png")
    short = ["--num_inference_steps", "1"]
    assert run(*short, dataset=str(folder))["samples"] == 2
    Image.new("RGBA", (24, 20), (1, 2, 3, 4)).save(folder / "glass.png")
    with pytest.raises(ValueError, match=r"row 1 \(.*glass.png\) of .*/odd/train: the image is transparent in places"):
        run(*short, dataset=str(folder))
    (folder / "glass.png").write_bytes(b"no image")
    with pytest.raises(OSError, match=r"row 1 \(.*glass.png\) of .*: the file is not an image PIL can read"):
        run(*short, dataset=str(folder))


@pytest.mark.parametrize(
    "unit, size, shared", [(4, 64, 16), (4, 32, 16), (4, 28, 12), (4, 20, 8), (4, 6, 0), (8, 24, 8)]
)
def test_tiles_share_sixteen_pixels_or_half_of_a_smaller_one_in_whole_units(unit, size, shared):
    assert tile_overlap(SimpleNamespace(size_unit=unit), size) == shared


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize(
    "options, asked",
    [
        ({}, {"num_inference_steps": None, "timesteps": None, "tile_size": None}),
        ({"steps": 5, "timesteps": []}, {"num_inference_steps": 5, "timesteps": None, "tile_size": None}),
        ({"timesteps": [7, 3]}, {"num_inference_steps": None, "timesteps": [7, 3], "tile_size": None}),
        (
            {"scheduler": "ddim", "tile_size": 24},
            {"num_inference_steps": None, "timesteps": None, "tile_size": 24, "tile_overlap": 12},
        ),
    ],
)
def test_a_pipeline_is_asked_as_the_command_says_and_stays_what_it_is(monkeypatch, legacy, options, asked):
    made, calls = [], []

    class Pipeline:
        def __init__(self, **parts):
            made.append(parts)

        def set_progress_bar_config(self, disable):
            assert disable

        def __call__(self, low, generator, **given):
            calls.append((low, generator.initial_seed(), given))
            return SimpleNamespace(images=["enlarged", "another"])

    monkeypatch.setattr(evaluation, "SamDiffSRPipeline", Pipeline)
    monkeypatch.setattr(evaluation, "sampler", lambda kind, own: f"{kind} of {own}")
    components = {"unet": "a network", "scheduler": "its own"}
    config = SimpleNamespace(residual_scale=3.5, legacy_256=legacy)
    pipe = SimpleNamespace(components=components, scheduler="its own", config=config, size_unit=4)
    enlarge = by_pipeline(pipe, **options)
    assert enlarge("low", 11) == "enlarged" and enlarge("other", 12) == "enlarged"
    kind = options.get("scheduler", "own")
    parts = {"unet": "a network", "scheduler": f"{kind} of its own", "residual_scale": 3.5, "legacy_256": legacy}
    assert made == [parts, parts] and components == {"unet": "a network", "scheduler": "its own"}
    assert calls == [("low", 11, asked), ("other", 12, asked)]


@pytest.mark.parametrize("said, byte", [(-2.0, 0), (-1.0, 0), (0.0, 128), (0.499, 191), (1.0, 255), (1.5, 255)])
def test_what_an_encoder_predicts_is_rounded_to_the_nearest_byte(said, byte):
    """Of -1 to 1, 127.5 a unit; what goes beyond is the darkest or the brightest there is."""
    seen = []

    def encoder(pixels):
        seen.append(pixels)
        return SimpleNamespace(sample=torch.full((1, 3, 8, 4), said))

    encoder.device, encoder.dtype = "cpu", torch.float32
    image = by_encoder(encoder)(torch.full((3, 2, 1), 51, dtype=torch.uint8), 0)
    assert image.size == (4, 8) and np.unique(np.asarray(image)).tolist() == [byte]
    assert seen[0].shape == (1, 3, 2, 1) and seen[0].unique().item() == pytest.approx(51 / 127.5 - 1)


@pytest.mark.parametrize("side, border, size, measurable", [
    (11, 0, None, True), (10, 0, None, False), (12, 1, None, False), (13, 1, None, True), (40, 4, 19, True),
    (40, 5, 20, False), (40, 14, None, True), (40, 15, None, False),
])  # fmt: skip
def test_what_is_left_within_the_border_has_to_hold_a_window(side, border, size, measurable):
    from .test_patches import images

    source = images(Image.new("RGB", (side + 9, side)))
    if measurable:
        check_measurable(source, 0, 1, size, border)
        return
    with pytest.raises(
        ValueError, match=f"pixels without a border of {border} are less than the 11×11 window of SSIM"
    ):
        check_measurable(source, 0, 1, size, border)


def test_what_lies_in_the_border_does_not_count():
    reference = Image.new("RGB", (20, 20), (90, 80, 70))
    framed = reference.copy()
    framed.paste((255, 0, 0), (0, 0, 20, 3))
    assert compare(framed, reference, 3)["psnr_rgb"] == compare(reference, reference, 0)["psnr_rgb"]
    assert compare(framed, reference, 2)["psnr_rgb"] < 40 and compare(framed, reference, 2)["ssim_y"] < 1
