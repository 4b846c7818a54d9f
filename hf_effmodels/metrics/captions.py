"""Captions as words: what BLEU and CIDEr count.

coco-caption runs Stanford's PTBTokenizer (`-preserveLines -lowerCase`, a Java program) and drops punctuation. This
reproduces it for the English that captions are made of, by regular expressions:

- lower case; words with inner hyphens, apostrophes or dots stay whole ("t-shirt", "o'clock", "u.s."), and so do
  numbers ("1,000", "3.5", "10:30", "1/2");
- contractions are parted as in the Penn treebank: "isn't" is "is n't", "man's" is "man 's", "cannot" is "can not",
  "gonna" is "gon na";
- "&", "%", "$", "#", "@" and the like are words; brackets become "-lrb-" and "-rrb-" (and stay, as they do there);
- quotes, full stops, commas, colons, semicolons, question and exclamation marks, dashes and ellipses are dropped.

What it does not reproduce: abbreviations at the end of a sentence, URLs, and other rare cases of the original's rules.
"""

import re
from collections import Counter
from collections.abc import Sequence

_APOSTROPHES = str.maketrans({"\u2018": "'", "\u2019": "'", "`": "'", "\u201c": '"', "\u201d": '"'})
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_PARTED = {
    **{"cannot": ("can", "not"), "gonna": ("gon", "na"), "gotta": ("got", "ta"), "wanna": ("wan", "na")},
    **{"gimme": ("gim", "me"), "lemme": ("lem", "me")},
}
_WORD = re.compile(
    r"(?:[^\W_]\.){2,}"  # u.s.
    r"|\d+(?:[.,:/]\d+)+"  # 1,000 and 3.5 and 10:30
    r"|[^\W_]+(?:[-'&][^\W_]+)*'?"  # t-shirt, isn't, o'clock, the plural's apostrophe
    r"|'(?:s|m|d|re|ve|ll|t)\b"
    r"|[^\w\s]"
)
_CONTRACTION = re.compile(r"(.+?)(n't|'(?:s|m|d|re|ve|ll))$")
_DROPPED = frozenset(".?!,:;\"'-\u2013\u2014\u2026_")


def words(caption: str) -> list[str]:
    """The words of a caption, as described at the top of this file."""
    found = []
    for token in _WORD.findall(caption.lower().translate(_APOSTROPHES)):
        if token in _DROPPED:
            continue
        if token in _BRACKETS:
            found.append(_BRACKETS[token])
        elif token in _PARTED:
            found += _PARTED[token]
        elif parted := _CONTRACTION.fullmatch(token):
            found += parted.groups()
        else:
            found.append(token.removesuffix("'"))
    return found


def ngrams(tokens: Sequence[str], longest: int) -> Counter:
    """How often each run of 1 to `longest` words occurs."""
    return Counter(
        tuple(tokens[start : start + n]) for n in range(1, longest + 1) for start in range(len(tokens) - n + 1)
    )


def check_pairs(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """ValueError where there is nothing to compare."""
    if not len(predictions):
        raise ValueError("predictions: there are none.")
    for index, texts in enumerate(references):
        if not len(texts):
            raise ValueError(f"references: number {index} has no caption.")
