"""Folders that others load, and packed layers."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    StaticCache,
    ViTConfig,
    ViTForImageClassification,
)

from hf_effmodels.quantization import CbqConfig, load_packed, quantize
from hf_effmodels.quantization.cbq import int4
from hf_effmodels.quantization.cbq.packed_linear import DENSE_ROWS, PackedLinear

#: bits, group size, symmetric, format
FORMS = [
    (4, 32, True, "compressed-tensors"),
    (4, None, True, "compressed-tensors"),
    (2, 16, True, "compressed-tensors"),
    (8, 32, True, "compressed-tensors"),
    (4, 32, False, "compressed-tensors"),
    (3, 32, True, "cbq"),
    (3, 16, False, "cbq"),
]

COMMON = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
#: Architectures of others -> what is their own.
OTHERS = {"mistral": {"sliding_window": 8}, "qwen2": {}, "phi": {"pad_token_id": 0}, "gemma": {"head_dim": 16}}

STOCK = """
import sys, json, torch
sys.modules["hf_effmodels"] = None
from transformers import AutoModelForCausalLM, CompressedTensorsConfig
expected = torch.load(sys.argv[1], weights_only=True)
ids = expected.pop("ids")
for folder, logits in expected.items():
    for dequantize in (True, False):
        if not dequantize and "False" in folder:
            continue  # the library itself cannot load zero points so
        config = CompressedTensorsConfig(dequantize=dequantize)
        model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.bfloat16)
        with torch.no_grad():
            difference = (model(ids).logits - logits).abs().max().item()
        assert difference == 0, (folder, dequantize, difference)
print("all equal")
"""


@pytest.fixture(scope="module")
def saved(checkpoint, tmp_path_factory):
    """Folder of each form, and the model as it computes with dense weights."""
    found = {}
    for form in FORMS:
        bits, group_size, symmetric, format = form
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
        result = quantize(model, None, CbqConfig(bits=bits, group_size=group_size, symmetric=symmetric, method="rtn"))
        folder = tmp_path_factory.mktemp("forms") / f"{bits}-{group_size}-{symmetric}"
        result.save(folder, format)
        found[form] = folder, model
    return found


def test_stock_transformers_loads_it_bit_by_bit_without_this_package(saved, held_out, tmp_path):
    expected = {"ids": held_out}
    for (_, _, _, format), (folder, model) in saved.items():
        if format == "compressed-tensors":
            with torch.no_grad():
                expected[str(folder)] = model(held_out).logits
    torch.save(expected, tmp_path / "expected.pt")
    run = subprocess.run([sys.executable, "-c", STOCK, tmp_path / "expected.pt"], capture_output=True, text=True)
    assert run.stdout.endswith("all equal\n"), run.stderr[-2000:]


@pytest.mark.thorough
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_other_peoples_architectures_are_loaded_without_this_package(bits, held_out, tmp_path):
    """Each as compressed-tensors by stock transformers, to the bit; and in GPTQ's layout, read by its formulas."""
    expected = {"ids": held_out}
    for model_type, fields in OTHERS.items():
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **COMMON, **fields)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
        result = quantize(model, [held_out], CbqConfig(bits=bits, group_size=32, epochs=1))
        result.save(tmp_path / model_type)
        with torch.no_grad():
            expected[str(tmp_path / model_type)] = model(held_out).logits
        result.save(tmp_path / f"gptq-{model_type}", "gptq")
        tensors = load_file(tmp_path / f"gptq-{model_type}" / "model.safetensors")
        names = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
        assert len(names) == 2 * len(result.blocks.layers[0]) >= 12
        for name in names:
            weight = read_gptq(tensors, name, bits)
            assert torch.equal(weight, model.get_parameter(f"{name}.weight"))
    torch.save(expected, tmp_path / "expected.pt")
    run = subprocess.run([sys.executable, "-c", STOCK, tmp_path / "expected.pt"], capture_output=True, text=True)
    assert run.stdout.endswith("all equal\n"), run.stderr[-2000:]


