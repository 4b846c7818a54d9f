"""The convolutions of a network by themselves: the least that a network of these convolutions can cost."""

import torch
from torch import nn


class BareConvolutions(nn.Module):
    """All convolutions of a model, one after the other, each on the input it has in the model; nothing in between.

    The inputs are recorded in the first call. The output is that of the last convolution.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.calls: list[tuple[nn.Conv2d, torch.Tensor]] = []

    @torch.no_grad()
    def _record(self, pixel_values: torch.Tensor) -> None:
        def keep(conv: nn.Conv2d, inputs: tuple) -> None:
            # A copy: what follows a convolution may work in place.
            self.calls.append((conv, inputs[0].clone(memory_format=torch.preserve_format)))

        convolutions = [module for module in self.model.modules() if isinstance(module, nn.Conv2d)]
        handles = [conv.register_forward_pre_hook(keep) for conv in convolutions]
        self.model(pixel_values)
        for handle in handles:
            handle.remove()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if not self.calls:
            self._record(pixel_values)
        for conv, inputs in self.calls:
            output = conv(inputs)
        return output
