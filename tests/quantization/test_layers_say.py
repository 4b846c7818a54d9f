"""Layers of few bits tell in `repr` what they are; other small promises of quantisers."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

from hf_effmodels.modeling.layers.adder import AdderConv2d
from hf_effmodels.quantization import AdderQuantConfig, registration
from hf_effmodels.quantization.adder.layer import QuantizedAdderConv2d
from hf_effmodels.quantization.bitnet158.bitlinear import BitLinear
from hf_effmodels.quantization.cbq import files
from hf_effmodels.quantization.cbq.configuration_cbq import CbqConfig
from hf_effmodels.quantization.cbq.packed_linear import PackedLinear
from hf_effmodels.quantization.cbq.quantization import _regrouped
from hf_effmodels.quantization.packed_binary.layers import PackedConv2d
from hf_effmodels.quantization.packed_binary.layers import PackedLinear as PackedBinaryLinear
from hf_effmodels.quantization.twin_uniform.layers import TwinLinear


def test_layers_of_few_bits_tell_their_sizes_and_numbers():
    packed = PackedLinear(64, 32, 4, 32, False, bias=False)
    assert "in_features=64, out_features=32, bits=4, group_size=32, symmetric=False, unpacked in every call" in repr(
        packed
    )
    one = PackedLinear.from_linear(nn.Linear(64, 32).bfloat16(), 4, 32)
    one.prepare()
    assert ("int4 product" in repr(one)) == one.is_prepared
    convolution = PackedConv2d((6, 4, 3, 3), "sign", True, (2, 2), (1, 1), (1, 1))
    assert "(6, 4, 3, 3), activations=sign, stride=(2, 2), padding=(1, 1)" in repr(convolution)
    assert PackedBinaryLinear((6, 4), "sign", True).extra_repr() == "(6, 4), activations=sign"
    bit = repr(BitLinear(8, 4, bias=False, activation_bits=4, scale="median"))
    assert "in_features=8, out_features=4, bias=False" in bit and "scale=median, activation_bits=4" in bit
    adder = QuantizedAdderConv2d(AdderConv2d(4, 6, 3, stride=2), AdderQuantConfig(bits=4, activation_bits=4))
    assert "(6, 4, 3, 3), bits=4, activation_bits=4, stride=" in repr(adder)
    groups = [1, 1, 1, 1]
    twin = TwinLinear(8, 4, True, groups, SimpleNamespace(activation_bits=8))
    assert "in_features=8, out_features=4, after_gelu=True" in repr(twin)


def test_a_copy_of_the_code_steps_back_where_a_quantisation_is_known(monkeypatch):
    monkeypatch.setitem(AUTO_QUANTIZER_MAPPING, "ours", "first")
    monkeypatch.setitem(AUTO_QUANTIZATION_CONFIG_MAPPING, "ours", "first")
    monkeypatch.delitem(AUTO_QUANTIZER_MAPPING, "theirs", raising=False)
    spec = importlib.util.spec_from_file_location("copy_of_registration", registration.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    copy.register("ours", "config of a copy", "quantizer of a copy")
    assert AUTO_QUANTIZER_MAPPING["ours"] == AUTO_QUANTIZATION_CONFIG_MAPPING["ours"] == "first"
    registration.register("ours", "config", "quantizer")
    assert (AUTO_QUANTIZATION_CONFIG_MAPPING["ours"], AUTO_QUANTIZER_MAPPING["ours"]) == ("config", "quantizer")
    try:
        copy.register("theirs", "config of a copy", "quantizer of a copy")
        assert AUTO_QUANTIZER_MAPPING["theirs"] == "quantizer of a copy"
    finally:
        AUTO_QUANTIZER_MAPPING.pop("theirs"), AUTO_QUANTIZATION_CONFIG_MAPPING.pop("theirs")


def test_experts_in_one_tensor_of_transformers_go_into_our_own_format_alone():
    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts, self.flat = nn.Parameter(torch.zeros(2, 3, 4)), nn.Parameter(torch.zeros(3, 4))

    theirs = type("Theirs", (Mixture,), {"__module__": "transformers.models.mixture"})()
    config = CbqConfig(bits=4)
    with pytest.raises(
        ValueError, match="^format: got 'compressed-tensors', but experts holds several experts in one"
    ):
        files.check_format("compressed-tensors", config, theirs, ["flat", "experts"])
    files.check_format("compressed-tensors", config, theirs, ["flat"])
    files.check_format("cbq", config, theirs, ["experts"])
    files.check_format("compressed-tensors", config, Mixture(), ["experts"])


def test_samples_of_one_form_are_regrouped_and_of_several_stay_as_they_are():
    batches = [{"input_ids": torch.arange(6).reshape(3, 2)}, {"input_ids": torch.arange(6, 10).reshape(2, 2)}]
    found = _regrouped(batches, 4)
    assert [batch["input_ids"].tolist() for batch in found] == [[[0, 1], [2, 3], [4, 5], [6, 7]], [[8, 9]]]
    for other in ({"input_ids": torch.zeros(1, 3, dtype=torch.long)}, {"input_ids": torch.zeros(1, 2)}):
        mixed = [*batches, other]
        assert _regrouped(mixed, 4) is mixed
