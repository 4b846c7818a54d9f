"""Packed binary networks: equal to the unpacked ones, small on disk, loaded by transformers."""

import copy
import pickle

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    RegNetConfig,
    RegNetForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hf_effmodels import create_image_processor, get_config
from hf_effmodels.collaboration.splitting.halves import split
from hf_effmodels.collaboration.splitting.points import split_points
from hf_effmodels.hub import export
from hf_effmodels.kernels import native_library
from hf_effmodels.modeling.adabin.modeling_adabin import AdaBinBackbone, AdaBinForImageClassification
from hf_effmodels.modeling.bimlp.modeling_bimlp import BiMlpForImageClassification
from hf_effmodels.modeling.layers.binary import ACTIVATION_RULES, BinaryConv2d, BinaryLinear, binarize
from hf_effmodels.modeling.layers.bivit import BiVitLinear, binarize_transformer
from hf_effmodels.quantization import PackedBinaryConfig, pack_binary
from hf_effmodels.quantization.packed_binary.layers import PackedConv2d, PackedLayer, PackedLinear
from hf_effmodels.training import evaluate

from ...modeling.tiny.adabin import TINY as ADABIN
from ...modeling.tiny.bimlp import TINY as BIMLP
from ...threads import run_together

CASES = {
    "adabin": (AdaBinForImageClassification, "adabin-resnet18", ADABIN["adabin"]),
    "adabin-plain": (
        AdaBinForImageClassification,
        "adabin-resnet18",
        ADABIN["adabin"] | {"block": "plain", "stem": "cifar", "pool_size": 2, "classifier_norm": False},
    ),
    "bimlp": (BiMlpForImageClassification, "bimlp-s", BIMLP["bimlp"]),
    "bimlp-sign": (BiMlpForImageClassification, "bimlp-s", BIMLP["bimlp"] | {"activation_binarizer": "sign"}),
}


@torch.no_grad()
def build(case: str = "adabin", **overrides):
    torch.manual_seed(0)
    kind, preset, tiny = CASES[case]
    model = kind(get_config(preset, **{**tiny, "num_labels": 3, **overrides})).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("binarizer.alpha", "binarizer.beta", "norm.weight", "norm.bias")):
            parameter.add_(torch.randn_like(parameter) * 0.3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model


def images(side=64, batch=2, dtype=torch.float32):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.fixture(params=["native", "torch"])
def form(request, monkeypatch):
    """With the kernels, and as it is where there is no compiler."""
    if request.param == "torch":
        monkeypatch.setenv("CC", "no-such-compiler")
        native_library.library.cache_clear()
    yield request.param
    native_library.library.cache_clear()


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("side", [48, 64])
def test_a_deployed_network_is_the_trained_one(case, side, form):
    model = build(case).double()
    pixels = images(side, dtype=torch.float64)
    expected = model(pixels, output_hidden_states=True)
    assert model.deploy() is model
    found = model(pixels, output_hidden_states=True)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-9, atol=1e-9)
    for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert any(isinstance(module, PackedConv2d) for module in model.modules())


