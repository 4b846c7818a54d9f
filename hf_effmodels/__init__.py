"""Efficient-AI research as native Hugging Face models.

Importing the package registers every architecture with transformers' Auto classes. The import is light: no model
code, no training, diffusers, peft or datasets is loaded before it is used.
"""

from . import registry as _registry
from .models import create_image_processor, create_model, get_config, list_models, model_info

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "create_image_processor",
    "create_model",
    "get_config",
    "list_models",
    "model_info",
]

_registry.register_with_transformers()


def __getattr__(name: str):
    """Model and configuration classes by name (`hf_effmodels.GhostNetForImageClassification`), loaded on first use."""
    return _registry.load_public_class(name, __name__)


def __dir__() -> list[str]:
    return sorted({*__all__, *_registry.public_class_names()})
