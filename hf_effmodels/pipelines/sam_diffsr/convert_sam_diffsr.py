"""Official checkpoints of SAM-DiffSR and SRDiff, and of their RRDB pre-training -> a pipeline, or the encoder alone.

The sizes of the networks are read from the shapes, the schedule from the buffers in the checkpoint. Every entry is
used exactly once or the conversion is refused.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from ..._files import sha256
from ...hub.checkpoints import check_names, check_official_values, check_tensors, read_file
from ...hub.convert import ConversionReport
from ...hub.fit import ConversionError, check_fit, entry, listed, naming
from .configuration_sam_diffsr import PRESETS
from .export import export
from .modeling_sam_diffsr import RRDBModel, SamDiffSRUNet2DModel
from .pipeline_sam_diffsr import SamDiffSRPipeline
from .scheduling_sam_diffsr import SamDiffSRScheduler, diffusion_tables

ENCODER, UNET = "rrdb.", "denoise_fn."
_SCHEDULE = tuple(diffusion_tables(np.array([0.1, 0.2])))


def _one_less(pattern: str) -> Callable[[re.Match], str]:
    return lambda match: pattern.format(*(int(group) - 1 for group in match.groups()))


#: Applied one after the other to names of modules and weights of the RRDB network …
ENCODER_RULES = (
    (r"^RRDB_trunk\b", "trunk"),
    (r"\bRDB(\d)\.conv(\d)\b", _one_less("dense_blocks.{}.convs.{}")),
    (r"\bRDB(\d)\b", _one_less("dense_blocks.{}")),
    (r"^upconv(\d)\b", _one_less("upsample_convs.{}")),
    (r"^HRconv\b", "high_resolution_conv"),
)
#: … and of the U-Net.
UNET_RULES = (
    (r"^mlp\.0\b", "time_embedding.linear_1"),
    (r"^mlp\.2\b", "time_embedding.linear_2"),
    (r"^mlp$", "time_embedding"),
    (r"^cond_proj\b", "condition_proj"),
    (r"^up_proj\.1\b", "upsampled_proj"),
    (r"^downs\.(\d+)\.2\.conv\.1\b", r"down_blocks.\1.downsample"),
    (r"^ups\.(\d+)\.2\.conv\.0\b", r"up_blocks.\1.upsample"),
    (r"^downs\.(\d+)\.([01])\b", r"down_blocks.\1.resnets.\2"),
    (r"^ups\.(\d+)\.([01])\b", r"up_blocks.\1.resnets.\2"),
    (r"^mid_block(\d)\b", _one_less("mid_block.resnets.{}")),
    (r"^mid_attn\.fn\.g$", "mid_block.attention.gate"),
    (r"^mid_attn\.fn\.fn\b", "mid_block.attention"),
    (r"^final_conv\.0\.block\.1\b", "conv_features"),
    (r"^final_conv\.1\b", "conv_out"),
    (r"\.block([12])\.block\.1\b", r".conv\1"),
    (r"\.mlp\.1\b", ".time_emb_proj"),
    (r"\.res_conv\b", ".conv_shortcut"),
)


def convert(
    preset: str,
    checkpoint: str | Path,
    folder: str | Path,
    *,
    license: str | None = None,
    legacy_256: bool = True,
    allow_broken_weights: bool = False,
    **card,
) -> ConversionReport:
    """Convert an official checkpoint into a folder that `from_pretrained` loads.

    Args:
        preset: the preset the checkpoint belongs to.
        checkpoint: the official `.ckpt` file of the whole model (read with `weights_only=True`) or a `.safetensors`
            file of the same names. `rrdb_*.ckpt` of the pre-training is for `load_encoder`.
        folder: where to write; must not exist or be empty.
        license: the Hub's identifier of the licence of the weights.
        legacy_256: see `SamDiffSRPipeline`; the official code trains with it.
        allow_broken_weights: convert weights that are not finite, too.
        card: further arguments of `export`.

    Raises:
        ConversionError: the checkpoint does not fit the preset; nothing is written.
        OSError, ValueError: the file is missing, truncated, or holds something other than tensors.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset: got {preset!r}, accepted are {', '.join(map(repr, PRESETS))}.")
    state_dict, entry = read_official(checkpoint)
    if not any(name.startswith(UNET) for name in state_dict):
        hint = (
            "it is the RRDB pre-training. `load_encoder` reads it as an RRDBModel."
            if any(name.startswith("RRDB_trunk.") for name in state_dict)
            else f"its names are such as {', '.join(list(state_dict)[:2])}."
        )
        raise ConversionError(f"{checkpoint} has no denoiser: {hint}")
    if not allow_broken_weights:
        check_official_values("checkpoint", checkpoint, state_dict)
    with naming(checkpoint, preset):
        pipe = pipeline_of(state_dict, legacy_256=legacy_256)
    _check_preset(preset, pipe, checkpoint)
    schedule = [name for name in state_dict if name in _SCHEDULE]
    report = ConversionReport(
        preset=preset,
        source=Path(checkpoint).name,
        sha256=sha256(checkpoint),
        entry=entry,
        converted=len(state_dict) - len(schedule),
        ignored=schedule,
        reparameterized=False,
    )
    export(pipe, folder, preset=preset, license=license, conversion=report, **card)
    return report


