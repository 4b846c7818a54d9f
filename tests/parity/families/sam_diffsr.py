"""SAM-DiffSR: networks, schedules, steps, sampling, losses with their gradients, mask encoding, resizing, metrics."""

import numpy as np
import torch
from torch.nn import functional as F

from hf_effmodels.metrics.psnr.psnr import luma, psnr
from hf_effmodels.metrics.ssim.ssim import image_ssim
from hf_effmodels.pipelines.sam_diffsr.convert_sam_diffsr import (
    ENCODER_RULES,
    UNET_RULES,
    encoder_of,
    official_to_ours,
    pipeline_of,
)
from hf_effmodels.pipelines.sam_diffsr.losses import denoising_loss
from hf_effmodels.pipelines.sam_diffsr.masks import encode_masks, position_encoding, region_values
from hf_effmodels.pipelines.sam_diffsr.matlab_resize import imresize
from hf_effmodels.pipelines.sam_diffsr.pipeline_sam_diffsr import image_to_residual, residual_to_image
from hf_effmodels.pipelines.sam_diffsr.scheduling_sam_diffsr import (
    SamDiffSRScheduler,
    cosine_betas,
    diffusion_tables,
    linear_betas,
)

from ..golden import inputs, state_dict

SYSTEMS = ("sam_diffsr",)


def tolerance(case: dict, name: str, dtype: str) -> float | None:
    """Where the case's own numbers are float32: its note says so. None: the usual tolerance."""
    if name.startswith("rope") or name == "region_values":
        # Computed in float32: agreement to 1e-5 absolute. The other encodings are float64.
        return 1e-5 / case["outputs"][name]["std"]
    if "metrics" in case["variant"] and "float32" in case["note"]:
        return 1e-5
    return None


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    wanted = case["outputs"]
    if "noise_pred" in wanted and "loss" not in wanted:
        return network(case, dtype)
    if "sr" in wanted and "loss" in wanted:
        return encoder_training(case, dtype)
    if "loss" in wanted:
        return training(case, dtype)
    if "sr" in wanted:
        return sampling(case, dtype)
    if "betas" in wanted:
        return schedule(case["config"])
    if any(name.endswith("_prev_sample") for name in wanted):
        return steps(case, dtype)
    if "rope_map" in wanted:
        return mask_encoding(case["config"])
    if "lr_uint8" in wanted:
        return resizing(case, dtype)
    if "psnr" in wanted or "psnr_y" in wanted:
        return metrics(case)
    raise AssertionError(f"a case of an unknown kind: {case['variant']}")


def scheduler_of(config: dict) -> SamDiffSRScheduler:
    steps = config["timesteps"]
    if config["beta_schedule"] == "linear":
        betas = linear_betas(steps, end=config["beta_end"])
        if not config.get("res", True):
            betas = np.linspace(1e-4, config["beta_end"], steps)
    else:
        betas = cosine_betas(steps, config["beta_s"])
    with_coefficient = config.get("sam_config", {}).get("mask_coefficient", True)
    return SamDiffSRScheduler(
        steps, trained_betas=betas.tolist(), structure_coefficient="code" if with_coefficient else "one"
    )


def pipeline(case: dict, dtype: torch.dtype):
    config = case["config"]
    weights = state_dict(case, dtype)
    return pipeline_of(weights, scheduler=scheduler_of(config), residual_scale=config["res_rescale"])


def condition(pipe, values: dict[str, torch.Tensor]):
    return pipe.condition_encoder(values["img_lr"])


