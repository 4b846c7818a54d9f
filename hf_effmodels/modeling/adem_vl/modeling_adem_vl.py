"""ADEM-VL: a frozen language model that sees through parameter-free cross-attention in its feed-forward networks.

Paper: https://arxiv.org/abs/2410.17779. The towers are stock transformers models. Both are adapted where they call
their feed-forward networks, by forward hooks, so that their weights keep their names and any quantisation:

- vision tower: `mlp(x) + 0.1 · bottleneck(x)`; one pass gives the class token and the patch tokens;
- decoder: `mlp(n) + alpha · fuse(n)`, see `fusion_adem_vl.py`.

Shapes: B rows of T tokens, I images, N visual tokens, C the vision tower's width, D the decoder's width.
"""

import copy
import re
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING
from transformers.utils import ModelOutput, can_return_tuple
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from ..decoders.cache_names import CACHE, cache_of, given_cache
from ..decoders.documents import cache_of_rows
from ..layers.initialization import StockPartsMixin
from .configuration_adem_vl import AdemVLConfig
from .fusion_adem_vl import (
    Fusion,
    FusionSlot,
    check_in_graph,
    fuse,
    fusion_keys_values,
    keep_with_cache,
    seen_with_cache,
)

#: Names of the trained parts in the state dict.
ADAPTER_NAMES = re.compile(
    r"(?:model\.)?(?:key_offsets|value_offsets|image_projection\.|class_projection\.|vision_adapters\.)"
)
_FEED_FORWARD = re.compile(r"(?:.*\.)?layers\.\d+\.mlp")
#: How files of the Hub are reached, whichever they are; and which of a repository's.
_REACHED = ("cache_dir", "force_download", "local_files_only", "token")
_HUB = (*_REACHED, "revision", "subfolder")


@dataclass
class AdemVLVisionOutput(ModelOutput):
    """
    What the model sees in images.

    Attributes:
        vision_tokens: (I, 1 + patches, C), class token first (none for SigLIP).
        multiscale_features: (I, N, C), patch tokens averaged to each grid of `pool_sizes`.
        image_embeds: (I, N, D), projected and scaled by beta.
        class_embeds: (I, D), the projected class token; None without `use_cls_token`.
    """

    vision_tokens: torch.FloatTensor | None = None
    multiscale_features: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    class_embeds: torch.FloatTensor | None = None


@dataclass
class AdemVLModelOutputWithPast(BaseModelOutputWithPast):
    """As `BaseModelOutputWithPast`, with `vision_context` (B, N, D), None where no row has an image."""

    vision_context: torch.FloatTensor | None = None


@dataclass
class AdemVLCausalLMOutputWithPast(CausalLMOutputWithPast):
    """As `CausalLMOutputWithPast`, with `vision_context` (B, N, D), None where no row has an image."""

    vision_context: torch.FloatTensor | None = None


