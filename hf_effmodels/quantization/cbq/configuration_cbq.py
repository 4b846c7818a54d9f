"""How a model is quantised and its weights are stored: `quantization_config` of `config.json`."""

from dataclasses import dataclass, fields
from typing import Any

from transformers.utils.quantization_config import QuantizationConfigMixin

from .settings import CbqSettings


@dataclass
class CbqConfig(CbqSettings, QuantizationConfigMixin):
    """Cross-block quantisation, or one of the methods it is compared with; arguments as `CbqSettings`."""

    def to_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_dict(cls, config_dict, return_unused_kwargs=False, **kwargs):
        known = {f.name for f in fields(cls)}
        unknown = [name for name in config_dict if name not in known]
        if unknown:
            raise ValueError(f"{unknown[0]}: CbqConfig has no field of this name; it has {', '.join(sorted(known))}.")
        return super().from_dict(config_dict, return_unused_kwargs, **kwargs)