@torch.no_grad()
@pytest.mark.parametrize("weights", ["equalized", "scaled", "centered"])
@pytest.mark.parametrize("activations", ["adaptive", "sign", "clipped_sign", "ternary", "real"])
def test_layers_of_all_rules_agree_with_the_unpacked_ones(weights, activations, form):
    torch.manual_seed(0)
    kernel = 1 if weights == "scaled" else 3  # else there are scales for each position
    rules = {"weights": weights, "activations": activations}
    conv = BinaryConv2d(5, 7, kernel, stride=2, padding=kernel // 2, dilation=1 + kernel // 2, **rules)
    model = (
        nn.Sequential(conv, nn.Flatten(2), BinaryLinear(16, 6, bias=activations != "real", **rules)).double().eval()
    )
    for module in model.modules():
        if hasattr(module, "alpha"):
            module.alpha.fill_(-0.7)
            module.beta.fill_(0.3)
    inputs = torch.randn(2, 5, 7 if kernel == 1 else 9, 7 if kernel == 1 else 9, dtype=torch.float64)
    inputs[:, 0] = inputs[:, 0].clamp(min=0)  # signs of exact zeros are zeros
    expected = model(inputs)
    dense = [m.binary_weight() for m in (model[0], model[2])]
    pack_binary(model)
    assert [type(m) for m in model] == [PackedConv2d, nn.Flatten, PackedLinear]
    assert all(torch.equal(m.weight, w) for m, w in zip((model[0], model[2]), dense, strict=True)), "unpacked exactly"
    torch.testing.assert_close(model(inputs), expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_one_layer_sees_maps_of_any_height_and_width(form):
    torch.manual_seed(0)
    layer = BinaryConv2d(3, 4, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(1, 2), activations="adaptive")
    layer.binarizer.alpha.fill_(0.7)
    layer.binarizer.beta.fill_(-0.4)
    model = nn.Sequential(layer).double().eval()
    maps = [torch.randn(1, 3, *size, dtype=torch.float64) for size in ((8, 8), (8, 12), (12, 8), (5, 12), (8, 8))]
    expected = [model(each) for each in maps]
    pack_binary(model)
    for each, value in zip(maps, expected, strict=True):
        torch.testing.assert_close(model(each), value, rtol=1e-10, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("binary_inputs", [True, False])
def test_learnt_scales_are_packed_as_they_were_learnt(binary_inputs):
    torch.manual_seed(0)
    layer = BiVitLinear(9, 5, binary_inputs=binary_inputs).double()
    inputs = torch.randn(4, 9, dtype=torch.float64)
    layer(inputs)
    layer.scaling_factor.copy_(torch.tensor([[0.3], [-1.7], [0.0], [2.5], [0.01]]))
    expected = layer(inputs)
    model = pack_binary(nn.Sequential(layer).eval())
    torch.testing.assert_close(model(inputs), expected, rtol=1e-10, atol=1e-10)
    assert (expected - layer.bias)[:, [0, 1, 3]].abs().min() > 0


@torch.no_grad()
def test_both_forms_are_equal_to_the_last_bit_and_in_any_layout(monkeypatch):
    model, pixels = build().deploy(), images()
    results = [model(pixels).logits, model(pixels.contiguous(memory_format=torch.channels_last)).logits]
    conv = next(m for m in model.modules() if isinstance(m, PackedConv2d))
    seen = torch.randn(2, conv.shape[1], 9, 9)
    of_layer = conv(seen)
    assert of_layer.is_contiguous() and conv(seen.contiguous(memory_format=torch.channels_last)).is_contiguous(
        memory_format=torch.channels_last
    )
    monkeypatch.setenv("CC", "no-such-compiler")
    native_library.library.cache_clear()
    try:
        again = copy.deepcopy(conv)
        again._derived = None
        assert torch.equal(again(seen), of_layer)
        torch.testing.assert_close(copy.deepcopy(model)(pixels).logits, results[0], rtol=1e-5, atol=1e-5)
    finally:
        native_library.library.cache_clear()
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("case", ["adabin", "bimlp"])
def test_what_is_saved_is_bits_and_loads_with_the_same_outputs(case, tmp_path):
    model = build(case).deploy()
    expected = model(images()).logits
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    for name, layer in model.named_modules():
        if isinstance(layer, PackedLayer):
            values = layer.weight[0].numel()
            assert state[f"{name}.bits"].dtype == torch.uint8
            assert state[f"{name}.bits"].shape == (layer.shape[0], -(-values // 8))
            assert f"{name}.weight" not in state
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(again(images()).logits, expected)
    assert again.config.quantization_config.quant_method == "packed_binary"
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@torch.no_grad()
def test_an_unpacked_checkpoint_is_packed_while_it_is_loaded(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, quantization_config=PackedBinaryConfig())
    assert torch.equal(loaded(images()).logits, model.deploy()(images()).logits)
    loaded.save_pretrained(tmp_path / "packed")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "packed")
    assert torch.equal(again(images()).logits, loaded(images()).logits)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
NETWORKS = {
    "resnet": lambda: binarize(
        ResNetForImageClassification(
            ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
        )
    ),
    "regnet": lambda: binarize(
        RegNetForImageClassification(
            RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=8, num_labels=3)
        )
    ),
    "convnext": lambda: binarize(
        ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1] * 4, num_labels=3)),
        linear=True,
    ),
    "vit": lambda: binarize_transformer(
        ViTForImageClassification(ViTConfig(**SMALL, image_size=32, patch_size=8, num_labels=3))
    ),
    "deit": lambda: binarize_transformer(
        DeiTForImageClassification(DeiTConfig(**SMALL, image_size=32, patch_size=8, num_labels=3)),
        binary_inputs=True,
        attention=False,
        scale="mean",
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("network", NETWORKS)
def test_any_binary_model_is_packed_saved_and_loaded(network, tmp_path):
    torch.manual_seed(0)
    model = NETWORKS[network]().double().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # without them sums of two values cancel, and rounding alone decides on signs
            parameter.normal_(0, 0.1)
    pixels = images(32, dtype=torch.float64)
    expected = model(pixels).logits
    assert pack_binary(model) is model
    torch.testing.assert_close(model(pixels).logits, expected, rtol=1e-9, atol=1e-9)
    assert sum(isinstance(m, PackedLayer) for m in model.modules()) >= 3
    model.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(again(pixels).logits, expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_changed_weights_are_noticed():
    model = build().deploy()
    conv = next(m for m in model.modules() if isinstance(m, PackedConv2d))
    inputs = torch.randn(1, conv.shape[1], 8, 8)
    before = conv(inputs)
    conv.levels.mul_(2)
    expected = F.conv2d(conv.binarizer(inputs), conv.weight, conv.bias, conv.stride, conv.padding)
    assert not torch.equal(conv(inputs), before)
    torch.testing.assert_close(conv(inputs), expected, rtol=1e-5, atol=1e-5)
    for dtype in (torch.bfloat16, torch.float16):
        assert copy.deepcopy(conv).to(dtype)(inputs.to(dtype)).dtype == dtype


@torch.no_grad()
def test_threads_and_copies_see_the_same():
    model, pixels = build().deploy(), [images() + number for number in range(4)]
    expected = [model(given).logits for given in pixels]
    assert not torch.equal(expected[0], expected[1])

    def call(given):
        with torch.no_grad():
            return model(given).logits

    together = run_together(model, [lambda given=given: call(given) for given in pixels])
    assert all(torch.equal(*pair) for pair in zip(together, expected, strict=True))
    assert torch.equal(pickle.loads(pickle.dumps(model))(pixels[1]).logits, expected[1])


@pytest.mark.parametrize("native", [True, False])
def test_a_gradient_through_packed_layers_and_a_cut_are_refused_in_words(native, monkeypatch):
    if not native:
        monkeypatch.setattr("hf_effmodels.quantization.packed_binary.layers.available", lambda: False)
    model = build().deploy()
    logits = model(images().requires_grad_()).logits
    with torch.no_grad():
        torch.testing.assert_close(logits, model(images()).logits)
    with pytest.raises(RuntimeError, match="PackedConv2d has packed weights, which no gradient flows through"):
        logits.sum().backward()
    with pytest.raises(ValueError, match="model: the weights of AdaBinFor.* are packed or quantised.*split what was"):
        split(model, "stages.0")
    with pytest.raises(ValueError, match="are packed or quantised"):
        split_points(model)


@torch.no_grad()
def test_a_hub_folder_of_a_packed_model(tmp_path):
    model = build().deploy()
    folder = export(model, create_image_processor("adabin-resnet18"), tmp_path / "hub", license="mit")
    again = AutoModelForImageClassification.from_pretrained(folder)
    assert torch.equal(again(images()).logits, model(images()).logits)


@torch.no_grad()
def test_backbones_and_programs_of_packed_models():
    torch.manual_seed(0)
    config = get_config("adabin-resnet18", **ADABIN["adabin"], out_features=["stage1", "stage2"])
    backbone = AdaBinBackbone(config).eval()
    expected = backbone(images()).feature_maps
    for one, other in zip(backbone.deploy()(images()).feature_maps, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    conv = next(m for m in backbone.modules() if isinstance(m, PackedConv2d))
    inputs = torch.randn(1, conv.shape[1], 8, 8)
    program = torch.export.export(conv, (inputs,))
    # Neither our kernels, nor shifts, which ONNX does not have for bytes.
    assert not [n for n in program.graph.nodes if any(part in str(n.target) for part in ("hf_effmodels", "shift"))]
    torch.testing.assert_close(program.module()(inputs), conv(inputs), rtol=1e-5, atol=1e-5)


def test_the_evaluation_packs_and_reads_what_is_packed(tmp_path):
    processor = create_image_processor("adabin-resnet20-cifar10", image_size=32)
    results = {}
    for name, options in (("trained", []), ("deployed", ["--deploy", "true"]), ("packed", [])):
        model = build(num_labels=10, image_size=32)
        model = model.deploy() if name == "packed" else model
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
        arguments = ["--model", str(tmp_path / name), "--dataset", "digits", "--max_eval_samples", "40"]
        results[name] = evaluate([*arguments, *options, "--output", f"{tmp_path}/{name}.json"])
    losses = [result["loss"] for result in results.values()]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4) and results["packed"]["samples"] == 40
    resnet = ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=10)
    )
    resnet.save_pretrained(tmp_path / "resnet")
    processor.save_pretrained(tmp_path / "resnet")
    arguments = ["--model", str(tmp_path / "resnet"), "--dataset", "digits", "--output", f"{tmp_path}/r.json"]
    with pytest.raises(ValueError, match="--deploy: ResNetForImageClassification has no binary layers"):
        evaluate([*arguments, "--deploy", "true"])


@pytest.mark.parametrize(
    "kept",
    [{"padding_mode": "reflect"}, {"padding_mode": "replicate"}, {"padding_mode": "circular"}, {"groups": 2},
     {"padding": "same"}],
    ids=["reflect", "replicate", "circular", "groups", "same"],
)  # fmt: skip
def test_a_convolution_that_no_packed_one_computes_stays_as_it_is_beside_those_that_do(kept):
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 4, 3, **{"padding": 1, **each}) for each in ({}, kept)]
    model = binarize(nn.Sequential(*layers), skip=[]).eval()
    inputs = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        expected = model(inputs)
        pack_binary(model)
        torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-4)
    assert isinstance(model[0], PackedConv2d) and isinstance(model[1], BinaryConv2d)