class AdemVLProjection(nn.Module):
    """Two linear layers with SiLU between."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int):
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.fc2 = nn.Linear(hidden_features, out_features)
        self.fc1.starts = self.fc2.starts = "xavier"  # read by `_init_weights`, which sees layers one by one

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.silu(self.fc1(features.to(self.fc1.weight.dtype))))


class AdemVLVisionAdapter(nn.Module):
    """Bottleneck beside a feed-forward network of the vision tower."""

    def __init__(self, config: AdemVLConfig):
        super().__init__()
        width = config.vision_config.hidden_size
        self.fc1 = nn.Linear(width, config.vision_adapter_dim, bias=False)
        self.fc2 = nn.Linear(config.vision_adapter_dim, width, bias=False)
        self.fc1.starts, self.fc2.starts = "torch", "zeros"
        self.dropout = nn.Dropout(config.vision_adapter_dropout)
        self.scale = config.vision_adapter_scale

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = F.gelu(self.fc1(features.to(self.fc1.weight.dtype)))
        return self.scale * self.fc2(self.dropout(hidden))

    def add_to(self, feed_forward: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        """Forward hook of the feed-forward network."""
        return output + self(inputs[0]).to(output.dtype)


def pool_patches(patches: torch.Tensor, pool_sizes: list[int]) -> torch.Tensor:
    """(I, side², C) patch tokens in row-major order -> (I, Σ size², C): averages on each grid, in the order given."""
    images, count, width = patches.shape
    side = int(count**0.5)
    grid = patches.transpose(1, 2).reshape(images, width, side, side)
    pooled = [patches if s == side else F.adaptive_avg_pool2d(grid, s).flatten(2).transpose(1, 2) for s in pool_sizes]
    return torch.cat(pooled, dim=1)


def _like_torch(weight: torch.Tensor) -> None:
    init.kaiming_uniform_(weight, a=5**0.5)


class AdemVLPreTrainedModel(StockPartsMixin, PreTrainedModel):
    config_class = AdemVLConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = [CACHE]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = [
        "key_offsets",
        "value_offsets",
        "image_projection",
        "class_projection",
        "vision_adapters",
    ]
    # A full checkpoint of the vision tower has layers after the one that is used.
    _keys_to_ignore_on_load_unexpected = [r"vision_tower\.encoder\.layers\.\d+\.", r"vision_tower\.head\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, AdemVLModel):
            init.normal_(module.key_offsets, std=0.02)
            init.zeros_(module.value_offsets)
        elif (starts := getattr(module, "starts", None)) is not None:
            fill = {"xavier": init.xavier_uniform_, "torch": _like_torch, "zeros": init.zeros_}[starts]
            fill(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and module.out_features == self.config.text_config.vocab_size:
            init.normal_(module.weight, std=getattr(self.config.text_config, "initializer_range", 0.02))
            if module.bias is not None:
                init.zeros_(module.bias)

    def freeze_base(self) -> None:
        """Train the adapters only, as the paper does. Models start like this."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(ADAPTER_NAMES.match(name) is not None and parameter.is_floating_point())

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, **kwargs):
        """As every model's; a folder with the trained weights only takes the frozen parts from where it says."""
        if config is None and pretrained_model_name_or_path is not None:
            config = cls.config_class.from_pretrained(
                pretrained_model_name_or_path, **{name: kwargs[name] for name in _HUB if name in kwargs}
            )
        if getattr(config, "adapter_only", False) and kwargs.get("state_dict") is None:
            return cls._from_adapters(pretrained_model_name_or_path, config, **kwargs)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).freeze_base()
        return loaded

    @classmethod
    def _from_adapters(cls, folder, config: AdemVLConfig, **kwargs):
        raise ValueError(
            f"{folder} holds the adapters of an AdemVLForConditionalGeneration only; load it with that class or "
            "AutoModelForImageTextToText."
        )


