"""The pipeline: any size, tiles, batches, determinism, callbacks, cost, offloading, bad input."""

import copy
import functools
from concurrent.futures import ThreadPoolExecutor

import accelerate
import diffusers
import numpy as np
import pytest
import torch
from diffusers.callbacks import PipelineCallback
from PIL import Image
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from hf_effmodels.pipelines import SamDiffSRPipeline, SamDiffSRScheduler
from hf_effmodels.pipelines.sam_diffsr.configuration_sam_diffsr import PRESETS
from hf_effmodels.pipelines.sam_diffsr.create import create_pipeline
from hf_effmodels.pipelines.sam_diffsr.matlab_resize import imresize
from hf_effmodels.pipelines.sam_diffsr.pipeline_sam_diffsr import _spans, _weights

from .tiny import ENCODER, UNET, photo, seeded, tiny_pipeline


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def enlarge(pipe, image, steps: int = 3, **options):
    options = {"generator": seeded(), "output_type": "np", **options}
    return pipe(image, num_inference_steps=steps, **options).images


def test_without_a_word_the_networks_are_those_of_the_paper():
    """12.93 and 12.38 million parameters, and a hundred steps with the coefficient of masks that the code has."""
    with torch.device("meta"):
        networks = create_pipeline(), *(create_pipeline(preset) for preset in ("sam-diffsr-x4", "srdiff-x4"))
    for pipe in networks:
        parts = (pipe.unet, pipe.condition_encoder)
        assert [round(sum(w.numel() for w in part.parameters()) / 1e6, 2) for part in parts] == [12.93, 12.38]
        assert not any(part.training for part in parts)
        steps = pipe.scheduler.config
        assert (steps.num_train_timesteps, steps.structure_coefficient) == (100, "code")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_new_pipeline_enlarges_white_to_white_and_that_of_published_weights_by_256(preset):
    sizes = {"encoder": {**ENCODER, "scale": 4}, "unet": {**UNET, "scale": 4}}
    white = torch.ones(1, 3, 4, 6)
    for options, expected in (({}, 1.0), ({"legacy_256": False}, 1.0), ({"legacy_256": True}, 2 * 255 / 256 - 1)):
        low, enlarged = create_pipeline(preset, **sizes, **options).prepare_images(white)
        assert torch.equal(low, torch.ones_like(low))
        torch.testing.assert_close(enlarged, torch.full_like(enlarged, expected), atol=1e-5, rtol=0)


def test_inference_is_the_official_procedure(pipe):
    """LR/255 to the networks, LR/256 enlarged, 100 steps from pure noise, residual halved and added, rounded."""
    image = photo(6, 4)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].double()
    low, upsampled = pixels / 127.5 - 1, imresize(pixels / 256, 4) * 2 - 1
    condition = pipe.condition_encoder(low.float()).features[2::3]
    tables = {name: torch.from_numpy(values).double() for name, values in pipe.scheduler._training_tables.items()}
    generator = seeded(5)
    sample = torch.randn(1, 3, 16, 24, generator=generator)
    with torch.no_grad():
        for t in range(99, -1, -1):
            noise = pipe.unet(sample, torch.tensor([t]), condition).sample
            x0 = tables["sqrt_recip_alphas_cumprod"][t] * sample - tables["sqrt_recipm1_alphas_cumprod"][t] * noise
            sample = tables["posterior_mean_coef1"][t] * x0.clamp(-1, 1) + tables["posterior_mean_coef2"][t] * sample
            if t:
                deviation = (0.5 * tables["posterior_log_variance_clipped"][t]).exp()
                sample = sample + deviation * torch.randn(1, 3, 16, 24, generator=generator)
            sample = sample.float()
    expected = ((sample.clamp(-1, 1) / 2 + upsampled + 1) * 127.5).round().clamp(0, 255)[0].permute(1, 2, 0).numpy()
    got = np.array(pipe(image, generator=seeded(5)).images[0])
    assert np.abs(got - expected).max() <= 1 and (got == expected).mean() > 0.99