def test_what_cannot_be_packed_is_named():
    model = build()
    with pytest.raises(RuntimeError, match="training mode"):
        model.train().deploy()
    with pytest.raises(ValueError, match="training mode"):
        pack_binary(model)
    packed = build().deploy()
    with pytest.raises(ValueError, match="deploy: this AdaBinForImageClassification is packed or quantised already"):
        packed.deploy()
    with pytest.raises(ValueError, match="packed already"):
        pack_binary(packed)
    with pytest.raises(ValueError, match="are binary already"):
        binarize(packed)
    other = build()
    other.config.quantization_config = {"quant_method": "adder"}
    with pytest.raises(ValueError, match="model: it is quantised already"):
        pack_binary(other)
    # A weight that is the mean of its row has no sign; and with real weights there is nothing to pack.
    level, real = BiVitLinear(4, 2), BiVitLinear(4, 2, scale=None)
    with torch.no_grad():
        level.weight.copy_(torch.tensor([[1.0, 3, 2, 2], [1, 2, 3, 4]]))
    for layer in (level, real):
        with pytest.raises(ValueError, match="model: 1 has weights that are real, or one that equals the mean of its"):
            pack_binary(nn.Sequential(BiVitLinear(4, 2), layer).eval())
    with pytest.raises(RuntimeError, match="cannot be trained"):
        packed.train()
    mixed = nn.Sequential(nn.BatchNorm2d(3), *[nn.Conv2d(3, 3, 1) for _ in range(3)], nn.BatchNorm2d(3))
    mixed = pack_binary(binarize(mixed).eval())
    for refused, who in ((mixed, "Sequential"), (copy.deepcopy(mixed), "Sequential"), (mixed[2], "PackedConv2d")):
        with pytest.raises(RuntimeError, match=f"^{who} has packed weights, which cannot be trained"):
            refused.train()
        assert not any(module.training for module in refused.modules()) and refused.eval() is refused
    for layer, shape in ((mixed[2], (1, 70, 4, 4)), (mixed[2], (3, 4, 4))):  # read past their words, they would be
        with pytest.raises(ValueError, match=r"inputs: got .* accepted are \(batch, 3, height, width\)"):
            layer(torch.zeros(shape))
    for rule in ("adaptive", "real"):
        linear = pack_binary(binarize(nn.Sequential(nn.Linear(6, 4)), skip=[], activations=rule, linear=True).eval())
        with pytest.raises(ValueError, match=r"inputs: got \(2, 3\), accepted are \(..., 6\)"):
            linear(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="inputs: got torch.int64, accepted are floating point"):
        mixed[2](torch.ones(1, 3, 4, 4, dtype=torch.int64))
    for name in ("weight", "binarizer.beta"):
        broken = binarize(nn.Sequential(nn.Linear(6, 4)), skip=[], linear=True).eval()
        with torch.no_grad():
            broken.get_parameter(f"0.{name}").view(-1)[0] = float("nan")
        with pytest.raises(ValueError, match=f"model: 0.{name} is not finite"):
            pack_binary(broken)
    with pytest.raises(ValueError, match=r"layers: got \['x'\], accepted are names"):
        PackedBinaryConfig(layers=["x"])
    with pytest.raises(ValueError, match="Sequential has 0 binary layers"):
        pack_binary(nn.Sequential(nn.Conv2d(3, 3, 1)).eval())
    with pytest.raises(ValueError, match="1 binary layers, none of them with two values"):
        pack_binary(nn.Sequential(BinaryConv2d(4, 4, 3, groups=4)).eval())
    with pytest.raises(ValueError, match="layers: got 'relu' for x, accepted are 'adaptive'"):
        PackedBinaryConfig(layers={"x": "relu"})
    with pytest.raises(ValueError, match="inputs: got values that are not finite"):
        packed(images() / 0 * 0)
    conv = next(m for m in packed.modules() if isinstance(m, PackedConv2d))
    with torch.no_grad():
        conv.binarizer.alpha.zero_()
    with pytest.raises(ValueError, match="binarizer: a factor of 0"):
        conv(torch.randn(1, conv.shape[1], 4, 4))


