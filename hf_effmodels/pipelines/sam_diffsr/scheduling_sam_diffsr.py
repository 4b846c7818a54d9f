"""The noise schedule of SAM-DiffSR: DDPM (arXiv:2006.11239) whose forward noise may have a mean by region.

The structure modulation (SAM-DiffSR, arXiv:2402.17133) concerns training only: the noise that is added,
and that the network learns to predict, is shifted by an encoded segmentation map. The reverse process is unchanged.
The file stands alone: it is copied beside the weights when a pipeline is saved.
"""

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch.nn import functional as F

STRUCTURE_COEFFICIENTS = ("code", "paper", "one")
BETA_SCHEDULES = ("squaredcos_cap_v2", "linear")
TIMESTEP_SPACINGS = ("trailing", "leading", "linspace")


@dataclass
class SamDiffSRSchedulerOutput(BaseOutput):
    """`prev_sample`: x_{t-1}; `pred_original_sample`: the predicted x_0, clipped. Both of the sample's shape."""

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor


def cosine_betas(steps: int, offset: float = 0.008, largest: float = 0.999) -> np.ndarray:
    """β of the cosine schedule (arXiv:2102.09672, equation 17), float64."""

    def f(step: int) -> float:
        return math.cos((step / steps + offset) / (1 + offset) * math.pi / 2) ** 2

    return np.array([min(1 - f(step + 1) / f(step), largest) for step in range(steps)])


def linear_betas(steps: int, start: float = 1e-4, end: float = 0.02, last: float = 0.999) -> np.ndarray:
    """β from `start` to `end` in equal steps, float64; the last is `last`, so that the chain ends in pure noise."""
    betas = np.linspace(start, end, steps)
    betas[-1] = last
    return betas


