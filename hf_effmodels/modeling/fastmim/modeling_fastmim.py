"""FastMIM: an encoder sees an image with blocks painted over, a thin decoder tells what was there.

Any vision model can be the encoder, since the masking is done in the image. Tokens are (batch, positions, width).
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModel, ViTConfig
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.models.vit.modeling_vit import ViTEmbeddings, ViTLayer
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from ..layers.encoders import save_encoder, without_pooler
from ..layers.hog import histograms_of_gradients
from ..layers.initialization import StockPartsMixin
from ..layers.own_blocks import OwnBlocksMixin
from ..layers.pixels import check_pixels
from ..layers.positions import sine_cosine_positions
from .configuration_fastmim import FastMimConfig


@dataclass
class FastMimOutput(ModelOutput):
    """What a step of masked image modelling gives.

    Attributes:
        loss: mean square error over what is masked.
        logits: (batch, tokens, target size), the prediction.
        pixel_mask: (batch, 1, height, width), 1 where a pixel is masked.
        loss_mask: (batch, 1, rows, columns), 1 where the loss counts: a position for each token, or for each block
            where blocks are smaller than tokens.
        masked_pixels: (batch, channels, height, width), what the encoder has seen.
        last_hidden_state: of the encoder, (batch, positions, width).
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    pixel_mask: torch.FloatTensor | None = None
    loss_mask: torch.FloatTensor | None = None
    masked_pixels: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None


