"""Any model's layers made ternary, saved, loaded, packed for stock transformers."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from hf_effmodels.quantization import BitNet158Config, convert_to_bitlinear, save_packed
from hf_effmodels.quantization.bitnet158.bitlinear import BitLinear
from hf_effmodels.quantization.bitnet158.packing import pack_ternary
from hf_effmodels.quantization.bitnet158.quantizer_bitnet158 import BitNet158HfQuantizer
from hf_effmodels.quantization.bitnet158.quantizers import quantize_weight
from hf_effmodels.quantization.bitnet158.replacement import heads, replace_linears
from hf_effmodels.quantization.bitnet158.warm_start import WarmStart

COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
#: Model type -> Auto class, fields, a batch, and the layers that stay.
MODELS = {
    "qwen2": ("AutoModelForCausalLM", {**COMMON, "vocab_size": 50, "num_key_value_heads": 1}, "ids", {"lm_head"}),
    "opt": ("AutoModelForCausalLM", {**COMMON, "vocab_size": 50, "word_embed_proj_dim": 32}, "ids", {"lm_head"}),
    "bert": ("AutoModelForSequenceClassification", {**COMMON, "vocab_size": 50}, "ids", {"classifier"}),
    "vit": ("AutoModelForImageClassification", {**COMMON, "image_size": 16, "patch_size": 8}, "image", {"classifier"}),
    "swin": (
        "AutoModelForImageClassification",
        {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
        "image",
        {"classifier"},
    ),
}


def inputs(kind):
    return {"input_ids": torch.arange(3, 15)[None]} if kind == "ids" else {"pixel_values": torch.randn(1, 3, 16, 16)}


@pytest.mark.parametrize("model_type", MODELS)
def test_any_model_is_converted_and_comes_back_as_it_was(model_type, tmp_path):
    auto, fields, kind, stays = MODELS[model_type]
    auto = getattr(transformers, auto)
    model = auto.from_config(transformers.AutoConfig.for_model(model_type, **fields)).eval()
    batch = inputs(kind)
    with torch.no_grad():
        before = model(**batch).logits
    dense = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    convert_to_bitlinear(model, BitNet158Config(scale="median"))
    found = {name for name, module in model.named_modules() if isinstance(module, BitLinear)}
    assert dense - found == stays
    with torch.no_grad():
        expected = model(**batch).logits
    assert not torch.allclose(expected, before)
    model.save_pretrained(tmp_path)
    loaded = auto.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, expected)
    layer = next(module for module in loaded.modules() if isinstance(module, BitLinear))
    assert layer.scale == "median"
    loaded(**batch).logits.square().sum().backward()
    assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("options", [{}, {"scale": "median"}, {"norm_before": True}], ids=str)
def test_stock_transformers_computes_the_same_with_packed_weights(options, dense, held_out, tmp_path):
    model = convert_to_bitlinear(dense(torch.float32), BitNet158Config(**options)).eval()
    processor = transformers.ViTImageProcessor()  # anything that is saved beside
    save_packed(model, tmp_path / "packed", processor)
    assert (tmp_path / "packed" / "preprocessor_config.json").is_file()
    stored = json.loads((tmp_path / "packed" / "config.json").read_text())["quantization_config"]
    assert stored["quant_method"] == "bitnet" and model.config.quantization_config["quant_method"] == "bitnet158"
    # Compiling for one call would take half a minute.
    torch.compiler.set_stance("force_eager")
    try:
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
        assert type(loaded.model.layers[0].mlp.up_proj).__module__.startswith("transformers.")
        with torch.no_grad():
            expected, got = model(held_out).logits, loaded(held_out).logits
        # Single activations come down on the other side of a half.
        assert (got - expected).abs().mean() < 1e-3 * expected.abs().mean()
    finally:
        torch.compiler.set_stance("default")
    weights = (tmp_path / "packed" / "model.safetensors").stat().st_size
    model.save_pretrained(tmp_path / "whole")
    assert weights < (tmp_path / "whole" / "model.safetensors").stat().st_size / 2


def test_layers_that_are_named_stay_and_a_dense_checkpoint_is_converted_while_it_is_loaded(
    checkpoint, dense, held_out
):
    config = BitNet158Config(modules_to_not_convert=["mlp.up_proj", "model.layers.1.self_attn.q_proj"])
    model = convert_to_bitlinear(dense(torch.float32), config)
    real = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    assert real == {*(f"model.layers.{n}.mlp.up_proj" for n in range(3)), "model.layers.1.self_attn.q_proj", "lm_head"}
    loaded = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, quantization_config=BitNet158Config()
    )
    assert {name for name, module in loaded.named_modules() if type(module) is nn.Linear} == {"lm_head"}
    expected = convert_to_bitlinear(dense(torch.float32)).eval()
    with torch.no_grad():
        assert torch.equal(loaded(held_out).logits, expected(held_out).logits)
    assert loaded.config.quantization_config.modules_to_not_convert == ["lm_head"]
    kept = BitNet158Config(modules_to_not_convert=["mlp.up_proj"])
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint, quantization_config=kept)
    assert sum(type(module) is nn.Linear for module in loaded.modules()) == 4


def test_two_bits_hold_a_weight():
    """The first quarter of the rows has the lowest bits."""
    ternary = torch.tensor([[-1.0], [1.0], [0.0], [1.0], [1.0], [-1.0], [0.0], [0.0]])
    assert pack_ternary(ternary).tolist() == [[0 | 1 << 2 | 2 << 4 | 1 << 6], [2 | 2 << 2 | 0 << 4 | 1 << 6]]
    with pytest.raises(ValueError, match="rows: got 6"):
        pack_ternary(ternary[:6])


def test_a_warm_start_follows_from_the_number_of_the_step():
    model = nn.Sequential(BitLinear(8, 8))
    state = transformers.TrainerState()
    shares = []
    for state.global_step in (0, 1, 2, 3, 9):
        WarmStart(4).on_step_begin(None, state, None, model=model)
        shares.append(model[0].share)
    assert shares == [0.25, 0.5, 0.75, 1.0, 1.0]
    # Without a warm start the weights are ternary from the first step on.
    state.global_step = 0
    WarmStart(0).on_step_begin(None, state, None, model=model)
    assert model[0].share == 1.0


def test_a_network_learns_with_either_scale():
    x = torch.randn(256, 16, generator=torch.Generator().manual_seed(3))
    y = (x[:, :4].sum(1, keepdim=True) > 0).float()
    for scale in ("mean", "median"):
        torch.manual_seed(0)
        model = nn.Sequential(BitLinear(16, 32, scale=scale), nn.ReLU(), BitLinear(32, 1, scale=scale))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        losses = []
        for _ in range(60):
            loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.4 * losses[0]
        assert set(quantize_weight(model[0].weight, scale).integers.unique().tolist()) == {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("bits", [None, 2, 4, 7, 9, 16])
def test_only_activations_of_eight_bits_are_packed_for_stock_transformers(bits, dense, tmp_path):
    model = convert_to_bitlinear(dense(), BitNet158Config(activation_bits=bits))
    with pytest.raises(ValueError, match=f"^activation_bits: got {bits}, transformers' bitnet format has only 8.$"):
        save_packed(model, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_every_real_layer_is_named_in_a_packed_folder_and_computes_as_before(dense, held_out, tmp_path):
    kept = ["mlp.up_proj", "model.layers.1.self_attn.q_proj"]
    model = convert_to_bitlinear(dense(torch.float32), BitNet158Config(modules_to_not_convert=kept)).eval()
    save_packed(model, tmp_path / "packed")
    stored = json.loads((tmp_path / "packed" / "config.json").read_text())["quantization_config"]
    real = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    assert {*stored["modules_to_not_convert"]} == real and len(real) == 5
    torch.compiler.set_stance("force_eager")
    try:
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
        weights = (loaded.get_submodule(name).weight for name in sorted(real))
        assert all(torch.equal(w, model.get_submodule(n).weight) for w, n in zip(weights, sorted(real), strict=True))
    finally:
        torch.compiler.set_stance("default")


def test_what_cannot_be_converted_or_packed_is_refused(dense, tmp_path):
    model = convert_to_bitlinear(dense(), BitNet158Config(activation_bits=4))
    with pytest.raises(ValueError, match="quantised already"):
        convert_to_bitlinear(model)
    with pytest.raises(ValueError, match="activation_bits: got 4"):
        save_packed(model, tmp_path / "x")
    with pytest.raises(ValueError, match="no BitLinear layers"):
        save_packed(dense(), tmp_path / "x")
    odd = convert_to_bitlinear(dense())
    odd.model.layers[0].mlp.up_proj = BitLinear(64, 95)
    with pytest.raises(ValueError, match="model: model.layers.0.mlp.up_proj has 95 rows; accepted are multiples of 4"):
        save_packed(odd, tmp_path / "x")
    broken = dense()
    broken.model.layers[0].mlp.up_proj.weight.data[1, 2] = float("nan")
    with pytest.raises(ValueError, match="^model: .* has 1 broken weights: model.layers.0.mlp.up_proj.weight .1 of"):
        convert_to_bitlinear(broken)
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=96, n_embd=32, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no linear layers beside its head"):
        convert_to_bitlinear(gpt2)
    for options, text in (({"scale": "max"}, "scale: got 'max'"), ({"activation_bits": 1}, "activation_bits: got 1")):
        with pytest.raises(ValueError, match=text):
            BitNet158Config(**options)
    with pytest.raises(ValueError, match="activation_bits: got 17, accepted are none and 2 to 16"):
        BitNet158Config(activation_bits=17)
    assert [BitNet158Config(activation_bits=bits).activation_bits for bits in (2, 16, None)] == [2, 16, None]
    assert not list(tmp_path.iterdir())


def test_what_gives_the_outputs_is_the_head_or_the_last_layer_of_a_network_without_one():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
            self.boxes, self.classes = nn.Linear(4, 4), nn.Linear(4, 3)
            self.base_model = self.base

    assert heads(Two()) == ["boxes", "classes"]
    assert heads(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU())) == ["2"]
    assert heads(nn.ReLU()) == []


def test_a_ternary_layer_has_the_very_weights_the_mode_and_the_options_that_were_there():
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 5), nn.Linear(5, 2)).train()
    model[1].eval()
    before = [(layer.weight, layer.bias) for layer in model]
    config = BitNet158Config(scale="median", activation_bits=4, norm_before=True)
    assert replace_linears(model, config, ["2"]) == 2
    assert [type(layer) for layer in model] == [BitLinear, BitLinear, nn.Linear]
    assert all(
        layer.weight is weight and layer.bias is bias for layer, (weight, bias) in zip(model, before, strict=True)
    )
    assert [layer.training for layer in model] == [True, False, True]
    for layer in model[:2]:
        assert (layer.scale, layer.activation_bits, layer.norm_before) == ("median", 4, True)
    # A name that only ends like one is another; what is ternary already is not counted again.
    other = nn.ModuleDict({"my_proj": nn.Linear(2, 2), "proj": nn.Linear(2, 2)})
    assert replace_linears(other, BitNet158Config(), ["proj"]) == 1 and isinstance(other["my_proj"], BitLinear)
    assert replace_linears(other, BitNet158Config(), ["proj"]) == 0


def test_names_of_what_stays_are_stored_in_their_order_each_once(dense):
    """The same file in every process."""
    left = ["z", "up_proj", "b", "y", "lm_head", "c", "x", "b"]
    expected = ["b", "c", "lm_head", "up_proj", "x", "y", "z"]
    model = convert_to_bitlinear(dense(), BitNet158Config(modules_to_not_convert=list(left)))
    assert model.config.quantization_config["modules_to_not_convert"] == expected
    config, model = BitNet158Config(modules_to_not_convert=list(left)), dense()
    BitNet158HfQuantizer(config, pre_quantized=False)._process_model_before_weight_loading(model)
    assert config.modules_to_not_convert == expected
    assert sum(type(module) is nn.Linear for module in model.modules()) == 4  # three layers' and the head


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale, norm_before", [("mean", False), ("median", True)])
def test_a_packed_file_has_two_bits_for_a_weight_and_a_scale_for_each_layer(
    dense, tmp_path, dtype, scale, norm_before
):
    model = convert_to_bitlinear(dense(dtype), BitNet158Config(scale=scale, norm_before=norm_before))
    save_packed(model, tmp_path)
    stored, name = load_file(tmp_path / "model.safetensors"), "model.layers.1.mlp.down_proj"
    weight = dense(dtype).get_submodule(name).weight.detach().float()
    gamma = weight.abs().mean() if scale == "mean" else weight.abs().median()
    ternary = (weight / (gamma + 1e-5)).round().clamp(-1, 1).long() + 1
    quarters = ternary.reshape(4, 16, 96)
    assert (
        stored[f"{name}.weight"].tolist() == (quarters * torch.tensor([1, 4, 16, 64])[:, None, None]).sum(0).tolist()
    )
    assert torch.equal(stored[f"{name}.weight_scale"], gamma.reshape(1).to(dtype))
    assert (f"{name}.rms_norm.weight" in stored) == norm_before
    if norm_before:
        assert torch.equal(stored[f"{name}.rms_norm.weight"], torch.ones(96, dtype=dtype))
    described = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert (described["use_rms_norm"], described["rms_norm_eps"]) == (norm_before, 1e-6)
    real = {value.dtype for own, value in stored.items() if value.dtype != torch.uint8}
    assert real == {dtype}


@pytest.mark.parametrize("loaded", [True, False])
def test_a_model_that_was_packed_into_a_folder_is_what_it_was(checkpoint, dense, tmp_path, loaded):
    """Its configuration and its quantiser, also after a folder that cannot be written."""
    if loaded:
        model = AutoModelForCausalLM.from_pretrained(checkpoint, quantization_config=BitNet158Config())
    else:
        model = convert_to_bitlinear(dense(torch.float32))
    config, quantizer = model.config, getattr(model, "hf_quantizer", None)
    assert (quantizer is not None) == loaded
    save_packed(model, tmp_path / "packed")
    with pytest.raises(FileExistsError, match="is not empty"):
        save_packed(model, tmp_path / "packed")
    assert model.config is config and getattr(model, "hf_quantizer", None) is quantizer
    assert hasattr(model, "hf_quantizer") == loaded