@pytest.mark.parametrize("steps", [{"num_inference_steps": 2}, {"timesteps": [60, 20]}], ids=["number", "list"])
def test_the_steps_lie_where_the_images_are(pipe, monkeypatch, steps):
    """Told to the scheduler, whose own choice need not be the device of the networks."""
    asked, original = [], SamDiffSRScheduler.set_timesteps

    @functools.wraps(original)
    def recorded(self, *args, device=None, **kwargs):
        asked.append(device)
        return original(self, *args, device=device, **kwargs)

    monkeypatch.setattr(SamDiffSRScheduler, "set_timesteps", recorded)
    pipe(photo(2, 2), generator=seeded(), **steps)
    assert asked == [pipe.device]


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 3), (16, 12)])
def test_images_of_any_size_come_back_four_times_as_large(pipe, size):
    (image,) = enlarge(pipe, photo(*size), output_type="pil")
    assert image.size == (4 * size[0], 4 * size[1])


@pytest.mark.parametrize("scale", [2, 8])
def test_other_scales(scale):
    assert enlarge(tiny_pipeline(scale), photo(7, 5)).shape == (1, 5 * scale, 7 * scale, 3)


def test_padding_changes_nothing_far_from_it(pipe):
    """An image cut to even sides and the image itself are the same where the networks do not see the difference."""
    sees_only_its_pixel(pointwise := tiny_pipeline())
    image = photo(9, 8)
    noise_of_both = {"generator": None, "callback_on_step_end": lambda p, i, t, k: {"sample": k["sample"] * 0}}
    whole = enlarge(pointwise, image, **noise_of_both)
    cut = enlarge(pointwise, image.crop((0, 0, 8, 8)), **noise_of_both)
    np.testing.assert_allclose(whole[:, :, :24], cut[:, :, :24], atol=1e-6)


def sees_only_its_pixel(pipe) -> None:
    """Leave of every convolution what stays within blocks of 8×8 pixels, so that cuts between them change nothing."""
    for model in (pipe.condition_encoder, pipe.unet):
        for module in model.modules():
            if not isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)) or module.kernel_size[0] == 1:
                continue
            kernel, kept = (
                module.kernel_size[0],
                module.stride[0] if isinstance(module, torch.nn.ConvTranspose2d) else 1,
            )
            first = (kernel - kept) // 2
            keep = torch.zeros(kernel, kernel)
            keep[first : first + kept, first : first + kept] = 1
            module.weight.data *= keep


@pytest.mark.parametrize("overlap", [0, 4, 6])
def test_tiles_give_the_image_without_tiles(overlap):
    pipe = tiny_pipeline()
    sees_only_its_pixel(pipe)
    seen = []
    pipe.unet.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[-2:]))
    image = photo(25, 18)
    whole = enlarge(pipe, image)
    assert set(seen) == {(72, 104)}
    seen.clear()
    tiled = enlarge(pipe, image, tile_size=8, tile_overlap=overlap)
    assert set(seen) == {(32, 32)}, "memory is bounded by the tile"
    np.testing.assert_allclose(tiled, whole, atol=5e-5)


def test_overlapping_tiles_leave_no_seam(pipe):
    """Along the border of two tiles neighbouring pixels differ as they do elsewhere."""
    image = Image.linear_gradient("L").resize((32, 16)).convert("RGB")
    tiled = enlarge(pipe, image, tile_size=16, tile_overlap=8)[0].mean(2)
    whole = enlarge(pipe, image)[0].mean(2)
    error = np.abs(tiled - whole)
    jumps = np.abs(np.diff(tiled - whole, axis=1)).mean(0)
    assert jumps.max() < 3 * np.abs(np.diff(whole, axis=1)).mean()
    assert error.mean() < 0.05


def test_a_tile_as_large_as_the_image_is_no_tile(pipe):
    assert np.array_equal(enlarge(pipe, photo(8, 6), tile_size=64), enlarge(pipe, photo(8, 6)))


def test_a_generator_makes_the_result_repeatable(pipe):
    first, again = (enlarge(pipe, photo(8, 6)) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, enlarge(pipe, photo(8, 6), generator=seeded(1)))


