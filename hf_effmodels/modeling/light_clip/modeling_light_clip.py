"""LightCLIP-style models: any image tower and a short CLIP text tower, alone for inference or with what trains them.

The paper's equations were not at hand: softened targets, matching and fusion are written out here in a way of our own.
"""

import inspect
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING, AutoBackbone, AutoModel, CLIPTextModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.models.clip.modeling_clip import CLIPOutput
from transformers.utils.generic import can_return_tuple

from ..layers.batch_norm import BatchNormMixin
from ..layers.initialization import StockPartsMixin
from ..layers.pixels import check_pixels
from ..layers.reparameterization import ReparameterizationMixin
from .configuration_light_clip import LightClipConfig
from .softened_contrastive import softened_contrastive_loss
from .token_matching import token_matching_loss

#: The factor of the cosines is not let beyond 100, as in CLIP.
LARGEST_LOGIT_SCALE = math.log(100)
#: Ways of attention that take a mask of one's own for each text.
_WITH_MASKS = ("eager", "sdpa")


@dataclass
class LightClipForPreTrainingOutput(CLIPOutput):
    """What a step of training gives, beyond CLIP's fields.

    Attributes:
        instance_loss, token_loss, mlm_loss: the parts of `loss`, before their weights.
        patch_embeds: (batch, patches, projection_dim), of the places of the image.
        word_embeds: (batch, tokens, projection_dim); word_mask: (batch, tokens), true for words: neither padding nor
            the marks of beginning and end.
        mlm_logits: (masked words, vocab_size), of the places where `mlm_labels` is not -100, row by row.
    """

    instance_loss: torch.FloatTensor | None = None
    token_loss: torch.FloatTensor | None = None
    mlm_loss: torch.FloatTensor | None = None
    patch_embeds: torch.FloatTensor | None = None
    word_embeds: torch.FloatTensor | None = None
    word_mask: torch.BoolTensor | None = None
    mlm_logits: torch.FloatTensor | None = None


class LightClipProjection(nn.Linear):
    """A linear layer whose weights begin with the deviation width^-0.5, as CLIP's projections."""


class LightClipZeroLinear(nn.Linear):
    """A linear layer that begins as zero."""


class LightClipFusion(nn.Module):
    """Cross-attention from the states of a text to the places of its image, added to the states.

    The output projection begins as zero: at first the text is what it was.
    """

    def __init__(self, config: LightClipConfig):
        super().__init__()
        size, text = config.text_config.hidden_size, config.text_config
        self.num_heads = config.fusion_num_attention_heads
        self.text_norm = nn.LayerNorm(size, eps=text.layer_norm_eps)
        # Without weights: linear layers follow, and where the image is detached no gradient goes back through them.
        self.image_norm = nn.LayerNorm(config.vision_hidden_size, eps=text.layer_norm_eps, elementwise_affine=False)
        self.q_proj = LightClipProjection(size, size)
        self.k_proj = LightClipProjection(config.vision_hidden_size, size)
        self.v_proj = LightClipProjection(config.vision_hidden_size, size)
        self.out_proj = LightClipZeroLinear(size, size)

    def forward(self, hidden_states: torch.Tensor, image_tokens: torch.Tensor) -> torch.Tensor:
        image_tokens = self.image_norm(image_tokens)
        query, key, value = (
            states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for states in (
                self.q_proj(self.text_norm(hidden_states)),
                self.k_proj(image_tokens),
                self.v_proj(image_tokens),
            )
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return hidden_states + self.out_proj(attended.transpose(1, 2).flatten(2))


class LightClipMaskedWordHead(nn.Module):
    """A linear layer, GELU and a layer norm before the token embeddings, to which the head is tied."""

    def __init__(self, config: LightClipConfig):
        super().__init__()
        size = config.text_config.hidden_size
        self.dense = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size, eps=config.text_config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.text_config.vocab_size))

    def forward(self, hidden_states: torch.Tensor, token_embeddings: torch.Tensor) -> torch.Tensor:
        return F.linear(self.norm(F.gelu(self.dense(hidden_states))), token_embeddings, self.bias)


