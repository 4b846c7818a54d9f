"""A feed-forward network with the fusion added."""

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ...modeling.adem_vl.fusion_adem_vl import fuse

MERGE_REFUSED = (
    "ADEM cannot be merged: the fusion depends on the image and is no linear map, so there are no weights of the base "
    "model that would do the same. Keep the adapter, or call unload() to get the base model back."
)


class AdemLayer(nn.Module, BaseTunerLayer):
    """`base_layer(n) + Σ alpha · fuse(n)` over the active adapters (ADEM-VL, section 3.1).

    The layer has no parameters of its own: keys and values come from the tuner, which computes them once per forward
    pass for all layers.
    """

    other_param_names = ("alpha", "drop_ratio")

    def __init__(self, base_layer: nn.Module, tuner):
        super().__init__()
        self.base_layer = base_layer
        self.alpha: dict[str, float] = {}
        self.drop_ratio: dict[str, float] = {}
        self._disable_adapters = False
        self.merged_adapters = []
        # Not registered as a sub-module, which would make the module tree circular.
        self.__dict__["shared"] = tuner.shared

    def update_layer(self, adapter_name: str, config) -> None:
        self.alpha[adapter_name] = config.alpha
        self.drop_ratio[adapter_name] = config.drop_ratio

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise ValueError(MERGE_REFUSED)

    def unmerge(self) -> None:
        raise ValueError(MERGE_REFUSED)

    def forward(self, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        result = self.base_layer(hidden_states, *args, **kwargs)
        if self.disable_adapters:
            return result
        for adapter in self.active_adapters:
            if adapter in self.alpha:
                keys, values = self.shared.fusion().of(adapter, hidden_states)
                fused = fuse(hidden_states, keys, values, self.drop_ratio[adapter])
                result = result + self.alpha[adapter] * fused.to(result.dtype)
        return result

    def __repr__(self) -> str:
        return "adem." + super().__repr__()
