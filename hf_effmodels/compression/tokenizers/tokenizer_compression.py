"""A smaller tokenizer from a trained one: pieces are dropped, nothing is retrained.

It works on the JSON form of the tokenizers library, whatever class wraps it: BPE (byte-level, or with byte fallback as
converted from SentencePiece), Unigram, WordPiece and WordLevel.
"""

import copy
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .id_map import IdMap
from .pieces import STRATEGIES, Merges, check_either_size, choose, is_special_piece
from .token_counts import TokenCounts, tokenizer_fingerprint

#: What a tokenizer has beside its vocabulary, from its class, as it was made, or changed since; taken over.
_SETTINGS = (
    *("model_max_length", "padding_side", "truncation_side", "clean_up_tokenization_spaces", "split_special_tokens"),
    "model_input_names",
)


def compress_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    counts: TokenCounts | Mapping[int, int] | Sequence[int],
    vocab_size: int | None = None,
    coverage: float | None = None,
    strategy: str = "frequency+closure",
    keep: Iterable[str | int] = (),
) -> tuple[PreTrainedTokenizerFast, IdMap]:
    """Drop the rare pieces of a tokenizer (https://arxiv.org/abs/2402.02791, compact tokenizer).

    Special pieces, added tokens, the tokens of the post-processor and the byte alphabet always stay. The other pieces
    come by falling count; order, scores and merges of those that stay are untouched.

    Args:
        tokenizer: a fast tokenizer.
        counts: frequencies of its ids, see `count_tokens`.
        vocab_size: number of tokens of the new one, all included. With closure it may end a few short of it.
        coverage: instead: keep the fewest pieces in the order of the strategy whose counts make up this share of all.
        strategy: "frequency" is the published rule, which leaves pieces that no merge can build any more;
            "frequency+closure" keeps each piece with all that BPE builds it from (of WordPiece and Unigram: with its
            characters), so that every kept piece can still be produced.
        keep: more pieces or ids to keep.

    Returns:
        The new tokenizer and the map of ids, for `compress_embeddings` and `remap_dataset`. The tokenizer is of the
        class of the old one where that reads it as it is, else a `PreTrainedTokenizerFast`.

    Raises:
        ValueError: an empty corpus, counts of another vocabulary, an unknown piece, or a size that does not hold what
            always stays.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ValueError(f"tokenizer: got {type(tokenizer).__name__}, accepted are fast tokenizers.")
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy: got {strategy!r}, accepted are {', '.join(map(repr, STRATEGIES))}.")
    vocabulary = Vocabulary(tokenizer)
    check_size(vocabulary, vocab_size, coverage)
    counts = TokenCounts.of(counts, vocabulary.size)
    if counts.tokenizer not in (None, tokenizer_fingerprint(tokenizer)):
        raise ValueError("counts: they are of another tokenizer; count the corpus with this one.")
    always = vocabulary.always_kept(keep)
    most = len(vocabulary.ids) if vocab_size is None else vocab_size
    if strategy == "frequency+closure":
        closures = (vocabulary.closure(token) or frozenset() for token in always)
        always = always.union(*closures)
    if len(always) > most:
        raise ValueError(
            f"vocab_size: got {vocab_size}, accepted are sizes from {len(always)}: {vocabulary.what_stays} stay."
        )
    ranking = [int(token) for token in counts.ranking() if int(token) in vocabulary.pieces]
    needed = None if coverage is None else coverage * counts.total
    closure = {"closure": vocabulary.closure} if strategy == "frequency+closure" else {}
    kept = choose(ranking, always, counts.counts, most, needed, **closure)
    id_map = IdMap.of(kept, vocabulary.size)
    return _rebuilt(tokenizer, vocabulary, id_map), id_map


def unreachable_ids(tokenizer: PreTrainedTokenizerBase, id_map: IdMap | None = None) -> list[int]:
    """Ids of BPE pieces that no chain of merges can build, ascending; empty for other models.

    Args:
        tokenizer: a fast tokenizer.
        id_map: look at the pieces it keeps only, with the merges among them.
    """
    vocabulary = Vocabulary(tokenizer)
    kept = vocabulary.pieces.keys() if id_map is None else id_map.kept
    if vocabulary.merges is None:
        return []
    built = {vocabulary.pieces[token] for token in kept if vocabulary.is_built(token)}
    return sorted(vocabulary.ids[piece] for piece in vocabulary.merges.unreachable(built))


def check_size(vocabulary: "Vocabulary", vocab_size: int | None, coverage: float | None) -> None:
    """What can be said about a size before anything is counted.

    Raises:
        ValueError: neither or both are given, or out of range.
    """
    check_either_size(vocab_size, coverage)
    least = len(vocabulary.always_kept(()))
    if vocab_size is not None and not least <= vocab_size <= len(vocabulary.ids):
        raise ValueError(
            f"vocab_size: got {vocab_size}, accepted are {least} ({vocabulary.what_stays} stay) to "
            f"{len(vocabulary.ids)} (the tokenizer's own)."
        )


class Vocabulary:
    """The pieces of a fast tokenizer and what they are built from.

    Attributes:
        content: the tokenizer as the tokenizers library's JSON.
        ids, pieces: id of each piece, piece of each id; added tokens are included.
        size: the largest id + 1.
        merges: of a BPE model, else None.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.content = json.loads(tokenizer.backend_tokenizer.to_str())
        model = self.content["model"]
        self.kind = model.get("type")
        if self.kind not in ("BPE", "Unigram", "WordPiece", "WordLevel"):
            raise ValueError(f"tokenizer: its model is {self.kind}, accepted are BPE, Unigram, WordPiece, WordLevel.")
        vocab = model["vocab"]
        own = {piece: number for number, (piece, _) in enumerate(vocab)} if self.kind == "Unigram" else vocab
        self.own_ids = set(own.values())
        self.added = {token["content"]: token["id"] for token in self.content["added_tokens"]}
        self.ids = {**own, **self.added}
        self.pieces = {number: piece for piece, number in self.ids.items()}
        if len(self.pieces) < len(self.ids):
            piece, number = next((p, n) for p, n in self.ids.items() if self.pieces[n] != p)
            raise ValueError(
                f"tokenizer: its id {number} stands for two tokens, {piece!r} and {self.pieces[number]!r}; accepted "
                "are vocabularies without gaps before added tokens."
            )
        self.size = max(self.pieces) + 1
        self.prefix = model.get("continuing_subword_prefix") or ""
        self.merges = None
        if self.kind == "BPE":
            self.merges = Merges(model["merges"], own, self.prefix, model.get("end_of_word_suffix") or "")
        self.ignores_merges = bool(model.get("ignore_merges"))
        self.alphabet = set(ByteLevel.alphabet()) & own.keys() if _uses_byte_level(self.content) else set()
        self.special = _special_ids(tokenizer, self)

    @property
    def what_stays(self) -> str:
        bytes_ = len(self.alphabet) or sum(_is_byte(piece) for piece in self.ids)
        return f"{bytes_} bytes and {len(self.always_kept(())) - bytes_} special or added tokens"

    def always_kept(self, keep: Iterable[str | int]) -> set[int]:
        kept = {number for piece, number in self.ids.items() if is_special_piece(piece)}
        kept |= {*self.added.values(), *self.special, *(self.ids[piece] for piece in self.alphabet)}
        for token in keep:
            if isinstance(token, str) and token not in self.ids or isinstance(token, int) and token not in self.pieces:
                raise ValueError(f"keep: got {token!r}, which the tokenizer does not have.")
            kept.add(self.ids[token] if isinstance(token, str) else token)
        return kept

    def is_built(self, token: int) -> bool:
        """Whether the model builds this piece from smaller ones; special and byte pieces come from elsewhere."""
        piece = self.pieces[token]
        return token in self.own_ids and piece not in self.added and token not in self.special and not _is_byte(piece)

    def closure(self, token: int) -> frozenset[int] | None:
        """Ids that are needed to produce a piece; None for a piece that the model never produces."""
        if not self.is_built(token):
            return frozenset([token])
        piece = self.pieces[token]
        if self.merges is not None:
            built = self.merges.ancestors(piece)
            return frozenset([token]) if built is None and self.ignores_merges else built
        characters = self._characters(piece)
        return frozenset([token, *(self.ids[c] for c in characters if c in self.ids)])

    def _characters(self, piece: str) -> list[str]:
        if self.kind == "Unigram":
            return list(piece)
        if self.kind == "WordLevel":
            return []
        continues = piece.startswith(self.prefix)
        body = piece.removeprefix(self.prefix)
        return [c if i == 0 and not continues else self.prefix + c for i, c in enumerate(body)]