def read_gptq(tensors: dict[str, torch.Tensor], name: str, bits: int) -> torch.Tensor:
    """(rows, inputs) bfloat16: a layer's weight by the formulas of GPTQ's layout, zero points stored less one."""
    words, zeros = (tensors[f"{name}.{part}"].long() & 0xFFFFFFFF for part in ("qweight", "qzeros"))
    shifts, largest = bits * torch.arange(32 // bits), 2**bits - 1
    q = ((words[:, None, :] >> shifts[None, :, None]) & largest).flatten(0, 1)  # (inputs, rows)
    z = ((zeros[:, :, None] >> shifts) & largest).flatten(1) + 1  # (groups, rows)
    groups = tensors[f"{name}.g_idx"].long()
    return ((q - z[groups]) * tensors[f"{name}.scales"].float()[groups]).T.bfloat16()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_packed_layers_give_what_the_dense_ones_give_and_are_saved_again(saved, held_out, form, tmp_path):
    folder, dense = saved[form]
    packed = load_packed(folder)
    layers = [module for module in packed.modules() if isinstance(module, PackedLinear)]
    assert len(layers) == 21 and type(packed.lm_head) is torch.nn.Linear
    bits, group_size, symmetric, _ = form
    fits = group_size in (None, 32)
    assert {layer.is_prepared for layer in layers if layer.in_features == 64} == {bits <= 4 and fits}
    for ids in (held_out[:1, :5], held_out):  # few rows, and enough for a dense product
        assert ids.numel() < DENSE_ROWS or ids is held_out
        with torch.no_grad():
            expected, got = dense(ids).logits, packed(ids).logits
        # The operator takes zeros in bfloat16, which are up to eight steps large.
        share = 0.03 if symmetric else 0.1
        torch.testing.assert_close(got, expected, atol=share * expected.abs().max().item(), rtol=0)
    packed.save_pretrained(tmp_path)
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(again(held_out).logits, packed(held_out).logits)
    plain = again.dequantize(dtype="bfloat16") if group_size is None else again.dequantize()
    assert not any(isinstance(module, PackedLinear) for module in plain.modules())
    assert not hasattr(plain.config, "quantization_config")
    weights = plain.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in dense.state_dict().items())


def test_generation_works_with_every_cache(saved, held_out):
    packed = load_packed(saved[FORMS[0]][0])
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    expected = packed.generate(held_out[:2], use_cache=False, **options)
    for cache in (DynamicCache(config=packed.config), StaticCache(config=packed.config, max_cache_len=40)):
        assert torch.equal(packed.generate(held_out[:2], past_key_values=cache, **options), expected)
    # 24 tokens and 6 more: a window or a quantised cache would see other states.
    assert expected.shape == (2, 30)


def test_threads_share_a_packed_model(saved, held_out):
    packed = load_packed(saved[FORMS[0]][0])

    def logits(row):
        with torch.no_grad():
            return packed(held_out[row : row + 1]).logits

    expected = [logits(row) for row in range(4)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(logits, [0, 1, 2, 3] * 4))
    assert all(torch.equal(each, expected[number % 4]) for number, each in enumerate(got))


def test_a_dense_checkpoint_is_rounded_while_it_is_loaded(checkpoint, saved, held_out):
    config = CbqConfig(bits=4, group_size=32, method="rtn")
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16, quantization_config=config)
    with torch.no_grad():
        assert torch.equal(loaded(held_out).logits, load_packed(saved[FORMS[0]][0])(held_out).logits)
    with pytest.raises(ValueError, match="method: got 'cbq'.*only 'rtn' works"):
        AutoModelForCausalLM.from_pretrained(checkpoint, quantization_config=CbqConfig())


def test_a_head_with_a_bias_stays_as_it_is_while_the_rest_is_rounded(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vit = ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=32))
    vit.save_pretrained(tmp_path)
    config = CbqConfig(bits=4, group_size=32, method="rtn")
    loaded = ViTForImageClassification.from_pretrained(tmp_path, quantization_config=config)
    assert type(loaded.classifier) is torch.nn.Linear and torch.equal(loaded.classifier.weight, vit.classifier.weight)
    assert sum(isinstance(module, PackedLinear) for module in loaded.modules()) == 6


