"""A larger CLIP that is shown the student's pictures as it is used to see them."""

import torch
from torch import nn
from torch.nn import functional as F

from .data import input_size


class Teacher:
    """Not a module: it is neither trained nor saved, nor wrapped by whatever spreads the student over processes.

    Args:
        model: two towers as CLIP's.
        processor: its image processor.
        student_processor: the one that the pictures come from.
    """

    def __init__(self, model: nn.Module, processor, student_processor):
        self.model = model.eval().requires_grad_(False)
        self.size = input_size(processor)
        (mean, std), (mean_of_student, std_of_student) = map(_statistics, (processor, student_processor))
        # x = (v - m_s) / s_s is to become (v - m_t) / s_t.
        self.factor = (std_of_student / std)[:, None, None]
        self.shift = ((mean_of_student - mean) / std)[:, None, None]

    @torch.no_grad()
    def __call__(
        self, pixel_values: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors of images and texts, each (batch, width).

        Args:
            pixel_values: the student's, (batch, 3, height, width).
            input_ids, attention_mask: (batch, tokens) of its own tokenizer.
        """
        self.model.to(pixel_values.device)
        pixels = pixel_values * self.factor.to(pixel_values) + self.shift.to(pixel_values)
        if pixels.shape[-2:] != self.size:
            pixels = F.interpolate(pixels, self.size, mode="bicubic", align_corners=False, antialias=True)
        images = self.model.get_image_features(pixel_values=pixels.to(self.model.dtype)).pooler_output
        texts = self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1)

    @property
    def scale(self) -> torch.Tensor:
        """Its factor of the cosines."""
        return self.model.logit_scale.exp().detach()


def _statistics(processor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
