"""A vision-language model whose decoder sees fewer image tokens the deeper it goes.

Three modules of a model get a class of their own, a sub-class of theirs with the same name: the head, which has the
labels; the base model, which knows where image tokens are; the decoder, whose blocks are run here. They tell each
other by one context variable, which lives as long as the call: nothing of a call is kept on a module.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ....modeling.decoders.cache_names import CACHE
from .cache import StageLayer, check_cache
from .ranking import answer_starts, attention_scores, best
from .rows import Rows, number_runs
from .settings import DECODERS, PyramidDropSettings
from .watching import Drop, report

#: Beginnings of the arguments in which pictures come, or what a tower has made of them.
_PICTURES = ("pixel_values", "mm_encoder_outputs", "image_hidden_states", "image_embeds", "image_features")


@dataclass
class _Call:
    """One forward pass: what its modules tell each other.

    Attributes:
        base: the base model that is running.
        labels: of the head; those of the tokens that are left, once the decoder has run.
        images: (B, L) True at image tokens, as the base model finds them.
        pictures: whether any were given.
    """

    base: nn.Module
    labels: torch.Tensor | None = None
    images: torch.Tensor | None = None
    pictures: bool = False


_CALL: ContextVar[_Call | None] = ContextVar("pyramid_drop_call", default=None)


@contextmanager
def _running(call: _Call) -> Iterator[_Call]:
    token = _CALL.set(call)
    try:
        yield call
    finally:
        _CALL.reset(token)


class _Staged:
    """What the three have in common: they are copied and pickled by their own class."""

    def __reduce_ex__(self, protocol):
        return _remake, type(self).__bases__, self.__dict__


class StagedHead(_Staged):
    """The head: hands the labels on, and takes its loss from those of the tokens that are left."""

    def forward(self, *args, labels: torch.Tensor | None = None, **kwargs):
        with _running(_Call(self.base_model, labels)):
            return super().forward(*args, labels=labels, **kwargs)

    @property
    def loss_function(self):
        loss_function = super().loss_function

        def loss(*args, labels: torch.Tensor, **kwargs) -> torch.Tensor:
            call = _CALL.get()
            return loss_function(*args, labels=labels if call is None else call.labels, **kwargs)

        return loss

    @loss_function.setter
    def loss_function(self, value):
        self._loss_function = value


class StagedBase(_Staged):
    """The base model: finds the image tokens."""

    def forward(self, input_ids: torch.Tensor | None = None, *args, **kwargs):
        call = _CALL.get()
        if call is None or call.base is not self:
            call = _Call(self)
        if input_ids is not None:
            # By comparing with numbers: a tensor of the ids would be a transfer to the device at each token.
            call.images = functools.reduce(torch.logical_or, (input_ids == i for i in visual_token_ids(self.config)))
            call.pictures = any(
                name.startswith(_PICTURES) and value is not None and len(value) for name, value in kwargs.items()
            ) or any(isinstance(value, torch.Tensor) and value.is_floating_point() for value in args)
        elif not _has_stages(kwargs.get(CACHE)):
            raise ValueError("input_ids: got none; PyramidDrop finds the image tokens by their ids.")
        with _running(call):
            return super().forward(input_ids, *args, **kwargs)


class StagedDecoder(_Staged):
    """The decoder; `pyramid_drop` are its settings."""

    pyramid_drop: PyramidDropSettings

    def forward(self, *args, **kwargs):
        call, cache = _CALL.get(), kwargs.get(CACHE)
        staged = _has_stages(cache)
        # A single token after others is generated text; asking the device whether it is an image's would cost time.
        past = cache is not None and cache.get_seq_length() > 0
        images = None if call is None else call.images
        if images is not None and (past and images.shape[1] == 1 or not images.any()):
            images = None
        if past and images is not None:
            raise ValueError(
                "input_ids: got image tokens after a cached prompt, accepted are prompts from their start "
                "(PyramidDrop ranks all image tokens by the last token of the prompt)."
            )
        if images is not None and not call.pictures:
            raise ValueError(
                f"pixel_values: got none, but input_ids have {int(images.sum())} image tokens, which would be nothing "
                "but words; give the images, or prompts without them."
            )
        if images is None and not staged:
            return super().forward(*args, **kwargs)
        return self._run_stages(*args, past_key_values=kwargs.pop(CACHE, None), **kwargs)

    @merge_with_config_defaults
    @capture_outputs
    def _run_stages(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if past_key_values is not None:
            check_cache(past_key_values, len(self.layers))
        if attention_mask is not None and attention_mask.ndim != 2:
            raise ValueError(
                f"attention_mask: got {tuple(attention_mask.shape)}, accepted is (batch, length): it is cut when "
                "tokens leave."
            )
        run = _continue if _has_stages(past_key_values) else _prefill
        hidden_states = run(
            self, hidden_states, attention_mask, position_ids, past_key_values, {"use_cache": use_cache, **kwargs}
        )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden_states),
            **{CACHE: past_key_values if use_cache else None},
        )


def visual_token_ids(config) -> list[int]:
    """The ids of the tokens that stand for images and frames."""
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
    return sorted({getattr(config, name) for name in names if getattr(config, name, None) is not None})


def _has_stages(cache: Cache | None) -> bool:
    return cache is not None and any(isinstance(layer, StageLayer) for layer in cache.layers)


def _renumbers(decoder: nn.Module) -> bool:
    return (decoder.pyramid_drop.position_mode or ("keep" if _three_axes(decoder) else "renumber")) == "renumber"


def _three_axes(decoder: nn.Module) -> bool:
    return DECODERS[decoder.config.model_type]


def _positions(
    decoder: nn.Module, position_ids: torch.Tensor | None, hidden_states: torch.Tensor, past: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Positions for the rotation, (B, L) or (3, B, L), and those of the text alone, (B, L) or None, as the model
    itself makes them."""
    batch, length = hidden_states.shape[:2]
    if position_ids is None:
        position_ids = torch.arange(past, past + length, device=hidden_states.device)[None]
    if not _three_axes(decoder):
        return position_ids, position_ids
    if position_ids.ndim == 2:
        return position_ids.expand(3, batch, -1), None
    return (position_ids[1:], position_ids[0]) if len(position_ids) == 4 else (position_ids, None)


