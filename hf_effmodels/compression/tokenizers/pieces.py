"""Which pieces of a vocabulary to keep (https://arxiv.org/abs/2402.02791, compact tokenizer).

The published rule keeps the special pieces and then the most frequent ones. A BPE model builds a piece from smaller
ones, so that this leaves frequent pieces which nothing can build any more. The rule with closure keeps a piece only
together with all that it is built from.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

STRATEGIES = ("frequency+closure", "frequency")


def check_either_size(vocab_size: int | None, coverage: float | None) -> None:
    """ValueError unless one of the two is given, and a coverage is a share."""
    if (vocab_size is None) == (coverage is None):
        raise ValueError(f"vocab_size, coverage: got {vocab_size} and {coverage}, accepted is exactly one of them.")
    if coverage is not None and not 0 < coverage <= 1:
        raise ValueError(f"coverage: got {coverage}, accepted are shares above 0 and up to 1.")


def is_special_piece(piece: str) -> bool:
    """The published rule: in angle or square brackets, with something between them. Byte pieces `<0x0A>` are, too."""
    return len(piece) > 2 and (piece[0], piece[-1]) in (("<", ">"), ("[", "]"))


def choose(
    ranking: Iterable[int],
    always: Iterable[int],
    counts: np.ndarray,
    most: int,
    needed: float | None = None,
    closure: Callable[[int], frozenset[int] | None] = lambda token: frozenset([token]),
) -> set[int]:
    """What is always kept, then ids by falling count; each with its closure, as long as the whole set fits.

    Args:
        ranking: all ids, the most frequent first.
        always: ids that are kept whatever their count.
        counts: (vocabulary,).
        most: number of ids to keep.
        needed: stop before where the kept ids have so many counts.
        closure: the ids that a piece is built from, itself included; None for a piece that is never built. By default
            the piece alone, which is the published rule.
    """
    kept = set(always)
    covered = int(counts[sorted(kept)].sum())
    for token in map(int, ranking):
        if len(kept) >= most or (needed is not None and covered >= needed):
            break
        group = closure(token)
        if group is None or len(kept) + len(group - kept) > most:
            continue
        covered += sum(int(counts[piece]) for piece in group - kept)
        kept |= group
    return kept


class Merges:
    """The merges of a BPE model.

    Args:
        merges: pairs of pieces, each once, the first to be applied first.
        ids: id of each piece of the model.
        prefix: of symbols that continue a word, as "##".
        suffix: of symbols that end a word, as "</w>".
    """

    def __init__(self, merges: Sequence[Sequence[str]], ids: Mapping[str, int], prefix: str = "", suffix: str = ""):
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(merges)}
        self.ids, self.prefix, self.suffix = ids, prefix, suffix

    def product(self, left: str, right: str) -> str:
        return left + right.removeprefix(self.prefix) if self.prefix else left + right

    def symbols(self, piece: str) -> list[str]:
        """What BPE starts from: single characters, with the marks of their place in the word."""
        start = self.prefix if self.prefix and piece.startswith(self.prefix) else ""
        end = self.suffix if self.suffix and piece.endswith(self.suffix) and piece != self.suffix else ""
        body = piece[len(start) : len(piece) - len(end)]
        symbols = [(start if i == 0 else self.prefix) + character for i, character in enumerate(body)]
        if symbols:
            symbols[-1] += end
        return symbols

    def ancestors(self, piece: str) -> frozenset[int] | None:
        """Ids of all pieces used when BPE builds this one from its characters, its own included.

        None where BPE does not build it: another merge gets in its way, or there is none.
        """
        symbols = self.symbols(piece)
        used = set(symbols)
        while len(symbols) > 1:
            pairs = list(zip(symbols, symbols[1:], strict=False))
            rank, at = min((self.ranks.get(pair, len(self.ranks)), i) for i, pair in enumerate(pairs))
            if rank == len(self.ranks):
                return None
            symbols[at : at + 2] = [self.product(*pairs[at])]
            used.add(symbols[at])
        if symbols != [piece]:
            return None
        return frozenset(self.ids[symbol] for symbol in used if symbol in self.ids)

    def kept(self, pieces: set[str]) -> list[tuple[str, str]]:
        """The merges, in order, whose parts and product are all among `pieces`."""
        ranked = sorted(self.ranks, key=self.ranks.__getitem__)
        return [pair for pair in ranked if {*pair, self.product(*pair)} <= pieces]

    def unreachable(self, pieces: Iterable[str]) -> set[str]:
        """Those of `pieces` that no chain of merges within `pieces` builds from characters."""
        pieces = set(pieces)
        reachable = {piece for piece in pieces if self.symbols(piece) == [piece]}
        waiting: dict[str, list[tuple[str, str]]] = {}
        queue = list(reachable)
        for pair in self.kept(pieces):
            for part in set(pair):
                waiting.setdefault(part, []).append(pair)
        while queue:
            for pair in waiting.pop(queue.pop(), ()):
                product = self.product(*pair)
                if reachable.issuperset(pair) and product not in reachable:
                    reachable.add(product)
                    queue.append(product)
        return pieces - reachable


def kept_share(counts: np.ndarray, kept: Iterable[int]) -> float:
    """Coverage: the share of a corpus's tokens that are kept ones."""
    return float(counts[sorted(kept)].sum() / counts.sum())
