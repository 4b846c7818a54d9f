"""The ADEM tuner."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from ...modeling.adem_vl.fusion_adem_vl import (
    Fusion,
    FusionSlot,
    fusion_keys_values,
    keep_with_cache,
    seen_with_cache,
)
from ...modeling.decoders.cache_names import cache_of, given_cache
from .layer import MERGE_REFUSED, AdemLayer

#: Decoders of the LLaMA layout: each layer calls `self.mlp(norm(h))` and adds the result to h. (Gemma 2 and 3 norm the
#: result once more before it is added.)
MODEL_TYPES = (
    "llama", "mistral", "ministral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3_text", "smollm3", "olmo",
    "arcee", "starcoder2", "pangu_pi",
)  # fmt: skip
_FEED_FORWARD = re.compile(r"(?:.*\.)?layers\.\d+\.mlp")


class SharedState:
    """What the tuner and its layers share: the offsets, and the place of the fusion of a running forward pass."""

    def __init__(self, key_offsets: nn.ParameterDict, value_offsets: nn.ParameterDict):
        self.key_offsets = key_offsets
        self.value_offsets = value_offsets
        self.slot = FusionSlot()

    def fusion(self) -> Fusion:
        """That of the running forward pass; made anew where a part of the base model is called directly."""
        return self.slot.fusion or self.make(shown_to(self))

    def make(self, image_embeds: torch.Tensor | None, expansion: int = 1) -> Fusion:
        if image_embeds is not None:
            self.check(image_embeds)
        fitting = {
            name: fusion_keys_values(self._on_device_of(offsets, image_embeds), offsets, self.value_offsets[name])
            for name, offsets in self.key_offsets.items()
            if image_embeds is None or offsets.shape[1:] == image_embeds.shape[1:]
        }
        return Fusion(fitting, image_embeds, expansion)

    def check(self, image_embeds: torch.Tensor) -> None:
        """Raises a ValueError where the embeddings fit no adapter."""
        accepted = sorted({tuple(offsets.shape[1:]) for offsets in self.key_offsets.values()})
        if tuple(image_embeds.shape[1:]) not in accepted:
            expected = " or ".join(f"(rows, {tokens}, {width})" for tokens, width in accepted)
            raise ValueError(
                f"image_embeds: got {tuple(image_embeds.shape)}, expected {expected}: rows, visual tokens "
                "(num_vision_tokens), hidden size of the decoder."
            )

    @staticmethod
    def _on_device_of(offsets: torch.Tensor, image_embeds: torch.Tensor | None) -> torch.Tensor | None:
        return None if image_embeds is None else image_embeds.to(offsets.device)


class _Shown:
    def __init__(self, shared: SharedState, image_embeds: torch.Tensor | None):
        self.shared, self.image_embeds = shared, image_embeds


#: The blocks of `AdemModel.vision_context` that this thread or asyncio task is in, innermost last.
_blocks: ContextVar[tuple[_Shown, ...]] = ContextVar("adem_vision_context", default=())
# Whether there has ever been one: a compiler cannot look into a ContextVar, and need not as long as nobody uses it.
_any_block = False


def shown_to(shared: SharedState) -> torch.Tensor | None:
    """The images of the innermost `vision_context` of a model."""
    if not _any_block:
        return None
    return next((block.image_embeds for block in reversed(_blocks.get()) if block.shared is shared), None)


@contextmanager
def showing(shared: SharedState, image_embeds: torch.Tensor | None) -> Iterator[None]:
    global _any_block
    _any_block, mine = True, _Shown(shared, image_embeds)
    _blocks.set((*_blocks.get(), mine))
    try:
        yield
    finally:
        blocks = _blocks.get()
        _blocks.set(tuple(block for block in blocks if block is not mine))
    ours = [block for block in blocks if block.shared is shared]
    if mine in ours[:-1]:
        raise RuntimeError(
            "vision_context: a block was left while a later one was still open, so calls in between may have seen the "
            "other's images (two generators that pause inside such blocks?). Give image_embeds to each call instead."
        )


class AdemModel(BaseTuner):
    """
    Adds the fusion of ADEM-VL (https://arxiv.org/abs/2410.17779) to a causal language model.

    The model then takes `image_embeds` (rows, visual tokens, hidden size), in `forward` and `generate`: features of an
    image in the width of the decoder, already scaled (β in the paper), zero in rows without an image. Without them the
    adapter is a learned memory, as in the paper for text-only rows. Where a keyword does not reach the model (a
    pipeline, somebody else's training loop), use `with model.vision_context(image_embeds): ...`. What the tokens of a
    key-value cache have seen is remembered with it: later calls with `past_key_values` need not give it again.

    Example:

        >>> model = get_peft_model(llm, AdemConfig(num_vision_tokens=320))
        >>> model(input_ids, image_embeds=image_embeds).logits
        >>> model.generate(input_ids, image_embeds=image_embeds, num_beams=4)
    """

    uses_shared_state = True
    prefix = "adem_"
    tuner_layer_cls = AdemLayer
    target_module_mapping = dict.fromkeys(MODEL_TYPES, ["mlp"])

    def _pre_injection_hook(self, model: nn.Module, config, adapter_name: str) -> None:
        self.adem_emb1 = nn.ParameterDict()
        self.adem_emb2 = nn.ParameterDict()
        self.shared = SharedState(self.adem_emb1, self.adem_emb2)

    def _post_injection_hook(self, model: nn.Module, config, adapter_name: str) -> None:
        # A PeftModel hands its keywords to the base model, which does not know this one.
        self._hooks = [
            model.register_forward_pre_hook(_without_image_embeds, with_kwargs=True),
            model.register_forward_hook(partial(_remember, self.shared)),
        ]
        if hasattr(model, "generate"):
            model.generate = partial(_generate, model)

    def _prepare_adapter_config(self, peft_config, model_config: dict):
        if peft_config.target_modules is None:
            names = [name for name, _ in self.model.named_modules() if _FEED_FORWARD.fullmatch(_unwrapped(name))]
            if not names or model_config.get("model_type") not in self.target_module_mapping:
                raise ValueError(
                    f"model: ADEM does not know the layout of a {model_config.get('model_type')!r}, known are "
                    f"{', '.join(self.target_module_mapping)}. If its layers add `feed_forward(norm(h))` to h, give "
                    "the names of these feed-forward networks as target_modules, such as AdemConfig("
                    'target_modules=["mlp"]).'
                )
        return super()._prepare_adapter_config(peft_config, model_config)

    def _create_and_replace(self, peft_config, adapter_name, target, target_name, parent, current_key) -> None:
        if adapter_name not in self.adem_emb1:
            self._add_offsets(peft_config, adapter_name, target)
        if isinstance(target, AdemLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = AdemLayer(target, self)
        layer.update_layer(adapter_name, peft_config)
        layer.set_adapter(self.active_adapters)
        self._replace_module(parent, target_name, layer, target)

    def _add_offsets(self, config, adapter_name: str, target: nn.Module) -> None:
        shape = (1, config.num_vision_tokens, self._hidden_size(target))
        weight = next((p for p in target.parameters() if p.is_floating_point()), None)
        like = {} if weight is None else {"device": weight.device, "dtype": weight.dtype}
        self.adem_emb1[adapter_name] = nn.Parameter(torch.empty(shape, **like).normal_(0, config.init_std))
        self.adem_emb2[adapter_name] = nn.Parameter(torch.zeros(shape, **like))

    def _hidden_size(self, target: nn.Module) -> int:
        """The decoder's width: as its configuration says, or the input of the feed-forward network's first layer."""
        config = getattr(self.model, "config", None)
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
        linear = next((module for module in target.modules() if isinstance(module, nn.Linear)), None)
        size = getattr(config, "hidden_size", getattr(linear, "in_features", None))
        if size is None:
            raise ValueError(
                "target_modules: the model has no config.hidden_size, and a targeted module no linear layer whose "
                "input would tell it; target the feed-forward networks."
            )
        return size

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # A feed-forward network has no `weight` that the general version would look at.
        setattr(parent, child_name, new_module)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args, **kwargs) -> None:
        # As peft does with parameters under the model; the offsets are not there.
        others = [
            p for offsets in (self.adem_emb1, self.adem_emb2) for name, p in offsets.items() if name != adapter_name
        ]
        before = [p.requires_grad for p in others]
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        for parameter, requires_grad in zip(others, before, strict=True):
            parameter.requires_grad_(requires_grad)

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        del self.adem_emb1[adapter_name], self.adem_emb2[adapter_name]

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        # The general version looks for parameters in the layers, which have none of their own.
        for offsets in (self.adem_emb1, self.adem_emb2):
            if autocast_adapter_dtype and offsets[adapter_name].dtype in (torch.float16, torch.bfloat16):
                offsets[adapter_name].data = offsets[adapter_name].data.float()

    def _check_merge_allowed(self) -> None:
        raise ValueError(MERGE_REFUSED)

    def _unload_and_optionally_merge(self, *args, **kwargs) -> nn.Module:
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        for hook in self._hooks:
            hook.remove()
        model.__dict__.pop("generate", None)
        return model

    @contextmanager
    def vision_context(self, image_embeds: torch.Tensor | None) -> Iterator[None]:
        """The model sees `image_embeds` (rows, visual tokens, hidden size) during the block, in this thread (a thread
        that is started in the block needs its own) or this asyncio task, and nobody else's calls do.

        A generator that pauses in the block shows them to its caller, too; give it the keyword.

        Raises:
            ValueError: another shape; while the model runs: another number of rows than the batch.
            RuntimeError: a later block of the same model is still open when this one is left.
        """
        if image_embeds is not None:
            self.shared.check(image_embeds)
        with showing(self.shared, image_embeds):
            yield

    @contextmanager
    def _enable_peft_forward_hooks(self, *args, **kwargs) -> Iterator[None]:
        """Around each `forward` and each whole `generate` of the `PeftModel`: keys and values are computed here."""
        if kwargs.get("adapter_names") is not None:
            raise ValueError("adapter_names: ADEM runs one set of adapters per batch, accepted is None.")
        image_embeds = kwargs.get("image_embeds")
        if image_embeds is None:
            image_embeds = shown_to(self.shared)
        if (
            image_embeds is None
            and (seen := seen_with_cache(given_cache(kwargs.get("cache"), kwargs.get("past_key_values")))) is not None
        ):
            image_embeds = seen.image_embeds
        fusion = self.shared.make(image_embeds, _expansion(self.model, kwargs))
        with self.shared.slot.filled(fusion, self.model):
            yield


def _generate(model: nn.Module, *args, image_embeds: torch.Tensor | None = None, **kwargs):
    """`generate` of the base model; `_enable_peft_forward_hooks` has put `image_embeds` in place."""
    return type(model).generate(model, *args, **kwargs)


def _without_image_embeds(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    return args, {name: value for name, value in kwargs.items() if name != "image_embeds"}


def _remember(shared: SharedState, module: nn.Module, args: tuple, output) -> None:
    if (fusion := shared.slot.fusion) is not None:
        keep_with_cache(cache_of(output), fusion)


def _unwrapped(name: str) -> str:
    return name.replace(".base_layer", "")


def _expansion(model: nn.Module, kwargs: dict) -> int:
    """How often `generate` with these keywords repeats each row."""
    settings = [kwargs.get("generation_config"), getattr(model, "generation_config", None)]

    def setting(name: str) -> int:
        values = [kwargs.get(name), *(getattr(s, name, None) for s in settings if s is not None)]
        return next((value for value in values if value is not None), 1)

    return max(setting("num_beams"), setting("num_return_sequences"))
