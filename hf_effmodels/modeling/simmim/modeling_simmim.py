"""SimMIM: a transformer sees an image with a mask token in the place of some patches, one layer tells the pixels."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModel
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from ..layers.encoders import save_encoder
from ..layers.initialization import StockPartsMixin
from ..layers.pixels import check_pixels
from .configuration_simmim import ENCODERS, SimMimConfig


@dataclass
class SimMimOutput(ModelOutput):
    """What a step of masked image modelling gives.

    Attributes:
        loss: mean absolute error over the masked pixels.
        reconstruction: (batch, channels, height, width), the prediction.
        mask: (batch, rows, columns) over patches, 1 where one is masked.
        last_hidden_state: of the encoder, (batch, positions, width).
    """

    loss: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    mask: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None


class SimMimPreTrainedModel(StockPartsMixin, PreTrainedModel):
    """What SimMIM's models share: configuration and initialisation."""

    config: SimMimConfig
    base_model_prefix = "encoder"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True


class SimMimForPreTraining(SimMimPreTrainedModel):
    """An encoder of transformers with its own mask token, and a 1×1 convolution to pixels (section 3)."""

    accepts_loss_kwargs = False

    def __init__(self, config: SimMimConfig):
        super().__init__(config)
        backbone, stride = config.backbone_config, config.encoder_stride
        self.encoder = AutoModel.from_config(backbone, **ENCODERS[backbone.model_type])
        self.decoder = nn.Conv2d(backbone.hidden_size, stride**2 * config.num_channels, 1)
        self.post_init()

    @torch.no_grad()
    def initialize_weights(self) -> None:
        super().initialize_weights()
        # The encoder begins it with zeros, and this model, which has no parameter directly in it, is not asked.
        init.trunc_normal_(self.mask_token, std=self.config.initializer_range)

    @property
    def mask_token(self) -> nn.Parameter:
        """(1, 1, width) of a patch: what stands for the masked ones."""
        return self.encoder.embeddings.mask_token

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        noise: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        **kwargs,
    ) -> SimMimOutput:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, height, width).
            noise: (batch, blocks): the blocks of the smallest values are masked, `⌈blocks · mask_ratio⌉` of each
                image; drawn if not given.
            bool_masked_pos: (batch, patches), true for masked patches, instead of noise.

        Raises:
            ValueError: sizes that blocks do not divide, noise and mask of another shape, or both.
        """
        check_pixels(pixel_values, self.config.num_channels)
        mask = self._mask(pixel_values, noise, bool_masked_pos)
        hidden = self.encoder(pixel_values=pixel_values, bool_masked_pos=mask.flatten(1).bool()).last_hidden_state
        stride, (height, width) = self.config.encoder_stride, pixel_values.shape[-2:]
        count = height // stride * (width // stride)
        maps = hidden[:, hidden.shape[1] - count :].transpose(1, 2)  # class tokens and the like come first
        maps = maps.unflatten(2, (height // stride, width // stride))
        reconstruction = nn.functional.pixel_shuffle(self.decoder(maps), stride)
        patch = self.config.backbone_config.patch_size
        of_pixels = mask.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None]
        error = (pixel_values - reconstruction).abs() * of_pixels
        # The published mask holds whole numbers: with the small number added their sum becomes a float32.
        return SimMimOutput(
            loss=error.sum() / (of_pixels.sum().float() + 1e-5) / self.config.num_channels,
            reconstruction=reconstruction,
            mask=mask,
            last_hidden_state=hidden,
        )

    @torch.no_grad()
    def image_losses(self, pixel_values: torch.Tensor, outputs: SimMimOutput) -> torch.Tensor:
        """The loss of each image of a batch by itself, (batch, 1)."""
        patch, channels = self.config.backbone_config.patch_size, self.config.num_channels
        of_pixels = outputs.mask.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None]
        error = ((pixel_values - outputs.reconstruction).abs() * of_pixels).flatten(1).sum(1)
        return (error / (of_pixels.flatten(1).sum(1).float() + 1e-5) / channels)[:, None]

    def count_blocks(self, height: int, width: int) -> int:
        """Blocks of an image, as many as it takes numbers of `noise`.

        Raises:
            ValueError: blocks do not divide the size.
        """
        block = self.config.mask_block_size
        if height % block or width % block:
            raise ValueError(
                f"pixel_values: got {height}×{width} pixels, which mask_block_size {block} does not divide."
            )
        return height // block * (width // block)

    def save_encoder(self, folder, image_size: int | None = None, window_size: int | None = None) -> None:
        """Write the encoder alone, as a model of its own class: `AutoModel.from_pretrained(folder)`, and with a new
        head `AutoModelForImageClassification`, open it. See `layers.encoders.save_encoder` for other sizes."""
        save_encoder(self.encoder, folder, image_size, window_size)

    def _mask(self, pixel_values, noise, bool_masked_pos) -> torch.Tensor:
        """(batch, rows, columns) over patches, 1 for masked."""
        block, patch = self.config.mask_block_size, self.config.backbone_config.patch_size
        (height, width), times = pixel_values.shape[-2:], block // patch
        blocks, patches = self.count_blocks(height, width), height // patch * (width // patch)
        for name, given, count in (("noise", noise, blocks), ("bool_masked_pos", bool_masked_pos, patches)):
            if given is not None and tuple(given.shape) != (len(pixel_values), count):
                shape = (len(pixel_values), count)
                raise ValueError(f"{name}: got the shape {tuple(given.shape)}, expected {shape}.")
        if bool_masked_pos is not None:
            if noise is not None:
                raise ValueError("bool_masked_pos: give either bool_masked_pos or noise, not both.")
            return bool_masked_pos.to(pixel_values.dtype).unflatten(1, (height // patch, width // patch))
        if noise is None:
            noise = torch.rand(len(pixel_values), blocks, device=pixel_values.device)
        masked = noise.argsort(1).argsort(1) < math.ceil(blocks * self.config.mask_ratio)
        mask = masked.to(pixel_values.dtype).unflatten(1, (height // block, width // block))
        return mask.repeat_interleave(times, 1).repeat_interleave(times, 2)


__all__ = ["SimMimForPreTraining", "SimMimPreTrainedModel"]