def load_encoder(checkpoint: str | Path, scale: int | None = None) -> RRDBModel:
    """The RRDB network of an official checkpoint: of its pre-training, or of a whole model.

    Args:
        scale: of the pre-training; by default 8 where the checkpoint has the convolution for it and 4 otherwise.
    """
    state_dict, _ = read_official(checkpoint)
    if any(name.startswith(ENCODER) for name in state_dict):
        state_dict = {name: value for name, value in state_dict.items() if name.startswith(ENCODER)}
    return encoder_of(state_dict, scale)


def read_official(path: str | Path) -> tuple[dict[str, torch.Tensor], str]:
    """The weights in an official file by official name, without `module.`, and the entry they were in.

    No code in the file is executed: pickles are read with `weights_only=True`.
    """
    content = read_file(path)
    entries = []
    for name in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            entries.append(name)
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"checkpoint: {path} holds no dictionary of tensors.")
    check_names(content, str(path))
    others = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ValueError(f"checkpoint: {path} holds other things than tensors: {others[:5]}.")
    check_tensors(content)
    weights = {name.removeprefix("module."): value for name, value in content.items()}
    if len(weights) != len(content):
        raise ConversionError(f"checkpoint: {path} has weights with and without `module.` of the same name.")
    return weights, ".".join(entries) or "the file itself"


def pipeline_of(
    state_dict: Mapping[str, torch.Tensor],
    *,
    scheduler: SamDiffSRScheduler | None = None,
    legacy_256: bool = True,
    residual_scale: float = 2.0,
) -> SamDiffSRPipeline:
    """The pipeline of an official state dict (`rrdb.*`, `denoise_fn.*`, schedule).

    Args:
        scheduler: by default the one the buffers of the checkpoint stand for. Needed where there are none.
    """
    groups = {ENCODER: {}, UNET: {}, "": {}}
    for name, value in state_dict.items():
        groups[next(prefix for prefix in groups if name.startswith(prefix))][name] = value
    unexpected = [name for name in groups[""] if name not in _SCHEDULE]
    if unexpected:
        raise ConversionError(listed("unexpected", unexpected))
    if scheduler is None:
        scheduler = scheduler_of(groups[""])
    elif groups[""]:
        _check_schedule(groups[""], scheduler)
    unet = unet_of(groups[UNET], len(entry(groups[ENCODER], f"{ENCODER}conv_first.weight", 4)))
    return SamDiffSRPipeline(
        condition_encoder=encoder_of(groups[ENCODER], unet.config.scale),
        unet=unet,
        scheduler=scheduler,
        residual_scale=residual_scale,
        legacy_256=legacy_256,
    )


def encoder_of(state_dict: Mapping[str, torch.Tensor], scale: int | None = None) -> RRDBModel:
    """The RRDB network of official names, with or without `rrdb.`."""
    renamed = _rename(state_dict, ENCODER, ENCODER_RULES)
    tensors = _tensors(renamed)
    hidden_size, num_channels = entry(tensors, "conv_first.weight", 4).shape[:2]
    config = {
        "hidden_size": hidden_size,
        "growth": len(entry(tensors, "trunk.0.dense_blocks.0.convs.0.weight", 4)),
        "num_blocks": _count(renamed, "trunk"),
        "scale": scale or (8 if "upsample_convs.2.weight" in renamed else 4),
        "num_channels": num_channels,
    }
    return _filled(RRDBModel, config, renamed)


