"""TinySAM's own: SAM's contracts with another encoder, folding, official files, its Hub folder."""

import sys
import types
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoModelForMaskGeneration,
    AutoProcessor,
    SamImageProcessorPil,
    SamModel,
    SamProcessor,
)

import hf_effmodels
from hf_effmodels.hub import export
from hf_effmodels.hub.convert import ConversionError, convert, load_checkpoint
from hf_effmodels.modeling.tinysam.configuration_tinysam import TinySamConfig, TinySamVisionConfig
from hf_effmodels.modeling.tinysam.modeling_tinysam import TinySamModel, TinySamVisionModel
from hf_effmodels.registry import ARCHITECTURES

from ..parity import golden
from ..threads import run_together
from .tiny import tiny_config

TINYSAM = ARCHITECTURES["tinysam"]


def build(**overrides) -> TinySamModel:
    torch.manual_seed(1)
    model = TinySamModel(tiny_config(TINYSAM, **overrides)).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.2)
    return model


def inputs(batch: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    points = torch.rand(batch, 2, 1, 2) * 64
    return {"pixel_values": torch.randn(batch, 3, 64, 64), "input_points": points}


def test_saved_models_load_as_what_transformers_knows_of_the_task(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    expected = model(**inputs())
    for auto_class in (AutoModel, AutoModelForMaskGeneration):
        loaded = auto_class.from_pretrained(tmp_path)
        assert type(loaded) is TinySamModel and isinstance(loaded, SamModel)
        got = loaded(**inputs())
        torch.testing.assert_close(got.pred_masks, expected.pred_masks)
        torch.testing.assert_close(got.iou_scores, expected.iou_scores)
    assert expected.pred_masks.shape == (1, 2, 3, 16, 16) and expected.iou_scores.shape == (1, 2, 3)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is SamProcessor


def test_embeddings_of_an_image_may_be_given_in_its_place():
    model, given = build(), inputs()
    embeddings = model.get_image_embeddings(given["pixel_values"])
    assert embeddings.shape == (1, 16, 4, 4)
    got = model(image_embeddings=embeddings, input_points=given["input_points"])
    torch.testing.assert_close(got.pred_masks, model(**given).pred_masks)
    outputs = model(**given, output_hidden_states=True)
    assert [h.shape[1:] for h in outputs.vision_hidden_states] == [(8, 16, 16)] * 2 + [(16, 8, 8)] + [
        (24, 4, 4),
        (32, 4, 4),
    ]


def test_always_multimask_is_what_tinysams_code_does_and_mobilesams_does_not():
    always, asked = build(), build(always_multimask=False)
    assert always(**inputs(), multimask_output=False).pred_masks.shape[2] == 3
    assert asked(**inputs(), multimask_output=False).pred_masks.shape[2] == 1
    torch.testing.assert_close(asked(**inputs()).pred_masks, always(**inputs()).pred_masks)
    assert hf_effmodels.get_config("tinysam").always_multimask
    assert not hf_effmodels.get_config("mobilesam").always_multimask


def test_a_folded_model_gives_the_same_masks_and_stays_folded(tmp_path):
    model = build()
    expected = model(**inputs())
    assert model.reparameterize() is model and model.config.vision_config.reparameterized
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(model(**inputs()).pred_masks, expected.pred_masks, atol=1e-4, rtol=1e-4)
    model.save_pretrained(tmp_path)
    for fields in ({"reparameterized": True}, {"vision_config": {"reparameterized": True}}):  # said of either, of both
        config = TinySamConfig(**fields)
        assert config.reparameterized and config.vision_config.reparameterized
    loaded = AutoModel.from_pretrained(tmp_path)
    assert loaded.config.reparameterized and loaded.config.vision_config.reparameterized
    torch.testing.assert_close(loaded(**inputs()).pred_masks, expected.pred_masks, atol=1e-4, rtol=1e-4)
    with pytest.raises(RuntimeError, match="folded for deployment and cannot be trained"):
        model.train()


def test_the_decoders_layer_norms_have_the_official_epsilon_unless_another_is_given():
    assert TinySamConfig().mask_decoder_config.layer_norm_eps == 1e-5
    assert TinySamConfig(mask_decoder_config={"mlp_dim": 64}).mask_decoder_config.layer_norm_eps == 1e-5
    config = tiny_config(TINYSAM, mask_decoder_config={"layer_norm_eps": 0.5, "mlp_dim": 8, "num_attention_heads": 2})
    assert TinySamModel(config).mask_decoder.transformer.layers[0].layer_norm1.eps == 0.5
    again = TinySamConfig.from_dict(config.to_dict())
    assert again.mask_decoder_config.layer_norm_eps == 0.5 and again.vision_config.embed_dims == [8, 16, 24, 32]


def test_the_neck_is_two_convolutions_with_layer_norms_over_the_channels():
    vision = {**tiny_config(TINYSAM).vision_config.to_dict(), "neck_layer_norm_eps": 0.3, "image_size": 96}
    encoder = TinySamVisionModel(TinySamVisionConfig(**vision)).eval()
    pixels = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        outputs = encoder(pixels, output_hidden_states=True)
        neck, x = encoder.neck, outputs.hidden_states[-1]
        for conv, norm in ((neck.conv1, neck.layer_norm1), (neck.conv2, neck.layer_norm2)):
            x = F.conv2d(x, conv.weight, padding=conv.kernel_size[0] // 2)
            mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
            x = (x - mean) / (variance + 0.3).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    assert x.shape == (1, 16, 6, 6)
    torch.testing.assert_close(outputs.last_hidden_state, x, atol=1e-5, rtol=1e-5)


def test_image_sizes_follow_the_encoder():
    config = tiny_config(TINYSAM, vision_config={"image_size": 80, "output_channels": 16, "num_pos_feats": 8})
    assert config.prompt_encoder_config.image_size == 80 and config.prompt_encoder_config.image_embedding_size == 5
    with pytest.raises(ValueError, match="got images of \\(32, 64\\) pixels, expected \\(64, 64\\)"):
        build()(pixel_values=torch.zeros(1, 3, 32, 64))
    with pytest.raises(ValueError, match="expected \\(batch, 3, height, width\\)"):
        build()(pixel_values=torch.zeros(1, 1, 64, 64))


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"vision_config": {"image_size": 100}}, "image_size: got 100, accepted are multiples of the stride 16"),
        ({"vision_config": {"num_heads": [4, 5]}}, "num_heads: got .* accepted are 3 numbers"),
        ({"vision_config": {"num_pos_feats": 64}}, "num_pos_feats: got 128, the image encoder has 256"),
        ({"prompt_encoder_config": {"image_size": 512}}, "prompt_encoder_config.image_size: got 512"),
        ({"prompt_encoder_config": {"patch_size": 8}}, "prompt_encoder_config.patch_size: got 8"),
        ({"prompt_encoder_config": {"hidden_size": 128}}, "prompt_encoder_config.hidden_size: got 128"),
        ({"mask_decoder_config": {"hidden_size": 128}}, "mask_decoder_config.hidden_size: got 128"),
    ],
)
def test_configurations_that_do_not_fit_together_are_refused(fields, words):
    with pytest.raises(Exception, match=words):
        TinySamConfig(**fields)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A file of the official layout: the 439 tensors of the published checkpoint, by the cases' rules."""
    weights, folder = {}, Path(golden.__file__).parent / "cases" / "tinysam"
    for name in ("encoder_256", "decoder_points_boxes_masks"):
        weights |= golden.state_dict(golden.load(folder / f"{name}.json"), torch.float32)
    counters = [n for n in golden.load(folder / "encoder_256.json")["state_dict"] if n.endswith("num_batches_tracked")]
    weights |= {name: torch.tensor(3) for name in counters}
    assert len(weights) == 439
    path = tmp_path_factory.mktemp("official") / "tinysam_42.3.pth"
    torch.save(weights, path)
    return path, weights


