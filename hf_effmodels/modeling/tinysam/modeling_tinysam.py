"""TinySAM (https://arxiv.org/abs/2312.13789): Segment Anything with a TinyViT for an image encoder.

Everything behind the encoder is transformers' SAM.
"""

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.models.sam.modeling_sam import (
    SamImageSegmentationOutput,
    SamLayerNorm,
    SamMaskDecoder,
    SamModel,
    SamPositionalEmbedding,
    SamPromptEncoder,
    SamVisionEncoderOutput,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from ..layers.batch_norm import BatchNormMixin
from ..layers.reparameterization import ReparameterizationMixin
from ..layers.tinyvit_blocks import TinyVitBlocksMixin, TinyVitStage, TinyVitStem
from .configuration_tinysam import TinySamConfig, TinySamVisionConfig


class TinySamNeck(nn.Module):
    """1×1 convolution, layer norm over the channels, 3×3 convolution, layer norm."""

    def __init__(self, config: TinySamVisionConfig):
        super().__init__()
        width, eps = config.output_channels, config.neck_layer_norm_eps
        self.conv1 = nn.Conv2d(config.embed_dims[-1], width, kernel_size=1, bias=False)
        self.layer_norm1 = SamLayerNorm(width, eps=eps, data_format="channels_first")
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.layer_norm2 = SamLayerNorm(width, eps=eps, data_format="channels_first")

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.layer_norm2(self.conv2(self.layer_norm1(self.conv1(hidden_states))))


class TinySamVisionModel(TinyVitBlocksMixin, PreTrainedModel):
    """The image encoder.

    `last_hidden_state` are the image embeddings (batch, output_channels, image_size / 16, image_size / 16);
    `hidden_states` are the outputs of the stem and of each stage, `attentions` those of each block with attention.
    """

    config: TinySamVisionConfig
    base_model_prefix = "vision_encoder"

    def __init__(self, config: TinySamVisionConfig):
        super().__init__(config)
        self.stem = TinyVitStem(config)
        self.stages = nn.ModuleList(TinyVitStage(config, index) for index in range(len(config.depths)))
        self.neck = TinySamNeck(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.stem

    @can_return_tuple
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> SamVisionEncoderOutput:
        """
        Args:
            pixel_values: normalised and padded images, (batch, num_channels, image_size, image_size).
        """
        pixel_values, side = self.prepare_pixels(pixel_values), self.config.image_size
        if tuple(pixel_values.shape[-2:]) != (side, side):
            raise ValueError(
                f"pixel_values: got images of {tuple(pixel_values.shape[-2:])} pixels, expected ({side}, {side}) as "
                f"config.vision_config.image_size is {side}; the image processor pads to it."
            )
        hidden_states = self.stem(pixel_values)
        for stage in self.stages:
            hidden_states = stage(hidden_states, **kwargs)
        return SamVisionEncoderOutput(last_hidden_state=self.neck(hidden_states))


class TinySamModel(ReparameterizationMixin, BatchNormMixin, SamModel):
    """TinySAM: SamModel with another image encoder; points, boxes and masks prompt it as they do SAM."""

    config: TinySamConfig
    _no_split_modules = ["TinyVitMBConv", "TinyVitBlock", "SamTwoWayAttentionBlock"]
    _supports_flash_attn = False  # the kernels take no bias
    _supports_flex_attn = False

    def __init__(self, config: TinySamConfig):
        super(SamModel, self).__init__(config)  # SamModel's own would build SAM's image encoder
        self.shared_image_embedding = SamPositionalEmbedding(config.vision_config)
        self.vision_encoder = TinySamVisionModel(config.vision_config)
        self.prompt_encoder = SamPromptEncoder(config)
        # These modules are no PreTrainedModels: nothing else tells them the implementation of attention.
        config.mask_decoder_config._attn_implementation = config._attn_implementation
        self.mask_decoder = SamMaskDecoder(config.mask_decoder_config)
        self.post_init()

    def reparameterize(self):
        super().reparameterize()
        self.config.vision_config.reparameterized = True
        return self

    reparameterize.__doc__ = ReparameterizationMixin.reparameterize.__doc__

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_points: torch.Tensor | None = None,
        input_labels: torch.Tensor | None = None,
        input_boxes: torch.Tensor | None = None,
        input_masks: torch.Tensor | None = None,
        image_embeddings: torch.Tensor | None = None,
        multimask_output: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SamImageSegmentationOutput:
        """
        Args:
            pixel_values: images as `SamImageProcessor` makes them, (batch, num_channels, image_size, image_size).
            input_points: (batch, prompts, points, 2), x and y in pixels of the processed image.
            input_labels: (batch, prompts, points): 1 in the object, 0 outside, -10 no point.
            input_boxes: (batch, prompts, 4): left, top, right, bottom in pixels of the processed image.
            input_masks: logits of a mask of before, (batch, 1, image_size / 4, image_size / 4).
            image_embeddings: of `get_image_embeddings`, in place of `pixel_values`.
            multimask_output: three masks, or the one for unambiguous prompts; see `config.always_multimask`.

        Returns:
            `pred_masks` (batch, prompts, masks, image_size / 4, image_size / 4), logits; `iou_scores` (batch, prompts,
            masks), the model's own guess of each mask's quality.
        """
        return super().forward(
            pixel_values=pixel_values,
            input_points=input_points,
            input_labels=input_labels,
            input_boxes=input_boxes,
            input_masks=input_masks,
            image_embeddings=image_embeddings,
            multimask_output=multimask_output or self.config.always_multimask,
            **kwargs,
        )


__all__ = ["TinySamModel", "TinySamVisionModel"]