def _prefill(
    decoder: nn.Module,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    cache: Cache | None,
    options: dict,
) -> torch.Tensor:
    """All blocks over a prompt from its start; image tokens leave before those that the settings name."""
    settings: PyramidDropSettings = decoder.pyramid_drop
    call = _CALL.get()
    batch, length = hidden_states.shape[:2]
    device = hidden_states.device
    position_ids, text_positions = _positions(decoder, position_ids, hidden_states, 0)
    mask = create_causal_mask(decoder.config, hidden_states, attention_mask, cache, text_positions)
    images = call.images.to(device)
    rows = Rows(
        hidden_states,
        hidden_states.new_ones(batch, length, dtype=torch.bool) if attention_mask is None else attention_mask.bool(),
        position_ids.expand(*position_ids.shape[:-2], batch, length),
        number_runs(images) if settings.scope == "image" else images.long(),
        torch.arange(length, device=device).expand(batch, length),
        None if call.labels is None else call.labels.to(device),
    )
    if attention_mask is None and text_positions is not None and bool((text_positions.diff(dim=-1) != 1).any()):
        raise ValueError(
            "position_ids: got packed sequences, accepted is one sequence a row: it is cut as tokens leave."
        )
    # The next token follows on the right: padding goes to the left, as in the prompt.
    left = rows.labels is None and (cache is not None or not bool(rows.valid[:, 0].all()))
    counts = [[int((row == number).sum()) for number in range(1, int(row.max()) + 1)] for row in rows.images]
    embeddings, renumber = decoder.rotary_emb(hidden_states, position_ids), _renumbers(decoder)
    for index, layer in enumerate(decoder.layers):
        if index in settings.layers:
            stage = settings.layers.index(index)
            cut = _drop(layer, index, rows, embeddings, [[settings.kept(n, stage) for n in row] for row in counts])
            if cut is not None:
                rows = rows.keep(cut, left, renumber)
                embeddings = decoder.rotary_emb(rows.hidden_states, rows.position_ids)
                padded = len(set(map(len, cut))) > 1
                if attention_mask is None and rows.labels is not None:
                    # As the official code has it: without a mask what fills up a row on the right is a token like
                    # others. No token before it sees it, and it has no label.
                    rows, padded = replace(rows, valid=torch.ones_like(rows.valid)), False
                mask = create_causal_mask(decoder.config, rows.hidden_states, rows.valid if padded else None, None)
                # Blocks take positions with gaps for packed sequences.
                text_positions = rows.position_ids if renumber else None
                if cache is not None:
                    cache.layers[index:] = [StageLayer(rows.valid) for _ in decoder.layers[index:]]
        hidden_states = layer(
            rows.hidden_states,
            attention_mask=mask,
            position_embeddings=embeddings,
            position_ids=text_positions,
            **{CACHE: cache},
            **options,
        )
        rows = replace(rows, hidden_states=hidden_states)
    call.labels = rows.labels
    return rows.hidden_states


