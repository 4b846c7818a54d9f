import doctest
import re

import numpy as np
import pytest

from hf_effmodels import metrics

from .modules import NAMES, metric


@pytest.mark.parametrize("load", [metrics.load, metric])
def test_metrics_load_without_network_and_count_right(load):
    assert load("accuracy").compute(predictions=[0, 1, 2, 1], references=[0, 1, 1, 1]) == {"accuracy": 0.75}
    ranked = [[9, 8, 7, 6, 5, 4], [4, 9, 8, 7, 6, 5], [0, 1, 2, 3, 9, 4]]
    assert load("top_5_accuracy").compute(predictions=ranked, references=[4, 4, 9]) == {
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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("load", [metrics.load, metric])
def test_a_metric_tells_what_it_is_what_it_takes_and_what_it_gives(load, name):
    found = load(name)
    assert re.fullmatch(r"\s*[A-Z].*\.\s*", found.description, re.DOTALL)
    arguments, returned = found.inputs_description.split("Returns:")
    assert re.findall(r"^    (\w+) \(", arguments, re.MULTILINE)[: len(found.features)] == list(found.features)
    example = doctest.DocTestParser().get_doctest(returned, {"load": load, "np": np}, name, None, None)
    assert len(example.examples) >= 1 and doctest.DocTestRunner(verbose=False).run(example).failed == 0