class FastMimDecoder(nn.Module):
    """A few ViT blocks over all tokens, without positions of their own, and a linear layer."""

    def __init__(self, config: FastMimConfig, width: int):
        super().__init__()
        size, depth = config.decoder_hidden_size, config.decoder_num_hidden_layers
        self.embed = nn.Linear(width, size) if depth else nn.Identity()
        blocks = ViTConfig(
            hidden_size=size,
            intermediate_size=4 * size,
            num_attention_heads=config.decoder_num_attention_heads,
            layer_norm_eps=config.decoder_layer_norm_eps,
        )
        blocks._attn_implementation = config._attn_implementation
        self.blocks_config = blocks
        self.layers = nn.ModuleList(ViTLayer(blocks) for _ in range(depth))
        self.norm = nn.LayerNorm(size, eps=config.decoder_layer_norm_eps)
        self.prediction = nn.Linear(size, config.target_size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(tokens)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.prediction(self.norm(tokens))


class FixedPositionEmbeddings(ViTEmbeddings):
    """A ViT's, whose table is the sine-cosine one: at another image size it is computed anew, not interpolated."""

    def interpolate_pos_encoding(self, embeddings: torch.Tensor, height: int, width: int) -> torch.Tensor:
        patch, table = self.patch_embeddings.patch_size, self.position_embeddings
        grid = (height // patch[0], width // patch[1])
        return sine_cosine_positions(table.shape[-1], *grid, extra_tokens=1).to(table)[None]


class FastMimPreTrainedModel(OwnBlocksMixin, StockPartsMixin, PreTrainedModel):
    """What FastMIM's models share: configuration and initialisation."""

    config: FastMimConfig
    base_model_prefix = "encoder"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ["FixedPositionEmbeddings"]  # those of transformers' are known by their names

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, FastMimForPreTraining):
            init.normal_(module.mask_token, std=self.config.initializer_range)
            if (table := module.position_table) is not None:
                patches = module.encoder.embeddings.patch_embeddings
                grid = (side // patch for side, patch in zip(patches.image_size, patches.patch_size, strict=True))
                positions = sine_cosine_positions(table.shape[-1], *grid, extra_tokens=1)
                init.copy_(table, positions.float()[None])
        else:
            super()._init_weights(module)


class FastMimForPreTraining(FastMimPreTrainedModel):
    """An encoder, a decoder and the loss; after the training the encoder goes its own way (`save_encoder`)."""

    accepts_loss_kwargs = False

    def __init__(self, config: FastMimConfig):
        super().__init__(config)
        self.encoder = AutoModel.from_config(config.backbone_config, **without_pooler(config.backbone_config))
        self.mask_token = nn.Parameter(torch.zeros(1, config.num_channels, 1, 1))
        self.decoder = FastMimDecoder(config, _width(config))
        if config.backbone_config.model_type == "pvt_v2":
            _use_published_norms(self.encoder)
        if self.position_table is not None:
            self.encoder.embeddings = FixedPositionEmbeddings(config.backbone_config)
        self.post_init()
        self._freeze_positions()

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As `PreTrainedModel.from_pretrained`, which makes every loaded parameter learn: not the fixed table."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded)._freeze_positions()
        return loaded

    def _freeze_positions(self) -> None:
        if self.position_table is not None:
            self.position_table.requires_grad_(False)

    @property
    def position_table(self) -> nn.Parameter | None:
        """The table of a ViT that is fixed (`fixed_positions`), None elsewhere."""
        table = getattr(getattr(self.encoder, "embeddings", None), "position_embeddings", None)
        return table if self.config.fixed_positions and self.config.backbone_config.model_type == "vit" else None

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        noise: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        **kwargs,
    ) -> FastMimOutput:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, height, width), of any size that the encoder takes;
                a ViT's fixed positions are computed anew where it is not `image_size`, learnt ones interpolated.
            noise: (batch, blocks): the blocks of the smallest values stay visible, `int(blocks · (1 - mask_ratio))`
                of each image; drawn if not given.
            mask: (batch, blocks), 1 for masked blocks, instead of noise.

        Raises:
            ValueError: sizes that blocks or tokens do not divide, both of noise and mask, or an image of which nothing
                is masked.
        """
        check_pixels(pixel_values, self.config.num_channels)
        height, width = pixel_values.shape[-2:]
        self.count_blocks(height, width)
        rows, columns = height // self.config.block_size, width // self.config.block_size
        mask = self._blocks(pixel_values, rows, columns, noise, mask).view(-1, 1, rows, columns)
        pixel_mask = _spread(mask, self.config.block_size)
        masked = pixel_values * (1 - pixel_mask) + pixel_mask * self.mask_token
        hidden = self.encoder(pixel_values=masked, **self._at_another_size(pixel_values)).last_hidden_state
        tokens = hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden
        stride = self.config.encoder_stride
        count = height // stride * (width // stride)
        if tokens.shape[1] < count:
            raise ValueError(
                f"encoder_stride: got {stride}, but the encoder gives {tokens.shape[1]} tokens for "
                f"{height}×{width} pixels."
            )
        logits = self.decoder(tokens)[:, tokens.shape[1] - count :]  # class tokens and the like come first
        loss_mask = _spread(mask, max(1, self.config.block_size // stride))
        return FastMimOutput(
            loss=self.reconstruction_loss(pixel_values, logits, loss_mask),
            logits=logits,
            pixel_mask=pixel_mask,
            loss_mask=loss_mask,
            masked_pixels=masked,
            last_hidden_state=hidden,
        )

    def reconstruction_loss(
        self, pixel_values: torch.Tensor, logits: torch.Tensor, loss_mask: torch.Tensor
    ) -> torch.Tensor:
        """Mean square error between prediction and target over what `loss_mask` (see `FastMimOutput`) has.

        Where the mask is finer than the tokens, both are compared cell by cell of the target.
        """
        target = self.target_of(pixel_values)
        predicted = self.prediction_of(logits, target)
        mask = _spread(loss_mask, target.shape[2] // loss_mask.shape[2]).to(target.dtype)
        return ((predicted - target) ** 2 * mask).sum() / (mask.sum() * target.shape[1])

    def prediction_of(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The prediction `logits` (batch, tokens, target size) as the map that its target is, see `target_of`."""
        rows, columns = target.shape[-2:]
        per_token = math.isqrt(rows * columns // logits.shape[1])  # cells of the target along a token's side
        predicted = logits.to(target.dtype).transpose(1, 2)
        predicted = predicted.reshape(len(target), -1, per_token, per_token, rows // per_token, columns // per_token)
        return predicted.permute(0, 1, 4, 2, 5, 3).reshape(target.shape)

    def target_of(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What is to be predicted, as a map (batch, channels, rows, columns): histograms of each cell, or the pixels
        of each patch, row by row with the colours of a pixel together."""
        config = self.config
        if config.target == "hog":
            return histograms_of_gradients(
                pixel_values,
                config.hog_bins,
                config.hog_cell,
                window=config.hog_window,
                normalize=config.normalize_target,
            )
        side = min(config.encoder_stride, config.block_size)
        batch, channels, height, width = pixel_values.shape
        patches = pixel_values.reshape(batch, channels, height // side, side, width // side, side)
        patches = patches.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)
        if config.normalize_target:
            variance, mean = torch.var_mean(patches, dim=1, keepdim=True)
            patches = (patches - mean) / (variance + 1e-6).sqrt()
        return patches

    @torch.no_grad()
    def image_losses(self, pixel_values: torch.Tensor, outputs: FastMimOutput) -> torch.Tensor:
        """The loss of each image of a batch by itself, (batch, 1)."""
        images = zip(pixel_values.split(1), outputs.logits.split(1), outputs.loss_mask.split(1), strict=True)
        return torch.stack([self.reconstruction_loss(*image) for image in images])[:, None]

    def count_blocks(self, height: int, width: int) -> int:
        """Blocks of an image, as many as it takes numbers of `noise`.

        Raises:
            ValueError: blocks or tokens do not divide the size.
        """
        for name, side in (("block_size", self.config.block_size), ("encoder_stride", self.config.encoder_stride)):
            if height % side or width % side:
                raise ValueError(f"pixel_values: got {height}×{width} pixels, which {name} {side} does not divide.")
        return height // self.config.block_size * (width // self.config.block_size)

    def save_encoder(self, folder, image_size: int | None = None, window_size: int | None = None) -> None:
        """Write the encoder alone, as a model of its own class: `AutoModel.from_pretrained(folder)`, and with a new
        head `AutoModelForImageClassification`, open it. See `layers.encoders.save_encoder` for other sizes."""
        save_encoder(self.encoder, folder, image_size, window_size)

    def _at_another_size(self, pixel_values: torch.Tensor) -> dict:
        """What a ViT is told where the images are not of the size of its table."""
        patches = getattr(getattr(self.encoder, "embeddings", None), "patch_embeddings", None)
        if self.config.backbone_config.model_type != "vit" or pixel_values.shape[-2:] == tuple(patches.image_size):
            return {}
        return {"interpolate_pos_encoding": True}

    def _blocks(self, pixel_values, rows: int, columns: int, noise, mask) -> torch.Tensor:
        """(batch, blocks), 1 for masked."""
        shape = (len(pixel_values), rows * columns)
        for name, given in (("noise", noise), ("mask", mask)):
            if given is not None and tuple(given.shape) != shape:
                raise ValueError(f"{name}: got the shape {tuple(given.shape)}, expected {shape}.")
        if mask is not None:
            if noise is not None:
                raise ValueError("mask: give either mask or noise, not both.")
            if not torch.compiler.is_compiling() and not mask.any(1).all():
                raise ValueError("mask: of an image nothing is masked, so that there is nothing to predict.")
            return mask.to(pixel_values.dtype)
        if noise is None:
            noise = torch.rand(shape, device=pixel_values.device)
        kept = int(shape[1] * (1 - self.config.mask_ratio))
        return (noise.argsort(1).argsort(1) >= kept).to(pixel_values.dtype)


def _spread(mask: torch.Tensor, times: int) -> torch.Tensor:
    """Each value of (batch, 1, rows, columns) over a square of `times` × `times`."""
    return mask.repeat_interleave(times, 2).repeat_interleave(times, 3)


def _width(config: FastMimConfig) -> int:
    """Channels of the encoder's output: as the configuration says, or as one look at an empty image finds."""
    if config.encoder_width is None:
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        with torch.device("meta"), torch.no_grad():
            probe = AutoModel.from_config(config.backbone_config, **without_pooler(config.backbone_config)).eval()
            hidden = probe(pixel_values=torch.empty(1, config.num_channels, height, width)).last_hidden_state
        config.encoder_width = hidden.shape[1] if hidden.ndim == 4 else hidden.shape[-1]
    return config.encoder_width


def _use_published_norms(encoder: nn.Module) -> None:
    """PVTv2 has two sizes of epsilon in its release, of which transformers' configuration has only one."""
    for name, module in encoder.named_modules():
        if isinstance(module, nn.LayerNorm) and ("patch_embedding" in name or "attention" in name):
            module.eps = 1e-5
