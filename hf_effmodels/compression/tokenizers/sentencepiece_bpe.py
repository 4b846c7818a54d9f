"""A SentencePiece BPE model: segmentation as SentencePiece does it, a smaller vocabulary, a fast tokenizer.

The published compression rule works on such models. Its result differs in one point from what the tokenizers library
can do with the same pieces: SentencePiece merges characters that have no piece of their own ("▁W" from "▁" and a
dropped "W"), the library turns a character without a piece into bytes before it merges.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import generate_merges

from ..._files import write_bytes
from .id_map import IdMap

#: Types of pieces.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_SPACE = "▁"


@dataclass(frozen=True)
class SentencePieceBPE:
    """A model with a dummy prefix ("▁" before the text) and no other normalisation.

    Attributes:
        pieces, scores, types: of each id.
        byte_fallback: whether characters without a piece become bytes; otherwise they are unknown.
    """

    pieces: Sequence[str]
    scores: Sequence[float]
    types: Sequence[int]
    byte_fallback: bool = True
    _segmented: dict = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def ids(self) -> dict[str, int]:
        return {piece: number for number, piece in enumerate(self.pieces)}

    @cached_property
    def _ranks(self) -> dict[str, float]:
        mergeable = (NORMAL, USER_DEFINED)
        triples = zip(self.pieces, self.scores, self.types, strict=True)
        return {piece: -score for piece, score, kind in triples if kind in mergeable}

    @cached_property
    def _user_defined(self) -> re.Pattern | None:
        found = sorted(self._of_type(USER_DEFINED), key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, found)) + ")") if found else None

    @cached_property
    def _word_starts(self) -> re.Pattern:
        """Where a text may be cut without cutting a piece."""
        inside = any(re.search(f"[^{_SPACE}]{_SPACE}", piece) for piece in self.pieces)
        return re.compile("(?!)") if inside else re.compile(f"(?<=[^{_SPACE}])(?={_SPACE})")

    def _of_type(self, kind: int) -> list[str]:
        return [piece for piece, found in zip(self.pieces, self.types, strict=True) if found == kind]

    def encode(self, text: str) -> list[int]:
        """Ids of a text. User-defined pieces are found first; then the pair with the best score is merged, the
        leftmost of equal ones, until no pair is a piece."""
        text = (_SPACE + text.replace(" ", _SPACE)) if text else ""
        unknown = self.ids[self._of_type(UNKNOWN)[0]]
        ids: list[int] = []
        for number, part in enumerate(self._user_defined.split(text) if self._user_defined else [text]):
            if number % 2:
                ids.append(self.ids[part])
                continue
            for word in self._word_starts.split(part):
                for symbol in self._segment(word):
                    if symbol in self._ranks:
                        ids.append(self.ids[symbol])
                    elif self.byte_fallback:
                        ids += [self.ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
                    elif not ids or ids[-1] != unknown:  # SentencePiece joins neighbours that are unknown
                        ids.append(unknown)
        return ids

    def _segment(self, word: str) -> list[str]:
        if word not in self._segmented:
            symbols, ranks = list(word), self._ranks
            while True:
                pairs = (left + right for left, right in zip(symbols, symbols[1:], strict=False))
                found = [(ranks[pair], at) for at, pair in enumerate(pairs) if pair in ranks]
                if not found:
                    break
                at = min(found)[1]
                symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
            self._segmented[word] = symbols
        return self._segmented[word]

    def compressed(self, id_map: IdMap) -> "SentencePieceBPE":
        """The model without the pieces that are gone; order and scores of the others are untouched."""
        parts = {name: [getattr(self, name)[old] for old in id_map.kept] for name in ("pieces", "scores", "types")}
        return replace(self, **parts, _segmented={})

    def to_fast(self) -> PreTrainedTokenizerFast:
        """The same vocabulary as a fast tokenizer; its merges are all pairs of pieces that make a piece.

        A text that begins with a space gets no second "▁" before it, as in transformers' own conversions.
        """
        kinds = dict(zip(self.pieces, self.types, strict=True))
        scores = {
            piece: score for piece, score in zip(self.pieces, self.scores, strict=True) if kinds[piece] == NORMAL
        }
        merges = generate_merges(self.ids, scores, [piece for piece, kind in kinds.items() if kind != NORMAL])
        unknown = self._of_type(UNKNOWN)[0]
        model = BPE(self.ids, merges, byte_fallback=self.byte_fallback, unk_token=unknown, fuse_unk=True)
        backend = Tokenizer(model)
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        backend.decoder = decoders.Sequence(
            [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        backend.add_tokens(
            [
                AddedToken(piece, normalized=False, special=kind != USER_DEFINED)
                for piece, kind in kinds.items()
                if kind in (UNKNOWN, CONTROL, USER_DEFINED)
            ]
        )
        named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
        named = {name: piece for name, piece in named.items() if kinds.get(piece) == CONTROL}
        # SentencePiece finds user-defined pieces in a text, but no control pieces.
        return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=unknown, split_special_tokens=True, **named)

    @classmethod
    def load(cls, file: str | Path) -> "SentencePieceBPE":
        """Read a `tokenizer.model`.

        Raises:
            ValueError: not a SentencePiece model, not BPE, or one that normalises or has unused pieces.
            ImportError: protobuf is missing.
        """
        proto = _read(file)
        trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
        if trainer.model_type != trainer.BPE:
            raise ValueError(f"{file}: a SentencePiece model of another type, accepted is BPE.")
        if normalizer.precompiled_charsmap or normalizer.remove_extra_whitespaces or not normalizer.add_dummy_prefix:
            raise ValueError(
                f"{file}: its normaliser changes texts, accepted is the identity with a dummy prefix. Convert it with "
                "transformers' AutoTokenizer and compress the fast tokenizer."
            )
        types = [piece.type for piece in proto.pieces]
        if UNUSED in types:
            raise ValueError(f"{file}: piece {types.index(UNUSED)} is marked unused, which is not supported.")
        pieces = [piece.piece for piece in proto.pieces]
        return cls(pieces, [piece.score for piece in proto.pieces], types, trainer.byte_fallback)

    @staticmethod
    def save_compressed(source: str | Path, id_map: IdMap, target: str | Path) -> None:
        """Write the `tokenizer.model` of `source` without the pieces that are gone, as the published tool does."""
        proto = _read(source)
        if len(proto.pieces) != id_map.old_size:
            raise ValueError(f"{source}: it has {len(proto.pieces)} pieces, the map of ids is for {id_map.old_size}.")
        kept = [proto.pieces[old] for old in id_map.kept]
        kept = [type(piece).FromString(piece.SerializeToString()) for piece in kept]
        del proto.pieces[:]
        proto.pieces.extend(kept)
        proto.trainer_spec.vocab_size = len(kept)
        write_bytes(target, proto.SerializeToString())


def _read(file: str | Path):
    try:
        from transformers.utils import sentencepiece_model_pb2_new as schema
    except ImportError as error:
        raise ImportError(f"{error}. SentencePiece models are read with protobuf: pip install protobuf.") from error
    from google.protobuf.message import DecodeError

    proto = schema.ModelProto()
    try:
        proto.ParseFromString(Path(file).read_bytes())
    except DecodeError:
        raise ValueError(f"{file}: this is not a SentencePiece model.") from None
    return proto
