"""Entropic Student: the bottleneck, its likelihoods, losses and gradients, and the bytes that are sent."""

import numpy as np
import torch

from hf_effmodels.collaboration.codecs.entropic import EntropicBottleneck, from_official, rate_distortion_loss
from hf_effmodels.collaboration.codecs.prior import bits, rate_loss

from .. import golden

SYSTEMS = ("split_computing",)
#: The folder of the system.
ALSO = ("entropic_student",)

#: Made with float32 weights, whatever the rest is computed in: the decoded features agree to 1e-4.
_FLOAT32 = ("decoded_from_bytes",)


def tolerance(case: dict, name: str, dtype: str) -> float | None:
    if name.startswith("grad_"):
        return 1e-6 if dtype == "float64" else 1e-3  # stored in float32
    if name in _FLOAT32:
        return 1e-4
    expected = case["outputs"][name]
    scale = expected["std"] if expected["std"] > 1e-12 else 1e-12 if len(expected["values"]) > 1 else expected["mean"]
    if name == "quantized_cdf":
        return 1.0001 / scale  # "exactly or within 1"
    if name == "bytes_per_image":
        return 4.0001 / scale  # "within 4"
    if name == "bits_estimated_per_image" and dtype == "float32":
        return 2e-6 * expected["mean"] / scale  # a sum; images hardly differ, so their deviation is no measure
    return None


def _quantiles(case: dict) -> torch.Tensor:
    c = case["config"]
    channels, seed = c["num_bottleneck_channels"], c["median_seed"]
    median = 0.3 * np.random.RandomState(seed).standard_normal(channels)
    below, above = (np.random.RandomState(seed + i).random_sample(channels) for i in (1, 2))
    return torch.from_numpy(np.stack([median - 22 - below, median, median + 22 + above], axis=1)[:, None])


def _bottleneck(case: dict, dtype: torch.dtype) -> EntropicBottleneck:
    c, weights = case["config"], golden.state_dict(case, dtype)
    weights["entropy_bottleneck.quantiles"] = _quantiles(case).to(dtype)
    model = EntropicBottleneck(c["num_bottleneck_channels"], c["num_target_channels"]).to(dtype).eval()
    missing, unexpected = model.load_state_dict(from_official(weights), strict=False)
    tables = {f"entropy_bottleneck.{name}" for name in ("quantized_cdf", "cdf_length", "offset")}
    assert set(missing) == tables and not unexpected
    return model


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    inputs, model = golden.inputs(case, dtype), _bottleneck(case, dtype)
    pixels, prior = inputs["pixel_values"], model.entropy_bottleneck
    code = model.encoder(pixels)
    rounded, likelihoods = prior(code)
    results = {
        "latent": code,
        "gdn_first": model.encoder[1](model.encoder[0](pixels)),
        "latent_rounded": rounded,
        "likelihoods_rounded": likelihoods,
        "decoded_eval": model(pixels)[0],
        "bits_estimated_per_image": bits(likelihoods),
        "auxiliary_loss": prior.auxiliary_loss()[None],
    }
    noise = inputs["noise_plus_half"] - 0.5
    features, noisy = model(pixels, noise)
    loss = rate_distortion_loss(features, inputs["teacher_features"], noisy, case["config"]["beta"])
    model.zero_grad()
    loss.backward()
    results |= {
        "latent_noisy": code + noise,
        "likelihoods_noisy": noisy,
        "distortion_sum": rate_distortion_loss(features, inputs["teacher_features"], noisy, 0.0)[None],
        "total_loss": loss[None],
    }
    results |= {f"rate_loss_{how}": rate_loss(noisy, how)[None] for how in ("sum", "batchmean", "mean")}
    parameters = dict(model.named_parameters())
    results |= {n: parameters[n.removeprefix("grad_")].grad for n in case["outputs"] if n.startswith("grad_")}

    sender = _bottleneck(case, torch.float32)
    sender.entropy_bottleneck.update()
    coded = sender.encode(pixels.float(), compressai=True)
    receiver = EntropicBottleneck(case["config"]["num_bottleneck_channels"], case["config"]["num_target_channels"])
    receiver.load_state_dict(sender.state_dict())
    table = sender.entropy_bottleneck
    return results | {
        "bytes_per_image": torch.tensor([len(stream) for stream in coded.streams]),
        "decoded_from_bytes": receiver.decode(coded, compressai=True),
        "cdf_length": table.cdf_length,
        "cdf_offset": table.offset,
        "quantized_cdf": table.quantized_cdf,
    }