def test_images_of_a_batch_are_those_enlarged_alone(pipe):
    images = [photo(8, 6, seed=seed) for seed in range(3)]
    together = enlarge(pipe, images, generator=[seeded(seed) for seed in range(3)])
    alone = [enlarge(pipe, image, generator=seeded(seed))[0] for seed, image in enumerate(images)]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)
    images[1] = photo(5, 9, seed=1)
    mixed = enlarge(pipe, images, generator=[seeded(seed) for seed in range(3)])
    assert [image.shape for image in mixed] == [(24, 32, 3), (36, 20, 3), (24, 32, 3)]
    np.testing.assert_allclose(mixed[2], alone[2], atol=1e-5)


def test_all_forms_of_an_image_give_the_same(pipe):
    image = photo(8, 6)
    expected = enlarge(pipe, image)
    array = np.array(image)
    sixteen_bits = array.astype(np.uint16) * 257
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for form in (array, array / 255, sixteen_bits, tensor, tensor / 255.0, tensor[None], [image], array[None]):
        np.testing.assert_allclose(enlarge(pipe, form), expected, atol=1e-6)
    opaque = image.copy()
    opaque.putalpha(255)
    np.testing.assert_allclose(enlarge(pipe, opaque), expected, atol=1e-6)
    grey = image.convert("L")
    as_colour = enlarge(pipe, Image.merge("RGB", [grey] * 3))
    deep = Image.fromarray(np.array(grey).astype(np.uint16) * 257)
    for form in (grey, np.array(grey), deep, torch.from_numpy(np.array(grey))[None]):
        np.testing.assert_allclose(enlarge(pipe, form), as_colour, atol=1e-6)


def test_output_types_show_the_same_image(pipe):
    image = photo(8, 6)
    array, tensor = enlarge(pipe, image), enlarge(pipe, image, output_type="pt")
    assert tensor.shape == (1, 3, 24, 32) and array.min() >= 0 and array.max() <= 1
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), array)
    (picture,) = enlarge(pipe, image, output_type="pil")
    assert np.array_equal(np.array(picture), (array[0] * 255).round())
    (images,) = pipe(image, num_inference_steps=1, generator=seeded(), return_dict=False)
    assert images[0].size == (32, 24)


def test_callbacks_see_every_step_may_change_it_and_may_stop(pipe):
    seen = []

    def watch(pipe, step, timestep, tensors):
        seen.append((step, int(timestep), sorted(tensors), tensors["sample"].shape))

    names = ["sample", "noise_prediction"]
    expected = enlarge(pipe, photo(8, 6), callback_on_step_end=watch, callback_on_step_end_tensor_inputs=names)
    assert seen == [(i, t, ["noise_prediction", "sample"], (1, 3, 24, 32)) for i, t in enumerate((99, 66, 32))]
    assert np.array_equal(expected, enlarge(pipe, photo(8, 6)))

    cleared = enlarge(pipe, photo(8, 6), callback_on_step_end=lambda p, i, t, k: {"sample": k["sample"] * 0})
    bicubic = imresize(torch.from_numpy(np.array(photo(8, 6))).permute(2, 0, 1) / 256, 4).clamp(0, 1)
    np.testing.assert_allclose(cleared[0].transpose(2, 0, 1), bicubic, atol=1e-6)

    class Stop(PipelineCallback):
        tensor_inputs = ["sample"]

        def callback_fn(self, pipeline, step_index, timesteps, callback_kwargs):
            seen.append(step_index)
            pipeline._interrupt = True
            return callback_kwargs

    seen.clear()
    enlarge(pipe, photo(8, 6), callback_on_step_end=Stop())
    assert seen == [0]


def calls_and_cost(pipe, image) -> tuple[list[str], int]:
    calls = []
    hooks = [
        module.register_forward_hook(lambda *_, name=f"{part}.{name}": calls.append(name))
        for part in ("condition_encoder", "unet")
        for name, module in getattr(pipe, part).named_modules()
    ]
    with FlopCounterMode(display=False) as counter:
        pipe.result = enlarge(pipe, image, steps=10)
    for hook in hooks:
        hook.remove()
    return calls, counter.get_total_flops()