def test_a_checkpoint_that_names_other_layers_is_refused(tmp_path):
    model = build().deploy()
    model.config.quantization_config.layers["adabin.nothing"] = "sign"
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="quantization_config: AdaBin.* has no convolution .*'adabin.nothing'"):
        AutoModelForImageClassification.from_pretrained(tmp_path)
    model.config.quantization_config.layers.clear()
    model.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="quantization_config: layers names none"):
        AutoModelForImageClassification.from_pretrained(tmp_path)


def test_the_networks_code_by_itself_says_what_it_lacks(monkeypatch):
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    model = build()
    packed = build().deploy().config
    monkeypatch.delitem(AUTO_QUANTIZER_MAPPING, "packed_binary")
    with pytest.raises(RuntimeError, match="install and import"):
        model.deploy()
    with pytest.raises(ImportError, match="packed to bits; install hf_effmodels"):
        AdaBinForImageClassification(packed)


@pytest.mark.parametrize("kind, sizes", [(PackedConv2d, (4, 3, 3, 3)), (PackedLinear, (4, 3))])
@pytest.mark.parametrize("activations", ACTIVATION_RULES)
def test_nothing_of_a_packed_layer_is_trained(kind, sizes, activations):
    geometry = ((1, 1), (1, 1), (1, 1)) if kind is PackedConv2d else ()
    layer = kind(sizes, activations, True, *geometry)
    assert layer.bias.shape == (4,) and not any(parameter.requires_grad for parameter in layer.parameters())
    assert not any(module.training for module in layer.modules())
    assert kind(sizes, activations, False, *geometry).bias is None


