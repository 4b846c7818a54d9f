"""transformers' CLIP around the two towers of a LightCLIP preset: the same networks, its code, its loss."""

from torch import nn
from transformers import CLIPConfig, CLIPModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..models import create_model, get_config


class _Tower(nn.Module):
    """An image tower whose pooled features are a vector, as CLIP's are."""

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower

    def forward(self, pixel_values, **kwargs):
        outputs = self.tower(pixel_values=pixel_values)
        return BaseModelOutputWithPooling(pooler_output=outputs.pooler_output.flatten(1))


def clip(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """CLIPModel with the preset's image tower (as trained: it folds nothing) and a text tower of the same sizes."""
    ours, config = create_model(preset, **overrides), get_config(preset, **overrides)
    smallest = {"hidden_size": 2, "intermediate_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = CLIPModel(
        CLIPConfig(
            text_config=config.text_config.to_dict(),
            vision_config={**smallest, "image_size": 2, "patch_size": 2},  # gives way to the preset's
            projection_dim=config.projection_dim,
        )
    )
    model.vision_model = _Tower(ours.vision_model)
    model.visual_projection = nn.Linear(ours.visual_projection.in_features, config.projection_dim, bias=False)
    return model.eval()