def test_official_files_convert_with_their_biases(official, tmp_path):
    path, weights = official
    report = convert("tinysam", path, tmp_path / "out")
    assert report.converted == 439 - 4 and sorted(report.ignored)[0] == "image_encoder.head.bias"
    model = AutoModelForMaskGeneration.from_pretrained(tmp_path / "out")
    # The official encoder runs without its biases until it is switched to evaluation once more.
    table = weights["image_encoder.layers.2.blocks.3.attn.attention_biases"]
    attention = model.vision_encoder.stages[2].blocks[3].attention
    assert torch.equal(attention.bias()[:, 0, 17], table[:, 1 * 14 + 3])
    positions = weights["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
    assert torch.equal(model.prompt_encoder.shared_embedding.positional_embedding, positions)
    assert AutoProcessor.from_pretrained(tmp_path / "out").image_processor.pad_size["height"] == 1024


def test_wrapped_files_convert_and_foreign_ones_do_not(official, tmp_path):
    _, weights = official
    wrapped = {"model": {f"module.{name}": value for name, value in weights.items()}}
    torch.save(wrapped, tmp_path / "mobile_sam.pt")
    model, _ = load_checkpoint("mobilesam", tmp_path / "mobile_sam.pt")
    assert torch.equal(model.mask_decoder.iou_token.weight, weights["mask_decoder.iou_token.weight"])
    part = {name: value for name, value in weights.items() if "neck.0" not in name}
    torch.save(part, tmp_path / "part.pt")
    with pytest.raises(ConversionError, match="1 missing: vision_encoder.neck.conv1.weight"):
        load_checkpoint("tinysam", tmp_path / "part.pt")


@pytest.fixture
def quantised_file(official, monkeypatch, tmp_path):
    """The published model pickled whole, with quantised layers; the classes tell when their own code runs."""
    touched, classes = [], {}

    def restore(self, state):
        touched.append(type(self).__name__)
        self.__dict__.update(state)

    for package, names in (
        ("tinysam.modeling.sam", ("Sam", "Part")),
        ("quantization_layer.layers", ("InferQuantLinear", "InferQuantLinearPost", "InferQuantConv2d", "Product")),
    ):
        module = types.ModuleType(package)
        for name in names:
            classes[name] = type(name, (torch.nn.Module,), {"__module__": package, "__setstate__": restore})
            setattr(module, name, classes[name])
        monkeypatch.setitem(sys.modules, package.partition(".")[0], types.ModuleType(package.partition(".")[0]))
        monkeypatch.setitem(sys.modules, package, module)
    torch.manual_seed(3)
    block, heads = "image_encoder.layers.2.blocks.0", 5
    layers = {
        f"{block}.attn.qkv": ("InferQuantLinear", {"w_interval": torch.rand(3, 1, 1, 1) / 200 + 0.002}),
        f"{block}.mlp.fc2": ("InferQuantLinearPost", {"w_interval": torch.rand(1, 1, 1, 1) / 200 + 0.002}),
        "mask_decoder.iou_prediction_head.layers.0": ("InferQuantLinear", {"w_interval": torch.ones(1, 1, 1, 1)}),
        "image_encoder.neck.0": ("InferQuantConv2d", {"w_interval": torch.rand(256, 1, 1, 1) / 100 + 0.002}),
        f"{block}.attn.matmul1": ("Product", {n: torch.rand(1, heads, 1, 1, 1, 1, 1) / 20 + 0.01 for n in "AB"}),
        f"{block}.attn.matmul2": ("Product", {"B": torch.rand(1, heads, 1, 1, 1, 1, 1) / 20 + 0.01}),
    }
    root = classes["Sam"]()
    for name, value in {**official[1], **{f"{layer}.w": None for layer in layers}}.items():
        *path, last = name.split(".")
        part = root
        for depth, step in enumerate(path, 1):
            if step not in part._modules:
                kind = layers.get(".".join(path[:depth]), ("Part",))[0]
                part.add_module(step, classes[kind]())
            part = part._modules[step]
        if value is None:
            continue
        if last.startswith(("running", "num_batches", "positional")):
            part.register_buffer(last, value)
        else:
            part.register_parameter(last, torch.nn.Parameter(value, requires_grad=False))
    root.mask_threshold = 0.0
    for name, (kind, intervals) in layers.items():
        part = root.get_submodule(name)
        part.mode = "raw" if "iou_prediction" in name else "quant_forward"
        widths = ("A_bit", "B_bit") if kind == "Product" else ("w_bit", "a_bit")
        part.__dict__.update(dict.fromkeys(widths, 8))
        for key, interval in intervals.items():
            part.register_buffer(f"{key}_interval" if kind == "Product" else key, interval)
        for count in ("n_V", "crb_rows") if kind != "Product" else ("n_G_A", "pad_rows_B"):
            part.register_buffer(count, torch.tensor(1, dtype=torch.int32))
        if "Linear" in kind:
            part.register_buffer("a_interval", torch.rand(2 if kind.endswith("Post") else 1, 1) / 50 + 0.02)
        if kind.endswith("Post"):
            part.register_buffer("a_neg_interval", torch.tensor(0.16997124254703522 / 128))
        if name.endswith("matmul2"):
            part.register_buffer("split", torch.tensor(0.125))
            part.register_buffer("A_interval", torch.tensor(0.125 / 127))
        if kind == "InferQuantConv2d":
            part.a_bit = 32
    torch.save(root, tmp_path / "tinysam_w8a8.pth")
    touched.clear()
    return tmp_path / "tinysam_w8a8.pth", root, touched


@torch.no_grad()
def test_the_quantised_official_file_converts_without_running_its_code(quantised_file, official, tmp_path):
    path, root, touched = quantised_file
    report = convert("tinysam", path, tmp_path / "out")
    assert not touched and report.converted == 439 - 4
    model = AutoModelForMaskGeneration.from_pretrained(tmp_path / "out")
    config = model.config.quantization_config
    assert (config.weight_bits, config.activation_bits, config.shifted) == (8, 8, True)
    assert len(config.linears) == 2 and len(config.products) == 1  # a layer in the mode raw computes in float
    block = model.vision_encoder.stages[2].blocks[0]
    theirs = root.get_submodule("image_encoder.layers.2.blocks.0")

    def rounded(values, interval, low=-128, high=127):
        return (values / interval).round().clamp(low, high) * interval

    tokens = torch.randn(2, 196, 160)
    norm, qkv, proj = theirs.attn.norm, theirs.attn.qkv, theirs.attn.proj
    inputs = rounded(F.layer_norm(tokens, (160,), norm.weight, norm.bias), qkv.a_interval[0])
    weight = rounded(qkv.weight.view(3, 160, 160), qkv.w_interval[:, :, 0]).view(480, 160)
    query, key, value = F.linear(inputs, weight, qkv.bias).view(2, 196, 5, 96).transpose(1, 2).split(32, -1)
    first, second = theirs.attn.matmul1, theirs.attn.matmul2
    scores = rounded(query, first.A_interval[:, :, 0, 0, 0]) @ rounded(key, first.B_interval[:, :, 0, 0, 0]).transpose(
        2, 3
    )
    shares = (scores * 32**-0.5 + block.attention.bias()).softmax(-1)
    high = (shares.clamp(0.125, 1) * 127).round() / 127
    shares = high + rounded(shares.clamp(0, 0.125), 0.125 / 127, 0)  # the sum, as published
    attended = (shares @ rounded(value, second.B_interval[:, :, 0, 0, 0])).transpose(1, 2).reshape(2, 196, 160)
    expected = F.linear(attended, proj.weight, proj.bias)
    got = block.attention(tokens)[0]
    # A value next to a half may be rounded to the other side.
    assert ((got - expected).abs() < 1e-4).float().mean() > 0.9
    assert (got - expected).abs().max() < 0.05 * expected.std()

    after, fc2 = F.gelu(torch.randn(7, 640)), theirs.mlp.fc2
    groups = rounded(after.view(7, 2, 320), fc2.a_interval, 0).view(7, 640)
    inputs = groups + rounded(after, fc2.a_neg_interval, -128, 0)
    expected = F.linear(inputs, rounded(fc2.weight, fc2.w_interval[0, 0]), fc2.bias)
    assert torch.allclose(block.mlp.fc2(after), expected, atol=1e-5)
    neck = root.image_encoder.neck._modules["0"]
    assert torch.allclose(model.vision_encoder.neck.conv1.weight, rounded(neck.weight, neck.w_interval))
    plain = official[1]["mask_decoder.iou_prediction_head.layers.0.weight"]
    assert torch.equal(model.mask_decoder.iou_prediction_head.proj_in.weight, plain)


def test_quantised_layers_that_cannot_be_computed_are_named(quantised_file, tmp_path):
    path, root, _ = quantised_file
    fc2 = root.get_submodule("image_encoder.layers.2.blocks.0.mlp.fc2")
    fc2.a_bit = 6
    torch.save(root, path)
    with pytest.raises(ValueError, match=r"inputs of \[6, 8\] bits; accepted is one number for all"):
        load_checkpoint("tinysam", path)
    fc2.a_bit, root.get_submodule("image_encoder.neck.0").a_bit = 8, 8
    torch.save(root, path)
    with pytest.raises(ValueError, match="convolution image_encoder.neck.0 has quantised inputs"):
        load_checkpoint("tinysam", path)


def test_a_hub_folder_tells_its_task_and_how_to_ask(tmp_path):
    processor = SamProcessor(SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}))
    export(build(), processor, tmp_path / "out", license="apache-2.0")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: mask-generation" in card and 'pipeline("hierarchical-mask-generation"' in card
    assert "input_points=[[[160, 120]]]" in card
    assert type(AutoProcessor.from_pretrained(tmp_path / "out")) is SamProcessor
    names = {path.name for path in (tmp_path / "out").glob("*.py")}
    assert {"modeling_tinysam.py", "tinyvit_blocks.py", "configuration_tinysam.py"} <= names


@torch.no_grad()
def test_threads_share_a_model():
    model = build()
    calls = [partial(model, **{**inputs(), "pixel_values": torch.randn(1, 3, 64, 64)}) for _ in range(3)]
    alone = [call().pred_masks for call in calls]
    together = run_together(model, calls)
    assert all(torch.equal(a, b.pred_masks) for a, b in zip(alone, together, strict=True))


def test_gradient_checkpointing_gives_the_same_gradients_and_statistics():
    results = []
    for checkpointing in (False, True):
        model = build().requires_grad_(True)
        model.config.vision_config.drop_path_rate = 0.0
        if checkpointing:
            model.activation_checkpointing_enable()
        for module in model.modules():
            if hasattr(module, "rate"):
                module.rate = 0.0
        model.train()
        torch.manual_seed(0)
        model(**inputs(2)).pred_masks.square().mean().backward()
        table = model.vision_encoder.stages[1].blocks[0].attention.attention_biases
        results.append((table.grad, model.vision_encoder.stem.conv1.norm.running_mean.clone()))
    torch.testing.assert_close(results[0], results[1])
    assert results[0][0].abs().sum() > 0