class AdemVLModel(AdemVLPreTrainedModel):
    """The vision tower, the adapters and the decoder without a head."""

    def __init__(self, config: AdemVLConfig):
        super().__init__(config)
        width = config.vision_config.hidden_size, config.projector_hidden_size, config.text_config.hidden_size
        shape = (1, config.num_vision_tokens, config.text_config.hidden_size)
        self.key_offsets = nn.Parameter(torch.empty(shape))
        self.value_offsets = nn.Parameter(torch.empty(shape))
        self.image_projection = AdemVLProjection(*width)
        if config.use_cls_token:
            self.class_projection = AdemVLProjection(*width)
        layers = config.vision_config.num_hidden_layers
        self.vision_adapters = nn.ModuleList(AdemVLVisionAdapter(config) for _ in range(layers))
        # The parts keep the very configurations that are in this one: what is set for a part is set for its tower.
        self.vision_tower = _shortened(AutoModel.from_config(config.vision_config), config.vision_depth)
        self.language_model = AutoModel.from_config(config.text_config)
        self._slot = FusionSlot()
        self._attach()
        self.post_init()
        self.freeze_base()

    def _attach(self) -> None:
        """Hook the adapters into the towers' feed-forward networks."""
        layers = feed_forwards(self.vision_tower, self.config.vision_config.model_type)
        for feed_forward, adapter in zip(layers, self.vision_adapters, strict=False):
            feed_forward.register_forward_hook(adapter.add_to)
        for feed_forward in feed_forwards(self.language_model, self.config.text_config.model_type):
            feed_forward.register_forward_hook(self._add_fusion)
        # Adapters of layers that are not run exist in the official checkpoints; they never get a gradient, which
        # distributed training would wait for.
        unused = range(self.config.vision_depth, len(self.vision_adapters))
        self._ddp_params_and_buffers_to_ignore = [f"vision_adapters.{i}.fc{j}.weight" for i in unused for j in (1, 2)]

    def _add_fusion(self, feed_forward: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        fusion = self._slot.fusion
        if fusion is None:
            # The decoder was called by itself.
            return output
        keys, values = fusion.of("model", inputs[0])
        return output + self.config.alpha * fuse(inputs[0], keys, values, self.config.drop_ratio).to(output.dtype)

    def projections(self) -> list[AdemVLProjection]:
        return [self.image_projection, *([self.class_projection] if self.config.use_cls_token else [])]

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_decoder(self) -> nn.Module:
        return self.language_model

    def encode_images(self, pixel_values: torch.Tensor) -> AdemVLVisionOutput:
        """(I, 3, height, width) -> the visual tokens and the class token of each image; one pass of the tower."""
        size = self.config.vision_config.image_size
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[-2:]) != (size, size):
            raise ValueError(
                f"pixel_values: got shape {tuple(pixel_values.shape)}, expected (images, "
                f"{self.config.vision_config.num_channels}, {size}, {size})."
            )
        tower = self.vision_tower
        tokens = tower(pixel_values.to(tower.dtype)).last_hidden_state
        if self.config.vision_config.model_type == "clip_vision_model":
            # SigLIP's model has normed its tokens itself.
            tokens = tower.post_layernorm(tokens)
            class_token, patches = tokens[:, 0], tokens[:, 1:]
        else:
            class_token, patches = tokens.mean(dim=1), tokens
        features = pool_patches(patches, self.config.pool_sizes)
        return AdemVLVisionOutput(
            vision_tokens=tokens,
            multiscale_features=features,
            image_embeds=self.config.beta * self.image_projection(features),
            class_embeds=self.class_projection(class_token) if self.config.use_cls_token else None,
        )

    def encode_rows(
        self,
        input_ids: torch.Tensor | None,
        pixel_values: torch.Tensor | None,
        image_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """
        The images of a batch, sorted into its rows.

        Args:
            input_ids: (B, T), at most one image token per row.
            pixel_values: (I, 3, height, width), one image for each row that has one, in order; or, with `image_mask`,
                one for every row.
            image_mask: (B,), which rows have an image; by default those with an image token (without
                `use_cls_token`, where there are none, all).

        Returns:
            vision_context (B, N, D), zero in rows without an image, and class_embeds (B, D); None, None where no row
            has one.

        Raises:
            ValueError: rows and images do not correspond.
        """
        if pixel_values is None:
            return None, None
        slots = self._image_slots(input_ids)
        if image_mask is not None:
            rows = image_mask.bool()
        elif slots is not None:
            rows = slots > 0
        else:
            count = len(pixel_values) if input_ids is None else len(input_ids)
            rows = torch.ones(count, dtype=torch.bool, device=pixel_values.device)
        every_row = image_mask is not None and len(pixel_values) == len(rows)
        if torch.compiler.is_compiling():
            # Shapes that do not depend on values: an image of a row without one is encoded for nothing.
            if slots is not None:
                check_in_graph((slots <= 1) & (rows == (slots > 0)), "input_ids: image tokens and images differ.")
            if not every_row:
                check_in_graph(rows.sum() == len(pixel_values), "pixel_values: images and rows differ.")
        else:
            _check_rows(slots, rows, len(pixel_values), every_row)
            if not rows.any():
                return None, None
            if every_row:
                pixel_values, every_row = pixel_values[rows], bool(rows.all())
        seen = self.encode_images(pixel_values)
        return _spread(seen.image_embeds, rows, every_row), _spread(seen.class_embeds, rows, every_row)

    def _image_slots(self, input_ids: torch.Tensor | None) -> torch.Tensor | None:
        """(B,) image tokens per row; None where the text has none by design or is not known."""
        if input_ids is None or not self.config.use_cls_token:
            return None
        return (input_ids == self.config.image_token_id).sum(dim=-1)

    def embed(self, input_ids: torch.Tensor, class_embeds: torch.Tensor | None) -> torch.Tensor:
        """(B, T) -> (B, T, D), with the class token of its row in place of an image token."""
        if not self.config.use_cls_token:
            return self.get_input_embeddings()(input_ids)
        is_image = input_ids == self.config.image_token_id
        # The image token may lie outside the vocabulary; the embedding stays as it was trained.
        embeds = self.get_input_embeddings()(input_ids.masked_fill(is_image, 0))
        if class_embeds is None:
            return embeds
        if len(class_embeds) != len(input_ids):
            raise ValueError(f"class_embeds: got {len(class_embeds)} rows for a batch of {len(input_ids)}.")
        return torch.where(is_image[..., None], class_embeds[:, None].to(embeds), embeds)

    def fusion(self, vision_context: torch.Tensor | None) -> Fusion:
        """Keys and values of all layers for `vision_context` (B, N, D), or None where no row has an image."""
        expected = tuple(self.key_offsets.shape[1:])
        if vision_context is not None and tuple(vision_context.shape[1:]) != expected:
            raise ValueError(
                f"vision_context: got {tuple(vision_context.shape)}, expected (rows, {expected[0]}, {expected[1]}): "
                "rows, visual tokens, hidden size of the decoder."
            )
        keys_values = fusion_keys_values(vision_context, self.key_offsets, self.value_offsets)
        return Fusion({"model": keys_values}, vision_context)

    def _fusion_of(self, vision_context: torch.Tensor | None, cache: Cache | None) -> Fusion:
        """The fusion of the forward pass; where the cache has one of the same images, that one."""
        if vision_context is None:
            seen = seen_with_cache(cache)
        else:
            seen = getattr(getattr(cache, "adem_seen", None), "fusion", None)
            seen = seen if seen is not None and seen.image_embeds is vision_context else None
        if seen is None or torch.is_grad_enabled():
            return self.fusion(vision_context if seen is None else seen.image_embeds)
        return seen

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_mask: torch.Tensor | None = None,
        vision_context: torch.FloatTensor | None = None,
        class_embeds: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        cache: Cache | None = None,
        **kwargs,
    ) -> AdemVLModelOutputWithPast:
        r"""
        Args:
            input_ids: (B, T); rows with an image have one image token, where the class token goes.
            pixel_values, image_mask: see `encode_rows`.
            vision_context, class_embeds: what `encode_rows` gave for images seen before, instead of pixel_values.
            inputs_embeds: (B, T, D) instead of input_ids, with the class token in its place already (`embed`): images
                then come as vision_context.
            past_key_values, cache: two names of one argument, as the decoder takes it; what its tokens have seen is
                remembered with it, and goes on where neither pixel_values nor vision_context are given.
            use_cache: as the decoder takes it; left open it is False where position_ids pack documents into a row.
            attention_mask, position_ids, kwargs: as the decoder takes them.

        Raises:
            ValueError: rows and images do not correspond, or neither or both of input_ids and inputs_embeds.
        """
        cache = given_cache(cache, past_key_values)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("input_ids: give exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is not None and self.config.use_cls_token:
            _check_no_place(pixel_values=pixel_values, class_embeds=class_embeds)
        if pixel_values is not None:
            if vision_context is not None:
                raise ValueError("pixel_values: give either the images or the vision_context made of them, not both.")
            vision_context, class_embeds = self.encode_rows(input_ids, pixel_values, image_mask)
        elif class_embeds is None and input_ids is not None:
            self._check_no_slot(input_ids)
        if vision_context is None and self._waits_for_every_parameter():
            vision_context = self._nothing_seen(len(input_ids if inputs_embeds is None else inputs_embeds))
        if inputs_embeds is None:
            inputs_embeds = self.embed(input_ids, class_embeds)
        fusion = self._fusion_of(vision_context, cache)
        with self._slot.filled(fusion, self.language_model):
            outputs = self.language_model(
                attention_mask=attention_mask,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                use_cache=cache_of_rows(use_cache, position_ids, attention_mask, cache),
                **{CACHE: cache},
                **kwargs,
            )
        keep_with_cache(cache_of(outputs), fusion)
        return AdemVLModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            vision_context=fusion.image_embeds,
            **{CACHE: cache_of(outputs)},
        )

    def _check_no_slot(self, input_ids: torch.Tensor) -> None:
        slots = self._image_slots(input_ids)
        if slots is None:
            return
        if torch.compiler.is_compiling():
            check_in_graph(slots == 0, "input_ids: an image token, but no image.")
        elif slots.any():
            raise ValueError(
                f"input_ids: row {int(slots.nonzero()[0])} has an image token, but there is no image: give "
                "pixel_values (with vision_context also class_embeds), or leave the image token out of the text."
            )

    def _waits_for_every_parameter(self) -> bool:
        """Distributed training expects a gradient of every adapter in every step, also for a batch of text only."""
        return self.training and torch.distributed.is_available() and torch.distributed.is_initialized()

    def _nothing_seen(self, rows: int) -> torch.Tensor:
        config = self.config.vision_config
        blank = self.key_offsets.new_zeros(1, config.num_channels, config.image_size, config.image_size)
        seen = self.encode_images(blank)
        unseen = 0.0 * seen.image_embeds
        if seen.class_embeds is not None:
            unseen = unseen + 0.0 * seen.class_embeds[:, None]
        return unseen.expand(rows, -1, -1)