@torch.no_grad()
def _drop(
    layer: nn.Module, index: int, rows: Rows, embeddings: tuple[torch.Tensor, torch.Tensor], stay: list[list[int]]
) -> list[torch.Tensor] | None:
    """For each row the indices of the tokens that go on, ascending; None where no token leaves."""
    kept, leaves = [], False
    for row, numbers in enumerate(stay):
        valid, images = rows.valid[row], rows.images[row]
        if rows.labels is not None:
            queries = answer_starts(rows.labels[row])
        else:
            queries = valid.nonzero()[-1]
        members = [((images == number) & valid).nonzero()[:, 0] for number in range(1, len(numbers) + 1)]
        going_on = valid.clone()
        if len(queries) and any(len(found) > count for found, count in zip(members, numbers, strict=True)):
            cos, sin = (table[row if len(table) > 1 else 0] for table in embeddings)
            scores = attention_scores(layer, rows.hidden_states[row], (cos, sin), valid, queries)
            going_on &= images == 0
            for found, count in zip(members, numbers, strict=True):
                chosen = best(scores[found], count)
                going_on[found[chosen]] = True
                report(Drop(index, row, scores[found], chosen, rows.places[row, found[chosen]]))
            leaves = True
        kept.append(going_on.nonzero()[:, 0])
    return kept if leaves else None


def _continue(
    decoder: nn.Module,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    cache: Cache,
    options: dict,
) -> torch.Tensor:
    """All blocks over tokens that follow a prompt whose image tokens have left in stages."""
    batch, length = hidden_states.shape[:2]
    position_ids, text_positions = _positions(decoder, position_ids, hidden_states, cache.get_seq_length())
    mask = create_causal_mask(decoder.config, hidden_states, attention_mask, cache, text_positions)
    embeddings = decoder.rotary_emb(hidden_states, position_ids)
    renumber = _renumbers(decoder)
    new = hidden_states.new_ones(batch, length, dtype=torch.bool)
    if attention_mask is not None:
        new = attention_mask[:, -length:].to(new.device, torch.bool)
    for index, layer in enumerate(decoder.layers):
        own = cache.layers[index]
        if isinstance(own, StageLayer):
            own.append(new)
            if index in decoder.pyramid_drop.layers:
                # The cache's first layer stands for all in transformers' mask: here for those of the stage.
                mask = create_causal_mask(decoder.config, hidden_states, own.valid, Cache(layers=[own]))
                text_positions = None
                if renumber:
                    position_ids = (own.valid.long().cumsum(-1) - 1)[:, -length:].clamp(min=0)
                    text_positions = position_ids
                    embeddings = decoder.rotary_emb(hidden_states, position_ids)
        hidden_states = layer(
            hidden_states,
            attention_mask=mask,
            position_embeddings=embeddings,
            position_ids=text_positions,
            **{CACHE: cache},
            **options,
        )
    return hidden_states


@functools.cache
def staged_class(mixin: type, stock: type) -> type:
    """The sub-class of `stock` with what `mixin` does. It has its name, and the signature of its `forward`, by which
    transformers finds a model's outputs, loss and arguments."""
    functions = {"__module__": stock.__module__, "__qualname__": stock.__qualname__, "__doc__": stock.__doc__}

    @functools.wraps(stock.forward)
    def forward(self, *args, **kwargs):
        return mixin.forward(self, *args, **kwargs)

    return type(stock.__name__, (mixin, stock), functions | {"forward": forward})


def unstage(module: nn.Module) -> None:
    """Give a module back its own class."""
    if isinstance(module, _Staged):
        _, module.__class__ = type(module).__bases__


def _remake(mixin: type, stock: type) -> nn.Module:
    made = staged_class(mixin, stock)
    return made.__new__(made)