def unet_of(state_dict: Mapping[str, torch.Tensor], condition_channels: int) -> SamDiffSRUNet2DModel:
    """The U-Net of official names, conditioned on maps of `condition_channels`."""
    renamed = _rename(state_dict, UNET, UNET_RULES)
    tensors = _tensors(renamed)
    projection = entry(tensors, "condition_proj.weight", 4)
    hidden_size = projection.shape[1]
    widths = [
        len(entry(tensors, f"down_blocks.{level}.resnets.0.conv1.weight", 4))
        for level in range(_count(renamed, "down_blocks"))
    ]
    config = {
        "hidden_size": hidden_size,
        "dim_mults": [width // hidden_size for width in widths],
        "condition_channels": condition_channels,
        "num_conditions": projection.shape[0] // condition_channels,
        "scale": projection.shape[-1] // 2,
        "use_attention": "mid_block.attention.gate" in renamed,
        "upsampled_input": "upsampled_proj.weight" in renamed,
        "num_channels": len(entry(tensors, "conv_out.weight", 4)),
    }
    return _filled(SamDiffSRUNet2DModel, config, renamed)


def scheduler_of(buffers: Mapping[str, torch.Tensor]) -> SamDiffSRScheduler:
    """The scheduler whose tables the checkpoint stores: cosine, linear, or any β."""
    missing = [name for name in _SCHEDULE if name not in buffers]
    if missing:
        raise ConversionError(listed("missing", missing))
    betas = entry(buffers, "betas", 1).double()
    settings = {"num_train_timesteps": len(betas)}
    for schedule in ({}, {"beta_schedule": "linear"}, {"trained_betas": betas.tolist()}):
        scheduler = SamDiffSRScheduler(**settings, **schedule)
        if torch.allclose(scheduler.betas.double(), betas, rtol=1e-6, atol=0):
            break
    _check_schedule(buffers, scheduler)
    return scheduler


def _check_schedule(buffers: Mapping[str, torch.Tensor], scheduler: SamDiffSRScheduler) -> None:
    for name, values in diffusion_tables(scheduler._betas).items():
        ours = torch.from_numpy(values)
        # α̅ of the last steps is a small difference of β near 1: β rounded to float32 gives it to 1e-4.
        if name in buffers and not (
            buffers[name].shape == ours.shape and torch.allclose(buffers[name].float(), ours, rtol=1e-3, atol=1e-6)
        ):
            raise ConversionError(f"The entry {name!r} is not what its betas imply: it is no DDPM schedule.")


def _check_preset(preset: str, pipe: SamDiffSRPipeline, checkpoint: str | Path) -> None:
    for part, component in (("encoder", pipe.condition_encoder), ("unet", pipe.unet)):
        for key, value in PRESETS[preset].config[part].items():
            if component.config[key] != value:
                raise ConversionError(
                    f"{checkpoint} is no checkpoint of {preset}: its {part} has {key}={component.config[key]}, "
                    f"expected {value}. `pipeline_of` converts checkpoints of any size."
                )


def _rename(state_dict: Mapping[str, torch.Tensor], prefix: str, rules) -> dict[str, tuple[torch.Tensor, str]]:
    """Our name -> the tensor and its official name."""
    renamed = {}
    for name in state_dict:
        ours = official_to_ours(name.removeprefix(prefix), rules)
        if ours in renamed:
            raise ConversionError(
                f"The entries {renamed[ours][1]!r} and {name!r} are meant for the same weight {ours!r}."
            )
        renamed[ours] = state_dict[name], name
    return renamed


def official_to_ours(name: str, rules) -> str:
    """Our name of an official module or weight; `rules`: ENCODER_RULES or UNET_RULES."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _tensors(renamed: Mapping[str, tuple[torch.Tensor, str]]) -> dict[str, torch.Tensor]:
    return {name: value for name, (value, _) in renamed.items()}


def _count(weights: Mapping, stem: str) -> int:
    """How many there are of what is numbered; names without a number are told as unexpected later."""
    return 1 + max((int(m[1]) for name in weights if (m := re.match(rf"{stem}\.(\d+)\.", name))), default=-1)


def _filled(model_class: type, config: dict, weights: dict[str, tuple[torch.Tensor, str]]):
    """The network with its weights, in their dtype, in evaluation mode; ConversionError unless they fit exactly."""
    try:
        with torch.device("meta"):
            model = model_class(**config)
    except ValueError as error:
        raise ConversionError(f"The shapes stand for no {model_class.__name__}: {error}") from error
    tensors = _tensors(weights)
    check_fit(tensors, model.state_dict(), lambda name: weights[name][1])
    model.load_state_dict(tensors, assign=True)
    return model.eval()
