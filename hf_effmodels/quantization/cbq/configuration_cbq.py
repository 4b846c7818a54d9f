"""How a model is quantised and its weights are stored: `quantization_config` of `config.json`."""

from dataclasses import dataclass

from ..stored import StoredConfig
from .settings import CbqSettings


@dataclass
class CbqConfig(CbqSettings, StoredConfig):
    """Cross-block quantisation, or one of the methods it is compared with; arguments as `CbqSettings`."""