class AdemVLForConditionalGeneration(AdemVLPreTrainedModel, GenerationMixin):
    """ADEM-VL with a language modelling head."""

    accepts_loss_kwargs = True
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: AdemVLConfig):
        super().__init__(config)
        self.model = AdemVLModel(config)
        bias = bool(getattr(config.text_config, "lm_head_bias", False))
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=bias)
        self.post_init()
        self.freeze_base()
        self._ddp_params_and_buffers_to_ignore = [
            f"model.{name}" for name in self.model._ddp_params_and_buffers_to_ignore
        ]

    @classmethod
    def from_base_models(cls, text_model, vision_model, **settings):
        """
        An untrained model around a language model and a vision tower.

        Args:
            text_model: a causal language model, or its name or path. A quantised one stays quantised.
            vision_model: a CLIP or SigLIP vision model, or the name or path of one (also of a full CLIP).
            settings: fields of `AdemVLConfig`.
        """
        text, vision = settings.pop("text_model_name_or_path", None), settings.pop("vision_model_name_or_path", None)
        if isinstance(text_model, str):
            text, text_model = text_model, AutoModelForCausalLM.from_pretrained(text_model)
        if isinstance(vision_model, str):
            vision, vision_model = vision_model, load_vision_tower(vision_model)
        config = cls.config_class(
            text_config=text_model.config,
            vision_config=vision_model.config,
            text_model_name_or_path=text or text_model.config.name_or_path or None,
            vision_model_name_or_path=vision or vision_model.config.name_or_path or None,
            **settings,
        )
        return cls._assemble(config, text_model, vision_model)

    @classmethod
    def _assemble(cls, config: AdemVLConfig, text_model: PreTrainedModel, vision_model: PreTrainedModel):
        with torch.device("meta"):
            model = cls(config)
        # After the model in their place was built, which sets its own precision.
        config.text_config, config.vision_config = text_model.config, vision_model.config
        inner = model.model
        inner.vision_tower = _shortened(vision_model, config.vision_depth)
        inner.language_model = text_model.get_decoder()
        model.lm_head = text_model.get_output_embeddings()
        device = text_model.get_input_embeddings().weight.device
        for name, parameter in list(inner.named_parameters()):
            if ADAPTER_NAMES.match(name):
                owner, _, attribute = name.rpartition(".")
                value = nn.Parameter(torch.empty_like(parameter, device=device, dtype=torch.float32))
                setattr(inner.get_submodule(owner), attribute, value)
        for module in inner.modules():
            if module is inner or hasattr(module, "starts"):
                inner._init_weights(module)
        inner._attach()
        model.generation_config = text_model.generation_config
        model.freeze_base()
        return model.eval()

    @classmethod
    def _from_adapters(cls, folder, config: AdemVLConfig, **kwargs):
        """The frozen parts from where the configuration says, the adapters from `folder`."""
        from safetensors.torch import load_file

        variant = kwargs.pop("variant", None)  # of the adapters; the frozen parts are other folders
        hub = {name: kwargs.pop(name) for name in _HUB if name in kwargs}
        reached = {name: hub[name] for name in _REACHED if name in hub}
        output_loading_info = kwargs.pop("output_loading_info", False)
        kwargs.pop("ignore_mismatched_sizes", None)  # of the adapters, which are compared below
        for name in ("text_model_name_or_path", "vision_model_name_or_path"):
            if getattr(config, name) is None:
                raise ValueError(f"{name}: {folder} holds adapters only and does not say where the frozen parts are.")
        text_model = AutoModelForCausalLM.from_pretrained(config.text_model_name_or_path, **reached, **kwargs)
        dtype = {name: kwargs[name] for name in ("dtype", "torch_dtype", "device_map") if name in kwargs}
        vision_model = load_vision_tower(config.vision_model_name_or_path, **reached, **dtype)
        _check_same("text", config.text_config, text_model.config, config.text_model_name_or_path)
        _check_same("vision", config.vision_config, vision_model.config, config.vision_model_name_or_path)
        config = copy.deepcopy(config)
        config.adapter_only = False
        model = cls._assemble(config, text_model, vision_model)
        weights = {}
        for file in _weight_files(folder, variant, **hub):
            weights |= load_file(file)
        expected = {name for name in model.state_dict() if ADAPTER_NAMES.match(name)}
        if weights.keys() != expected:
            raise OSError(f"{folder}: model.safetensors lacks or adds {sorted(weights.keys() ^ expected)[:5]}.")
        model.load_state_dict(weights, strict=False)
        model.config.name_or_path = str(folder)
        return (model, {}) if output_loading_info else model

    def save_pretrained(self, save_directory, *args, adapter_only: bool = False, **kwargs):
        """As every model's; with `adapter_only` just the trained weights (18 MB for a 7B decoder)."""
        if not adapter_only:
            return super().save_pretrained(save_directory, *args, **kwargs)
        for name in ("text_model_name_or_path", "vision_model_name_or_path"):
            if getattr(self.config, name) is None:
                raise ValueError(f"config.{name}: got None; adapter_only needs to say where the frozen parts are.")
        state_dict = kwargs.pop("state_dict", None) or self.state_dict()
        adapters = {name: value for name, value in state_dict.items() if ADAPTER_NAMES.match(name)}
        self.config.adapter_only = True
        # The adapters fit the language model in any precision.
        quantization = vars(self.config.text_config).pop("quantization_config", None)
        try:
            return super().save_pretrained(save_directory, *args, state_dict=adapters, **kwargs)
        finally:
            self.config.adapter_only = False
            if quantization is not None:
                self.config.text_config.quantization_config = quantization

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def get_decoder(self) -> nn.Module:
        return self.model.get_decoder()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_mask: torch.Tensor | None = None,
        vision_context: torch.FloatTensor | None = None,
        class_embeds: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        cache: Cache | None = None,
        **kwargs,
    ) -> AdemVLCausalLMOutputWithPast:
        r"""
        Args:
            labels: (B, T), -100 where the token is not to be learned; image tokens never are.
            logits_to_keep: compute the logits of the last so many tokens only (0 for all).

        The others are those of `AdemVLModel`.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            image_mask=image_mask,
            vision_context=vision_context,
            class_embeds=class_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=given_cache(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **{name: value for name, value in kwargs.items() if name != "num_items_in_batch"},
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        if cap := getattr(self.config.text_config, "final_logit_softcapping", None):
            logits = torch.tanh(logits / cap) * cap
        loss = None
        if labels is not None:
            if self.config.use_cls_token:
                labels = labels.masked_fill(labels == self.config.image_token_id, -100)
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        return AdemVLCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            vision_context=outputs.vision_context,
            **{CACHE: cache_of(outputs)},
        )

    @torch.no_grad()
    def generate(self, inputs=None, *args, pixel_values=None, image_mask=None, **kwargs):
        """As `GenerationMixin.generate`; images are encoded, and keys and values computed, once per prompt.

        With `past_key_values` of an earlier turn what they have seen need not be given again.
        """
        name = "input_ids" if kwargs.get("input_ids") is not None else "inputs"
        input_ids = kwargs.pop("input_ids") if name == "input_ids" else inputs
        if self.config.use_cls_token and kwargs.get("inputs_embeds") is not None:
            _check_no_place(pixel_values=pixel_values, class_embeds=kwargs.get("class_embeds"))
        if pixel_values is not None:
            context, class_embeds = self.model.encode_rows(input_ids, pixel_values, image_mask)
            kwargs |= {"vision_context": context, "class_embeds": class_embeds}
        elif input_ids is not None and kwargs.get("class_embeds") is None and kwargs.get("inputs_embeds") is None:
            known = given_cache(kwargs.get("cache"), kwargs.get("past_key_values"))
            self.model._check_no_slot(input_ids[:, 0 if seen_with_cache(known) is None else known.get_seq_length() :])
        positions = None if input_ids is None else self._class_positions(input_ids)
        if positions is not None:
            settings = kwargs.get("generation_config") or self.generation_config
            pad = kwargs.get("pad_token_id", settings.pad_token_id)
            input_ids = _without_image_tokens(input_ids, positions, pad)
            kwargs["class_positions"] = positions
            if kwargs.get("streamer") is not None:
                kwargs["streamer"] = _PromptStreamer(kwargs["streamer"], positions, self.config.image_token_id)
        found = super().generate(
            *([inputs] if name == "input_ids" else [input_ids]),
            *args,
            **kwargs,
            **({"input_ids": input_ids} if name == "input_ids" else {}),
        )
        if positions is None:
            return found
        if isinstance(found, torch.Tensor):
            return _with_image_tokens(found, positions, self.config.image_token_id)
        found.sequences = _with_image_tokens(found.sequences, positions, self.config.image_token_id)
        return found

    def _class_positions(self, input_ids: torch.Tensor) -> torch.Tensor | None:
        """(B,) where each row's image token is, -1 where there is none; None where no row has one."""
        slots = self.model._image_slots(input_ids)
        if slots is None or not slots.any():
            return None
        return torch.where(slots > 0, (input_ids == self.config.image_token_id).int().argmax(dim=-1), -1)

    def prepare_inputs_for_generation(self, input_ids, *args, class_positions=None, **kwargs):
        """As `GenerationMixin`'s, with the image tokens again in the places that `generate` took them from."""
        if class_positions is not None:
            input_ids = _with_image_tokens(input_ids, class_positions, self.config.image_token_id)
        return super().prepare_inputs_for_generation(input_ids, *args, **kwargs)

    def _get_candidate_generator(self, *args, model_kwargs, assistant_model=None, **kwargs):
        # An assistant that has no eyes, or others, proposes from the text.
        if not (
            isinstance(assistant_model, AdemVLForConditionalGeneration)
            and assistant_model.model.key_offsets.shape == self.model.key_offsets.shape
        ):
            ours = ("vision_context", "class_embeds", "class_positions")
            model_kwargs = {name: value for name, value in model_kwargs.items() if name not in ours}
        return super()._get_candidate_generator(
            *args, model_kwargs=model_kwargs, assistant_model=assistant_model, **kwargs
        )


