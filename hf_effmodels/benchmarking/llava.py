"""transformers' LLaVA of the sizes of an ADEM-VL preset: as it is, and with PyramidDrop."""

import torch
from torch import nn
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

from ..compression.tokens.pyramid_drop import apply_pyramid_drop
from ..models import get_config


class LlavaOfOneImage(nn.Module):
    """LLaVA that takes its image token once and has it as often as an image has tokens, as LLaVA's processor does.

    The vision tower is frozen, as LLaVA-1.5 is trained.

    Args:
        config: of an `AdemVLForConditionalGeneration`: its decoder, vision tower and image token.
    """

    def __init__(self, config):
        super().__init__()
        text, vision = config.text_config, config.vision_config
        self.model = LlavaForConditionalGeneration(
            LlavaConfig(
                # The image token is one more word.
                text_config=type(text)(**{**text.to_dict(), "vocab_size": text.vocab_size + 1}),
                vision_config=CLIPVisionConfig(**vision.to_dict()),
                image_token_index=text.vocab_size,
            )
        ).eval()
        self.model.model.vision_tower.requires_grad_(False)
        self.config = self.model.config
        self.given, self.count = config.image_token_id, (vision.image_size // vision.patch_size) ** 2

    def expand(self, ids: torch.Tensor, of_image: int) -> torch.Tensor:
        """(B, T) with the image token at one place -> (B, T + count - 1) with `of_image` there, `count` times."""
        place = int((ids[0] == self.given).nonzero()[0])
        image = ids.new_full((len(ids), self.count), of_image)
        return torch.cat([ids[:, :place], image, ids[:, place + 1 :]], dim=1)

    def forward(self, input_ids, pixel_values, labels=None, **kwargs):
        ids = self.expand(input_ids, self.config.image_token_id)
        if labels is not None:
            labels = ids.masked_fill(ids == self.config.image_token_id, -100)
        return self.model(input_ids=ids, pixel_values=pixel_values, labels=labels, **kwargs)

    @torch.no_grad()
    def generate(self, input_ids, pixel_values, attention_mask=None, **kwargs):
        """The rows have no padding."""
        ids = self.expand(input_ids, self.config.image_token_id)
        mask = torch.ones_like(ids)
        return self.model.generate(input_ids=ids, pixel_values=pixel_values, attention_mask=mask, **kwargs)


def llava(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """transformers' LLaVA with the preset's decoder and vision tower."""
    return LlavaOfOneImage(get_config(preset, **overrides)).eval()


def llava_pyramid_drop(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """The same with PyramidDrop as published: four equal stages, half of the image tokens leave after each."""
    model = llava(preset, folded, overrides)
    apply_pyramid_drop(model.model)
    return model