def diffusion_tables(betas: np.ndarray) -> dict[str, np.ndarray]:
    """Everything that follows from β: computed in float64 and rounded to float32, as official checkpoints store it."""
    alphas_cumprod = np.cumprod(1 - betas)
    previous = np.append(1.0, alphas_cumprod[:-1])
    posterior_variance = betas * (1 - previous) / (1 - alphas_cumprod)
    tables = {
        "betas": betas,
        "alphas_cumprod": alphas_cumprod,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": np.sqrt(alphas_cumprod),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - alphas_cumprod),
        "log_one_minus_alphas_cumprod": np.log(1 - alphas_cumprod),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / alphas_cumprod),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / alphas_cumprod - 1),
        "posterior_variance": posterior_variance,
        "posterior_log_variance_clipped": np.log(np.maximum(posterior_variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(previous) / (1 - alphas_cumprod),
        "posterior_mean_coef2": (1 - previous) * np.sqrt(1 - betas) / (1 - alphas_cumprod),
    }
    return {name: values.astype(np.float32) for name, values in tables.items()}


def structure_tables(betas: np.ndarray, form: str) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of the structure map in the added noise and in the target, one for each timestep, float32.

    "code": √(1-ᾱ)·β in both, as the official code trains. "paper": the map enters every step of the chain as the mean
    of its noise, x_t = √(1-β_t) x_{t-1} + √β_t (ε + E); so the noise added at t is shifted by φ_t/√(1-ᾱ_t),
    φ_t = Σ_{i≤t} √(ᾱ_t/ᾱ_i · β_i), and the target by √(1-ᾱ_t)/√β_t. "one": the map as it is.
    """
    alphas_cumprod = np.cumprod(1 - betas)
    spread = np.sqrt(1 - alphas_cumprod)
    if form == "code":
        noise = target = spread * betas
    elif form == "paper":
        phi, shift = np.empty_like(betas), 0.0
        for step, beta in enumerate(betas):
            shift = math.sqrt(1 - beta) * shift + math.sqrt(beta)
            phi[step] = shift
        noise, target = phi / spread, spread / np.sqrt(betas)
    else:
        noise = target = np.ones_like(betas)
    return noise.astype(np.float32), target.astype(np.float32)


class SamDiffSRScheduler(SchedulerMixin, ConfigMixin):
    """DDPM with the paper's schedule; a structure map may shift the noise of the forward process.

    diffusers' samplers built from its configuration (`DDIMScheduler.from_config(pipe.scheduler.config)`, also
    DPM-Solver++, UniPC, ...) drive the same network in fewer steps; they clip the predicted residual as this one does.

    Args:
        num_train_timesteps: T.
        beta_schedule: `"squaredcos_cap_v2"` (cosine) or `"linear"` (`beta_start` to `beta_end`, the last is 0.999).
        trained_betas: the T values of β themselves; filled in for "linear", which other samplers take to mean
            something else. `from_config(config, beta_end=...)` of this class computes them anew; the stock samplers
            keep them whatever is overridden, so the pipeline refuses to sample with them then.
        clip_sample, clip_sample_range: clip the predicted residual to ±`clip_sample_range`.
        thresholding, sample_max_value: the same for samplers that know no `clip_sample`: thresholding with a largest
            value of 1 is clipping.
        prediction_type: only `"epsilon"`.
        timestep_spacing: `"trailing"`, `"leading"` or `"linspace"`: which of the T timesteps fewer steps take.
        structure_coefficient: `"code"`, `"paper"` or `"one"`, see `structure_tables`.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]
    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 100,
        beta_schedule: str = "squaredcos_cap_v2",
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        trained_betas: list[float] | None = None,
        clip_sample: bool = True,
        clip_sample_range: float = 1.0,
        thresholding: bool = True,
        sample_max_value: float = 1.0,
        prediction_type: str = "epsilon",
        timestep_spacing: str = "trailing",
        structure_coefficient: str = "code",
    ):
        for name, value, accepted in (
            ("beta_schedule", beta_schedule, BETA_SCHEDULES),
            ("prediction_type", prediction_type, ("epsilon",)),
            ("timestep_spacing", timestep_spacing, TIMESTEP_SPACINGS),
            ("structure_coefficient", structure_coefficient, STRUCTURE_COEFFICIENTS),
        ):
            if value not in accepted:
                raise ValueError(f"{name}: got {value!r}, accepted are {', '.join(map(repr, accepted))}.")
        if (_whole(num_train_timesteps) or 0) < 1:
            raise ValueError(f"num_train_timesteps: got {num_train_timesteps!r}, accepted are whole numbers from 1.")
        filled_in = None
        if trained_betas is not None:
            betas = np.asarray(trained_betas, dtype=np.float64)
        elif beta_schedule == "linear":
            betas = linear_betas(num_train_timesteps, beta_start, beta_end)
            self.register_to_config(trained_betas=betas.tolist())
            filled_in = (num_train_timesteps, beta_schedule, beta_start, beta_end)
        else:
            betas = cosine_betas(num_train_timesteps)
        if betas.shape != (num_train_timesteps,):
            raise ValueError(f"trained_betas: expected {num_train_timesteps} numbers, got shape {betas.shape}.")
        if not (betas > 0).all() or not (betas < 1).all():  # also where there is a NaN
            name = "beta_start, beta_end" if trained_betas is None else "trained_betas"
            raise ValueError(
                f"{name}: got β from {betas.min()} to {betas.max()}, accepted are numbers between 0 and 1."
            )
        # What is listed here `from_config` of another class leaves out: nothing that was left at our defaults (it
        # would take its own), but what it does not know, which comes back from under a private name.
        self.register_to_config(
            _use_default_values=["structure_coefficient"],
            _structure_coefficient=structure_coefficient,
            _betas_filled_in_from=filled_in,
        )

        self._betas = betas
        self._training_tables = diffusion_tables(betas)
        self._noise_shift, self._target_shift = structure_tables(betas, structure_coefficient)
        self.betas = torch.from_numpy(self._training_tables["betas"])
        self.alphas_cumprod = torch.from_numpy(self._training_tables["alphas_cumprod"])
        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self._set_chain(np.arange(num_train_timesteps)[::-1].copy())

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    @classmethod
    def extract_init_dict(cls, config_dict: Mapping, **kwargs):
        """As diffusers', but β that follow from the configuration follow the overrides in `kwargs` as well."""
        config = dict(config_dict)
        left_out = config.get("_use_default_values", [])
        config["_use_default_values"] = [name for name in left_out if name != "structure_coefficient"]
        config.pop("_betas_filled_in_from", None)
        if (form := config.pop("_structure_coefficient", None)) is not None:
            config.setdefault("structure_coefficient", form)
        if _is_derived(config) or kwargs.keys() & {"beta_schedule", "beta_start", "beta_end"}:
            config["trained_betas"] = None
        return super().extract_init_dict(config, **kwargs)

    # ---- the reverse process ----

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: list[int] | None = None,
    ) -> None:
        """Choose the timesteps of the reverse process: a number of them, or the descending `timesteps` themselves.

        Fewer than all: the chain through those timesteps only, with the β it implies (arXiv:2102.09672, section 4).
        """
        total = self.config.num_train_timesteps
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("Give either num_inference_steps or timesteps.")
        if timesteps is None:
            steps = _whole(num_inference_steps)
            if steps is None or not 1 <= steps <= total:
                raise ValueError(
                    f"num_inference_steps: got {num_inference_steps!r}, accepted are whole numbers from 1 to {total}."
                )
            chain = self._spaced(steps)
        else:
            numbers = [_whole(timestep) for timestep in timesteps]
            chain = np.array([-1 if number is None else number for number in numbers], dtype=np.int64)
            if not chain.size or chain[0] >= total or chain.min() < 0 or np.any(np.diff(chain) >= 0):
                raise ValueError(
                    f"timesteps: got {list(timesteps)}, accepted are descending whole numbers from {total - 1} to 0."
                )
        self.num_inference_steps = len(chain)
        self._set_chain(chain, device)

    def _spaced(self, steps: int) -> np.ndarray:
        total = self.config.num_train_timesteps
        if self.config.timestep_spacing == "trailing":
            chain = np.round(total - np.arange(steps) * total / steps) - 1
        elif self.config.timestep_spacing == "leading":
            chain = (np.arange(steps) * (total // steps))[::-1]
        else:
            chain = np.linspace(0, total - 1, steps).round()[::-1]
        return chain.astype(np.int64)

    def _set_chain(self, chain: np.ndarray, device: str | torch.device | None = None) -> None:
        if len(chain) == len(self._betas):
            self._tables = self._training_tables
        else:
            kept = np.cumprod(1 - self._betas)[chain[::-1]]
            self._tables = diffusion_tables(1 - kept / np.append(1.0, kept[:-1]))
        self._position = {int(timestep): len(chain) - 1 - index for index, timestep in enumerate(chain)}
        self.timesteps = torch.from_numpy(np.ascontiguousarray(chain)).to(device)

    def scale_model_input(self, sample: torch.Tensor, timestep: int | None = None) -> torch.Tensor:
        """The sample as it is; samplers that scale it have the same method."""
        return sample

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> SamDiffSRSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """One step of the reverse process, x_t → x_{t-1} (arXiv:2006.11239, equations 7 and 15).

        Args:
            model_output: the predicted noise; `sample`: x_t; both (batch, 3, H, W).
            timestep: t, one of `timesteps`.
            generator: draws the noise of this step, unless `variance_noise` gives it. None is added at the last step.
        """
        position = self._position.get(int(timestep))
        if position is None:
            raise ValueError(f"timestep: got {int(timestep)}, accepted are those of `timesteps`, see set_timesteps.")
        # Python floats: exact in any precision of the sample, and no copy to its device.
        row = {name: float(values[position]) for name, values in self._tables.items()}
        original = row["sqrt_recip_alphas_cumprod"] * sample - row["sqrt_recipm1_alphas_cumprod"] * model_output
        if self.config.clip_sample:
            original = original.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        previous = row["posterior_mean_coef1"] * original + row["posterior_mean_coef2"] * sample
        if position > 0:
            if variance_noise is None:
                variance_noise = randn_tensor(
                    sample.shape, generator=generator, device=sample.device, dtype=sample.dtype
                )
            previous = previous + math.exp(0.5 * row["posterior_log_variance_clipped"]) * variance_noise
        if not return_dict:
            return previous, original
        return SamDiffSRSchedulerOutput(prev_sample=previous, pred_original_sample=original)

    # ---- the forward process ----

    def add_noise(
        self,
        original_samples: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        structure_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε', with ε' = `modulate_noise(noise, timesteps, structure_mask)`.

        Args:
            original_samples, noise: (batch, 3, H, W); without a mask of any shape (batch, ...).
            timesteps: (batch,) integers from 0 to T-1, or one for all; at -1 the sample is returned as it is.
            structure_mask: encoded segmentation, (batch, 1, h, w) of any size; none: SRDiff's forward process.

        Raises:
            ValueError: another number of timesteps, or a mask of another batch.
        """
        noise = self.modulate_noise(noise, timesteps, structure_mask)
        signal = self._at("sqrt_alphas_cumprod", timesteps, original_samples)
        spread = self._at("sqrt_one_minus_alphas_cumprod", timesteps, original_samples)
        clean = _aligned(timesteps.to(original_samples.device) < 0, original_samples)
        return torch.where(clean, original_samples, signal * original_samples + spread * noise)

    def modulate_noise(
        self, noise: torch.Tensor, timesteps: torch.Tensor, structure_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """The noise of x_t with the structure map as its mean: ε' = ε + c_t E; `noise` itself is not changed."""
        return self._shifted(noise, timesteps, structure_mask, self._noise_shift)

    def get_target(
        self, noise: torch.Tensor, timesteps: torch.Tensor, structure_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What the network learns to predict at `timesteps`, for the same `noise` and map as `add_noise`."""
        return self._shifted(noise, timesteps, structure_mask, self._target_shift)

    def _shifted(self, noise, timesteps, structure_mask, coefficients: np.ndarray) -> torch.Tensor:
        if structure_mask is None:
            return noise
        if noise.ndim != 4 or structure_mask.ndim != 4 or structure_mask.shape[:2] != (len(noise), 1):
            raise ValueError(
                f"structure_mask: expected ({len(noise)}, 1, height, width), got {tuple(structure_mask.shape)} for "
                f"noise {tuple(noise.shape)}."
            )
        structure_mask = structure_mask.to(noise)
        if structure_mask.shape[-2:] != noise.shape[-2:]:
            structure_mask = F.interpolate(structure_mask, size=noise.shape[-2:], mode="bilinear", align_corners=False)
        return noise + self._lookup(coefficients, timesteps, noise) * structure_mask

    def _at(self, name: str, timesteps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return self._lookup(self._training_tables[name], timesteps, like)

    @staticmethod
    def _lookup(values: np.ndarray, timesteps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """`values` at `timesteps`, (batch, 1, ...), in the dtype and on the device of `like` and of its rank."""
        values = torch.from_numpy(values).to(like)
        return _aligned(values[timesteps.to(like.device).clamp(min=0)], like)


def _aligned(numbers: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    """(batch,) numbers as (batch, 1, ...), one for each of the samples, (batch, ...)."""
    numbers = numbers.reshape(-1)
    if samples.ndim == 0 or len(numbers) not in (1, len(samples)):
        raise ValueError(f"timesteps: got {len(numbers)} for samples of shape {tuple(samples.shape)}.")
    return numbers.reshape(-1, *[1] * (samples.ndim - 1))


def _whole(number) -> int | None:
    """A whole number of whatever library; None for anything else."""
    try:
        return None if isinstance(number, bool) else operator.index(number)
    except TypeError:
        return None


def _is_derived(config: Mapping) -> bool:
    """Whether the β in a configuration are those that its other fields stand for, not the user's own."""
    betas, steps = config.get("trained_betas"), config.get("num_train_timesteps")
    if betas is None or config.get("beta_schedule") != "linear" or steps is None or len(betas) != steps:
        return False
    known = {name: config[key] for name, key in (("start", "beta_start"), ("end", "beta_end")) if key in config}
    return bool(np.array_equal(np.asarray(betas), linear_betas(steps, **known)))
