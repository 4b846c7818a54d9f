"""CIDEr of image captions, as coco-caption has it, as a module of the `evaluate` library."""

import math
from collections import Counter

import datasets
import evaluate
import numpy as np

from hf_effmodels.metrics.captions import check_pairs, ngrams, words

_DESCRIPTION = """
CIDEr-D (Vedantam et al., 2015, section 6), which coco-caption and most papers call CIDEr: for each n of 1 to 4 the
cosine between the n-gram counts of caption and reference, weighted by log(images / images in whose references the
n-gram occurs), counts of the caption cut to those of the reference, times exp(-d² / 72) for a difference of d words;
the mean over the references, over n and over the images, times 10. The images given are the corpus: the value of a
part of them differs. Words are those of `hf_effmodels.metrics.captions`.
"""

_INPUTS = """
Args:
    predictions (list of str): one caption for each image.
    references (list of lists of str): its reference captions.

Returns:
    cider (float): from 0 to 10; papers report it times 100.

Example:
    >>> references = [["a cat on the mat"], ["two dogs in a park"]]
    >>> round(load("cider").compute(predictions=["a cat on the mat", "a bus"], references=references)["cider"], 6)
    5.0
"""

LONGEST, SIGMA = 4, 6.0


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class Cider(evaluate.Metric):
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
        tokens = [[words(r) for r in texts] for texts in references]
        return {"cider": float(np.mean(cider([words(p) for p in predictions], tokens)))}


def cider(captions: list[list[str]], references: list[list[list[str]]]) -> list[float]:
    """The score of each caption, in words."""
    counts = [[ngrams(text, LONGEST) for text in texts] for texts in references]
    images_with = Counter(gram for texts in counts for gram in set().union(*texts))
    log_images = math.log(len(references))

    def weigh(grams: Counter) -> tuple[list[dict], list[float]]:
        """Weights by length of the n-gram, and their norms."""
        weights = [{} for _ in range(LONGEST)]
        for gram, count in grams.items():
            weights[len(gram) - 1][gram] = count * (log_images - math.log(max(1, images_with[gram])))
        return weights, [math.sqrt(sum(value**2 for value in by_length.values())) for by_length in weights]

    scores = []
    for caption, texts, text_counts in zip(captions, references, counts, strict=True):
        ours, our_norms = weigh(ngrams(caption, LONGEST))
        total = 0.0
        for text, grams in zip(texts, text_counts, strict=True):
            theirs, their_norms = weigh(grams)
            # The number of 2-grams is what coco-caption takes for the length.
            difference = max(0, len(caption) - 1) - max(0, len(text) - 1)
            for n in range(LONGEST):
                common = sum(
                    min(value, theirs[n].get(gram, 0.0)) * theirs[n].get(gram, 0.0) for gram, value in ours[n].items()
                )
                norms = our_norms[n] * their_norms[n]
                total += (common / norms if norms else common) * math.exp(-(difference**2) / (2 * SIGMA**2))
        scores.append(10 * total / (LONGEST * len(texts)))
    return scores
