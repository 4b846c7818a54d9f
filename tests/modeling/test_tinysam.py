"""TinySAM's own: SAM's contracts with another encoder, folding, official files, its Hub folder."""

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
