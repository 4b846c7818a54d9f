"""Whole numbers as few bytes, by how likely each is: range asymmetric numeral systems (https://arxiv.org/abs/1311.2540).

64 bits of state, words of 32 bits, frequencies of 16 bits; numbers outside of a table follow an escape symbol, four
bits at a time.

A stream is its last state and the words before it. CompressAI begins with a state of 2^31 and writes all eight bytes
of the last one: about six bytes beside those that the numbers take, by which a damaged stream is told. Here the state
begins at 0 and is written without the zeros in front: about two bytes, since the first number takes the sixteen bits
of its table. What is sent needs a checksum, then.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import accumulate, pairwise

#: Frequencies of a table sum up to 2 to this.
PRECISION = 16
_LEAST = 1 << 31
_WORD = (1 << 32) - 1
_ESCAPE_BITS = 4
_ESCAPE = (1 << _ESCAPE_BITS) - 1
#: Digits that an escaped number can have: 2³² and its sign fit.
_MOST_DIGITS = 9


def quantized_distribution(probabilities: Sequence[float]) -> list[int]:
    """Cumulated frequencies, from 0 to 2^16, each symbol with one at least.

    Args:
        probabilities: of each symbol, finite, not negative; they need not sum up to one.

    Raises:
        ValueError: none, more than 2^16, or numbers that are no probabilities.
    """
    whole = 1 << PRECISION
    if not 0 < len(probabilities) <= whole or not all(0 <= p < float("inf") for p in probabilities):
        raise ValueError("probabilities: accepted are 1 to 65536 finite numbers from 0.")
    counts = [int(p * whole + 0.5) for p in probabilities]
    total = sum(counts)
    if total == 0:
        raise ValueError("probabilities: all are nought.")
    ends = [0]
    for count in counts:
        ends.append(ends[-1] + count * whole // total)
    ends[-1] = whole
    sizes = [after - before for before, after in pairwise(ends)]
    rich = [(size, symbol) for symbol, size in enumerate(sizes) if size > 1]
    heapify(rich)
    for symbol, size in enumerate(sizes):
        if size == 0:  # it takes one from the rarest of those that have more than one
            _, giver = heappop(rich)
            sizes[giver], sizes[symbol] = sizes[giver] - 1, 1
            if sizes[giver] > 1:
                heappush(rich, (sizes[giver], giver))
    return [0, *accumulate(sizes)]


def encode(
    numbers: Sequence[int],
    tables: Iterable[int],
    ends: Sequence[Sequence[int]],
    offsets: Sequence[int],
    *,
    compressai: bool = False,
) -> bytes:
    """Bytes of the numbers.

    Args:
        numbers: to be sent.
        tables: of each number, which table.
        ends: of each table the cumulated frequencies; its last symbol is the escape.
        offsets: of each table the number that its first symbol stands for.
        compressai: the stream that CompressAI writes, of a multiple of four bytes.
    """
    pieces: list[tuple[int, int, int]] = []  # start, frequency, bits (0: of a table)
    for number, table in zip(numbers, tables, strict=True):
        own = ends[table]
        escape = len(own) - 2
        symbol = number - offsets[table]
        rest = None
        if symbol < 0:
            rest, symbol = -2 * symbol - 1, escape
        elif symbol >= escape:
            rest, symbol = 2 * (symbol - escape), escape
        pieces.append((own[symbol], own[symbol + 1] - own[symbol], 0))
        if rest is not None:
            digits = -(-rest.bit_length() // _ESCAPE_BITS)
            if digits > _MOST_DIGITS:
                raise ValueError(f"numbers: got {number}, accepted are numbers of 32 bits.")
            pieces.append((digits, 0, _ESCAPE_BITS))
            pieces += [((rest >> (_ESCAPE_BITS * d)) & _ESCAPE, 0, _ESCAPE_BITS) for d in range(digits)]
    state, words = _LEAST if compressai else 0, []
    for start, frequency, bits in reversed(pieces):
        if bits:
            frequency = 1 << (PRECISION - bits)
        if state >= ((_LEAST >> PRECISION) << 32) * frequency:
            words.append(state & _WORD)
            state >>= 32
        if bits:
            state = (state << bits) | start
        else:
            state = ((state // frequency) << PRECISION) + state % frequency + start
    size = 8 if compressai else _state_bytes(state, bool(words))
    return state.to_bytes(size, "little") + struct.pack(f"<{len(words)}I", *reversed(words))


def _state_bytes(state: int, has_words: bool) -> int:
    """Bytes of the last state. With words behind it, it has five to eight (`_split` counts on that): it is 2^31 at
    least then."""
    size = -(-state.bit_length() // 8)
    return 8 if has_words and size <= 4 else size


def _split(stream: bytes, compressai: bool) -> tuple[int, tuple[int, ...]]:
    """The last state, and the words behind it."""
    if compressai and (len(stream) < 8 or len(stream) % 4):
        raise ValueError(f"stream: got {len(stream)} bytes, accepted are multiples of 4 from 8.")
    size = 8 if compressai else len(stream) if len(stream) <= 8 else len(stream) % 4 + 4
    size = 8 if len(stream) > 8 and size == 4 else size
    return int.from_bytes(stream[:size], "little"), struct.unpack(f"<{(len(stream) - size) // 4}I", stream[size:])


def decode(
    stream: bytes,
    tables: Iterable[int],
    ends: Sequence[Sequence[int]],
    offsets: Sequence[int],
    *,
    compressai: bool = False,
) -> list[int]:
    """The numbers again; see `encode`.

    Raises:
        ValueError: bytes that these tables have not written. Without `compressai` not all of them are noticed.
    """
    (state, words), place = _split(stream, compressai), 0
    first = _LEAST if compressai else 0
    mask, found = (1 << PRECISION) - 1, []

    def refill(state: int, place: int) -> tuple[int, int]:
        if state >= _LEAST or (place >= len(words) and not compressai):
            return state, place
        if place >= len(words):
            raise ValueError("stream: it ends too early.")
        return (state << 32) | words[place], place + 1

    def digit() -> int:
        nonlocal state, place
        value = state & _ESCAPE
        state, place = refill(state >> _ESCAPE_BITS, place)
        return value

    for table in tables:
        own = ends[table]
        low = state & mask
        symbol = bisect_right(own, low) - 1
        state, place = refill((own[symbol + 1] - own[symbol]) * (state >> PRECISION) + low - own[symbol], place)
        if symbol == len(own) - 2:
            digits = digit()
            if digits > _MOST_DIGITS:
                raise ValueError(f"stream: a number of {digits} digits, accepted are {_MOST_DIGITS}.")
            rest = sum(digit() << (_ESCAPE_BITS * d) for d in range(digits))
            symbol = -(rest >> 1) - 1 if rest & 1 else (rest >> 1) + symbol
        found.append(symbol + offsets[table])
    if place != len(words) or state != first:
        raise ValueError("stream: it holds more than these numbers, or others.")
    return found