@torch.no_grad()
def network(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values = inputs(case, dtype)
    pipe = pipeline(case, dtype)
    unet, features = pipe.unet, {}

    def keep(name):
        return lambda module, args, output: features.__setitem__(name, output)

    unet.time_embedding.register_forward_hook(keep("time_embedding"))
    unet.mid_block.register_forward_hook(keep("mid"))
    unet.condition_proj.register_forward_hook(keep("cond"))
    for level, block in enumerate(unet.down_blocks):
        block.resnets[1].register_forward_hook(keep(f"down_{level}_resnet2"))
    for level, block in enumerate(unet.up_blocks):
        block.register_forward_hook(keep(f"up_{level}"))
    encoded = condition(pipe, values)
    output = unet(values["x_t"], values["t"], encoded.condition, values.get("img_lr_up"))
    features |= {f"rrdb_feature_{index}": value for index, value in enumerate(encoded.features)}
    return features | {"rrdb_out": encoded.sample, "noise_pred": output.sample}


def training(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config, values = case["config"], inputs(case, dtype)
    pipe = pipeline(case, dtype)
    scheduler, noise = pipe.scheduler, values["noise"]
    mask = values.get("sam_mask") if config["sam_config"]["p_losses_sam"] else None
    t = torch.tensor(config["t"])
    x_start = image_to_residual(values["img_hr"], values["img_lr_up"], config["res_rescale"])
    x_t = scheduler.add_noise(x_start, noise, t, mask)
    target = scheduler.get_target(noise, t, mask)
    with torch.set_grad_enabled(not config["fix_rrdb"]):
        encoded = condition(pipe, values)
    noise_pred = pipe.unet(x_t, t, encoded.condition, values["img_lr_up"]).sample
    loss = denoising_loss(noise_pred, target, config["loss_type"])
    loss.backward()
    predicted = [
        scheduler.step(noise_pred[i : i + 1], step, x_t[i : i + 1], variance_noise=torch.zeros_like(x_t[i : i + 1]))
        for i, step in enumerate(config["t"])
    ]
    results = {
        "x_start": x_start,
        "modulated_noise": target,
        "x_t": x_t,
        "x_t_minus_1": scheduler.add_noise(x_start, target, t - 1),
        "noise_pred": noise_pred,
        "x0_pred_clipped": torch.cat([step.pred_original_sample for step in predicted]),
        "loss": loss.reshape(1),
        "res2img_x_t": residual_to_image(x_t, values["img_lr_up"], config["res_rescale"]),
    }
    parts = {"denoise_fn": (pipe.unet, UNET_RULES), "rrdb": (pipe.condition_encoder, ENCODER_RULES)}
    for name in case["outputs"]:
        if name.startswith("grad:"):
            part, _, weight = name.removeprefix("grad:").partition(".")
            model, rules = parts[part]
            results[name] = model.get_parameter(official_to_ours(weight, rules)).grad
    return results


def encoder_training(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values = inputs(case, dtype)
    model = encoder_of(state_dict(case, dtype), case["config"]["sr_scale"])
    image = model(values["img_lr"]).sample
    loss = F.l1_loss(image, values["img_hr"])
    loss.backward()
    gradients = {
        name: model.get_parameter(official_to_ours(name.removeprefix("grad:"), ENCODER_RULES)).grad
        for name in case["outputs"]
        if name.startswith("grad:")
    }
    return {"sr": image, "loss": loss.reshape(1), **gradients}


@torch.no_grad()
def sampling(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, pipe = inputs(case, dtype), pipeline(case, dtype)
    upsampled, scale = values["img_lr_up"], case["config"]["res_rescale"]
    encoded = condition(pipe, values)
    conditions, results = encoded.condition, {"rrdb_out": encoded.sample}
    sample, noises = values["noises"][0], values["noises"][1:]
    pipe.scheduler.set_timesteps(len(noises))
    for index, (timestep, noise) in enumerate(zip(pipe.scheduler.timesteps, noises, strict=True)):
        output = pipe.unet(sample, timestep, conditions, upsampled)
        conditions = output.condition
        step = pipe.scheduler.step(output.sample, timestep, sample, variance_noise=noise)
        sample = step.prev_sample
        results[f"step_{index}_image"] = residual_to_image(sample, upsampled, scale)
        results[f"step_{index}_x0_image"] = residual_to_image(step.pred_original_sample, upsampled, scale)
    return results | {"sr": results[f"step_{index}_image"]}


def schedule(config: dict) -> dict[str, np.ndarray]:
    scheduler = scheduler_of(config)
    return diffusion_tables(scheduler._betas) | {"mask_coefficient": scheduler._noise_shift}


def steps(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, scheduler = inputs(case, dtype), scheduler_of(case["config"])
    scheduler.set_timesteps(case["config"]["timesteps"])
    results = {}
    for t in case["config"]["t"]:
        step = scheduler.step(values["noise_pred"], t, values["x_t"], variance_noise=values["noise"])
        forward = (values["x_start"], values["noise"], torch.tensor([t]))
        results |= {
            f"t{t}_prev_sample": step.prev_sample,
            f"t{t}_x0": step.pred_original_sample,
            f"t{t}_q_sample": scheduler.add_noise(*forward),
            f"t{t}_q_sample_mask": scheduler.add_noise(*forward, values["sam_mask"]),
        }
    return results


def mask_encoding(config: dict) -> dict[str, np.ndarray]:
    height, width = config["height"], config["width"]
    rows, columns = np.mgrid[:height, :width]
    masks = []
    for shape in config["masks"]:
        if shape["kind"] == "rect":
            inside = (shape["y0"] <= rows) & (rows < shape["y1"]) & (shape["x0"] <= columns) & (columns < shape["x1"])
        else:
            inside = (rows - shape["cy"]) ** 2 + (columns - shape["cx"]) ** 2 <= shape["r"] ** 2
        masks.append(inside)
    results = {
        "rope_map": encode_masks(masks, (height, width)),
        "rope_base": position_encoding(height, width),
        "region_values": region_values(masks),
        "cosine_map": encode_masks(masks, encoding="cosine", dtype=np.float64),
    }
    if height == width:
        results["sincos_map"] = encode_masks(masks, encoding="sincos", dtype=np.float64)
    return results


def resizing(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config = case["config"]
    image = inputs(case)["img"].to(torch.uint8).permute(2, 0, 1)
    scale = config["scale"]
    low = imresize(image, 1 / scale)
    up = imresize(low.to(dtype) / 256, scale)
    results = {
        "lr_uint8": low,
        "lr_up": up,
        "lr_float": imresize(image.to(dtype), 1 / scale),
        "lr_bilinear_uint8": imresize(image, 1 / scale, kernel="bilinear"),
        "sizes_float": imresize(image.to(dtype), size=tuple(config["sizes"])),
    }
    results = {name: value.permute(1, 2, 0) for name, value in results.items()}
    return results | {
        "tensor_hr": image.to(dtype) / 255 * 2 - 1,
        "tensor_lr": low.to(dtype) / 255 * 2 - 1,
        "tensor_lr_up": up * 2 - 1,
    }


def metrics(case: dict) -> dict[str, np.ndarray]:
    values = inputs(case)
    reference = values["a"].numpy()
    image = np.clip(reference + values["delta"].numpy(), 0, 255)
    reference, image = reference.astype(np.uint8), image.astype(np.uint8)

    def reduced(array: np.ndarray) -> np.ndarray:
        return imresize(torch.from_numpy(array).permute(2, 0, 1), 1 / 4).permute(1, 2, 0).numpy().astype(np.float64)

    floats = image.astype(np.float64), reference.astype(np.float64)
    lumas = luma(floats[0]), luma(floats[1])
    results = {
        "psnr": psnr(*floats),
        "ssim": image_ssim(*floats),
        "lr_psnr": psnr(reduced(image), reduced(reference)),
        "psnr_y": psnr(*lumas, epsilon=1e-8),
        "ssim_y": image_ssim(*lumas),
    }
    return {name: np.array([value]) for name, value in results.items()} | {"y": lumas[1][None, None] / 255}