def _is_byte(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")


def _uses_byte_level(content: dict) -> bool:
    return any('"ByteLevel"' in json.dumps(content.get(part)) for part in ("pre_tokenizer", "normalizer"))


def _special_ids(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> set[int]:
    model = vocabulary.content["model"]
    special = {number for number in tokenizer.all_special_ids if number in vocabulary.pieces}
    special |= set(_post_processor_ids(vocabulary.content.get("post_processor")))
    if model.get("unk_id") is not None:
        special.add(model["unk_id"])
    if model.get("unk_token") in vocabulary.ids:
        special.add(vocabulary.ids[model["unk_token"]])
    return special


def _post_processor_ids(processor: dict | None) -> list[int]:
    found = []
    _map_post_processor(copy.deepcopy(processor), lambda token: found.append(token) or token)
    return found


def _map_post_processor(processor: dict | None, change: Callable[[int], int]) -> dict | None:
    """Change the ids that a post-processor puts into the sequence, in place."""
    if processor is None:
        return None
    kind = processor["type"]
    if kind == "Sequence":
        for part in processor["processors"]:
            _map_post_processor(part, change)
    elif kind == "TemplateProcessing":
        for special in processor["special_tokens"].values():
            special["ids"] = [change(number) for number in special["ids"]]
    elif kind in ("BertProcessing", "RobertaProcessing"):
        for name in ("sep", "cls"):
            processor[name][1] = change(processor[name][1])
    return processor


def _rebuilt(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, id_map: IdMap) -> PreTrainedTokenizerFast:
    content = copy.deepcopy(vocabulary.content)
    model, new = content["model"], {old: number for number, old in enumerate(id_map.kept)}
    if vocabulary.kind == "Unigram":
        model["vocab"] = [entry for old, entry in enumerate(model["vocab"]) if old in new]
        if model.get("unk_id") is not None:
            model["unk_id"] = new[model["unk_id"]]
    else:
        model["vocab"] = {piece: new[old] for piece, old in model["vocab"].items() if old in new}
    if vocabulary.merges is not None:
        model["merges"] = [list(pair) for pair in vocabulary.merges.kept(model["vocab"].keys())]
    for token in content["added_tokens"]:
        token["id"] = new[token["id"]]
    content["added_tokens"].sort(key=lambda token: token["id"])
    _map_post_processor(content.get("post_processor"), new.__getitem__)
    if content.get("padding"):
        content["padding"]["pad_id"] = new[content["padding"]["pad_id"]]
    backend = Tokenizer.from_str(json.dumps(content))
    wrong = [p for old, p in vocabulary.pieces.items() if old in new and backend.token_to_id(p) != new[old]]
    if wrong:
        raise ValueError(f"tokenizer: the id of its piece {wrong[0]!r} cannot be moved by the tokenizers library.")
    settings = {name: getattr(tokenizer, name) for name in _SETTINGS}
    if "add_prefix_space" in tokenizer.init_kwargs:
        settings["add_prefix_space"] = tokenizer.init_kwargs["add_prefix_space"]
    settings |= {name: token for name, token in tokenizer.special_tokens_map.items() if name.endswith("_token")}
    extra = getattr(tokenizer, "extra_special_tokens", None)
    if extra:
        settings["extra_special_tokens"] = list(extra.values()) if isinstance(extra, dict) else list(extra)
    compressed = PreTrainedTokenizerFast(tokenizer_object=backend, **settings)
    compressed.chat_template = tokenizer.chat_template
    return _of_its_class(compressed, tokenizer) or compressed


def _of_its_class(
    compressed: PreTrainedTokenizerFast, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedTokenizerFast | None:
    """The compressed tokenizer in the class of the old one, which other versions of transformers may know; None where
    that class makes another tokenizer of the file: many build theirs anew out of vocabulary and merges."""
    if type(tokenizer) is PreTrainedTokenizerFast or not type(tokenizer).__module__.startswith("transformers."):
        return None  # code beside a tokenizer stays behind
    with tempfile.TemporaryDirectory() as folder:
        compressed.save_pretrained(folder)
        file = Path(folder, "tokenizer_config.json")
        settings = json.loads(file.read_bytes())
        of_a_place = {"name_or_path", "is_local", "local_files_only"}
        for name, value in tokenizer.init_kwargs.items():  # `do_lower_case` and the like
            plain = value is None or isinstance(value, (bool, int, float, str))
            if plain and not name.endswith("_file") and name not in {*settings, *of_a_place}:
                settings[name] = value
        settings["tokenizer_class"] = type(tokenizer).__name__
        file.write_text(json.dumps(settings), encoding="utf-8")
        try:
            found = type(tokenizer).from_pretrained(folder)
        except Exception:  # whatever a class makes of a vocabulary that it was not written for
            return None
    same = found.backend_tokenizer.to_str() == compressed.backend_tokenizer.to_str()
    same = same and found.special_tokens_map == compressed.special_tokens_map
    same = same and all(getattr(found, name) == getattr(compressed, name) for name in _SETTINGS)
    for name in ("is_local", "local_files_only", "name_or_path"):  # of the folder that is gone
        found.init_kwargs.pop(name, None)
    found.name_or_path = ""
    return found if same else None
