"""A pipeline of a preset with random weights."""

from collections.abc import Mapping

from .configuration_sam_diffsr import PRESETS
from .modeling_sam_diffsr import RRDBModel, SamDiffSRUNet2DModel
from .pipeline_sam_diffsr import SamDiffSRPipeline
from .scheduling_sam_diffsr import SamDiffSRScheduler


def create_pipeline(
    preset: str = "sam-diffsr-x4",
    *,
    encoder: Mapping | None = None,
    unet: Mapping | None = None,
    scheduler: Mapping | None = None,
    legacy_256: bool = False,
    residual_scale: float = 2.0,
) -> SamDiffSRPipeline:
    """The pipeline of `preset` with random weights, in evaluation mode.

    Args:
        preset: see `PRESETS`.
        encoder, unet, scheduler: fields of the parts' configurations that shall differ from the preset's.
        legacy_256: see `SamDiffSRPipeline`; only the published weights need it.
        residual_scale: see `SamDiffSRPipeline`.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset: got {preset!r}, accepted are {', '.join(map(repr, PRESETS))}.")
    known = PRESETS[preset].config
    return SamDiffSRPipeline(
        condition_encoder=RRDBModel(**known["encoder"] | dict(encoder or {})).eval(),
        unet=SamDiffSRUNet2DModel(**known["unet"] | dict(unet or {})).eval(),
        scheduler=SamDiffSRScheduler(**known["scheduler"] | dict(scheduler or {})),
        legacy_256=legacy_256,
        residual_scale=residual_scale,
    )
