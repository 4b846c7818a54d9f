"""A layer that is printed, within its model or by itself, says what it was made with."""

import pytest
from torch import nn

from hf_effmodels.modeling.layers.adder import AdderConv2d
from hf_effmodels.modeling.layers.binary import BinaryConv2d, BinaryLinear
from hf_effmodels.modeling.parameternet.dynamic_conv import DynamicConv
from hf_effmodels.modeling.vig.knn_graph import KnnGraph
from hf_effmodels.quantization.adder.configuration_adder import AdderQuantConfig
from hf_effmodels.quantization.adder.layer import QuantizedAdderConv2d
from hf_effmodels.quantization.bitnet158.bitlinear import BitLinear
from hf_effmodels.quantization.cbq.packed_linear import PackedLinear as CbqLinear
from hf_effmodels.quantization.packed_binary.layers import PackedConv2d, PackedLinear
from hf_effmodels.quantization.twin_uniform.configuration_twin_uniform import TwinUniformConfig
from hf_effmodels.quantization.twin_uniform.layers import TwinLinear


def _prepared(layer: CbqLinear) -> CbqLinear:
    layer.is_prepared = True
    return layer


PRINTED = [
    (lambda: AdderConv2d(2, 3, 5, 4, 1), "AdderConv2d(2, 3, kernel_size=5, stride=4, padding=1, bias=False)"),
    (lambda: AdderConv2d(2, 3, 1, bias=True), "AdderConv2d(2, 3, kernel_size=1, stride=1, padding=0, bias=True)"),
    (
        lambda: QuantizedAdderConv2d(AdderConv2d(2, 3, 5, 4), AdderQuantConfig(bits=4, activation_bits=6)),
        "QuantizedAdderConv2d((3, 2, 5, 5), bits=4, activation_bits=6, stride=4)",
    ),
    (
        lambda: BitLinear(2, 3, False, scale="median", activation_bits=None, norm_before=True),
        "BitLinear(in_features=2, out_features=3, bias=False, scale=median, activation_bits=None, norm_before=True)",
    ),
    (
        lambda: TwinLinear(2, 3, True, [1, 1, 1, True], TwinUniformConfig()),
        "TwinLinear(in_features=2, out_features=3, after_gelu=True)",
    ),
    (
        lambda: CbqLinear(32, 3, 4, 16, symmetric=False),
        "PackedLinear(in_features=32, out_features=3, bits=4, group_size=16, symmetric=False, unpacked in every call)",
    ),
    (
        lambda: _prepared(CbqLinear(32, 3, 2, None)),
        "PackedLinear(in_features=32, out_features=3, bits=2, group_size=None, symmetric=True, int4 product)",
    ),
    (
        lambda: DynamicConv(4, 6, 3, stride=2, groups=2),
        "kernel_shape=(6, 2, 3, 3), stride=2, groups=2",
    ),
    (lambda: KnnGraph(9, 2), "KnnGraph(num_neighbors=9, dilation=2)"),
]


@pytest.mark.parametrize("layer, expected", PRINTED, ids=str)
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


def test_a_printed_packed_layer_says_its_sizes_and_what_its_inputs_are():
    conv = PackedConv2d((3, 2, 5, 4), "sign", False, (1, 2), (3, 4), (1, 1))
    assert "(3, 2, 5, 4), activations=sign, stride=(1, 2), padding=(3, 4)" in str(conv)
    assert "(3, 2), activations=real\n" in str(PackedLinear((3, 2), "real", True))