def feed_forwards(tower: nn.Module, model_type: str) -> list[nn.Module]:
    """The feed-forward networks of a tower's layers, in order."""
    found = [module for name, module in tower.named_modules() if _FEED_FORWARD.fullmatch(name)]
    if not found:
        raise ValueError(
            f"config: a {model_type!r} has no layers.<i>.mlp; accepted are decoders of the LLaMA layout, whose layers "
            "add mlp(norm(h)) to h, and CLIP or SigLIP vision towers."
        )
    return found


def _shortened(vision_model: PreTrainedModel, depth: int) -> PreTrainedModel:
    """The tower without what comes after the layer that is used."""
    vision_model.encoder.layers = vision_model.encoder.layers[:depth]
    if getattr(vision_model, "use_head", False):
        vision_model.use_head = False
        del vision_model.head
    return vision_model


def load_vision_tower(name: str, **kwargs) -> PreTrainedModel:
    """The vision model of the name or path, also of a full CLIP or SigLIP; keywords of `from_pretrained`."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(name, **{key: kwargs[key] for key in _HUB if key in kwargs})
    config = getattr(config, "vision_config", config)
    return MODEL_MAPPING[type(config)].from_pretrained(name, config=config, **kwargs)


def _check_same(what: str, ours, theirs, name: str) -> None:
    for field in ("model_type", "hidden_size", "num_hidden_layers"):
        if getattr(ours, field) != getattr(theirs, field):
            raise ValueError(
                f"{what}_model_name_or_path: the adapters were trained for a {what} model with {field} "
                f"{getattr(ours, field)}, {name} has {getattr(theirs, field)}."
            )


def _check_rows(slots: torch.Tensor | None, rows: torch.Tensor, images: int, every_row: bool) -> None:
    """Image tokens per row (None where texts have none by design), rows with an image, and images correspond."""
    if slots is not None and (many := (slots > 1).nonzero().flatten().tolist()):
        raise ValueError(f"input_ids: row {many[0]} has {slots[many[0]]} image tokens, accepted is one per row.")
    if slots is not None and not torch.equal(rows, slots > 0):
        raise ValueError(
            f"image_mask: says that rows {rows.nonzero().flatten().tolist()} have an image, but image tokens are in "
            f"rows {slots.nonzero().flatten().tolist()} of input_ids."
        )
    if images != (wanted := int(rows.sum())) and not every_row:
        raise ValueError(
            f"pixel_values: got {images} images, but {wanted} of {len(rows)} rows have a place for one. Put one image "
            "token into the text of each row with an image (the processor does), or give image_mask."
        )


def _check_no_place(**given) -> None:
    """Embeddings say nothing of where the class token goes."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name}: got it with inputs_embeds, where the class token's place cannot be seen. Give input_ids, or "
                "put the class token in yourself: context, cls = model.model.encode_rows(input_ids, pixel_values), "
                "then inputs_embeds=model.model.embed(input_ids, cls) and vision_context=context."
            )


