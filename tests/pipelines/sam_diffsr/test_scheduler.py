"""The schedule, the modulated forward process, the reverse process, and stock samplers from its configuration."""

import logging

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from diffusers.utils import DummyObject

from hf_effmodels.pipelines import SamDiffSRScheduler
from hf_effmodels.pipelines.sam_diffsr.losses import denoising_loss

SAMPLERS = ["DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]


def test_the_schedules_are_those_of_the_papers():
    """The cosine (arXiv:2102.09672, equation 17), and equal steps of which the last ends in pure noise."""
    f = np.cos((np.arange(31) / 30 + 0.008) / 1.008 * np.pi / 2) ** 2
    cosine = SamDiffSRScheduler(num_train_timesteps=30)
    np.testing.assert_allclose(cosine._betas, np.minimum(1 - f[1:] / f[:-1], 0.999), rtol=1e-12)
    settings = {"beta_schedule": "linear", "beta_start": 2e-4, "beta_end": 0.03}
    linear = SamDiffSRScheduler(num_train_timesteps=30, **settings)
    expected = np.append(2e-4 + np.arange(29) * (0.03 - 2e-4) / 29, 0.999)
    np.testing.assert_allclose(linear._betas, expected, rtol=1e-12)
    np.testing.assert_allclose(linear.alphas_cumprod, np.cumprod(1 - expected), rtol=1e-6)


@pytest.mark.parametrize("steps", [100, 20, 7])
def test_the_reverse_process_is_that_of_ddpm(steps):
    ours = SamDiffSRScheduler()
    stock = diffusers.DDPMScheduler.from_config(ours.config)
    ours.set_timesteps(steps)
    stock.set_timesteps(steps)
    assert ours.timesteps.tolist() == stock.timesteps.tolist()
    sample = {"ours": torch.randn(1, 3, 8, 8)}
    sample["stock"] = sample["ours"]
    for timestep in ours.timesteps:
        noise = torch.randn(1, 3, 8, 8)
        for name, scheduler in (("ours", ours), ("stock", stock)):
            generator = torch.Generator().manual_seed(int(timestep))
            sample[name] = scheduler.step(noise, timestep, sample[name], generator=generator).prev_sample
    torch.testing.assert_close(sample["ours"], sample["stock"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("beta_schedule", ["squaredcos_cap_v2", "linear"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_stock_samplers_from_the_configuration_find_what_was_diffused(sampler, beta_schedule):
    """With a denoiser that is always right, few steps lead to the residual itself."""
    ours = SamDiffSRScheduler(beta_schedule=beta_schedule)
    scheduler = getattr(diffusers, sampler).from_config(ours.config)
    assert scheduler.config.num_train_timesteps == 100
    torch.testing.assert_close(scheduler.betas, ours.betas, atol=0, rtol=1e-6)
    scheduler.set_timesteps(8)
    residual = torch.rand(1, 3, 8, 8) * 1.8 - 0.9
    sample = torch.randn(1, 3, 8, 8)
    for timestep in scheduler.timesteps:
        alpha = ours.alphas_cumprod[int(timestep)].double()
        noise = (sample - alpha.sqrt() * residual) / (1 - alpha).sqrt()
        sample = scheduler.step(noise.float(), timestep, sample, return_dict=False)[0]
    torch.testing.assert_close(sample.float(), residual, atol=2e-3, rtol=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_stock_samplers_clip_the_predicted_residual(sampler):
    """At the first timestep an error of the prediction is magnified 1600 times: without clipping nothing is left."""
    scheduler = getattr(diffusers, sampler).from_config(SamDiffSRScheduler().config)
    scheduler.set_timesteps(4)
    sample = torch.randn(1, 3, 8, 8)
    for timestep in scheduler.timesteps:
        sample = scheduler.step(torch.zeros_like(sample), timestep, sample, return_dict=False)[0]
        assert sample.abs().max() < 10
    assert sample.abs().max() <= 1 + 1e-4


def test_the_structure_map_shifts_the_noise_mean_as_the_code_does():
    scheduler = SamDiffSRScheduler()
    noise, mask, timesteps = torch.randn(3, 3, 8, 8), torch.rand(3, 1, 8, 8), torch.tensor([0, 50, 99])
    untouched = noise.clone()
    modulated = scheduler.modulate_noise(noise, timesteps, mask)
    assert torch.equal(noise, untouched)
    coefficient = (1 - scheduler.alphas_cumprod).sqrt() * scheduler.betas
    expected = noise + coefficient[timesteps].reshape(3, 1, 1, 1) * mask
    torch.testing.assert_close(modulated, expected)
    residual = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(
        scheduler.add_noise(residual, noise, timesteps, structure_mask=mask),
        scheduler.add_noise(residual, expected, timesteps),
    )
    torch.testing.assert_close(scheduler.get_target(noise, timesteps, mask), expected)
    assert coefficient[99] == pytest.approx(0.999, abs=1e-3) and coefficient[50] == pytest.approx(0.023, abs=1e-3)


def test_the_paper_form_is_its_chain():
    """Adding √β_t E at every step of the chain, as the paper's q(x_t | x_{t-1}, E) does, agrees with its shortcut."""
    scheduler = SamDiffSRScheduler(structure_coefficient="paper")
    betas = scheduler.betas.double().numpy()
    alphas_cumprod = np.cumprod(1 - betas)
    mask, zero = torch.ones(1, 1, 4, 4), torch.zeros(1, 3, 4, 4)
    for t in (0, 1, 37, 99):
        phi = sum(np.sqrt(alphas_cumprod[t] / alphas_cumprod[i] * betas[i]) for i in range(t + 1))
        shifted = scheduler.add_noise(zero, zero, torch.tensor([t]), mask)
        torch.testing.assert_close(shifted, torch.full_like(shifted, phi), rtol=1e-4, atol=1e-5)
        target = scheduler.get_target(zero, torch.tensor([t]), mask)
        expected = np.sqrt(1 - alphas_cumprod[t]) / np.sqrt(betas[t])
        torch.testing.assert_close(target, torch.full_like(target, expected), rtol=1e-4, atol=1e-5)


def test_without_a_mask_training_is_that_of_srdiff():
    scheduler = SamDiffSRScheduler()
    stock = diffusers.DDPMScheduler.from_config(scheduler.config)
    residual, noise, timesteps = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.tensor([10, 90])
    noisy = scheduler.add_noise(residual, noise, timesteps)
    torch.testing.assert_close(noisy, stock.add_noise(residual, noise, timesteps), atol=1e-5, rtol=1e-5)
    assert scheduler.get_target(noise, timesteps) is noise
    zero = torch.zeros(2, 1, 4, 4)
    torch.testing.assert_close(scheduler.add_noise(residual, noise, timesteps, zero), noisy)
    assert torch.equal(scheduler.add_noise(residual, noise, torch.tensor([-1, -1])), residual)


def test_masks_of_another_size_are_resized_and_of_another_batch_refused():
    scheduler = SamDiffSRScheduler(structure_coefficient="one")
    noise, timesteps = torch.zeros(1, 3, 8, 8), torch.tensor([99])
    mask = torch.tensor([[0.0, 1.0], [0.0, 1.0]])[None, None]
    shifted = scheduler.modulate_noise(noise, timesteps, mask)
    torch.testing.assert_close(shifted[0, 0, 0], torch.tensor([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]))
    with pytest.raises(ValueError, match=r"structure_mask: expected \(1, 1, height, width\), got \(2, 1, 2, 2\)"):
        scheduler.modulate_noise(noise, timesteps, mask.expand(2, 1, 2, 2))
    with pytest.raises(ValueError, match="structure_mask"):
        scheduler.add_noise(noise, noise, timesteps, mask[0])


#: The samplers that diffusers calls exchangeable, as far as their libraries are installed; EDM's has no β at all.
STOCK = [
    entry.name
    for entry in KarrasDiffusionSchedulers
    if entry.name != "EDMEulerScheduler" and not isinstance(getattr(diffusers, entry.name), DummyObject)
]


@pytest.fixture
def warnings(caplog):
    """What diffusers logs, whose loggers end at its own handler."""
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize("sampler", STOCK)
def test_a_switch_to_a_stock_sampler_and_back_is_silent_and_loses_nothing(sampler, form, warnings, tmp_path):
    ours = SamDiffSRScheduler(beta_schedule="linear", num_train_timesteps=20, structure_coefficient=form)
    stock = getattr(diffusers, sampler).from_config(ours.config)
    stock.save_pretrained(tmp_path)
    for config in (stock.config, type(stock).from_pretrained(tmp_path).config):
        back = SamDiffSRScheduler.from_config(config)
        assert back.config.structure_coefficient == form and back.config.timestep_spacing == "trailing"
        assert np.array_equal(back._betas, ours._betas)
    assert (
        SamDiffSRScheduler.from_config(ours.config, structure_coefficient="one").config.structure_coefficient == "one"
    )
    assert not [record.getMessage() for record in warnings.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("through", ["config", "saved", "stock"])
@pytest.mark.parametrize(
    "changed",
    [
        {"beta_end": 0.05},
        {"beta_start": 1e-3},
        {"num_train_timesteps": 20},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 30},
        {"trained_betas": [0.25] * 50},
    ],
)
def test_an_override_of_the_schedule_is_obeyed_and_the_configuration_tells_it(changed, through, tmp_path):
    settings = {"beta_schedule": "linear", "num_train_timesteps": 50}
    ours = SamDiffSRScheduler(**settings)
    if through == "saved":
        ours.save_pretrained(tmp_path)
        again = SamDiffSRScheduler.from_pretrained(tmp_path, **changed)
    else:
        config = diffusers.DDIMScheduler.from_config(ours.config).config if through == "stock" else ours.config
        again = SamDiffSRScheduler.from_config(config, **changed)
    expected = SamDiffSRScheduler(**{**settings, **changed})
    assert np.array_equal(again._betas, expected._betas) and not np.array_equal(again._betas, ours._betas)
    for name in ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps", "trained_betas"):
        assert again.config[name] == expected.config[name], name


def stock_betas(schedule, steps, start, end):
    """What diffusers documents for the names of its schedules."""
    if schedule == "linear":
        return np.linspace(start, end, steps)
    f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - f[1:] / f[:-1], 0.999)


@pytest.mark.parametrize(
    "changed",
    [
        {"num_train_timesteps": 20},
        {"beta_schedule": "linear", "beta_end": 0.05},
        {"beta_schedule": "linear", "beta_start": 1e-3, "num_train_timesteps": 30},
    ],
)
@pytest.mark.parametrize("sampler", STOCK)
def test_stock_samplers_obey_overrides_of_the_schedule(sampler, changed, tmp_path):
    SamDiffSRScheduler(num_train_timesteps=50).save_pretrained(tmp_path)
    for config in (SamDiffSRScheduler(num_train_timesteps=50).config, SamDiffSRScheduler.load_config(tmp_path)):
        stock = getattr(diffusers, sampler).from_config(config, **changed)
        fields = {"schedule": "squaredcos_cap_v2", "steps": 50, "start": 1e-4, "end": 0.02}
        names = {"beta_schedule": "schedule", "num_train_timesteps": "steps", "beta_start": "start", "beta_end": "end"}
        expected = stock_betas(**{**fields, **{names[name]: value for name, value in changed.items()}})
        np.testing.assert_allclose(stock.betas, expected, rtol=1e-5)
        assert {name: stock.config[name] for name in changed} == changed


def test_an_override_is_not_undone_by_a_stock_sampler_in_between():
    paper = SamDiffSRScheduler(structure_coefficient="paper", beta_schedule="linear")
    config = SamDiffSRScheduler.from_config(paper.config, structure_coefficient="one", beta_end=0.03).config
    back = SamDiffSRScheduler.from_config(diffusers.DDIMScheduler.from_config(config).config)
    assert back.config.structure_coefficient == "one" and back.config.beta_end == 0.03
    np.testing.assert_allclose(back._betas[:-1], np.linspace(1e-4, 0.03, 100)[:-1])


@pytest.mark.parametrize("left_out", [[], ["beta_start"], ["beta_end"], ["beta_start", "beta_end"]])
def test_a_configuration_that_does_not_say_its_ends_has_the_usual_ones(left_out):
    """β that a configuration holds follow its other fields, whether it says 1e-4 and 0.02 or says nothing."""
    config = dict(SamDiffSRScheduler(beta_schedule="linear", num_train_timesteps=20).config)
    again = SamDiffSRScheduler.from_config(
        {name: value for name, value in config.items() if name not in left_out}, num_train_timesteps=10
    )
    np.testing.assert_allclose(again._betas[:-1], np.linspace(1e-4, 0.02, 10)[:-1])


def test_betas_of_one_s_own_stay_unless_the_schedule_is_named():
    own = SamDiffSRScheduler(num_train_timesteps=3, trained_betas=[0.1, 0.2, 0.3])
    same = SamDiffSRScheduler.from_config(own.config, clip_sample=False)
    assert same._betas.tolist() == [0.1, 0.2, 0.3] and same.config.clip_sample is False
    for changed in ({"beta_end": 0.5}, {"beta_start": 0.01}):
        again = SamDiffSRScheduler.from_config(own.config, beta_schedule="linear").config
        linear = {"beta_schedule": "linear", "num_train_timesteps": 3}
        mine = SamDiffSRScheduler(**linear, trained_betas=[0.1, 0.2, 0.3]).config
        for config in (again, mine):
            expected = SamDiffSRScheduler(**linear, **changed)._betas
            assert np.array_equal(SamDiffSRScheduler.from_config(config, **changed)._betas, expected)
    cosine = SamDiffSRScheduler.from_config(own.config, beta_schedule="squaredcos_cap_v2")
    assert np.array_equal(cosine._betas, SamDiffSRScheduler(num_train_timesteps=3)._betas)
    with pytest.raises(ValueError, match="trained_betas: expected 4 numbers"):
        SamDiffSRScheduler.from_config(own.config, num_train_timesteps=4)


@pytest.mark.parametrize("steps", [1, 7, 30, 99, 100])
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_fewer_steps_are_spaced_as_ddpm_spaces_them_also_where_they_do_not_divide(spacing, steps):
    ours = SamDiffSRScheduler(timestep_spacing=spacing)
    stock = diffusers.DDPMScheduler.from_config(ours.config)
    ours.set_timesteps(steps)
    stock.set_timesteps(steps)
    assert ours.timesteps.tolist() == stock.timesteps.tolist()
    if (spacing, steps) == ("leading", 7):
        assert ours.timesteps.tolist() == [84, 70, 56, 42, 28, 14, 0]  # 100 // 7 apart


@pytest.mark.parametrize("clip, clip_range", [(True, 0.7), (False, 0.7), (True, 1.5)])
def test_a_chain_of_fewer_steps_has_the_betas_that_it_implies(clip, clip_range):
    """q(x_t | x_s) = N(√(ᾱ_t/ᾱ_s) x_s, 1 - ᾱ_t/ᾱ_s); one step back is computed here from Bayes' rule."""
    limit = clip_range if clip else np.inf
    scheduler = SamDiffSRScheduler(clip_sample=clip, clip_sample_range=clip_range)
    scheduler.set_timesteps(timesteps=[90, 40, 3])
    alphas = np.cumprod(1 - scheduler._betas)
    sample, noise, drawn = (torch.randn(2, 3, 4, 4, dtype=torch.float64) for _ in range(3))
    for t, s in ((90, 40), (40, 3), (3, None)):
        a, b = alphas[t], 1.0 if s is None else alphas[s]
        original = ((sample - np.sqrt(1 - a) * noise) / np.sqrt(a)).clamp(-limit, limit)
        beta = 1 - a / b
        mean = np.sqrt(b) * beta / (1 - a) * original + np.sqrt(a / b) * (1 - b) / (1 - a) * sample
        expected = mean + np.sqrt(beta * (1 - b) / (1 - a)) * (drawn if s is not None else 0)
        if s is None:
            # Nothing is drawn at the last step: a generator stays where it is.
            state = (generator := torch.Generator().manual_seed(0)).get_state()
            last = scheduler.step(noise, t, sample, generator=generator).prev_sample
            assert torch.equal(last, scheduler.step(noise, t, sample).prev_sample)
            assert torch.equal(state, generator.get_state())
        got = scheduler.step(noise, t, sample, variance_noise=drawn)
        torch.testing.assert_close(got.prev_sample, expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(got.pred_original_sample, original, rtol=1e-6, atol=1e-6)
        assert scheduler.step(noise, t, sample, variance_noise=drawn, return_dict=False)[0].equal(got.prev_sample)


@pytest.mark.parametrize("shape", [(4,), (4, 5), (4, 2, 6), (4, 3, 6, 6), (4, 3, 2, 6, 6)])
def test_noise_is_added_to_samples_of_any_rank_and_dtype(shape):
    scheduler = SamDiffSRScheduler()
    stock = diffusers.DDPMScheduler.from_config(scheduler.config)
    for dtype, near in ((torch.float32, 1e-5), (torch.float64, 1e-5), (torch.bfloat16, 0.1)):
        sample, noise = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
        timesteps = torch.tensor([0, 30, 60, 99])
        noisy = scheduler.add_noise(sample, noise, timesteps)
        assert noisy.shape == sample.shape and noisy.dtype == dtype
        torch.testing.assert_close(noisy, stock.add_noise(sample, noise, timesteps), rtol=near, atol=near)
        for index, timestep in enumerate(timesteps):
            alone = scheduler.add_noise(sample[index : index + 1], noise[index : index + 1], timestep[None])
            assert torch.equal(alone[0], noisy[index])
        torch.testing.assert_close(scheduler.add_noise(sample, noise, torch.tensor(-1)), sample)
    with pytest.raises(ValueError, match=r"timesteps: got 3 for samples of shape \(4"):
        scheduler.add_noise(sample, noise, timesteps[:3])


def test_whole_numbers_of_any_library_are_steps_and_nothing_else_is():
    scheduler = SamDiffSRScheduler()
    for ten in (np.int64(10), np.uint8(10), torch.tensor(10)):
        scheduler.set_timesteps(ten)
        assert scheduler.num_inference_steps == len(scheduler.timesteps) == 10
    for chain in (np.array([80, 5]), torch.tensor([80, 5]), (80, 5)):
        scheduler.set_timesteps(timesteps=chain)
        assert scheduler.timesteps.tolist() == [80, 5]
    for wrong in (10.0, 2.5, True, "10", 0, 101, np.float64(3), [10]):
        with pytest.raises(ValueError, match="num_inference_steps: got"):
            scheduler.set_timesteps(wrong)
    for wrong in ([], [80.5, 3], [3, 80], [80, 80], [100], [5, -1], [5, -1, -2]):
        with pytest.raises(ValueError, match="timesteps: got"):
            scheduler.set_timesteps(timesteps=wrong)
    for wrong in (0, -3, 2.5, "100"):
        with pytest.raises(ValueError, match="num_train_timesteps: got"):
            SamDiffSRScheduler(num_train_timesteps=wrong)
    for betas in ([0.1, 1.0], [0.0, 0.1], [0.1, float("nan")], [0.1, -0.2]):
        with pytest.raises(ValueError, match="trained_betas: got β"):
            SamDiffSRScheduler(num_train_timesteps=2, trained_betas=betas)


@pytest.mark.parametrize("settings", [{}, {"beta_schedule": "linear", "num_train_timesteps": 20}])
def test_a_saved_scheduler_comes_back(settings, tmp_path):
    scheduler = SamDiffSRScheduler(**settings, structure_coefficient="paper")
    scheduler.save_pretrained(tmp_path)
    again = SamDiffSRScheduler.from_pretrained(tmp_path)
    assert again.config.structure_coefficient == "paper"
    for name, values in scheduler._tables.items():
        assert np.array_equal(values, again._tables[name])


def test_bad_settings_are_refused_by_name():
    with pytest.raises(ValueError, match="beta_schedule: got 'sigmoid', accepted are 'squaredcos_cap_v2', 'linear'"):
        SamDiffSRScheduler(beta_schedule="sigmoid")
    with pytest.raises(ValueError, match="structure_coefficient: got 'none'"):
        SamDiffSRScheduler(structure_coefficient="none")
    with pytest.raises(ValueError, match="prediction_type: got 'sample'"):
        SamDiffSRScheduler(prediction_type="sample")
    with pytest.raises(ValueError, match="trained_betas: expected 100 numbers"):
        SamDiffSRScheduler(trained_betas=[0.1])
    scheduler = SamDiffSRScheduler()
    with pytest.raises(ValueError, match="num_inference_steps: got 101, accepted are whole numbers from 1 to 100"):
        scheduler.set_timesteps(101)
    with pytest.raises(ValueError, match="timesteps: got"):
        scheduler.set_timesteps(timesteps=[1, 50])
    scheduler.set_timesteps(10)
    for both in ({}, {"num_inference_steps": 2, "timesteps": [5, 3]}):
        with pytest.raises(ValueError, match="Give either num_inference_steps or timesteps"):
            SamDiffSRScheduler().set_timesteps(**both)
    for wrong in ([100], [5, 5], [3, -1], []):
        with pytest.raises(ValueError, match="timesteps: got .*, accepted are descending whole numbers from 99 to 0"):
            SamDiffSRScheduler().set_timesteps(timesteps=wrong)
    for right in ([99, 0], [0]):
        scheduler.set_timesteps(timesteps=right)
        assert scheduler.timesteps.tolist() == right and scheduler.num_inference_steps == len(right)
    for ends in ([0.5, 1.0], [0.0, 0.5], [0.5, float("nan")]):
        with pytest.raises(ValueError, match="trained_betas: got β from .*, accepted are numbers between 0 and 1"):
            SamDiffSRScheduler(num_train_timesteps=2, trained_betas=ends)
    with pytest.raises(ValueError, match="beta_start, beta_end: got β from"):
        SamDiffSRScheduler(beta_schedule="linear", beta_start=0.0)
    scheduler = SamDiffSRScheduler()
    scheduler.set_timesteps(timesteps=[50, 3])
    with pytest.raises(ValueError, match="timestep: got 98"):
        scheduler.step(torch.zeros(1, 3, 4, 4), 98, torch.zeros(1, 3, 4, 4))


def test_the_published_schedule_is_the_default():
    """SRDiff's 100 steps of the cosine; of the linear one DDPM's ends."""
    config = SamDiffSRScheduler().config
    assert len(SamDiffSRScheduler()) == 100 and len(SamDiffSRScheduler(num_train_timesteps=7)) == 7
    expected = {"num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2", "beta_start": 1e-4, "beta_end": 0.02}
    expected |= {"clip_sample": True, "clip_sample_range": 1.0, "thresholding": True, "sample_max_value": 1.0}
    expected |= {"prediction_type": "epsilon", "timestep_spacing": "trailing", "structure_coefficient": "code"}
    assert {name: config[name] for name in expected} == expected and config["trained_betas"] is None


def test_losses_are_what_their_names_say():
    target, error = torch.randn(1, 2, 12, 12, dtype=torch.float64), torch.randn(1, 2, 12, 12, dtype=torch.float64)
    loss = {kind: denoising_loss(target + error, target, kind).item() for kind in ("l1", "l2", "ssim")}
    assert loss["l1"] == pytest.approx(error.abs().mean().item())
    assert loss["l2"] == pytest.approx(error.square().mean().item())
    assert denoising_loss(target, target, "ssim").item() == pytest.approx(0, abs=1e-12)

    # SSIM of x/2 + 1/2, as of images in [-1, 1], pixel by pixel.
    weights = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    window = np.outer(weights, weights) / weights.sum() ** 2
    similarities = []
    for x, y in zip((target + error)[0].numpy(), target[0].numpy(), strict=True):
        x, y = np.pad(x / 2 + 0.5, 5), np.pad(y / 2 + 0.5, 5)
        for row, column in np.ndindex(12, 12):
            a, b = x[row : row + 11, column : column + 11], y[row : row + 11, column : column + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            variances = (window * a * a).sum() - mean_a**2 + (window * b * b).sum() - mean_b**2
            covariance = (window * a * b).sum() - mean_a * mean_b
            similarity = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
            similarities.append(similarity / ((mean_a**2 + mean_b**2 + 1e-4) * (variances + 9e-4)))
    assert loss["ssim"] == pytest.approx(loss["l1"] + 1 - np.mean(similarities), rel=1e-6)
    assert denoising_loss(target + error, target).item() == loss["l1"]
    with pytest.raises(ValueError, match=r"prediction: \(1, 2, 12, 11\) does not fit a target \(1, 2, 12, 12\)"):
        denoising_loss(target[..., 1:], target)
    with pytest.raises(ValueError, match="kind: got 'huber'"):
        denoising_loss(target, target, "huber")
