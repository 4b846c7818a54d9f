import doctest
import re
from pathlib import Path

import numpy as np
import pytest

from hf_effmodels import metrics


def test_metrics_load_without_network_and_count_right():
    assert metrics.load("accuracy").compute(predictions=[0, 1, 2, 1], references=[0, 1, 1, 1]) == {"accuracy": 0.75}
    ranked = [[9, 8, 7, 6, 5, 4], [4, 9, 8, 7, 6, 5], [0, 1, 2, 3, 9, 4]]
    assert metrics.load("top_5_accuracy").compute(predictions=ranked, references=[4, 4, 9]) == {
        "top_5_accuracy": pytest.approx(2 / 3)
    }


def test_a_metric_adds_up_batches():
    metric = metrics.load("accuracy")
    for batch in np.arange(12).reshape(3, 4):
        metric.add_batch(predictions=batch, references=np.where(batch < 6, batch, 0))
    assert metric.compute() == {"accuracy": 0.5}


def test_an_unknown_metric_is_named():
    with pytest.raises(ValueError, match="'f1'.*'accuracy'"):
        metrics.load("f1")


@pytest.mark.parametrize(
    "name", sorted(file.stem for file in Path(metrics.__file__).parent.glob("*/*.py") if file.stem == file.parent.name)
)
def test_a_metric_tells_what_it_is_what_it_takes_and_what_it_gives(name):
    metric = metrics.load(name)
    assert re.fullmatch(r"\s*[A-Z].*\.\s*", metric.description, re.DOTALL)
    arguments, returned = metric.inputs_description.split("Returns:")
    assert re.findall(r"^    (\w+) \(", arguments, re.MULTILINE)[: len(metric.features)] == list(metric.features)
    example = doctest.DocTestParser().get_doctest(returned, {"load": metrics.load, "np": np}, name, None, None)
    assert len(example.examples) >= 1 and doctest.DocTestRunner(verbose=False).run(example).failed == 0
