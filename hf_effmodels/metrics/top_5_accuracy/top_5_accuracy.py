"""Top-5 accuracy as a module of the `evaluate` library."""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
The share of samples whose true class is among the five classes with the highest scores.
"""

_INPUTS = """
Args:
    predictions (list of lists of int): classes of each sample, the likeliest first; those after the fifth are ignored.
    references (list of int): its true class.

Returns:
    top_5_accuracy (float): from 0 to 1.

Example:
    >>> load("top_5_accuracy").compute(predictions=[[3, 1, 0, 2, 4, 5], [3, 1, 0, 2, 4, 5]], references=[4, 5])
    {'top_5_accuracy': 0.5}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class Top5Accuracy(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("int64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references):
        ranked = np.asarray(predictions)[:, :5]
        return {"top_5_accuracy": float(np.mean((ranked == np.asarray(references)[:, None]).any(axis=1)))}