@pytest.mark.parametrize("factor", [float("inf"), float("nan"), 0.0])
def test_a_factor_that_has_no_two_levels_is_named(factor, monkeypatch):
    layer = PackedLinear((4, 3), next(iter(ACTIVATION_RULES)), False)
    monkeypatch.setattr(layer.binarizer, "levels", lambda: (0.0, 0.0, factor, 0.0))
    with pytest.raises(ValueError, match=f"^binarizer: a factor of {factor} has no two levels; accepted are finite"):
        layer(torch.randn(2, 3))


@torch.no_grad()
@pytest.mark.parametrize("linear", [False, True])
def test_one_layer_computes_in_the_precision_of_each_of_its_inputs(linear, form):
    torch.manual_seed(0)
    layer = BinaryLinear(5, 4) if linear else BinaryConv2d(5, 4, 3, padding=1)
    model = pack_binary(nn.Sequential(layer).eval())
    whole = torch.randn(2, 5) if linear else torch.randn(2, 5, 6, 6)
    exact = copy.deepcopy(model).double()(whole.double())
    half = ((torch.bfloat16, 5e-2), (torch.float16, 1e-2))
    for dtype, off in ((torch.float32, 1e-5), (torch.float64, 1e-12), *half, (torch.float32, 1e-5)):
        found = model(whole.sign().to(dtype))
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), model[0](whole.sign().double()), rtol=off, atol=off)
    torch.testing.assert_close(model(whole.double()), exact, rtol=1e-6, atol=1e-6)


def test_the_rule_of_the_inputs_of_a_layer_that_is_not_packed_is_one_that_there_is():
    assert PackedBinaryConfig(unpacked={"x": ["mean", "sign"]}).unpacked == {"x": ["mean", "sign"]}
    with pytest.raises(ValueError, match="unpacked: got 'relu' for x, accepted are 'adaptive'"):
        PackedBinaryConfig(unpacked={"x": ["sign", "relu"]})
