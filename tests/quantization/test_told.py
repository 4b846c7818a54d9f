"""What quantised layers tell of themselves, where scales begin, and what copies of this code leave alone."""

import importlib.util
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, TrainerState
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

from hf_effmodels.modeling.layers.adder import AdderConv2d
from hf_effmodels.modeling.layers.binary import BinaryConv2d
from hf_effmodels.modeling.layers.bivit import BiVitLinear
from hf_effmodels.quantization import AdderQuantConfig, convert_to_bitlinear, pack_binary, registration, save_packed
from hf_effmodels.quantization.adder.algorithm import quantize_weights
from hf_effmodels.quantization.adder.layer import QuantizedAdderConv2d
from hf_effmodels.quantization.bitnet158.bitlinear import BitLinear
from hf_effmodels.quantization.bitnet158.warm_start import WarmStart
from hf_effmodels.quantization.packed_binary.layers import PackedConv2d, PackedLinear
from hf_effmodels.quantization.stored import quantizer_of
from hf_effmodels.quantization.twin_uniform.configuration_twin_uniform import TwinUniformConfig
from hf_effmodels.quantization.twin_uniform.layers import TwinLinear


def adder(bits: int, activation_bits: int | None = None, **sizes) -> tuple[QuantizedAdderConv2d, AdderConv2d]:
    torch.manual_seed(0)
    layer = AdderConv2d(3, 6, 3, bias=True, **sizes)
    quantized = quantize_weights(layer.weight.detach(), 1e6, bits, n_groups=2)
    config = AdderQuantConfig(bits=bits, activation_bits=activation_bits, n_groups=2)
    return QuantizedAdderConv2d(layer, config).take(quantized), layer


@pytest.mark.parametrize("bits", [2, 4, 5, 8])
def test_an_adder_layers_weight_is_what_its_integers_stand_for(bits):
    """To half a step, of which a group has 2^bits - 1 over twice its largest weight; less at the upper end."""
    layer, real = adder(bits)
    assert layer.integers.dtype == (torch.uint8 if bits <= 4 else torch.int8)
    assert layer.integers.shape == (6, 14 if bits <= 4 else 27)
    largest = real.weight.detach().abs().flatten(1).amax(1)
    for group in range(2):
        members = layer.group == group
        step = 2 * largest[members].max() / (2**bits - 1)
        found, expected = layer.weight[members], real.weight.detach()[members]
        whole = found / step
        torch.testing.assert_close(whole, whole.round(), atol=1e-3, rtol=0)
        assert ((found - expected).abs() <= 0.501 * step).all()


def test_layers_tell_their_sizes_and_their_precision():
    layer, _ = adder(4, 6, stride=2)
    assert layer.extra_repr() == "(6, 3, 3, 3), bits=4, activation_bits=6, stride=2"
    assert layer.precision() == "sums of |x - w| for products, weights 4 bits, inputs 6 bits"
    for bits, inputs in ((4, "4 bits"), (None, "real")):
        layer = BitLinear(4, 3, scale="median", activation_bits=bits, norm_before=True)
        assert layer.precision() == f"weights -1, 0 and 1, inputs {inputs}"
        assert layer.extra_repr() == (
            f"in_features=4, out_features=3, bias=True, scale=median, activation_bits={bits}, norm_before=True"
        )
    packed = pack_binary(nn.Sequential(BinaryConv2d(4, 3, 3, stride=2, padding=1)).eval())[0]
    assert isinstance(packed, PackedConv2d)
    assert packed.extra_repr() == "(3, 4, 3, 3), activations=adaptive, stride=(2, 2), padding=(1, 1)"
    linear = pack_binary(nn.Sequential(BiVitLinear(6, 5, binary_inputs=True)).eval())[0]
    assert isinstance(linear, PackedLinear) and linear.extra_repr() == "(5, 6), activations=clipped_sign"
    twin = TwinLinear(4, 3, True, [1, 1, 1, True], TwinUniformConfig())
    assert twin.extra_repr() == "in_features=4, out_features=3, after_gelu=True"


@torch.no_grad()
@pytest.mark.parametrize("set_to", [[0.5, 0.0, 2.0], [0.0, 0.0, 0.0]])
def test_a_learnt_scale_that_no_pass_has_begun_is_what_it_was_set_to_or_else_the_mean_magnitude(set_to):
    torch.manual_seed(0)
    layer = BiVitLinear(4, 3)
    layer.scaling_factor.copy_(torch.tensor(set_to)[:, None])
    means = layer.weight.abs().mean(1)
    expected = torch.tensor(set_to) if any(set_to) else means
    packed = pack_binary(nn.Sequential(layer).eval())[0]
    torch.testing.assert_close(packed.weight.abs(), expected[:, None].expand(3, 4))
    signs = (layer.weight - layer.weight.mean(1, keepdim=True)).sign()
    torch.testing.assert_close(packed.weight, signs * expected[:, None])


