"""Segment everything in two rounds (TinySAM, arXiv:2312.13789) and prompts by hand, for every promptable model."""

from ...architecture import TaskPipeline

TASK_PIPELINES = (
    TaskPipeline(
        task="hierarchical-mask-generation",
        package=__name__,
        module="pipeline_hierarchical_mask_generation",
        pipeline_class="HierarchicalMaskGenerationPipeline",
        auto_class="AutoModelForMaskGeneration",
        takes="image",
        classes={"predictor": ("MaskPredictor",)},
    ),
)