def test_a_head_stays_as_it_is_also_where_other_layers_are_named(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    dense = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=64, tie_word_embeddings=False))
    dense.save_pretrained(tmp_path)
    for named, packed in ((None, 7), (["down_proj"], 6)):
        config = CbqConfig(bits=4, group_size=32, method="rtn", modules_to_not_convert=named)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)
        assert type(loaded.lm_head) is torch.nn.Linear and torch.equal(loaded.lm_head.weight, dense.lm_head.weight)
        assert sum(isinstance(module, PackedLinear) for module in loaded.modules()) == packed


def test_layers_with_biases_and_zero_points_are_packed_and_unpacked():
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 32).requires_grad_(False)
    linear.weight += 0.05  # zero points that are not 0
    for group_size in (None, 16):
        layer = PackedLinear.from_linear(linear, 4, group_size, symmetric=False)
        groups = linear.weight.view(32, -1, group_size or 64)
        low, high = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True).clamp(min=0)
        step = (high - low) / 15
        zero = (-8 - low / step).round().clamp(-8, 7)
        expected = (((groups / step).round() + zero).clamp(-8, 7) - zero) * step
        plain = layer.to_linear()
        torch.testing.assert_close(plain.weight, expected.view_as(linear.weight))
        assert torch.equal(plain.bias, linear.bias) and plain.weight.dtype == torch.float32
        half = layer.to_linear(torch.bfloat16)
        assert (half.weight.dtype, half.bias.dtype) == (torch.bfloat16, torch.bfloat16)
        x = torch.randn(3, 64)
        torch.testing.assert_close(layer(x), x @ expected.view_as(linear.weight).T + linear.bias)


@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False), (8, True)])
def test_biases_of_packed_layers_are_saved_again(bits, symmetric, tmp_path):
    """Those of Qwen2's queries, keys and values; with 4 bits their weights are in the order of the product."""
    sizes = {**COMMON, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 32}
    dense = Qwen2ForCausalLM(Qwen2Config(**sizes)).bfloat16()
    biases = {name: value for name, value in dense.named_parameters() if name.endswith("_proj.bias")}
    assert len(biases) == 3
    for value in biases.values():
        torch.nn.init.normal_(value)
    quantize(dense, None, CbqConfig(bits=bits, group_size=32, symmetric=symmetric, method="rtn")).save(
        tmp_path / "one"
    )
    packed = load_packed(tmp_path / "one")
    assert type(packed.model.layers[0].self_attn.q_proj) is PackedLinear
    packed.save_pretrained(tmp_path / "again")
    first, again = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "again"))
    for stored in (first, again, packed.state_dict()):
        assert all(torch.equal(stored[name], value) for name, value in biases.items())
    assert first.keys() == again.keys() and all(torch.equal(again[name], first[name]) for name in first)


def test_a_size_that_does_not_divide_is_named_while_a_model_is_loaded(checkpoint, saved, tmp_path):
    config = CbqConfig(bits=4, group_size=24, method="rtn")
    with pytest.raises(ValueError, match="group_size: got 24, which does not divide the 64 inputs of model.layers.0"):
        AutoModelForCausalLM.from_pretrained(checkpoint, quantization_config=config)
    folder, _ = saved[FORMS[5]]
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    stored = json.loads((folder / "config.json").read_text())
    stored["quantization_config"]["group_size"] = 24
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="group_size: got 24, which does not divide the 64 inputs of model.layers.0"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_packed_weights_take_little_memory(saved):
    packed = load_packed(saved[FORMS[0]][0])

    def size(module):
        return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()) if t is not None)

    layer = packed.model.layers[0].mlp.gate_proj
    # 4 bits and for 32 weights a step, which the operator wants with its zero beside
    assert size(layer) <= 64 * 96 * (0.5 + (2 + 4) / 32) + 16


@pytest.mark.parametrize("rows", [16, 48, 64, 80, 128, 144])
def test_the_machines_own_order_is_read_back(rows):
    integers = torch.randint(-8, 8, (rows, 96), generator=torch.Generator().manual_seed(rows), dtype=torch.int8)
    assert torch.equal(int4.unpack(int4.pack(integers)), integers)
    assert int4.is_usable(rows, 96, 32) and not int4.is_usable(rows, 96, 64) and not int4.is_usable(rows + 1, 96, 32)


