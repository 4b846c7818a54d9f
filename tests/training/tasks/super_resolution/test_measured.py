"""What is enlarged, measured and written of an evaluation: by one process or several, by networks of any precision, at
the borders of what can be measured."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hf_effmodels.pipelines.sam_diffsr.matlab_resize import imresize
from hf_effmodels.training.tasks.super_resolution import evaluation, reports, task
from hf_effmodels.training.tasks.super_resolution.evaluation import (
    Enlarged,
    averages,
    by_encoder,
    by_pipeline,
    check_measurable,
    compare,
    enlarge_and_measure,
    save_images,
    to_pil,
)
from hf_effmodels.training.tasks.super_resolution.reports import write_evaluation, write_grid
from hf_effmodels.training.tasks.super_resolution.trainer import SuperResolutionTrainer

from ....pipelines.sam_diffsr.tiny import tiny_pipeline
from .conftest import picture
from .test_patches import images


def flat(value: int, size=(24, 20)) -> Image.Image:
    return Image.new("RGB", size, (value,) * 3)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_take_turns_and_each_has_the_whole_list_in_order(processes, monkeypatch):
    source = images(*[flat(n) for n in (1, 2, 3, 4, 5)])
    seeds, found = {}, {}

    def enlarge(low, seed):
        seeds.setdefault(number, []).append(seed)
        return flat(0)

    for number in range(processes):
        state = SimpleNamespace(process_index=number, num_processes=processes)
        monkeypatch.setattr(evaluation, "PartialState", lambda state=state: state)
        monkeypatch.setattr(evaluation, "gather_object", lambda own: own)
        enlarge_and_measure(enlarge, source, 4, seed=10, size=None, crop_border=0)
        monkeypatch.setattr(
            evaluation, "gather_object", lambda own, number=number: found.setdefault(number, own) and []
        )
        enlarge_and_measure(enlarge, source, 4, seed=10, size=None, crop_border=0)
    assert {number: each[: len(each) // 2] for number, each in seeds.items()} == {
        number: [10 + index for index in range(number, 5, processes)] for number in range(processes)
    }
    # What the processes send comes by process; the list is by image.
    monkeypatch.setattr(evaluation, "gather_object", lambda own: [one for each in found.values() for one in each])
    whole = enlarge_and_measure(enlarge, source, 4, seed=10, size=None, crop_border=0)
    assert [one.name for one in whole] == [f"picture {n}" for n in range(5)]
    assert [one.measured["psnr_rgb"] for one in whole] == pytest.approx([20 * np.log10(255 / n) for n in range(1, 6)])


@pytest.mark.parametrize(("border", "size"), [(0, None), (2, None), (0, 16), (2, 16)])
def test_both_images_are_measured_without_the_border_and_in_the_centre(border, size):
    """The enlarged image is wrong at its border alone."""
    original = picture(32, 28, 0)
    shown = (32, 28) if size is None else (size, size)

    def enlarge(low, seed):
        assert low.shape == (3, shown[1] // 4, shown[0] // 4)
        left, top = (0, 0) if size is None else (8, 4)  # whole pixels of the reduced image
        pixels = np.array(original.crop((left, top, left + shown[0], top + shown[1])))
        pixels[:2], pixels[:, -2:] = 255 - pixels[:2], 255 - pixels[:, -2:]
        return Image.fromarray(pixels)

    (found,) = enlarge_and_measure(enlarge, images(original), 4, seed=0, size=size, crop_border=border)
    assert found.reference.size == found.enlarged.size == found.bicubic.size == shown
    assert np.isinf(found.measured["psnr_rgb"]) == (found.measured["ssim_rgb"] == 1) == (border == 2)
    # Bicubic's numbers are of its own image, in the same way.
    inner = [np.asarray(one, dtype=float)[border : shown[1] - border, border : shown[0] - border]
             for one in (found.bicubic, found.reference)]  # fmt: skip
    error = np.mean((inner[0] - inner[1]) ** 2)
    assert found.measured["bicubic_psnr_rgb"] == pytest.approx(10 * np.log10(255**2 / error), rel=1e-6)
    low = torch.from_numpy(np.array(found.low)).permute(2, 0, 1)
    assert np.array_equal(np.asarray(found.bicubic), imresize(low, 4).permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("side", "size", "border", "left"),
    [(20, None, 0, 20), (20, None, 4, 12), (24, None, 6, 12), (28, 20, 4, 12), (20, None, 5, None), (24, 12, 1, None),
     (12, None, 0, 12), (8, None, 0, None), (15, None, 0, 12), (11, None, 0, None)],
)  # fmt: skip
def test_eleven_pixels_have_to_be_left_within_the_border(side, size, border, left):
    """Of sides cut to multiples of the scale, 4."""
    for shape in ((side, 64), (64, side)):
        source = images(flat(0, shape))
        if left is not None:
            assert left >= 11
            check_measurable(source, 0, 4, size, border)
        else:
            with pytest.raises(ValueError, match=f"without a border of {border} are less than the 11×11 window"):
                check_measurable(source, 0, 4, size, border)


class Encoder(nn.Module):
    """Its image is four times its input, in values that go beyond white and black, or are no numbers."""

    config = SimpleNamespace(scale=1)
    device = torch.device("cpu")

    def __init__(self, dtype, factor=4.0):
        super().__init__()
        self.dtype, self.factor = dtype, factor

    def forward(self, low):
        assert low.dtype == self.dtype and not torch.is_grad_enabled() and low.abs().max() <= 1
        return SimpleNamespace(sample=low * self.factor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_encoders_image_is_rounded_and_cut_to_bytes(dtype):
    low = torch.tensor([0, 96, 127, 128, 140, 255], dtype=torch.uint8).expand(3, 2, 6)
    found = np.asarray(by_encoder(Encoder(dtype))(low, seed=0))
    # ((v / 127.5 - 1) · 4 + 1) · 127.5 = 4 v - 382.5; halves are beside what float16 tells apart.
    assert found.shape == (2, 6, 3)
    for value, one in zip((0, 96, 127, 128, 140, 255), found[0, :, 0].tolist(), strict=True):
        assert abs(one - min(max(4 * value - 382.5, 0), 255)) <= (0.5 if dtype is torch.float32 else 1.0), value
    with pytest.raises(ValueError, match=f"^--model: what the encoder predicts is not finite, in {dtype}.$"):
        by_encoder(Encoder(dtype, float("nan")))(low, seed=0)


@pytest.mark.parametrize(
    ("options", "called"),
    [
        ({}, {"num_inference_steps": None}),
        ({"steps": 3}, {"num_inference_steps": 3}),
        ({"timesteps": [3, 1]}, {"timesteps": [3, 1]}),
        ({"timesteps": [], "steps": 2}, {"num_inference_steps": 2}),
        ({"steps": 2, "tile_size": 4}, {"num_inference_steps": 2, "tile_size": 4, "tile_overlap": 2}),
    ],
)
def test_an_image_is_enlarged_as_the_pipeline_itself_does_with_these_options(options, called):
    pipe = tiny_pipeline(legacy_256=False, scheduler={"num_train_timesteps": 4}, dim_mults=[1, 2, 2])
    pipe.register_to_config(residual_scale=5.0)
    low = torch.from_numpy(np.array(picture(6, 4, 1))).permute(2, 0, 1)
    found = by_pipeline(pipe, "own", **options)(low, 4)
    expected = pipe(low, generator=torch.Generator().manual_seed(4), **called).images[0]
    assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_another_sampler_is_for_this_evaluation_alone():
    pipe = tiny_pipeline(scheduler={"num_train_timesteps": 4}, dim_mults=[1, 2, 2])
    before = pipe.scheduler
    low = torch.from_numpy(np.array(picture(6, 4, 1))).permute(2, 0, 1)
    own, other, seed = (
        np.asarray(by_pipeline(pipe, name, 2)(low, seed)) for name, seed in (("own", 4), ("ddim", 4), ("own", 5))
    )
    assert pipe.scheduler is before and not np.array_equal(own, other) and not np.array_equal(own, seed)


def enlarged(name: str, value: int, size=(24, 20), seconds: float = 0.5) -> Enlarged:
    """Enlarged by `value`'s grey, bicubic twice as bright, the original black."""
    shown = [flat(value, size), flat(2 * value, size)]
    reference = flat(0, size)
    small = [one.resize((16, 16)) for one in (*shown, reference)]  # of one colour: the numbers are the same
    measured = compare(small[0], small[2], 0)
    measured |= {f"bicubic_{key}": number for key, number in compare(small[1], small[2], 0).items()}
    low = flat(200, (size[0] // 4, size[1] // 4))
    return Enlarged(name, low, shown[1], shown[0], reference, measured, seconds)


def test_what_is_told_is_the_mean_over_the_images_whatever_their_sizes(tmp_path, capsys):
    results = [enlarged("a", 1), enlarged("b", 4, (64, 40), 0.25), enlarged("c", 16)]
    decibels = [20 * np.log10(255 / n) for n in (1, 4, 16)]
    means = averages(results)
    assert means["psnr_rgb"] == pytest.approx(np.mean(decibels))
    assert means["bicubic_psnr_rgb"] == pytest.approx(np.mean(decibels) - 20 * np.log10(2))
    file = tmp_path / "e.json"
    facts = {"model": "m", "dataset": "d", "perceptual": {"lpips": 0.25}}
    written = write_evaluation(results, facts, str(file), {"task": "super-resolution"})
    assert json.loads(file.read_text()) == written and written["samples"] == 3 and written["seconds"] == 1.25
    assert [one["name"] for one in written["images"]] == ["a", "b", "c"]
    assert [one["psnr_rgb"] for one in written["images"]] == pytest.approx(decibels)
    assert [one["seconds"] for one in written["images"]] == [0.5, 0.25, 0.5] and written["model"] == "m"
    assert written["psnr_rgb"] == means["psnr_rgb"] and written["bicubic_ssim_y"] == means["bicubic_ssim_y"]
    told = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert list(told) == ["psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "lpips"]
    assert told["psnr_rgb"] == [f"{means['psnr_rgb']:.2f}", "dB", "bicubic", f"{means['bicubic_psnr_rgb']:.2f}", "dB"]
    assert told["ssim_y"] == [f"{means['ssim_y']:.4f}", "bicubic", f"{means['bicubic_ssim_y']:.4f}"]
    assert told["lpips"] == ["0.2500"]


def test_images_are_kept_by_kind_under_their_names_and_replace_earlier_ones(tmp_path):
    save_images([enlarged("a", 1), enlarged("b", 4)], tmp_path)
    save_images([enlarged("b", 9)], tmp_path)
    for kind, values in (("sr", (1, 9)), ("bicubic", (2, 18)), ("hr", (0, 0))):
        found = {path.name: Image.open(path).getpixel((0, 0))[0] for path in (tmp_path / kind).iterdir()}
        assert found == dict(zip(("a.png", "b.png"), values, strict=True))


def test_images_of_one_name_are_all_kept(tmp_path):
    """As of a.jpg and a.png; in the same order in each kind, so that they are compared with their own."""
    save_images([enlarged(name, n + 1) for n, name in enumerate(("a", "a-2", "a", "b", "a"))], tmp_path)
    for kind, factor in (("sr", 1), ("bicubic", 2)):
        found = {path.stem: Image.open(path).getpixel((0, 0))[0] // factor for path in (tmp_path / kind).iterdir()}
        assert found == {"a": 1, "a-2": 2, "a-3": 3, "b": 4, "a-4": 5}
    assert {path.stem for path in (tmp_path / "hr").iterdir()} == {"a", "a-2", "a-3", "b", "a-4"}


def test_a_grid_has_a_row_for_each_image_in_four_versions_and_the_middle_of_large_ones(tmp_path):
    large = enlarged("b", 50, (600, 300))
    large.reference.paste((77, 77, 77), (172, 22, 428, 278))  # the middle 256×256 pixels
    write_grid([enlarged("a", 30), large], tmp_path / "grid.png")
    grid = Image.open(tmp_path / "grid.png")
    assert grid.size == (4 * 256 + 5 * 4, 4 + (20 + 16 + 4) + (256 + 16 + 4))
    lefts = [4 + column * 260 for column in range(4)]
    first, second = 4 + 16, 4 + 40 + 16
    assert [grid.getpixel((left, first))[0] for left in lefts] == [200, 60, 30, 0]
    assert [grid.getpixel((left, second))[0] for left in lefts] == [200, 100, 50, 77]
    assert grid.getpixel((lefts[3] + 255, second + 255)) == (77, 77, 77)
    assert grid.getpixel((lefts[0] + 24, first)) == (255, 255, 255)


def test_a_grid_tells_each_enlargements_decibels_above_it(tmp_path, monkeypatch):
    said = []
    drawing = SimpleNamespace(text=lambda place, text, fill: said.append((place, text)))
    monkeypatch.setattr(reports.ImageDraw, "Draw", lambda picture: drawing)
    result = enlarged("a", 30)
    write_grid([result], tmp_path / "grid.png")
    measured = result.measured
    assert measured["psnr_y"] != measured["bicubic_psnr_y"]
    texts = ["low resolution", f"bicubic {measured['bicubic_psnr_y']:.2f} dB"]
    texts += [f"enlarged {measured['psnr_y']:.2f} dB", "original"]
    assert said == [((4 + column * 28, 4), text) for column, text in enumerate(texts)]


def test_the_best_model_may_be_best_at_whatever_is_measured():
    assert set(SuperResolutionTrainer.metric_names(None)) == set(averages([enlarged("a", 1)]))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, 10),
        ({"num_inference_steps": 10}, 10),
        ({"num_inference_steps": 1}, 1),
        ({"num_inference_steps": 11}, r"--num_inference_steps: got 11, accepted are 1 to 10"),
        ({"timesteps": [9, 4, 0]}, 3),
        ({"timesteps": []}, 10),
        ({"timesteps": [10, 4]}, r"--timesteps: got \[10, 4\], accepted are descending numbers from 9 to 0"),
        ({"timesteps": [4, -1]}, r"--timesteps: got \[4, -1\]"),
        ({"timesteps": [4, 4]}, r"--timesteps: got \[4, 4\]"),
        ({"timesteps": [4, 1], "num_inference_steps": 2}, "--timesteps and --num_inference_steps exclude each other"),
        ({"timesteps": [4], "scheduler": "unipc"}, "--timesteps: UniPCMultistepScheduler takes a number of steps"),
    ],
)
def test_as_many_steps_are_told_as_are_taken(given, found):
    pipe = tiny_pipeline(scheduler={"num_train_timesteps": 10})
    args = SimpleNamespace(**{"num_inference_steps": None, "timesteps": None, "scheduler": "own", **given})
    if isinstance(found, int):
        assert task._check_sampling(args, pipe) == found
        return
    with pytest.raises(ValueError, match=f"^{found}"):
        task._check_sampling(args, pipe)


@pytest.mark.parametrize(
    ("stage", "scale", "patch", "accepted"),
    [
        ("rrdb", 4, 4, True), ("rrdb", 4, 6, False), ("diffusion", 4, 16, True), ("diffusion", 4, 8, False),
        ("diffusion", 4, 20, False), ("diffusion", 4, 24, True),
    ],
)  # fmt: skip
def test_a_patch_is_a_multiple_of_what_the_networks_take_and_of_two_at_least(stage, scale, patch, accepted):
    """Of three levels that halve, 8 pixels each: two of them at least."""
    pipe = tiny_pipeline(scheduler={"num_train_timesteps": 10}, legacy_256=True)
    args = SimpleNamespace(
        patch_size=patch, patches_per_image=3, augment=True, structure_maps=False, legacy_mask_crop=True,
        structure_normalization="minmax", structure_constant_to_zero=False,
    )  # fmt: skip
    model_args = SimpleNamespace(stage=stage)
    complete = pipe if stage == "diffusion" else pipe.condition_encoder
    if not accepted:
        with pytest.raises(ValueError, match=f"^--patch_size: got {patch}, accepted are multiples of "):
            task._patch_options(model_args, args, scale, complete)
        return
    options = task._patch_options(model_args, args, scale, complete)
    assert (options.scale, options.patch_size, options.patches_per_image, options.augment) == (scale, patch, 3, True)
    assert (options.num_timesteps, options.legacy_256) == ((10, True) if stage == "diffusion" else (None, False))
    assert (options.structure_normalization, options.legacy_mask_crop) == ("minmax", True)


def test_a_step_is_measured_once_and_anew_where_the_best_weights_are_back():
    trainer, asked, logged = SuperResolutionTrainer.__new__(SuperResolutionTrainer), [], []
    network = nn.Linear(1, 1)
    trainer.model, trainer._measured, trainer.is_in_train = network.train(), None, True
    trainer.state = SimpleNamespace(global_step=5)
    trainer.args = SimpleNamespace(load_best_model_at_end=False)
    trainer.evaluated_weights = trainer.compute_loss_context_manager = lambda: torch.no_grad()
    trainer.evaluation = lambda step: asked.append((step, network.training)) or {"psnr_y": float(len(asked))}
    trainer.log = logged.append
    trainer.control = trainer._seen = None
    trainer.callback_handler = SimpleNamespace(on_evaluate=lambda args, state, control, metrics: metrics)
    assert trainer.evaluate() == trainer.evaluate() == {"eval_psnr_y": 1.0}
    assert asked == [(5, False)] and network.training and logged == [{"eval_psnr_y": 1.0}] * 2
    trainer.state.global_step = 6
    assert trainer.evaluate(metric_key_prefix="test") == {"test_psnr_y": 2.0} == trainer.control
    trainer.is_in_train = False
    assert trainer.evaluate() == {"eval_psnr_y": 2.0}, "the last step, asked for again by the report"
    trainer.args.load_best_model_at_end = True
    assert trainer.evaluate() == {"eval_psnr_y": 3.0} and asked == [(5, False), (6, False), (6, False)]
    assert not network.training


def test_a_tensor_becomes_the_image_of_its_bytes():
    pixels = torch.arange(24, dtype=torch.uint8).view(3, 2, 4)
    image = to_pil(pixels)
    assert image.size == (4, 2) and image.getpixel((1, 0)) == (1, 9, 17) and image.getpixel((0, 1)) == (4, 12, 20)
