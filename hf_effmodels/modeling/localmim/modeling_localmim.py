"""LocalMIM: low layers of an encoder reconstruct what is masked finely, high layers coarsely.

The encoder sees only what is visible. Tokens are (batch, tokens, width).
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import SwinModel, ViTConfig, ViTModel
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.models.vit.modeling_vit import ViTLayer
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from ..layers.encoders import save_encoder
from ..layers.hog import histograms_of_gradients
from ..layers.initialization import StockPartsMixin
from ..layers.own_blocks import OwnBlocksMixin
from ..layers.pixels import check_pixels
from ..layers.positions import sine_cosine_positions
from .configuration_localmim import LocalMimConfig
from .grouping import make_groups

#: Of a ViT's four scales: cells of the target along a side of a patch of 16 pixels.
_VIT_SCALES = (4, 2, 1, 0.5)
#: Of a Swin's four stages: pixels along a side of a token after it.
_SWIN_STRIDES = (8, 16, 32, 32)


@dataclass
class LocalMimOutput(ModelOutput):
    """What a step of masked image modelling gives; a tuple has an entry for each of the four scales.

    Attributes:
        loss: weighted sum of `losses`.
        losses: mean square error of each scale over what is masked.
        logits: (batch, cells, channels), the predictions, row by row.
        targets: the same shape.
        cell_masks: (batch, cells), 1 where a cell is masked, a share where it covers masked and visible patches.
        mask: (batch, patches) or, of a Swin, (batch, blocks of 32 pixels), 1 for masked.
        ids_restore: the place of each patch among the visible ones, which come first, and the masked ones; of a Swin
            for each scale, of the tokens block by block.
        latents: (batch, visible tokens, width), what each decoder was given.
    """

    loss: torch.FloatTensor | None = None
    losses: tuple[torch.FloatTensor, ...] | None = None
    logits: tuple[torch.FloatTensor, ...] | None = None
    targets: tuple[torch.FloatTensor, ...] | None = None
    cell_masks: tuple[torch.FloatTensor, ...] | None = None
    mask: torch.FloatTensor | None = None
    ids_restore: torch.LongTensor | tuple[torch.LongTensor, ...] | None = None
    latents: tuple[torch.FloatTensor, ...] | None = None


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map (batch, channels, height, width)."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden_states.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _vit_head(width: int, channels: int, scale: float) -> nn.Sequential:
    """From a map with a place for each patch to one of the target's cells (section 3.2)."""
    half, quarter = width // 2, width // 4
    if scale == 4:
        return nn.Sequential(
            nn.ConvTranspose2d(width, half, 2, stride=2),
            ChannelNorm(half, eps=1e-6),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, stride=2),
            nn.Conv2d(quarter, channels, 1),
        )
    if scale == 2:
        return nn.Sequential(nn.ConvTranspose2d(width, half, 2, stride=2), nn.Conv2d(half, channels, 1))
    if scale == 1:
        return nn.Sequential(nn.Conv2d(width, channels, 1))
    return nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(width, channels, 1))