def test_inputs_of_any_precision_and_gradients_pass_packed_layers():
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 32).bfloat16()
    layer = PackedLinear.from_linear(linear, 4, 32)
    stored = layer.dense(torch.float32)
    layer.prepare()
    x = torch.randn(2, 3, 64, requires_grad=True)
    y = layer(x)
    assert y.dtype == torch.float32 and layer.is_prepared
    torch.testing.assert_close(y, x @ stored.T + linear.bias.float(), atol=0.02, rtol=0.02)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, stored.sum(0).expand_as(x), atol=0.05, rtol=0.02)
    layer.activation_bits = 4
    step = 2 * x.abs().amax(-1, keepdim=True) / 15
    rounded = (x / step).round().clamp(-8, 7) * step
    with torch.no_grad():
        torch.testing.assert_close(layer(x), rounded @ stored.T + linear.bias.float(), atol=0.03, rtol=0.03)


def test_the_layout_of_gptq_holds_the_same_weights(dense, tmp_path):
    result = quantize(dense(), None, CbqConfig(bits=4, group_size=32, method="rtn"))
    result.save(tmp_path / "gptq", "gptq")
    tensors = load_file(tmp_path / "gptq" / "model.safetensors")
    description = json.loads((tmp_path / "gptq" / "config.json").read_text())["quantization_config"]
    assert description == {
        **{"quant_method": "gptq", "checkpoint_format": "gptq", "bits": 4, "group_size": 32},
        **{"sym": True, "desc_act": False},  # zero points in the middle, columns in their own order
        "modules_in_block_to_quantize": [
            [f"mlp.{name}_proj" for name in ("down", "gate", "up")] + [f"self_attn.{name}_proj" for name in "koqv"]
        ],
    }
    for name in ("model.layers.1.mlp.down_proj", "model.layers.2.self_attn.v_proj"):
        weight = read_gptq(tensors, name, 4)
        assert torch.equal(weight, result.model.get_parameter(f"{name}.weight"))


@pytest.mark.parametrize("bits", [4, 8])
def test_the_layout_of_gptq_says_minus_one_where_a_whole_row_is_a_group(dense, bits, tmp_path):
    result = quantize(dense(), None, CbqConfig(bits=bits, group_size=None, method="rtn"))
    result.save(tmp_path / "gptq", "gptq")
    description = json.loads((tmp_path / "gptq" / "config.json").read_text())["quantization_config"]
    assert (description["group_size"], description["bits"]) == (-1, bits)
    tensors = load_file(tmp_path / "gptq" / "model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    assert len(tensors[f"{name}.scales"]) == 1 and not tensors[f"{name}.g_idx"].any()
    assert torch.equal(read_gptq(tensors, name, bits), result.model.get_parameter(f"{name}.weight"))


def test_what_a_format_cannot_hold_is_refused(dense, tmp_path, saved):
    def saving(format, **options):
        return quantize(dense(), None, CbqConfig(group_size=32, method="rtn", **options)).save(tmp_path / "x", format)

    for format, options, text in [
        ("compressed-tensors", {"bits": 3}, "3 bits differently"),
        ("gptq", {"symmetric": False}, "gptq is written for symmetric"),
        ("gguf", {}, "format: got 'gguf', accepted are compressed-tensors, cbq, gptq"),
    ]:
        with pytest.raises(ValueError, match=text):
            saving(format, **options)
    assert not (tmp_path / "x").exists()
    saving("gptq")
    with pytest.raises(ValueError, match="is of the format gptq.*pack-quantized and cbq"):
        load_packed(tmp_path / "x")


@pytest.mark.parametrize(
    "change, text",
    [
        ({"format": "int-quantized"}, "of the format compressed-tensors int-quantized"),
        ({"config_groups": {}}, "has 0 groups"),
        ({"config_groups": {"group_0": {"targets": ["re:.*mlp.*"]}}}, "accepted is one, for all"),
        ({"weights": {"type": "float"}}, "weights of 4 bits .float."),
        ({"weights": {"actorder": "group"}}, "order group"),
        ({"activations": {"num_bits": 8, "strategy": "tensor"}}, "quantises activations another way"),
    ],
)
def test_checkpoints_of_another_kind_are_refused(dense, saved, change, text):
    from hf_effmodels.quantization.cbq.loading import packed_config

    config = dense().config
    stored = json.loads((saved[FORMS[0]][0] / "config.json").read_text())["quantization_config"]
    group = stored["config_groups"]["group_0"]
    group["weights"] |= change.pop("weights", {})
    group["input_activations"] = change.pop("activations", None)
    config.quantization_config = stored | change
    with pytest.raises(ValueError, match=text):
        packed_config(config)
    del config.quantization_config
    with pytest.raises(ValueError, match="not quantised"):
        packed_config(config)


def test_a_checkpoint_that_is_rounded_while_it_is_loaded_has_all_that_was_asked_for_and_is_saved_with_it(
    checkpoint, dense, tmp_path
):
    settings = {"bits": 3, "group_size": 16, "symmetric": False, "activation_bits": 8}
    config = CbqConfig(**settings, method="rtn", modules_to_not_convert=["up_proj"])
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, quantization_config=config)
    loaded.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    step = 2 * x.abs().amax(-1, keepdim=True) / 255
    rounded = (x / step).round().clamp(-128, 127) * step
    weight = dense(torch.float32).model.layers[1].mlp.gate_proj.weight.detach().reshape(96, 4, 16)
    low, high = weight.amin(-1, keepdim=True).clamp(max=0), weight.amax(-1, keepdim=True).clamp(min=0)
    grid = (high - low) / 7
    zero = (-4 - low / grid).round().clamp(-4, 3)
    expected = (((weight / grid).round() + zero).clamp(-4, 3) - zero) * grid
    for model in (loaded, again):
        layer = model.model.layers[1].mlp.gate_proj
        assert (layer.bits, layer.group_size, layer.symmetric, layer.activation_bits) == tuple(settings.values())
        with torch.no_grad():
            torch.testing.assert_close(layer(x), rounded @ expected.reshape(96, 64).T, rtol=1e-4, atol=1e-4)
        assert type(model.model.layers[1].mlp.up_proj) is torch.nn.Linear


