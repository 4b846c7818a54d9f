"""A feed-forward network with the fusion added."""

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ...modeling.adem_vl.fusion_adem_vl import fuse

MERGE_REFUSED = (
    "ADEM cannot be merged: the fusion depends on the image and is no linear map, so there are no weights of the base "
    "model that would do the same. Keep the adapter, or call unload() to get the base model back."
)


class OffsetsOfLayer(nn.ParameterDict):
    """Those of the tuner's offsets that a layer uses: the very parameters, for peft to look at and to freeze."""

    def __init__(self, offsets: nn.ParameterDict, names: list[str]):
        super().__init__()
        self.__dict__.update(offsets=offsets, names=names)  # registered nowhere: they are the tuner's

    def __getitem__(self, name: str) -> nn.Parameter:
        return self.offsets[name]

    def __delitem__(self, name: str) -> None:
        """The tuner deletes them, once all layers have."""

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self):
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def keys(self):
        return dict.fromkeys(self.names).keys()

    def items(self):
        return {name: self.offsets[name] for name in self.names}.items()

    def values(self):
        return {name: self.offsets[name] for name in self.names}.values()


class AdemLayer(nn.Module, BaseTunerLayer):
    """`base_layer(n) + Σ alpha · fuse(n)` over the active adapters (ADEM-VL, section 3.1).

    The layer has no parameters of its own: keys and values come from the tuner, which computes them once per forward
    pass for all layers.
    """

    adapter_layer_names = ("adem_emb1", "adem_emb2")
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

    @property
    def adem_emb1(self) -> nn.ParameterDict:
        """The tuner's key offsets, of the adapters that this layer has: what peft asks a layer for."""
        return self._own(self.shared.key_offsets)

    @property
    def adem_emb2(self) -> nn.ParameterDict:
        """The tuner's value offsets, likewise."""
        return self._own(self.shared.value_offsets)

    def _own(self, offsets: nn.ParameterDict) -> "OffsetsOfLayer":
        return OffsetsOfLayer(offsets, list(self.alpha))

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