class LocalMimDecoder(nn.Module):
    """A narrow transformer over visible and masked tokens with fixed positions; `head` makes the prediction of it."""

    def __init__(self, config: LocalMimConfig, width: int, size: int, grid: int, extra_tokens: int, head: nn.Module):
        super().__init__()
        self.grid, self.extra_tokens = grid, extra_tokens
        self.embed = nn.Linear(width, size)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, extra_tokens + grid**2, size), requires_grad=False)
        blocks = ViTConfig(
            hidden_size=size,
            intermediate_size=4 * size,
            num_attention_heads=config.decoder_num_attention_heads,
            layer_norm_eps=1e-6,
        )
        blocks._attn_implementation = config._attn_implementation
        self.blocks_config = blocks
        self.layers = nn.ModuleList(ViTLayer(blocks) for _ in range(config.decoder_num_hidden_layers))
        self.norm = nn.LayerNorm(size, eps=1e-6)
        self.head = head

    def forward(self, visible: torch.Tensor, ids_restore: torch.Tensor, raster: torch.Tensor | None) -> torch.Tensor:
        """
        Args:
            visible: (batch, extra tokens + visible tokens, width).
            ids_restore: (batch, tokens), see `LocalMimOutput`.
            raster: (tokens,), where the tokens of a block layout are row by row; None where they are so already.
        """
        tokens = self.embed(visible)
        extra, tokens = tokens[:, : self.extra_tokens], tokens[:, self.extra_tokens :]
        masked = self.mask_token.expand(len(tokens), ids_restore.shape[1] - tokens.shape[1], -1)
        tokens = torch.cat([tokens, masked], dim=1)
        tokens = tokens.gather(1, ids_restore[..., None].expand(-1, -1, tokens.shape[-1]))
        if raster is not None:
            tokens = tokens[:, raster]
        tokens = torch.cat([extra, tokens], dim=1) + self.position_embeddings
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.norm(tokens)[:, self.extra_tokens :]
        if isinstance(self.head, nn.Linear):
            return self.head(tokens)
        maps = tokens.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return self.head(maps).flatten(2).transpose(1, 2)


class LocalMimPreTrainedModel(OwnBlocksMixin, StockPartsMixin, PreTrainedModel):
    """What LocalMIM's models share: configuration and initialisation."""

    config: LocalMimConfig
    base_model_prefix = "encoder"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):  # the heads', too, whose name is another
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, LocalMimDecoder):
            init.normal_(module.mask_token, std=self.config.initializer_range)
            _set_positions(module.position_embeddings, module.grid, module.extra_tokens)
        elif isinstance(module, LocalMimForPreTraining) and module.hog_bias is not None:
            init.uniform_(module.hog_bias, -1 / 3, 1 / 3)  # what the release leaves a convolution with
        else:
            super()._init_weights(module)


def _set_positions(table: nn.Parameter, side: int, extra_tokens: int) -> None:
    positions = sine_cosine_positions(table.shape[-1], side, side, extra_tokens=extra_tokens)
    init.copy_(table, positions.float()[None])


