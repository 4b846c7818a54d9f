"""Accuracy as a module of the `evaluate` library."""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
The share of predictions that equal their reference.
"""

_INPUTS = """
Args:
    predictions (list of int): predicted class of each sample.
    references (list of int): its true class.

Returns:
    accuracy (float): from 0 to 1.

Example:
    >>> load("accuracy").compute(predictions=[0, 1, 2, 1], references=[0, 1, 1, 1])
    {'accuracy': 0.75}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class Accuracy(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references):
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}