def _spread(values: torch.Tensor | None, rows: torch.Tensor, every_row: bool) -> torch.Tensor | None:
    """(I, …) -> (B, …): each image's values in its row, zeros elsewhere. `every_row`: there is one for every row."""
    if values is None:
        return None
    rows = rows.to(values.device)
    spread = values if every_row else values[(rows.cumsum(0) - 1).clamp(min=0)]
    return torch.where(rows.view(-1, *[1] * (values.ndim - 1)), spread, 0)


def _without_image_tokens(input_ids: torch.Tensor, positions: torch.Tensor, pad_token_id: int | None) -> torch.Tensor:
    """(B, T) with the image token of each row, at `positions` (B,), replaced by the token after it (or before it).

    What generation does with ids knows the decoder's vocabulary only, where the image token need not be; a token that
    is there anyway is neither rarer nor likelier for being there twice. Padding is no token.
    """
    last = input_ids.shape[1] - 1
    tokens = torch.full_like(positions, int(pad_token_id == 0))  # of a row with nothing beside its image
    for place in (positions - 1, positions + 1):
        beside = input_ids.gather(1, place.clamp(0, last)[:, None])[:, 0]
        there = (place >= 0) & (place <= last)
        tokens = torch.where(there if pad_token_id is None else there & (beside != pad_token_id), beside, tokens)
    return _with_tokens(input_ids, positions, tokens[:, None])