def test_inference_costs_the_same_with_masks_and_without():
    """A model trained with masks and SRDiff, which knows none: the same network calls, the same image."""
    with_masks = tiny_pipeline(scheduler={"structure_coefficient": "code"})
    without = tiny_pipeline()
    without.scheduler = diffusers.DDPMScheduler.from_config(without.scheduler.config)
    calls, cost = calls_and_cost(with_masks, photo(8, 6))
    assert (calls, cost) == calls_and_cost(without, photo(8, 6))
    assert calls.count("condition_encoder.") == 1 and calls.count("unet.") == 10
    assert calls.count("unet.condition_proj") == 1, "what does not depend on the timestep is computed once"
    np.testing.assert_allclose(with_masks.result, without.result, atol=1e-4)


@pytest.mark.parametrize(
    "sampler", ["DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler"]
)
def test_stock_samplers_drive_the_networks(sampler):
    pipe = tiny_pipeline()
    pipe.scheduler = getattr(diffusers, sampler).from_config(pipe.scheduler.config)
    image = photo(8, 6)
    for options in ({}, {"tile_size": 4, "tile_overlap": 2}):
        first = enlarge(pipe, image, steps=6, **options)
        assert first.shape == (1, 24, 32, 3) and np.isfinite(first).all()
        assert np.array_equal(first, enlarge(pipe, image, steps=6, **options))