class LightClipPreTrainedModel(StockPartsMixin, ReparameterizationMixin, BatchNormMixin, PreTrainedModel):
    """What LightCLIP's models share: configuration and initialisation. The towers initialise themselves."""

    config: LightClipConfig
    base_model_prefix = "light_clip"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ["CLIPTextEmbeddings", "CLIPEncoderLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Layer by layer: where weights are loaded, transformers asks for no module whose own parameters are all there.
        factor = self.config.initializer_factor
        if isinstance(module, LightClipProjection):
            init.normal_(module.weight, std=factor * module.in_features**-0.5)
        elif isinstance(module, LightClipZeroLinear):
            init.zeros_(module.weight)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=0.02 * factor)
        elif isinstance(module, LightClipMaskedWordHead):
            init.zeros_(module.bias)
        elif isinstance(module, LightClipModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
            if getattr(module, "mask_embedding", None) is not None:
                init.normal_(module.mask_embedding, std=0.02 * factor)
        else:
            super()._init_weights(module)
        if isinstance(module, nn.Linear) and module.bias is not None:
            init.zeros_(module.bias)


class LightClipModel(LightClipPreTrainedModel):
    """The two towers and their projections: CLIP with another image tower. Outputs are those of `CLIPModel`."""

    # Of checkpoints that are still to be trained.
    _keys_to_ignore_on_load_unexpected = [
        r"^(fusions|mlm_head|patch_projection|word_projection)\.",
        r"^mask_embedding$",
    ]

    def __init__(self, config: LightClipConfig):
        super().__init__(config)
        width = _width(config)
        self.text_model = CLIPTextModel._from_config(config.text_config)
        self.vision_model = _tower(config)
        self.visual_projection = LightClipProjection(width, config.projection_dim, bias=False)
        self.text_projection = LightClipProjection(config.text_config.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self._build_training_parts(config)
        self.post_init()

    def _build_training_parts(self, config: LightClipConfig) -> None:
        """Nothing here."""

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    def reparameterize(self):
        if not hasattr(self.config.vision_config, "reparameterized"):  # an image tower with nothing to fold
            return self
        super().reparameterize()
        self.config.vision_config.reparameterized = True
        return self

    reparameterize.__doc__ = ReparameterizationMixin.reparameterize.__doc__

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Texts in the common space: `pooler_output` (batch, projection_dim), not normalised.

        Args:
            input_ids: (batch, tokens), as CLIP's tokenizer gives them, with the mark of the end.
            attention_mask: (batch, tokens), 0 for padding.
            position_ids: (batch, tokens).
        """
        outputs = self.text_model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, return_dict=True, **kwargs
        )
        outputs.pooler_output = self.text_projection(outputs.pooler_output)
        return outputs

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False, **kwargs
    ) -> BaseModelOutputWithPooling:
        """Images in the common space: `pooler_output` (batch, projection_dim), not normalised.

        Args:
            pixel_values: normalised images, (batch, num_channels, height, width).
            interpolate_pos_encoding: for images of another size than the tower's, where the tower has such a thing.
        """
        check_pixels(pixel_values, self.config.num_channels)
        if interpolate_pos_encoding:
            kwargs["interpolate_pos_encoding"] = True
        given = {name: value for name, value in kwargs.items() if value is not None}
        if given:
            given = _accepted(self.vision_model, given)
        outputs = self.vision_model(pixel_values=pixel_values, return_dict=True, **given)
        hidden = outputs.feature_maps[-1] if "feature_maps" in outputs else outputs.last_hidden_state
        pooled = outputs.get("pooler_output")
        if pooled is None:
            pooled = hidden.mean((2, 3)) if hidden.ndim == 4 else hidden.mean(1)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden,
            pooler_output=self.visual_projection(pooled.flatten(1)),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs,
    ) -> CLIPOutput:
        """
        Args:
            input_ids: (texts, tokens), as CLIP's tokenizer gives them.
            pixel_values: normalised images, (images, num_channels, height, width).
            attention_mask: (texts, tokens), 0 for padding.
            position_ids: (texts, tokens).
            return_loss: with CLIP's loss; image i and text i belong together.
            interpolate_pos_encoding: see `get_image_features`.
        """
        kwargs["return_dict"] = True
        images = self.get_image_features(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs)
        outputs = self._compare(
            CLIPOutput, images, self.get_text_features(input_ids, attention_mask, position_ids, **kwargs)
        )
        if return_loss:
            outputs.loss = softened_contrastive_loss(outputs.image_embeds, outputs.text_embeds, self.logit_scale.exp())
        return outputs

    def _compare(self, output_class, images, texts) -> CLIPOutput:
        """The cosines of all images with all texts."""
        image_embeds, text_embeds = _normalized(images.pooler_output), _normalized(texts.pooler_output)
        logits = text_embeds @ image_embeds.t() * self.logit_scale.exp()
        return output_class(
            logits_per_image=logits.t(),
            logits_per_text=logits,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=texts,
            vision_model_output=images,
        )


class LightClipForPreTraining(LightClipModel):
    """The towers with what trains them: words matched with patches, and masked words that see the image.

    `LightClipModel.from_pretrained` of a saved one leaves these parts out.
    """

    _keys_to_ignore_on_load_unexpected = None

    def _build_training_parts(self, config: LightClipConfig) -> None:
        own = config.token_projection == "own" and config.token_loss_weight > 0
        size = config.text_config.hidden_size
        self.patch_projection = (
            LightClipProjection(config.vision_hidden_size, config.projection_dim, bias=False) if own else None
        )
        self.word_projection = LightClipProjection(size, config.projection_dim, bias=False) if own else None
        masks = config.mlm_loss_weight > 0
        self.mask_embedding = nn.Parameter(torch.zeros(size)) if masks else None
        self.mlm_head = LightClipMaskedWordHead(config) if masks else None
        self.fusions = nn.ModuleDict({str(n): LightClipFusion(config) for n in config.fusion_layers} if masks else {})

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the factor of the cosines at 100 at most; to be called after each step of the optimizer."""
        self.logit_scale.clamp_(max=LARGEST_LOGIT_SCALE)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        mlm_input_ids: torch.Tensor | None = None,
        mlm_labels: torch.Tensor | None = None,
        softening: float = 0.0,
        return_loss: bool = True,
        interpolate_pos_encoding: bool = False,
        **kwargs,
    ) -> LightClipForPreTrainingOutput:
        """
        Args:
            input_ids, pixel_values, attention_mask, position_ids, interpolate_pos_encoding: as of `LightClipModel`;
                image i and text i belong together.
            mlm_input_ids: (batch, tokens), the texts with masked words: `config.mask_token_id` in their places.
            mlm_labels: (batch, tokens), the words that are masked, -100 elsewhere.
            softening: of the targets, from 0 to below 1 (`progressive_softening`).
            return_loss: with `loss`: instance loss + `token_loss_weight` · token loss + `mlm_loss_weight` · masked
                words; without, the embeddings and logits that a loss over several batches takes.

        Raises:
            ValueError: a loss of fewer than two pairs, or masked words without their labels.
        """
        if (mlm_input_ids is None) != (mlm_labels is None):
            missing = "mlm_labels" if mlm_labels is None else "mlm_input_ids"
            raise ValueError(f"{missing}: got None, but masked words take mlm_input_ids and mlm_labels.")
        images = self.get_image_features(
            pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **{**kwargs, "return_dict": True}
        )
        image_tokens = self.image_tokens(images.last_hidden_state, pixel_values.shape[-2:])
        asks = self.mlm_head is not None and mlm_input_ids is not None
        words = (attention_mask, position_ids)
        if asks and not kwargs and self.text_model.config._attn_implementation in _WITH_MASKS:
            texts, mlm_logits = self._both_texts(input_ids, mlm_input_ids, image_tokens, mlm_labels != -100, *words)
        else:
            texts = self.get_text_features(input_ids, *words, **{**kwargs, "return_dict": True})
            mlm_logits = self.masked_words(mlm_input_ids, image_tokens, mlm_labels != -100, *words) if asks else None
        outputs = self._compare(LightClipForPreTrainingOutput, images, texts)
        outputs.mlm_logits = mlm_logits
        if self.config.token_loss_weight > 0:
            of_patches = self.visual_projection if self.patch_projection is None else self.patch_projection
            of_words = self.text_projection if self.word_projection is None else self.word_projection
            outputs.patch_embeds = of_patches(image_tokens)
            outputs.word_embeds = of_words(outputs.text_model_output.last_hidden_state)
            outputs.word_mask = self.word_mask(input_ids, attention_mask)
        if return_loss:
            self._add_losses(outputs, mlm_labels, softening)
        return outputs

    def _add_losses(self, outputs: LightClipForPreTrainingOutput, mlm_labels, softening: float) -> None:
        config, scale = self.config, self.logit_scale.exp()
        outputs.instance_loss = softened_contrastive_loss(
            outputs.image_embeds, outputs.text_embeds, scale, softening, config.uniform_softening
        )
        outputs.loss = outputs.instance_loss
        if outputs.word_embeds is not None:
            outputs.token_loss = token_matching_loss(
                outputs.patch_embeds,
                outputs.word_embeds,
                outputs.word_mask,
                scale,
                config.token_top_k,
                config.token_matching,
            )
            outputs.loss = outputs.loss + config.token_loss_weight * outputs.token_loss
        if outputs.mlm_logits is not None:
            labels = mlm_labels[mlm_labels != -100]
            # Where nothing is masked there is nothing to learn: the mean of no number would be NaN.
            outputs.mlm_loss = F.cross_entropy(outputs.mlm_logits, labels, reduction="sum") / max(1, len(labels))
            outputs.loss = outputs.loss + config.mlm_loss_weight * outputs.mlm_loss

    def image_tokens(self, hidden: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(batch, places, channels) of the image tower's `last_hidden_state`, without class tokens and registers.

        Args:
            hidden: (batch, channels, rows, columns), or (batch, tokens, channels) with the places last.
            size: height and width of the images in pixels.
        """
        if hidden.ndim == 4:
            return hidden.flatten(2).transpose(1, 2)
        vision = self.config.vision_config
        patch = getattr(vision, "patch_size", None)
        if hasattr(vision, "depths") or patch is None:
            return hidden  # towers of stages have no class token
        height, width = (patch, patch) if isinstance(patch, int) else patch
        return hidden[:, max(0, hidden.shape[1] - (size[0] // height) * (size[1] // width)) :]

    def word_mask(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, tokens), true for words: before the mark of the end, without that of the beginning and padding."""
        at = self._ends(input_ids)
        words = torch.arange(input_ids.shape[1], device=input_ids.device) < at[:, None]
        words = words & (input_ids != self.config.text_config.bos_token_id)
        return words if attention_mask is None else words & attention_mask.bool()

    def _ends(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(batch,), the place of the mark of the end."""
        end = self.text_model.eos_token_id
        # With the id 2, CLIP's text tower takes the largest id for the end: see `CLIPTextModel`.
        return input_ids.argmax(-1) if end == 2 else (input_ids == end).int().argmax(-1)

    def _both_texts(
        self, input_ids, mlm_input_ids, image_tokens, masked, attention_mask, position_ids
    ) -> tuple[BaseModelOutputWithPooling, torch.Tensor]:
        """What `get_text_features` and `masked_words` give, by one pass over both texts: each weight, the table of
        words above all, then has its gradient computed once, and not twice and added."""
        text, config, count = self.text_model, self.config, len(input_ids)
        table = text.embeddings.token_embedding
        known = table(torch.cat([input_ids, mlm_input_ids.clamp(max=config.mask_token_id - 1)]))
        is_mask = (mlm_input_ids == config.mask_token_id)[..., None]
        embeds = torch.cat([known[:count], torch.where(is_mask, self.mask_embedding, known[count:])])
        if position_ids is not None and len(position_ids) > 1:
            position_ids = torch.cat([position_ids, position_ids])
        hidden = text.embeddings(inputs_embeds=embeds, position_ids=position_ids)
        seen = torch.ones(2, 1, 1, *[hidden.shape[1]] * 2, dtype=torch.bool, device=hidden.device)
        seen[: 2 if config.mlm_causal else 1] = seen[0].tril()
        seen = seen.expand(-1, count, -1, -1, -1)
        if attention_mask is not None:
            seen = seen & attention_mask.bool()[:, None, None]
        seen = seen.flatten(0, 1)
        if text.config._attn_implementation == "eager":
            seen = torch.zeros_like(seen, dtype=hidden.dtype).masked_fill(~seen, torch.finfo(hidden.dtype).min)
        hidden = text.final_layer_norm(self._layers(hidden, image_tokens, seen, False))
        states, asked = hidden.split(count)
        pooled = states[torch.arange(count, device=states.device), self._ends(input_ids)]
        texts = BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=self.text_projection(pooled))
        return texts, self.mlm_head(asked[masked], table.weight)

    def _layers(self, hidden, image_tokens, mask, is_causal: bool) -> torch.Tensor:
        """The text tower's layers; as many texts as there are images, the last ones, see these."""
        image_tokens = image_tokens.detach() if self.config.fusion_detach else image_tokens
        plain = len(hidden) - len(image_tokens)
        for number, layer in enumerate(self.text_model.encoder.layers):
            if str(number) in self.fusions:
                seeing = self.fusions[str(number)](hidden[plain:], image_tokens)
                hidden = torch.cat([hidden[:plain], seeing]) if plain else seeing
            hidden = layer(hidden, mask, is_causal=is_causal)
        return hidden

    def masked_words(
        self,
        mlm_input_ids: torch.Tensor,
        image_tokens: torch.Tensor,
        masked: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(masked words, vocab_size): what the text tower, which sees the image, takes the masked words for.

        Args:
            mlm_input_ids: (batch, tokens), with `config.mask_token_id` for masked words.
            image_tokens: (batch, places, channels), see `image_tokens`.
            masked: (batch, tokens), true where a word is asked for.
        """
        text, config = self.text_model, self.config
        table = text.embeddings.token_embedding
        known = table(mlm_input_ids.clamp(max=config.mask_token_id - 1))
        embeds = torch.where((mlm_input_ids == config.mask_token_id)[..., None], self.mask_embedding, known)
        hidden = text.embeddings(inputs_embeds=embeds, position_ids=position_ids)
        if config.mlm_causal:
            mask = create_causal_mask(
                config=text.config, inputs_embeds=hidden, attention_mask=attention_mask, past_key_values=None
            )
        else:
            mask = create_bidirectional_mask(config=text.config, inputs_embeds=hidden, attention_mask=attention_mask)
        hidden = self._layers(hidden, image_tokens, mask, config.mlm_causal)
        return self.mlm_head(text.final_layer_norm(hidden)[masked], table.weight)


def _normalized(embeds: torch.Tensor) -> torch.Tensor:
    return embeds / embeds.pow(2).sum(-1, keepdim=True).pow(0.5)


def _tower(config: LightClipConfig) -> nn.Module:
    """The image tower: as AutoModel builds it, or AutoBackbone where there is no other."""
    vision = config.vision_config
    if type(vision) in MODEL_MAPPING:
        return AutoModel.from_config(vision)
    if type(vision) in MODEL_FOR_BACKBONE_MAPPING:
        return AutoBackbone.from_config(vision)
    raise ValueError(f"vision_config: got model_type {vision.model_type!r}, accepted are vision models.")


def _width(config: LightClipConfig) -> int:
    """Channels of the image tower's output: as the configuration says, or as one look at an empty image finds."""
    if config.vision_hidden_size is None:
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        with torch.device("meta"), torch.no_grad():
            probe = _tower(config).eval()
            if probe.main_input_name != "pixel_values":
                raise ValueError(
                    f"vision_config: got model_type {config.vision_config.model_type!r}, which takes no images."
                )
            outputs = probe(pixel_values=torch.empty(1, config.num_channels, height, width))
        hidden = outputs.feature_maps[-1] if "feature_maps" in outputs else outputs.last_hidden_state
        config.vision_hidden_size = hidden.shape[1] if hidden.ndim == 4 else hidden.shape[-1]
    return config.vision_hidden_size


def _accepted(module: nn.Module, given: dict) -> dict:
    """Those of the arguments that a tower takes: not each has attentions, or positions to interpolate."""
    takes = inspect.signature(module.forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return given
    return {name: value for name, value in given.items() if name in takes}


__all__ = ["LightClipForPreTraining", "LightClipModel", "LightClipPreTrainedModel"]
