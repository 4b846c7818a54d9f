"""SparK: a convolutional network computes what is visible of an image, a decoder of several scales tells the rest."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    MODEL_FOR_BACKBONE_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoBackbone,
    AutoModel,
)
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from ..layers.encoders import save_encoder, without_pooler
from ..layers.initialization import StockPartsMixin, init_like_torch
from ..layers.pixels import check_pixels
from ..layers.visible import VisibleBatchNorm2d, only_visible, see_visible_only, spread
from .configuration_spark import SparkConfig


@dataclass
class SparkOutput(ModelOutput):
    """What a step of masked image modelling gives.

    Attributes:
        loss: mean square error over the masked blocks.
        reconstruction: (batch, channels, height, width), the prediction.
        mask: (batch, rows, columns) over blocks, 1 where one is masked.
        feature_maps: of the encoder, the coarsest first, (batch, channels, height / stride, width / stride) each; what
            stands at masked places means nothing.
    """

    loss: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    mask: torch.FloatTensor | None = None
    feature_maps: tuple[torch.FloatTensor, ...] | None = None


class VisibleLayerNorm(nn.LayerNorm):
    """Over the channels of (batch, channels, rows, columns)."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SparkDensify(nn.Module):
    """A map of the encoder for the decoder: normalised, with a learnt colour where nothing was computed (section 3.2).

    Args:
        width, out_width: channels of the map and of the decoder at its scale.
        kernel_size: 1 for the coarsest map, 3 for the others.
    """

    def __init__(self, width: int, out_width: int, kernel_size: int, norm: str):
        super().__init__()
        self.norm = VisibleBatchNorm2d(width) if norm == "batch" else VisibleLayerNorm(width, eps=1e-6)
        self.mask_token = nn.Parameter(torch.zeros(1, width, 1, 1))
        plain = kernel_size == 1 and width == out_width
        self.projection = (
            nn.Identity() if plain else nn.Conv2d(width, out_width, kernel_size, padding=kernel_size // 2)
        )

    def forward(self, hidden: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        normed = self.norm(hidden)
        return self.projection(torch.where(visible > 0, normed, self.mask_token.to(normed.dtype)))


class SparkDecoderBlock(nn.Module):
    """Twice as large, half as many channels."""

    def __init__(self, width: int):
        super().__init__()
        self.enlarge = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.activation = nn.ReLU6()
        self.conv2 = nn.Conv2d(width, width // 2, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width // 2)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = self.activation(self.norm1(self.conv1(self.enlarge(hidden))))
        return self.norm2(self.conv2(hidden))


class SparkDecoder(nn.Module):
    """As in a U-Net: on the way to full size each map of the encoder is added at its scale."""

    def __init__(self, config: SparkConfig):
        super().__init__()
        width, count = config.decoder_hidden_size, config.decoder_blocks
        self.blocks = nn.ModuleList(SparkDecoderBlock(width >> number) for number in range(count))
        self.prediction = nn.Conv2d(width >> count, config.num_channels, 1)
        for layer in self.modules():  # read by `_init_weights`, which sees layers one by one
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                layer.of_decoder = True

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        hidden = maps[0]
        for number, block in enumerate(self.blocks):
            if 0 < number < len(maps):
                hidden = hidden + maps[number]
            hidden = block(hidden)
        return self.prediction(hidden)


class SparkPreTrainedModel(StockPartsMixin, PreTrainedModel):
    """What SparK's models share: configuration and initialisation."""

    config: SparkConfig
    base_model_prefix = "encoder"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # A block that is computed again in the backward pass would know nothing of what is visible.
    supports_gradient_checkpointing = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, SparkDensify):
            init.trunc_normal_(module.mask_token, std=std, a=-std, b=std)
        elif getattr(module, "of_decoder", False):
            if isinstance(module, nn.ConvTranspose2d):
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            else:
                init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            init_like_torch(module)
        else:
            super()._init_weights(module)


class SparkForPreTraining(SparkPreTrainedModel):
    """A convolutional encoder that sees what is visible, and a decoder; afterwards the encoder goes its own way
    (`save_encoder`)."""

    accepts_loss_kwargs = False

    def __init__(self, config: SparkConfig):
        super().__init__(config)
        self.encoder = _encoder(config)
        see_visible_only(self.encoder)
        norm, width = config.densify_norm, config.decoder_hidden_size
        self.densify = nn.ModuleList(
            SparkDensify(channels, width >> number, 3 if number else 1, norm)
            for number, channels in enumerate(_widths(config))
        )
        self.decoder = SparkDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        noise: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        **kwargs,
    ) -> SparkOutput:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, height, width), of any size that blocks divide.
            noise: (batch, blocks): the blocks of the smallest values stay visible, `round(blocks · (1 - mask_ratio))`
                of each image; drawn if not given.
            mask: (batch, blocks), 1 for masked blocks, instead of noise.

        Raises:
            ValueError: sizes that blocks do not divide, both of noise and mask, or nothing visible or masked.
        """
        check_pixels(pixel_values, self.config.num_channels)
        mask = self._blocks(pixel_values, noise, mask)
        visible = 1 - mask[:, None]
        size = tuple(pixel_values.shape[-2:])
        with only_visible(visible):
            maps = _maps(self.encoder, pixel_values * spread(visible, size), self.config.strides)
            dense = [
                densify(hidden, spread(visible, tuple(hidden.shape[-2:])))
                for densify, hidden in zip(self.densify, maps, strict=True)
            ]
        reconstruction = self.decoder(dense)
        return SparkOutput(
            loss=self.block_errors(pixel_values, reconstruction)[mask > 0].mean(),
            reconstruction=reconstruction,
            mask=mask,
            feature_maps=tuple(maps),
        )

    def target_of(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What is to be predicted, an image like `pixel_values`: with `normalize_target` each block by its mean and
        deviation, over pixels and colours together."""
        if not self.config.normalize_target:
            return pixel_values
        blocks = self._in_blocks(pixel_values)
        variance, mean = torch.var_mean(blocks, dim=(1, 3, 5), keepdim=True)
        return ((blocks - mean) / (variance + 1e-6).sqrt()).reshape(pixel_values.shape)

    def block_errors(self, pixel_values: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
        """(batch, rows, columns), the mean square error of each block."""
        error = (reconstruction - self.target_of(pixel_values).to(reconstruction.dtype)) ** 2
        return self._in_blocks(error).mean((1, 3, 5))

    @torch.no_grad()
    def image_losses(self, pixel_values: torch.Tensor, outputs: SparkOutput) -> torch.Tensor:
        """The loss of each image of a batch by itself, (batch, 1)."""
        errors = self.block_errors(pixel_values, outputs.reconstruction)
        return ((errors * outputs.mask).sum((1, 2)) / outputs.mask.sum((1, 2)))[:, None]

    def count_blocks(self, height: int, width: int) -> int:
        """Blocks of an image, as many as it takes numbers of `noise`.

        Raises:
            ValueError: blocks do not divide the size, or there is one only.
        """
        block = self.config.block_size
        if height % block or width % block or height * width == block**2:
            raise ValueError(
                f"pixel_values: got {height}×{width} pixels, accepted are two or more blocks of {block} (block_size)."
            )
        return height // block * (width // block)

    def save_encoder(self, folder, image_size: int | None = None, window_size: int | None = None) -> None:
        """Write the encoder alone, as a model of its own class: `AutoModel.from_pretrained(folder)`, and with a new
        head `AutoModelForImageClassification` or `AutoModelForObjectDetection`, open it."""
        save_encoder(self.encoder, folder, image_size, window_size)

    def _in_blocks(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, channels, rows, block, columns, block)."""
        block = self.config.block_size
        return images.unflatten(3, (-1, block)).unflatten(2, (-1, block))

    def _blocks(self, pixel_values, noise, mask) -> torch.Tensor:
        """(batch, rows, columns), 1 for masked."""
        height, width = pixel_values.shape[-2:]
        shape, block = (len(pixel_values), self.count_blocks(height, width)), self.config.block_size
        for name, given in (("noise", noise), ("mask", mask)):
            if given is not None and tuple(given.shape) != shape:
                raise ValueError(f"{name}: got the shape {tuple(given.shape)}, expected {shape}.")
        if mask is not None and noise is not None:
            raise ValueError("mask: give either mask or noise, not both.")
        if mask is None:
            if noise is None:
                noise = torch.rand(shape, device=pixel_values.device)
            kept = round(shape[1] * (1 - self.config.mask_ratio))
            mask = noise.argsort(1).argsort(1) >= kept
        hidden = mask.sum(1)
        if not ((hidden > 0) & (hidden < shape[1])).all():
            raise ValueError(
                f"mask_ratio: of {shape[1]} blocks of an image {int(hidden.max())} are masked; some have to be, and "
                "some visible."
            )
        return mask.to(pixel_values.dtype).unflatten(1, (height // block, width // block))


def _encoder(config: SparkConfig) -> PreTrainedModel:
    """The network alone. What is no classifier has more than that in its `AutoModel`, a detector its neck."""
    backbone = config.backbone_config
    kind = type(backbone)
    if kind in MODEL_FOR_BACKBONE_MAPPING and kind not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        return AutoBackbone.from_config(backbone)
    return AutoModel.from_config(backbone, **without_pooler(backbone))


def _maps(encoder: PreTrainedModel, pixel_values: torch.Tensor, strides: list[int]) -> list[torch.Tensor]:
    """The encoder's last map of each stride.

    Raises:
        ValueError: there is none.
    """
    outputs = encoder(pixel_values=pixel_values, output_hidden_states=True)
    last = getattr(outputs, "last_hidden_state", None)
    states = [*(outputs.hidden_states or ()), *(() if last is None else (last,))]
    height = pixel_values.shape[-2]
    found = {height / state.shape[-2]: state for state in states if state.ndim == 4}
    missing = [stride for stride in strides if stride not in found]
    if missing:
        raise ValueError(
            f"backbone_config: {encoder.config.model_type} has maps at the strides {sorted(map(int, found))}, not at "
            f"{missing}; accepted are convolutional networks that have, of fewer scales or another block_size."
        )
    return [found[stride] for stride in strides]


def _widths(config: SparkConfig) -> list[int]:
    """Channels of the maps: as the configuration says, or as one look at an empty image finds."""
    if config.encoder_widths is None:
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        with torch.device("meta"), torch.no_grad():
            empty = torch.empty(1, config.num_channels, height, width)
            maps = _maps(_encoder(config).eval(), empty, config.strides)
        config.encoder_widths = [hidden.shape[1] for hidden in maps]
    return list(config.encoder_widths)


__all__ = ["SparkForPreTraining", "SparkPreTrainedModel"]
