"""TinyViT (https://arxiv.org/abs/2207.10666): inverted residuals, then attention in windows with a convolution between
attention and MLP. Its blocks are in `layers/tinyvit_blocks.py`; maps are (batch, channels, height, width).
"""

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from ..layers.backbone import StagesBackboneMixin
from ..layers.tinyvit_blocks import TinyVitBlocksMixin, TinyVitStage, TinyVitStem
from .configuration_tinyvit import TinyVitConfig


class TinyVitPreTrainedModel(TinyVitBlocksMixin, PreTrainedModel):
    """What all TinyViTs share: configuration, initialisation, folding."""

    config: TinyVitConfig
    base_model_prefix = "tinyvit"


class TinyVitModel(TinyVitPreTrainedModel):
    """The network without its classifier.

    `last_hidden_state` is the map of the last stage, `pooler_output` its mean over all positions, normalised;
    `hidden_states` are the outputs of the stem and of each stage, `attentions` a tensor (batch · windows, heads,
    window², window²) for each block with attention.
    """

    def __init__(self, config: TinyVitConfig):
        super().__init__(config)
        self.stem = TinyVitStem(config)
        self.stages = nn.ModuleList(TinyVitStage(config, index) for index in range(len(config.depths)))
        self.norm = nn.LayerNorm(config.embed_dims[-1], eps=config.layer_norm_eps)
        self.post_init()

    @can_return_tuple
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> BaseModelOutputWithPooling:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, height, width), of any size from 32 pixels.
        """
        hidden_states = self.stem(self.prepare_pixels(pixel_values))
        for stage in self.stages:
            hidden_states = stage(hidden_states, **kwargs)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states, pooler_output=self.norm(hidden_states.mean((2, 3)))
        )


class TinyVitForImageClassification(TinyVitPreTrainedModel):
    """TinyViT with its linear classifier on the pooled features."""

    # Without this the Trainer would believe that the loss is already divided by the accumulated batch.
    accepts_loss_kwargs = False

    def __init__(self, config: TinyVitConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.tinyvit = TinyVitModel(config)
        width = config.embed_dims[-1]
        self.classifier = nn.Linear(width, config.num_labels) if config.num_labels > 0 else nn.Identity()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, height, width).
            labels: class indices (batch,), or multi-hot rows (batch, num_labels), or values for a regression; which
                of them is decided by `config.problem_type`. The loss is returned with them.
        """
        outputs = self.tinyvit(pixel_values, **kwargs)
        logits = self.classifier(outputs.pooler_output)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class TinyVitBackbone(StagesBackboneMixin, TinyVitPreTrainedModel):
    """The stages as feature maps for detectors and segmenters.

    Strides: 4 ("stem", "stage1"), 8 ("stage2"), 16 ("stage3"), 32 ("stage4").
    """

    _keys_to_ignore_on_load_unexpected = [r"^(tinyvit\.)?norm\.", r"^classifier\."]

    def __init__(self, config: TinyVitConfig):
        super().__init__(config)
        self.num_features = config.hidden_sizes
        self.stem = TinyVitStem(config)
        self.stages = nn.ModuleList(TinyVitStage(config, index) for index in range(len(config.depths)))
        self.post_init()


__all__ = [
    "TinyVitBackbone",
    "TinyVitForImageClassification",
    "TinyVitModel",
    "TinyVitPreTrainedModel",
]