class LocalMimForPreTraining(LocalMimPreTrainedModel):
    """An encoder with four decoders; after the training the encoder goes its own way (`save_encoder`)."""

    accepts_loss_kwargs = False

    def __init__(self, config: LocalMimConfig):
        super().__init__(config)
        backbone, channels = config.backbone_config, config.num_channels * config.hog_bins
        self.is_vit = backbone.model_type == "vit"
        self.encoder = (ViTModel if self.is_vit else SwinModel)(backbone, add_pooling_layer=False)
        self.encoder.layernorm = nn.Identity()  # each tap has a norm of its own
        size = config.decoder_hidden_size
        if self.is_vit:
            grid, widths = backbone.image_size // backbone.patch_size, [backbone.hidden_size] * 4
            heads = [_vit_head(size, channels, scale) for scale in _VIT_SCALES]
            decoders = [LocalMimDecoder(config, backbone.hidden_size, size, grid, 1, head) for head in heads]
        else:
            for module in self.encoder.modules():
                if isinstance(module, nn.LayerNorm):
                    module.eps = 1e-6
            widths = [backbone.embed_dim * 2**stage for stage in (1, 2, 3, 3)]
            decoders = []
            for stage, (width, stride) in enumerate(zip(widths, _SWIN_STRIDES, strict=True)):
                own = size // 2 if stage == 0 else size
                out = channels if config.target == "hog" else config.num_channels * stride**2
                head = nn.Linear(own, out)
                decoders.append(LocalMimDecoder(config, width, own, backbone.image_size // stride, 0, head))
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for width in widths)
        self.decoders = nn.ModuleList(decoders)
        self.hog_bias = None
        if config.hog_bias and config.target == "hog":
            self.hog_bias = nn.Parameter(torch.zeros(4, 2), requires_grad=False)
        self.post_init()
        self._freeze()

    @torch.no_grad()
    def initialize_weights(self) -> None:
        super().initialize_weights()
        if self.is_vit:  # here, as transformers asks no model about itself that has no parameters directly in it
            side = self.config.image_size // self.config.backbone_config.patch_size
            _set_positions(self.encoder.embeddings.position_embeddings, side, 1)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As `PreTrainedModel.from_pretrained`, which makes every loaded parameter learn: not the fixed ones."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded)._freeze()
        return loaded

    def _freeze(self) -> None:
        fixed = [decoder.position_embeddings for decoder in self.decoders]
        fixed += [self.encoder.embeddings.position_embeddings] if self.is_vit else []
        fixed += [] if self.hog_bias is None else [self.hog_bias]
        for parameter in fixed:
            parameter.requires_grad_(False)

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, noise: torch.Tensor | None = None, **kwargs) -> LocalMimOutput:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, image_size, image_size).
            noise: decides what is visible; drawn if not given. For a ViT (batch, patches): those of the smallest
                values. For a Swin (blocks,), the same for all images: with the permutation that sorts the noise, block
                b is masked where the b-th entry is at most `int(blocks · mask_ratio)`.

        Raises:
            ValueError: images or noise of another size.
        """
        check_pixels(pixel_values, self.config.num_channels)
        self.count_blocks(*pixel_values.shape[-2:])
        encode = self._encode_vit if self.is_vit else self._encode_swin
        latents, ids_restore, rasters, mask, block_masks = encode(pixel_values, noise)
        orders = [ids_restore] * 4 if self.is_vit else ids_restore
        logits = tuple(
            decoder(latent, order, raster)
            for decoder, latent, order, raster in zip(self.decoders, latents, orders, rasters, strict=True)
        )
        targets = tuple(self.target_of(pixel_values, scale) for scale in range(4))
        losses = []
        for predicted, target, cells in zip(logits, targets, block_masks, strict=True):
            error = (predicted.to(target.dtype) - target).square().mean(-1)
            losses.append((error * cells).sum() / cells.sum())
        return LocalMimOutput(
            loss=sum(weight * loss for weight, loss in zip(self.config.scale_weights, losses, strict=True)),
            losses=tuple(losses),
            logits=logits,
            targets=targets,
            cell_masks=block_masks,
            mask=mask,
            ids_restore=ids_restore,
            latents=latents,
        )

    @torch.no_grad()
    def image_losses(self, pixel_values: torch.Tensor, outputs: LocalMimOutput) -> torch.Tensor:
        """The losses of each image of a batch by itself, (batch, scales)."""
        losses = []
        for predicted, target, cells in zip(outputs.logits, outputs.targets, outputs.cell_masks, strict=True):
            error = (predicted.to(target.dtype) - target).square().mean(-1)
            losses.append((error * cells).sum(1) / cells.sum(1))
        return torch.stack(losses, dim=1)

    @property
    def one_mask_per_batch(self) -> bool:
        """Whether all images of a batch share their mask, as over a Swin."""
        return not self.is_vit

    def count_blocks(self, height: int, width: int) -> int:
        """Patches of an image, or a Swin's blocks of 32 pixels: as many as it takes numbers of `noise`.

        Raises:
            ValueError: not the size that the model is for.
        """
        side = self.config.image_size
        if (height, width) != (side, side):
            raise ValueError(f"pixel_values: got {height}×{width}, expected {side}×{side} pixels.")
        return (side // (self.config.backbone_config.patch_size if self.is_vit else 32)) ** 2

    def target_of(self, pixel_values: torch.Tensor, scale: int) -> torch.Tensor:
        """(batch, cells, channels) of one of the four scales: histograms, or the pixels of each patch by row, column
        and colour."""
        config = self.config
        cell = (4, 8, 16, 32)[scale] if self.is_vit else _SWIN_STRIDES[scale]
        if config.target == "hog":
            bias = None if self.hog_bias is None else self.hog_bias[scale]
            found = histograms_of_gradients(pixel_values, config.hog_bins, cell, pooling="mean", bias=bias)
            return found.flatten(2).transpose(1, 2)
        batch, channels, height, width = pixel_values.shape
        patches = pixel_values.reshape(batch, channels, height // cell, cell, width // cell, cell)
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2)
        if config.normalize_target:
            variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
            patches = (patches - mean) / (variance + 1e-6).sqrt()
        return patches

    def save_encoder(self, folder, image_size: int | None = None, window_size: int | None = None) -> None:
        """Write the encoder alone, as a model of its own class, with the norm of the last tap as its last one:
        `AutoModel.from_pretrained(folder)`, and with a new head `AutoModelForImageClassification`, open it. See
        `layers.encoders.save_encoder` for other sizes."""
        norm = {f"layernorm.{name}": value for name, value in self.norms[3].state_dict().items()}
        save_encoder(self.encoder, folder, image_size, window_size, norm)

    def _encode_vit(self, pixel_values: torch.Tensor, noise: torch.Tensor | None):
        embeddings = self.encoder.embeddings
        table = embeddings.position_embeddings
        tokens = embeddings.patch_embeddings(pixel_values) + table[:, 1:]
        batch, count, width = tokens.shape
        if noise is None:
            noise = torch.rand(batch, count, device=tokens.device)
        elif tuple(noise.shape) != (batch, count):
            raise ValueError(f"noise: got the shape {tuple(noise.shape)}, expected {(batch, count)}.")
        kept = int(count * (1 - self.config.mask_ratio))
        shuffled = noise.argsort(dim=1)
        ids_restore = shuffled.argsort(dim=1)
        mask = (ids_restore >= kept).to(tokens.dtype)
        tokens = tokens.gather(1, shuffled[:, :kept, None].expand(-1, -1, width))
        first = (embeddings.cls_token + table[:, :1]).expand(batch, -1, -1)
        hidden, latents = torch.cat([first, tokens], dim=1), {}
        for number, layer in enumerate(self.encoder.layers):
            hidden = layer(hidden)
            if number in self.config.taps:
                latents[number] = hidden
        latents = tuple(norm(latents[tap]) for norm, tap in zip(self.norms, self.config.taps, strict=True))
        side = round(count**0.5)
        patches = mask.view(batch, 1, side, side)
        cells = [_spread(patches, 4), _spread(patches, 2), patches, F.avg_pool2d(patches, 2)]
        return latents, ids_restore, [None] * 4, mask, tuple(cell.flatten(1) for cell in cells)

    def _encode_swin(self, pixel_values: torch.Tensor, noise: torch.Tensor | None):
        embeddings, backbone = self.encoder.embeddings, self.config.backbone_config
        side = pixel_values.shape[-1] // 32
        if noise is None:
            noise = torch.rand(side * side, device=pixel_values.device)
        elif tuple(noise.shape) != (side * side,):
            raise ValueError(f"noise: got the shape {tuple(noise.shape)}, expected {(side * side,)}.")
        masked = noise.argsort() <= int(self.config.mask_ratio * side * side)  # (blocks,)
        if masked.all():
            raise ValueError(f"mask_ratio: got {self.config.mask_ratio}, which leaves none of {side * side} blocks.")
        tokens = embeddings.patch_embeddings(pixel_values)
        tokens = tokens[0] if isinstance(tokens, tuple) else tokens
        hidden = embeddings.norm(tokens)
        inner = 8  # tokens along a side of a block
        order = _block_order(side, inner).to(hidden.device)
        visible = (~masked).nonzero().flatten()
        grid = side * inner
        hidden = hidden[:, order].unflatten(1, (side * side, -1))[:, visible].flatten(1, 2)
        latents, restores, rasters, cells = [], [], [], []
        for number, stage in enumerate(self.encoder.encoder.layers):
            grid = side * inner
            order = _block_order(side, inner) if number == 0 or self.config.true_coordinates else torch.arange(grid**2)
            coordinates = torch.stack([order // grid, order % grid], dim=1).to(hidden.device)
            coordinates = coordinates.unflatten(0, (side * side, -1))[visible].flatten(0, 1)
            window = min(backbone.window_size, grid)
            shifts = (0, 0) if grid <= backbone.window_size else (0, window // 2)
            groups = [make_groups(coordinates, window, shift) for shift in shifts]
            for index, block in enumerate(stage.blocks):
                hidden = self._sparse_block(block, hidden, coordinates, groups[index % 2])
            if stage.downsample is not None:
                hidden = _merge_blocks(stage.downsample, hidden, inner)
                inner //= 2
            latents.append(self.norms[number](hidden))
            of_tokens = masked.repeat_interleave(inner * inner)
            restore = of_tokens.to(torch.uint8).argsort(stable=True).argsort()
            restores.append(restore.expand(len(hidden), -1))
            rasters.append(_block_order(side, inner).to(hidden.device).argsort())
            map_of_blocks = masked.to(pixel_values.dtype).view(1, 1, side, side)
            cells.append(_spread(map_of_blocks, inner).flatten(1).expand(len(hidden), -1))
        mask = masked.to(pixel_values.dtype).expand(len(hidden), -1)
        return tuple(latents), tuple(restores), rasters, mask, tuple(cells)

    def _sparse_block(self, block: nn.Module, hidden: torch.Tensor, coordinates: torch.Tensor, groups) -> torch.Tensor:
        """A block of Swin over the visible tokens."""
        attention, size = block.attention, block.attention.relative_position_bias.window_size[0]
        packed = groups.pack(hidden)
        normed = block.layernorm_before(packed)
        shape = (*normed.shape[:-1], -1, attention.head_dim)
        query, key, value = (
            layer(normed).view(shape).transpose(1, 2)
            for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        places = coordinates[groups.order].view(len(groups.window), groups.size, 2)
        distance = places[:, :, None] - places[:, None] + size - 1
        apart = groups.apart()
        index = (distance[..., 0] * (2 * size - 1) + distance[..., 1]).masked_fill(apart, 0)
        bias = attention.relative_position_bias.relative_position_bias_table[index].permute(0, 3, 1, 2)
        bias = bias + apart[:, None].to(bias.dtype) * -100.0
        batch = len(packed) // len(groups.window)
        attended = F.scaled_dot_product_attention(
            query, key, value, bias.repeat(batch, 1, 1, 1), scale=attention.scaling
        )
        packed = packed + block.drop_path(attention.o_proj(attended.transpose(1, 2).flatten(2)))
        packed = packed + block.drop_path(block.mlp(block.layernorm_after(packed)))
        return groups.unpack(packed)


def _spread(mask: torch.Tensor, times: int) -> torch.Tensor:
    """Each value of (batch, 1, rows, columns) over a square of `times` × `times`."""
    return mask.repeat_interleave(times, 2).repeat_interleave(times, 3)


def _block_order(side: int, inner: int) -> torch.Tensor:
    """Tokens of a map of `side` × `side` blocks of `inner` × `inner`, block after block, numbered row by row."""
    numbers = torch.arange((side * inner) ** 2).view(side, inner, side, inner)
    return numbers.transpose(1, 2).flatten()


def _merge_blocks(merging: nn.Module, hidden: torch.Tensor, inner: int) -> torch.Tensor:
    """Swin's patch merging within each block of `inner` × `inner` tokens."""
    blocks = hidden.unflatten(1, (-1, inner * inner))
    return (
        merging(blocks.flatten(0, 1), (inner, inner)).view(*blocks.shape[:2], -1, 2 * hidden.shape[-1]).flatten(1, 2)
    )


__all__ = ["LocalMimForPreTraining", "LocalMimPreTrainedModel"]
