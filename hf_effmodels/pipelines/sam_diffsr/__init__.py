"""SAM-DiffSR: structure-modulated diffusion super-resolution (arXiv:2402.17133)."""

from ...architecture import PipelineEntry

ENTRIES = (
    PipelineEntry(
        title="SAM-DiffSR",
        package=__name__,
        task="super-resolution",
        classes={
            "pipeline_sam_diffsr": ("SamDiffSRPipeline",),
            "modeling_sam_diffsr": ("RRDBModel", "SamDiffSRUNet2DModel"),
            "scheduling_sam_diffsr": ("SamDiffSRScheduler",),
        },
        code=("pipeline_sam_diffsr", "image_inputs", "matlab_resize"),
        paper="SAM-DiffSR: Structure-Modulated Diffusion Model for Image Super-Resolution",
        arxiv="2402.17133",
        repository="https://github.com/lose4578/SAM-DiffSR",
    ),
)