@pytest.mark.parametrize("symmetric, activation_bits", [(True, 4), (False, 8)])
def test_a_folder_says_how_inputs_are_quantised_whatever_its_weights_are(dense, tmp_path, symmetric, activation_bits):
    """Token by token and symmetric: from -2^(b-1) to 2^(b-1) - 1 steps, of which 2^b - 1 are twice the largest."""
    config = CbqConfig(bits=4, group_size=16, symmetric=symmetric, activation_bits=activation_bits, method="rtn")
    result = quantize(dense(), None, config)
    result.save(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())["quantization_config"]["config_groups"]["group_0"]
    common = {"type": "int", "dynamic": True, "symmetric": True, "strategy": "token"}
    assert stored["input_activations"] == {"num_bits": activation_bits, **common}
    assert (stored["weights"]["symmetric"], stored["weights"]["num_bits"]) == (symmetric, 4)
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0)) + 0.3
    step = 2 * x.abs().amax(-1, keepdim=True) / (2**activation_bits - 1)
    half = 2 ** (activation_bits - 1)
    rounded = (x / step).round().clamp(-half, half - 1) * step
    layer = load_packed(tmp_path, dtype=torch.float32).model.layers[1].mlp.gate_proj
    with torch.no_grad():
        torch.testing.assert_close(layer(x), rounded @ layer.dense(torch.float32).T, rtol=1e-4, atol=1e-4)


def test_a_result_can_be_written_in_one_format_after_the_other_and_leaves_its_model_as_it_was(dense, tmp_path):
    result = quantize(dense(), None, CbqConfig(bits=4, group_size=32, method="rtn"))
    for format, method in (("cbq", "cbq"), ("gptq", "gptq"), ("compressed-tensors", "compressed-tensors")):
        assert result.save(tmp_path / format, format)["format"] == format
        stored = json.loads((tmp_path / format / "config.json").read_text())
        assert stored["quantization_config"]["quant_method"] == method
        assert not hasattr(result.model.config, "quantization_config") and "format" not in result.report


def test_a_card_shows_no_picture_that_could_not_be_drawn(dense, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    quantize(dense(), None, CbqConfig(bits=4, group_size=32, method="rtn")).save(tmp_path / "out")
    assert "quantization_report.png" not in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out" / "quantization_report.png").exists()