@pytest.mark.parametrize(
    "sampler", ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler"]
)
def test_a_sampler_s_own_scale_is_respected(sampler):
    """These start from noise of their own deviation and scale what the network sees; here written out step by step."""
    pipe = tiny_pipeline()
    pipe.scheduler = getattr(diffusers, sampler).from_config(pipe.scheduler.config)
    image = photo(4, 4)
    got = enlarge(pipe, image, steps=5)
    low, upsampled = pipe.prepare_images(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].double() / 255)
    scheduler = getattr(diffusers, sampler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(5)
    assert float(scheduler.init_noise_sigma) > 2
    generator = seeded()
    sample = torch.randn(1, 3, 16, 16, generator=generator) * scheduler.init_noise_sigma
    draws = {"generator": generator} if "Ancestral" in sampler else {}
    with torch.no_grad():
        condition = pipe.condition_encoder(low.float()).condition
        for timestep in scheduler.timesteps:
            noise = pipe.unet(scheduler.scale_model_input(sample, timestep), timestep, condition).sample
            sample = scheduler.step(noise, timestep, sample, **draws).prev_sample
    expected = ((sample.clamp(-1, 1) / 2 + upsampled).clamp(-1, 1) + 1) / 2
    np.testing.assert_allclose(got[0].transpose(2, 0, 1), expected[0], atol=1e-5)


def test_tiles_fade_into_each_other_and_images_are_padded_by_their_edge(pipe):
    spans = _spans(20, 8, 3)
    assert spans == [(0, 8), (5, 13), (10, 18), (12, 20)]
    weights = [_weights((top, 0, bottom, 8), (20, 8), 3, 4) for top, bottom in spans]
    first, second = weights[0][:, 0], weights[1][:, 0]
    assert (first[:20] == 1).all() and (first.diff() <= 0).all() and (second[:12].diff() > 0).all()
    torch.testing.assert_close(first[20:] + second[:12], torch.ones(12, dtype=torch.float64))
    assert (weights[-1][12:] == 1).all() and (weights[0] == weights[0][:, :1]).all()
    low, upsampled = pipe.prepare_images(torch.rand(1, 3, 5, 7))
    assert low.shape == (1, 3, 6, 8) and upsampled.shape == (1, 3, 24, 32)
    assert torch.equal(low[..., 7], low[..., 6]) and torch.equal(low[..., 5, :], low[..., 4, :])
    assert torch.equal(upsampled[..., 28:], upsampled[..., 27:28].expand(-1, -1, -1, 4))
    assert torch.equal(upsampled[..., 20:, :], upsampled[..., 19:20, :].expand(-1, -1, 4, -1))


def test_what_thresholding_cannot_take_is_refused_at_once():
    pipe = tiny_pipeline()
    pipe.scheduler = diffusers.UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    large = torch.empty(1, 3, 2400, 2400, device="meta")
    with pytest.raises(ValueError, match="UniPCMultistepScheduler with thresholding takes up to 16,777,216 values"):
        pipe.sample_residual(large[..., :600, :600], large, 10, None, 128, 16, None, [])


def test_networks_in_half_precision_sample_in_float32():
    pipe = tiny_pipeline().to(torch.bfloat16)
    dtypes = set()
    expected = enlarge(tiny_pipeline(), photo(8, 6))
    got = enlarge(pipe, photo(8, 6), callback_on_step_end=lambda p, i, t, k: dtypes.add(k["sample"].dtype))
    assert dtypes == {torch.float32} and got.dtype == np.float32
    assert F.l1_loss(torch.from_numpy(got), torch.from_numpy(expected)) < 0.05


def test_offloaded_networks_are_used_through_their_forward_only():
    """Hooks bring a network to the device when its `forward` is called: nothing else of it may be used."""
    pipe = tiny_pipeline()
    expected = enlarge(pipe, photo(8, 6))
    names = set()
    for name in pipe.model_cpu_offload_seq.split("->"):
        names.add(name)
        accelerate.cpu_offload(getattr(pipe, name), execution_device="cpu", offload_buffers=True)
        assert next(getattr(pipe, name).parameters()).is_meta
    assert names == {"condition_encoder", "unet"}
    assert np.array_equal(enlarge(pipe, photo(8, 6)), expected)


SCHEDULERS = {
    "own": lambda config: SamDiffSRScheduler.from_config(config),
    "ancestral": lambda config: diffusers.EulerAncestralDiscreteScheduler.from_config(config),
    "multistep": lambda config: diffusers.DPMSolverMultistepScheduler.from_config(config, solver_order=3),
    "predictor-corrector": lambda config: diffusers.UniPCMultistepScheduler.from_config(config),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_threads_share_a_pipeline_and_get_what_they_would_get_alone(scheduler):
    """Different images, sizes and numbers of steps at once; one of them stops itself after two steps."""
    pipe = tiny_pipeline()
    pipe.scheduler = SCHEDULERS[scheduler](pipe.scheduler.config)
    before = {name: value for name, value in vars(pipe.scheduler).items() if not isinstance(value, torch.Tensor)}
    before = copy.deepcopy(before)

    def stop(pipeline, step, timestep, tensors):
        assert pipeline.num_timesteps == 9
        pipeline._interrupt = step == 1

    asked = [
        {"image": photo(8, 6), "steps": 7, "generator": 0},
        {"image": photo(6, 8, seed=1), "steps": 5, "generator": 1},
        {"image": photo(8, 6, seed=2), "steps": 9, "generator": 2, "callback_on_step_end": stop},
    ]

    def call(options):
        return enlarge(pipe, **{**options, "generator": seeded(options["generator"])})

    alone = [call(options) for options in asked]
    assert len({image.tobytes() for image in alone}) == 3
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(call, asked * 4))
    for number, image in enumerate(together):
        assert np.array_equal(image, alone[number % 3]), number
    after = {name: value for name, value in vars(pipe.scheduler).items() if name in before}
    assert {name: repr(value) for name, value in after.items()} == {n: repr(value) for n, value in before.items()}


def test_a_call_within_a_callback_neither_stops_nor_changes_the_outer_one(pipe):
    expected = enlarge(pipe, photo(8, 6), steps=4)
    steps = []

    def nested(pipeline, step, timestep, tensors):
        steps.append((step, pipeline.num_timesteps))
        if step == 1:
            enlarge(pipe, photo(4, 4), steps=2, callback_on_step_end=lambda p, i, t, k: setattr(p, "_interrupt", True))

    assert np.array_equal(enlarge(pipe, photo(8, 6), steps=4, callback_on_step_end=nested), expected)
    assert steps == [(step, 4) for step in range(4)] and pipe.num_timesteps is None and not pipe.interrupt
    with pytest.raises(RuntimeError, match="_interrupt: set it in a callback"):
        pipe._interrupt = True
    pipe._interrupt = False  # as it is


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_images_of_several_sizes_are_a_list_of_those_enlarged_alone(pipe, output_type):
    images = [photo(8, 6), photo(5, 9, seed=1), photo(8, 6, seed=2)]

    def values(image) -> np.ndarray:
        image = image.permute(1, 2, 0).numpy() if output_type == "pt" else np.asarray(image)
        return image / 255 if output_type == "pil" else image

    generators = [seeded(seed) for seed in (4, 5, 6)]
    found = enlarge(pipe, images, output_type=output_type, generator=generators)
    assert isinstance(found, list) and [values(one).shape for one in found] == [(24, 32, 3), (36, 20, 3), (24, 32, 3)]
    near = 0.51 / 255 if output_type == "pil" else 1e-5
    for one, image, seed in zip(found, images, (4, 5, 6), strict=True):
        np.testing.assert_allclose(values(one), enlarge(pipe, image, generator=seeded(seed))[0], atol=near)
    # One generator for all goes on from image to image.
    shared, one_by_one = seeded(7), seeded(7)
    found = enlarge(pipe, images[:2], output_type=output_type, generator=shared)
    for one, image in zip(found, images[:2], strict=True):
        np.testing.assert_allclose(values(one), enlarge(pipe, image, generator=one_by_one)[0], atol=near)


def test_images_that_have_not_begun_when_a_call_stops_are_bicubic(pipe):
    images = [photo(8, 6), photo(4, 6, seed=1)]
    first, second = enlarge(pipe, images, callback_on_step_end=lambda p, i, t, k: setattr(p, "_interrupt", True))
    bicubic = imresize(torch.from_numpy(np.array(images[1])).permute(2, 0, 1) / 256, 4).clamp(0, 1)
    np.testing.assert_allclose(second.transpose(2, 0, 1), bicubic, atol=1e-6)


@pytest.mark.parametrize(
    "sampler, settings, steps, message",
    [
        ("DPMSolverMultistepScheduler", {"timestep_spacing": "linspace"}, 100, "ends in values that are not finite"),
        ("KDPM2DiscreteScheduler", {"use_karras_sigmas": True}, 20, "ends in values that are not finite"),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True}, 5, "ends in values that are not finite"),
        ("DEISMultistepScheduler", {"use_karras_sigmas": True}, 5, r"cannot sample in 5 steps .*\(IndexError: "),
        ("UniPCMultistepScheduler", {"use_karras_sigmas": True}, 5, r"cannot sample in 5 steps .*\(AssertionError: "),
        ("PNDMScheduler", {}, 1, r"cannot sample in 1 steps .*\(ValueError: "),
    ],
)
def test_what_a_sampler_cannot_do_is_an_error_that_names_it_and_its_settings(sampler, settings, steps, message):
    pipe = tiny_pipeline()
    pipe.scheduler = getattr(diffusers, sampler).from_config(pipe.scheduler.config, **settings)
    with pytest.raises(ValueError, match=message) as caught:
        pipe(photo(4, 4), num_inference_steps=steps, generator=seeded())
    expected = [
        f"scheduler: {sampler} ",
        f"in {steps} steps",
        *(f"{name}={value}" for name, value in settings.items()),
    ]
    assert all(part in str(caught.value) for part in expected), caught.value


