"""BLEU-4 of image captions, as coco-caption has it, as a module of the `evaluate` library."""

import math

import datasets
import evaluate

from hf_effmodels.metrics.captions import check_pairs, ngrams, words

_DESCRIPTION = """
BLEU (Papineni et al., 2002) over a set of captions: the geometric mean of the shares of 1- to n-grams that occur in a
reference (each as often as in the reference that has most of it), times exp(1 - r / c) where the captions have fewer
words c in all than the references r (of each image the one closest in length, the shorter of two). Without smoothing.
Words are those of `hf_effmodels.metrics.captions`.
"""

_INPUTS = """
Args:
    predictions (list of str): one caption for each image.
    references (list of lists of str): its reference captions.

Returns:
    bleu_1, bleu_2, bleu_3, bleu_4 (float): from 0 to 1.

Example:
    >>> pairs = {"predictions": ["a cat on a mat"], "references": [["a cat on a mat", "the cat"]]}
    >>> round(load("bleu_4").compute(**pairs)["bleu_4"], 6)
    1.0
"""

LONGEST = 4


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class Bleu4(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Sequence(datasets.Value("string")),
                }
            ),
        )

    def _compute(self, predictions, references):
        check_pairs(predictions, references)
        return bleu([words(p) for p in predictions], [[words(r) for r in texts] for texts in references])


def bleu(captions: list[list[str]], references: list[list[list[str]]]) -> dict[str, float]:
    """`bleu_1` to `bleu_4` of captions in words."""
    matched, total = [0] * LONGEST, [0] * LONGEST
    length = closest = 0
    for caption, texts in zip(captions, references, strict=True):
        allowed = {}
        for text in texts:
            for gram, count in ngrams(text, LONGEST).items():
                allowed[gram] = max(count, allowed.get(gram, 0))
        for gram, count in ngrams(caption, LONGEST).items():
            total[len(gram) - 1] += count
            matched[len(gram) - 1] += min(count, allowed.get(gram, 0))
        length += len(caption)
        closest += min((abs(len(text) - len(caption)), len(text)) for text in texts)[1]
    # The constants keep coco-caption's value, 1e-4 or less, where no run of some length occurs in a reference.
    ratio = (length + 1e-15) / (closest + 1e-9)
    brevity = math.exp(min(0.0, 1 - 1 / ratio))
    results, product = {}, 1.0
    for n in range(LONGEST):
        product *= (matched[n] + 1e-15) / (total[n] + 1e-9)
        results[f"bleu_{n + 1}"] = brevity * product ** (1 / (n + 1))
    return results
