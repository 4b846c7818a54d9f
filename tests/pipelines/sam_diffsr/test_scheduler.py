"""The schedule, the modulated forward process, the reverse process, and stock samplers from its configuration."""

import diffusers
import numpy as np
import pytest
import torch

from hf_effmodels.pipelines import SamDiffSRScheduler
from hf_effmodels.pipelines.sam_diffsr.losses import denoising_loss

SAMPLERS = ["DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]


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
    with pytest.raises(ValueError, match="num_inference_steps: got 101, accepted are 1 to 100"):
        scheduler.set_timesteps(101)
    with pytest.raises(ValueError, match="timesteps: got"):
        scheduler.set_timesteps(timesteps=[1, 50])
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match="timestep: got 98"):
        scheduler.step(torch.zeros(1, 3, 4, 4), 98, torch.zeros(1, 3, 4, 4))


def test_losses_are_what_their_names_say():
    target, error = torch.randn(1, 2, 12, 12, dtype=torch.float64), torch.randn(1, 2, 12, 12, dtype=torch.float64)
    loss = {kind: denoising_loss(target + error, target, kind).item() for kind in ("l1", "l2", "ssim")}
    assert loss["l1"] == pytest.approx(error.abs().mean().item())
    assert loss["l2"] == pytest.approx(error.square().mean().item())
    assert denoising_loss(target, target, "ssim").item() == pytest.approx(0, abs=1e-12)

    # SSIM, pixel by pixel.
    weights = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    window = np.outer(weights, weights) / weights.sum() ** 2
    similarities = []
    for x, y in zip((target + error)[0].numpy(), target[0].numpy(), strict=True):
        x, y = np.pad(x, 5), np.pad(y, 5)
        for row, column in np.ndindex(12, 12):
            a, b = x[row : row + 11, column : column + 11], y[row : row + 11, column : column + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            variances = (window * a * a).sum() - mean_a**2 + (window * b * b).sum() - mean_b**2
            covariance = (window * a * b).sum() - mean_a * mean_b
            similarity = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
            similarities.append(similarity / ((mean_a**2 + mean_b**2 + 1e-4) * (variances + 9e-4)))
    assert loss["ssim"] == pytest.approx(loss["l1"] + 1 - np.mean(similarities), rel=1e-6)
    with pytest.raises(ValueError, match="kind: got 'huber'"):
        denoising_loss(target, target, "huber")