@torch.no_grad()
def test_tables_of_many_shapes_go_and_are_made_again():
    torch.manual_seed(0)
    model = nn.Sequential(BinaryConv2d(3, 4, 3, padding=1)).double().eval()
    maps = [torch.randn(1, 3, 4, 4 + number, dtype=torch.float64) for number in range(11)]
    expected = [model(each) for each in maps]
    pack_binary(model)
    for each, value in zip([*maps, *maps], [*expected, *expected], strict=True):
        torch.testing.assert_close(model(each), value, rtol=1e-10, atol=1e-10)
        assert len(model[0]._derived[1]._tables) <= 8


# what is stored


def test_a_copy_of_this_code_steps_back_where_the_method_is_known(monkeypatch):
    spec = importlib.util.spec_from_file_location("copied.registration", registration.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    for table in (AUTO_QUANTIZER_MAPPING, AUTO_QUANTIZATION_CONFIG_MAPPING):
        monkeypatch.setitem(table, "of_this_test", None)
        del table["of_this_test"]
        monkeypatch.setitem(table, "adder", table["adder"])
    before = AUTO_QUANTIZER_MAPPING["adder"], AUTO_QUANTIZATION_CONFIG_MAPPING["adder"]
    copy.register("adder", int, str)
    assert (AUTO_QUANTIZER_MAPPING["adder"], AUTO_QUANTIZATION_CONFIG_MAPPING["adder"]) == before
    copy.register("of_this_test", int, str)
    assert AUTO_QUANTIZER_MAPPING["of_this_test"] is str and AUTO_QUANTIZATION_CONFIG_MAPPING["of_this_test"] is int
    copy.register("of_this_test", float, bytes)
    assert AUTO_QUANTIZER_MAPPING["of_this_test"] is str
    # The package takes the place of a copy.
    registration.register("of_this_test", float, bytes)
    assert AUTO_QUANTIZER_MAPPING["of_this_test"] is bytes
    assert AUTO_QUANTIZATION_CONFIG_MAPPING["of_this_test"] is float


def test_a_quantiser_is_that_of_the_configuration_or_of_its_text_model():
    def config(stored=None, text=None):
        found = SimpleNamespace(**({} if stored is None else {"quantization_config": stored}))
        if text is not None:
            found.get_text_config = lambda: text
        return found

    method = SimpleNamespace(quant_method=SimpleNamespace(value="gptq"))
    for stored, name in (({"quant_method": "cbq"}, "cbq"), (AdderQuantConfig(), "adder"), (method, "gptq")):
        assert quantizer_of(config(stored)) == quantizer_of(config(text=config(stored))) == name
        assert quantizer_of(config(stored, text=config({"quant_method": "other"}))) == name
    assert quantizer_of(config()) is quantizer_of(config(text=config())) is quantizer_of(None) is None


def test_a_model_that_was_packed_for_others_stays_what_it_is(dense, tmp_path):
    made = convert_to_bitlinear(dense(torch.float32))
    own = made.config
    save_packed(made, tmp_path / "packed")
    assert made.config is own and not hasattr(made, "hf_quantizer")
    made.save_pretrained(tmp_path / "whole")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    quantizer, own = loaded.hf_quantizer, loaded.config
    save_packed(loaded, tmp_path / "again")
    assert loaded.hf_quantizer is quantizer and loaded.config is own
    texts = [(tmp_path / name / "config.json").read_text() for name in ("packed", "again")]
    stored = [json.loads(text)["quantization_config"] for text in texts]
    assert (
        stored[0]
        == stored[1]
        == {
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "offline",
            "use_rms_norm": False,
            "rms_norm_eps": 1e-6,
            "modules_to_not_convert": ["lm_head"],
        }
    )


@pytest.mark.parametrize("steps, shares", [(0, [1, 1]), (1, [1, 1]), (2, [0.5, 1])])
def test_a_warm_start_of_no_steps_is_none(steps, shares):
    model, state = nn.Sequential(BitLinear(4, 4), nn.Linear(4, 4)), TrainerState()
    found = []
    for state.global_step in (0, 1):
        WarmStart(steps).on_step_begin(None, state, None, model=model)
        found.append(model[0].share)
    assert found == shares and not hasattr(model[1], "share")
