"""A layer that is printed, within its model or by itself, says what it was made with."""

import pytest
from torch import nn

from hf_effmodels.modeling.layers.adder import AdderConv2d
from hf_effmodels.modeling.layers.binary import BinaryConv2d, BinaryLinear
from hf_effmodels.modeling.parameternet.dynamic_conv import DynamicConv
from hf_effmodels.modeling.vig.knn_graph import KnnGraph

PRINTED = [
    (lambda: AdderConv2d(2, 3, 5, 4, 1), "AdderConv2d(2, 3, kernel_size=5, stride=4, padding=1, bias=False)"),
    (lambda: AdderConv2d(2, 3, 1, bias=True), "AdderConv2d(2, 3, kernel_size=1, stride=1, padding=0, bias=True)"),
    (
        lambda: DynamicConv(4, 6, 3, stride=2, groups=2),
        "kernel_shape=(6, 2, 3, 3), stride=2, groups=2",
    ),
    (lambda: KnnGraph(9, 2), "KnnGraph(num_neighbors=9, dilation=2)"),
]


@pytest.mark.parametrize("layer, expected", PRINTED, ids=[told for _, told in PRINTED])
def test_a_printed_layer_says_what_it_was_made_with(layer, expected):
    assert expected in str(nn.Sequential(layer()))


@pytest.mark.parametrize(
    "layer, stock, rule",
    [
        (lambda: BinaryLinear(2, 3, weights="scaled"), lambda: nn.Linear(2, 3), "scaled"),
        (lambda: BinaryConv2d(2, 3, 5, 4, weights="centered"), lambda: nn.Conv2d(2, 3, 5, 4), "centered"),
    ],
)
def test_a_printed_binary_layer_says_its_rule_beside_what_the_stock_layer_says(layer, stock, rule):
    assert layer().extra_repr() == f"{stock().extra_repr()}, weights={rule}"