def test_networks_that_predict_no_numbers_are_named():
    pipe = tiny_pipeline()
    with torch.no_grad():
        pipe.unet.conv_out.bias[0] = float("nan")
    with pytest.raises(ValueError, match="unet: what it predicts is not finite, in torch.float32"):
        pipe(photo(4, 4), num_inference_steps=2)


@pytest.mark.parametrize("encoder", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("unet", [torch.float32, torch.bfloat16])
def test_networks_of_different_precisions_work_together(encoder, unet):
    pipe = tiny_pipeline()
    expected = enlarge(pipe, photo(8, 6))
    pipe.condition_encoder.to(encoder)
    pipe.unet.to(unet)
    for options in ({}, {"tile_size": 4, "tile_overlap": 2}):
        got = enlarge(pipe, photo(8, 6), **options)
        assert got.dtype == np.float32 and np.abs(got - expected).mean() < 0.05


def test_a_pipeline_from_a_pipeline_has_its_networks_and_settings():
    pipe = tiny_pipeline(legacy_256=False, scheduler={"num_train_timesteps": 20})
    again = SamDiffSRPipeline.from_pipe(pipe)
    assert again is not pipe and again.unet is pipe.unet and again.condition_encoder is pipe.condition_encoder
    assert again.config.legacy_256 is False and again.config.residual_scale == 2.0
    again.set_progress_bar_config(disable=True)
    assert np.array_equal(enlarge(again, photo(8, 6)), enlarge(pipe, photo(8, 6)))
    changed = SamDiffSRPipeline.from_pipe(
        pipe, scheduler=diffusers.DDIMScheduler.from_config(pipe.scheduler.config), residual_scale=1.0
    )
    assert type(changed.scheduler) is diffusers.DDIMScheduler and changed.config.residual_scale == 1.0
    assert type(pipe.scheduler) is SamDiffSRScheduler and pipe.config.residual_scale == 2.0
    assert SamDiffSRPipeline(**pipe.components).unet is pipe.unet
    with pytest.raises(ValueError, match="unet: got RRDBModel, accepted is SamDiffSRUNet2DModel"):
        SamDiffSRPipeline.from_pipe(pipe, unet=pipe.condition_encoder)
    with pytest.raises(ValueError, match="condition_encoder: got NoneType, accepted is RRDBModel"):
        SamDiffSRPipeline.from_pipe(diffusers.DDPMPipeline(unet=pipe.unet, scheduler=pipe.scheduler))


def test_whole_numbers_of_numpy_and_torch_are_steps_and_tiles(pipe):
    expected = enlarge(pipe, photo(8, 6), steps=3, tile_size=4, tile_overlap=2)
    for kind in (np.int64, torch.tensor):
        got = enlarge(pipe, photo(8, 6), steps=kind(3), tile_size=kind(4), tile_overlap=kind(2))
        assert np.array_equal(got, expected)
    chosen = [enlarge(pipe, photo(8, 6), steps=None, timesteps=chain) for chain in ([60, 20], np.array([60, 20]))]
    assert np.array_equal(*chosen) and not np.array_equal(chosen[0], enlarge(pipe, photo(8, 6), steps=2))


def test_the_residual_is_divided_by_its_scale_and_added(pipe):
    """With a residual of one half everywhere the image is the bicubic one and 0.5 / scale, of a range of two."""
    image = photo(8, 6)
    bicubic = imresize(torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255, 4).numpy()
    for scale in (1.0, 2.0, 5.0):
        own = SamDiffSRPipeline(**pipe.components, residual_scale=scale, legacy_256=False)
        own.set_progress_bar_config(disable=True)
        got = enlarge(
            own, image, callback_on_step_end=lambda p, i, t, k: {"sample": torch.full_like(k["sample"], 0.5)}
        )
        expected = (bicubic + 0.5 / scale / 2).clip(0, 1)
        np.testing.assert_allclose(got[0].transpose(2, 0, 1), expected, atol=1e-6)


def one_colour_transparent() -> Image.Image:
    """As files with a palette have it: one of their colours stands for nothing."""
    image = Image.new("P", (4, 4))
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.putpixel((1, 1), 1)
    image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    "options, message",
    [
        ({"image": []}, "image: got an empty list"),
        ({"image": "photo.png"}, "image: got str"),
        ({"image": photo(4, 4).convert("F")}, "image: got PIL mode 'F'"),
        ({"image": Image.new("RGBA", (4, 4), (0, 0, 0, 128))}, "image: it is transparent in places"),
        ({"image": np.eye(4)[..., None].repeat(4, 2)}, "image: it is transparent in places"),
        ({"image": one_colour_transparent()}, "image: it is transparent in places"),
        ({"image": np.zeros((4, 4, 2), np.uint8)}, r"image: expected an array \(height, width, 1 or 3 or 4\)"),
        ({"image": np.zeros((4, 4, 3), np.int64)}, "image: got an array of int64"),
        ({"image": torch.zeros(4, 4, 3)}, "image: expected a tensor"),
        ({"image": torch.full((3, 4, 4), -1.0)}, r"must be in \[0, 1\], got -1 to -1"),
        ({"image": torch.full((3, 4, 4), float("nan"))}, r"must be in \[0, 1\], got nan"),
        ({"image": torch.zeros(3, 4, 4, dtype=torch.int64)}, "image: got a tensor of torch.int64, accepted are uint8"),
        ({"image": torch.zeros(3, 0, 4)}, r"image: it has no pixels, \(3, 0, 4\)"),
        ({"image": Image.fromarray(np.full((4, 4), -1, np.int32))}, "must be from 0 to 65535, got -1 to -1"),
        ({"image": Image.fromarray(np.diag([-1, 5]).astype(np.int32))}, "must be from 0 to 65535, got -1 to 5"),
        ({"image": Image.fromarray(np.diag([65536, 5]).astype(np.int32))}, "must be from 0 to 65535, got 0 to 65536"),
        ({"image": torch.eye(3).expand(3, 3, 3) * 1.5}, r"must be in \[0, 1\], got 0 to 1.5"),
        ({"image": torch.eye(3).expand(3, 3, 3) * 1.5 - 0.5}, r"must be in \[0, 1\], got -0.5 to 1"),
        ({"image": Image.fromarray(np.full((4, 4), 65536, np.int32))}, "must be from 0 to 65535, got 65536 to 65536"),
        ({"output_type": "latent"}, "output_type: got 'latent', accepted are 'pil', 'np', 'pt'"),
        ({"num_inference_steps": 0}, "num_inference_steps: got 0"),
        ({"num_inference_steps": 1000}, "num_inference_steps: got 1000, accepted are whole numbers from 1"),
        ({"timesteps": [5, 9], "num_inference_steps": None}, r"timesteps: got \[5, 9\], accepted are descending"),
        ({"timesteps": [5, 3]}, "timesteps and num_inference_steps exclude each other"),
        ({"num_inference_steps": 2.0}, "num_inference_steps: got 2.0"),
        ({"num_inference_steps": True}, "num_inference_steps: got True"),
        ({"timesteps": [], "num_inference_steps": None}, r"timesteps: got \[\]"),
        ({"timesteps": [9.5], "num_inference_steps": None}, r"timesteps: got \[9.5\]"),
        ({"tile_size": 2}, "tile_size: got 2, accepted are multiples of"),
        ({"tile_size": 8, "tile_overlap": 8}, "tile_overlap: got 8"),
        ({"generator": [seeded(), seeded()]}, "generator: got 2 generators for 1 images"),
        ({"callback_on_step_end_tensor_inputs": ["latents"]}, "got 'latents'"),
    ],
)
def test_bad_input_is_refused_by_name(pipe, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(**{"image": photo(4, 4), "num_inference_steps": 1, **options})


def test_a_sampler_that_takes_a_number_of_steps_only_is_not_given_timesteps(pipe):
    own = SamDiffSRPipeline(
        **{**pipe.components, "scheduler": diffusers.DDIMScheduler.from_config(pipe.scheduler.config)}
    )
    with pytest.raises(ValueError, match="timesteps: DDIMScheduler takes a number of steps only"):
        own(image=photo(4, 4), timesteps=[5, 3])


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("sampler", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_an_override_that_a_stock_sampler_ignores_is_refused_and_what_is_said_instead_works(sampler, saved, tmp_path):
    linear = SamDiffSRScheduler(beta_schedule="linear", num_train_timesteps=50)
    stock, pipe = getattr(diffusers, sampler), tiny_pipeline()
    if saved:
        stock.from_config(linear.config).save_pretrained(tmp_path)
        config = stock.load_config(tmp_path)
    else:
        config = linear.config
    for changed, said in (
        ({"beta_end": 0.05}, "beta_end=0.05"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule='squaredcos_cap_v2'"),
        ({"num_train_timesteps": 20, "beta_start": 1e-3}, "num_train_timesteps=20, beta_start=0.001"),
    ):
        pipe.scheduler = stock.from_config(config, **changed)
        with pytest.raises(ValueError, match=f"scheduler: {sampler} takes the trained_betas .* ignores {said}"):
            enlarge(pipe, photo(4, 4))
        first = SamDiffSRScheduler.from_config(config, **changed)
        pipe.scheduler = stock.from_config(first.config)
        torch.testing.assert_close(pipe.scheduler.betas, first.betas)
        enlarge(pipe, photo(4, 4), generator=seeded())
    # What is no override of the schedule, or names the betas themselves, is.
    for changed in (
        {"timestep_spacing": "leading"},
        {"trained_betas": [0.2] * 30, "num_train_timesteps": 30},
        {"trained_betas": [0.2] * 50, "beta_end": 0.2},  # as many as there were
    ):
        pipe.scheduler = stock.from_config(config, **changed)
        enlarge(pipe, photo(4, 4))