def _with_image_tokens(input_ids: torch.Tensor, positions: torch.Tensor, image_token_id: int) -> torch.Tensor:
    """The image tokens again at `positions`; rows of `input_ids` may be several of each row of `positions`."""
    positions = positions.repeat_interleave(len(input_ids) // len(positions)).to(input_ids.device)
    return _with_tokens(input_ids, positions, torch.full_like(input_ids[:, :1], image_token_id))


def _with_tokens(input_ids: torch.Tensor, positions: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    here = torch.arange(input_ids.shape[1], device=input_ids.device) == positions[:, None]
    return torch.where(here, tokens, input_ids)


class _PromptStreamer:
    """Hands a prompt to a streamer with its image tokens in place, and everything after it as it comes."""

    def __init__(self, streamer, positions: torch.Tensor, image_token_id: int):
        self.streamer, self.positions, self.image_token_id = streamer, positions.cpu(), image_token_id
        self.put = self._put_prompt

    def _put_prompt(self, input_ids: torch.Tensor) -> None:
        self.put = self.streamer.put
        self.streamer.put(_with_image_tokens(input_ids, self.positions, self.image_token_id))

    def end(self) -> None:
        self.streamer.end()


def _weight_files(folder, variant: str | None, **hub) -> list[str]:
    """The files of `model.safetensors`, in one piece or in shards; with a variant those of that name."""
    part = "" if variant is None else f".{variant}"
    try:
        return [cached_file(folder, f"model{part}.safetensors", **hub)]
    except OSError as error:
        try:
            index = cached_file(folder, f"model.safetensors.index{part}.json", **hub)
        except OSError:
            raise error from None
    return get_checkpoint_shard_files(folder, index, **hub)[0]


__all__ = ["AdemVLForConditionalGeneration", "AdemVLModel", "AdemVLPreTrainedModel"]
