"""Pipelines where a stock one of transformers or diffusers does not fit; what they need is loaded on first use."""

import importlib

#: public name -> the module that has it. diffusers is imported only when one of these is asked for.
_EXPORTS = {
    "RRDBModel": "sam_diffsr.modeling_sam_diffsr",
    "SamDiffSRPipeline": "sam_diffsr.pipeline_sam_diffsr",
    "SamDiffSRScheduler": "sam_diffsr.scheduling_sam_diffsr",
    "SamDiffSRUNet2DModel": "sam_diffsr.modeling_sam_diffsr",
}

__all__ = ["RRDBModel", "SamDiffSRPipeline", "SamDiffSRScheduler", "SamDiffSRUNet2DModel"]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
