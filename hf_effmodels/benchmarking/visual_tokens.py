"""A language model that sees by visual tokens in its sequence, as LLaVA does: what ADEM-VL is timed against."""

import torch
from torch import nn
from transformers import AutoModelForCausalLM


class VisualTokenModel(nn.Module):
    """ADEM-VL's vision tower, visual tokens and decoder, with the tokens before the text instead of in the fusion.

    Trained are the projection of the visual tokens and the bottlenecks of the vision tower, as in ADEM-VL; the tower
    and the decoder are frozen.

    Args:
        model: an `AdemVLForConditionalGeneration`, taken apart: everything but the fusion is used.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.vision = model.model
        del self.vision.language_model
        self.language_model = AutoModelForCausalLM.from_config(model.config.text_config).requires_grad_(False)

    def embed(self, input_ids: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, T) and (B, 3, height, width) -> (B, N + T, D)."""
        visual = self.vision.encode_images(pixel_values).image_embeds
        words = input_ids.clamp(max=self.language_model.config.vocab_size - 1)  # the image token is outside of it
        text = self.language_model.get_input_embeddings()(words)
        return torch.cat([visual.to(text.dtype), text], dim=1)

    def forward(self, input_ids, pixel_values, labels=None, **kwargs):
        if labels is not None:
            visual = labels.new_full((len(labels), self.vision.config.num_vision_tokens), -100)
            labels = torch.cat([visual, labels], dim=1)
        return self.language_model(inputs_embeds=self.embed(input_ids, pixel_values), labels=labels, **kwargs)

    @torch.no_grad()
    def generate(self, input_ids, pixel_values, attention_mask=None, **kwargs):
        """The rows have no padding, so the mask, which knows nothing of the visual tokens, says nothing."""
        return self.language_model.generate(inputs_embeds=self.embed(input_ids, pixel_values), **kwargs)
