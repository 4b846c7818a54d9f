"""SparK: what its cases do not show: other encoders, options, threads, and where the encoder goes afterwards."""

from functools import partial

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForObjectDetection,
    AutoModelForPreTraining,
    ConvNextConfig,
    MobileNetV2Config,
    RegNetConfig,
    ResNetConfig,
    ViTConfig,
)

import hf_effmodels
from hf_effmodels import SparkConfig, SparkForPreTraining
from hf_effmodels.modeling.layers.visible import VisibleBatchNorm2d, only_visible, see_visible_only, spread
from hf_effmodels.modeling.spark.convert_spark import adapt

from ..threads import run_together

FOUR = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1]}
RESNET = ResNetConfig(embedding_size=8, layer_type="basic", **FOUR)
ENCODERS = {
    "resnet": lambda: RESNET,
    "convnext": lambda: ConvNextConfig(**FOUR),
    "regnet": lambda: RegNetConfig(embedding_size=8, groups_width=4, **FOUR),
    "mobilenet_v2": lambda: MobileNetV2Config(depth_multiplier=0.35),
    "ghostnetv3": lambda: hf_effmodels.get_config("ghostnetv3-1.0x", width_multiplier=0.2),
    "gold_yolo": lambda: hf_effmodels.get_config("gold-yolo-n"),
}


def build(encoder="resnet", **fields) -> SparkForPreTraining:
    torch.manual_seed(0)
    settings = {"image_size": 64, "decoder_hidden_size": 32, "mask_ratio": 0.5, **fields}
    return SparkForPreTraining(SparkConfig(backbone_config=ENCODERS[encoder](), **settings))


def pictures(count=2, side=64, seed=5):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "encoder", [pytest.param(name, marks=pytest.mark.thorough if name == "ghostnetv3" else ()) for name in ENCODERS]
)
def test_any_convolutional_network_learns_and_goes_on_by_itself(encoder, tmp_path):
    model = build(encoder)
    model(pictures(), noise=torch.rand(2, 4)).loss.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without <= {"encoder.layernorm.weight", "encoder.layernorm.bias"}  # ConvNeXt's, which is for the class
    model.eval()
    model.save_encoder(tmp_path)
    heads = [(AutoModel, {})]
    heads += [(AutoModelForObjectDetection, {})] if encoder == "gold_yolo" else [(AutoModelForImageClassification, {})]
    for auto_class, options in heads:
        alone, about = auto_class.from_pretrained(tmp_path, output_loading_info=True, **options)
        assert not about["unexpected_keys"] and not about["mismatched_keys"]
        new = ("classifier", "fc", "cls_classifier", "neck", "head", "layernorm")
        assert all(key.removeprefix("gold_yolo.").startswith(new) for key in about["missing_keys"])
    if encoder != "gold_yolo":
        alone = AutoModel.from_pretrained(tmp_path).eval()
        with torch.no_grad():  # whole images: as everybody computes them
            expected = alone(pixel_values=pictures()).last_hidden_state
            torch.testing.assert_close(model.encoder(pixel_values=pictures()).last_hidden_state, expected)


def test_what_is_hidden_changes_nothing_but_the_target():
    model, noise = build().eval(), torch.rand(2, 4)
    with torch.no_grad():
        first = model(pictures(), noise=noise)
        hidden = spread(first.mask[:, None], (64, 64))
        other = model(torch.where(hidden > 0, pictures(seed=9), pictures()), noise=noise)
    assert torch.equal(first.reconstruction, other.reconstruction) and first.loss != other.loss
    assert first.mask.sum((1, 2)).tolist() == [2, 2]


def test_places_are_computed_from_visible_ones_alone():
    # A convolution over a row of ones of which the right half is hidden, beside one over zeros in its place.
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1))
    see_visible_only(network)
    pixels, mask = torch.ones(1, 1, 4, 8), torch.tensor([[[[1.0, 0.0]]]])
    with torch.no_grad(), only_visible(mask):
        got = network(pixels)
    first, second = network
    with torch.no_grad():
        visible = torch.cat([torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)], 3)
        inner = nn.functional.conv2d(visible, first.weight, first.bias, padding=1) * visible
        expected = nn.functional.conv2d(inner, second.weight, second.bias, padding=1) * visible
        torch.testing.assert_close(got, expected)
        assert network(pixels)[..., 4:].abs().sum() > 0  # elsewhere as before


def test_batch_norms_count_visible_places():
    torch.manual_seed(0)
    norm, hidden = VisibleBatchNorm2d(3, momentum=0.3), torch.randn(2, 3, 4, 4) * 2 + 1
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]], [[[0.0, 0.0], [1.0, 0.0]]]])
    with only_visible(mask):
        got = norm(hidden)
    places = spread(mask, (4, 4))[:, 0] > 0
    seen = hidden.permute(0, 2, 3, 1)[places]
    mean, variance = seen.mean(0), seen.var(0, unbiased=False)
    torch.testing.assert_close(got.permute(0, 2, 3, 1)[places], (seen - mean) / (variance + 1e-5).sqrt())
    assert not got.permute(0, 2, 3, 1)[~places].any()
    torch.testing.assert_close(norm.running_mean, 0.3 * mean)
    torch.testing.assert_close(norm.running_var, 0.7 + 0.3 * seen.var(0))
    assert spread(mask, (1, 1)) is None and spread(mask, (3, 4)) is None


@pytest.mark.parametrize(
    "fields, blocks, kept",
    [
        ({"mask_ratio": 0.6, "image_size": 96}, 9, 4),
        ({"scales": 2, "normalize_target": False}, 4, 2),
        (
            {"block_size": 16, "scales": 3, "mask_ratio": 0.75, "densify_norm": "layer", "decoder_hidden_size": 48},
            16,
            4,
        ),
    ],
)
def test_options_do_what_they_say(fields, blocks, kept):
    model = build(**fields).eval()
    config, side = model.config, model.config.image_size
    noise = torch.rand(2, blocks)
    with torch.no_grad():
        output = model(pictures(side=side), noise=noise)
    rank = noise.argsort(1).argsort(1)
    assert torch.equal(output.mask.flatten(1), (rank >= kept).float())
    assert [hidden.shape[-1] for hidden in output.feature_maps] == [side // stride for stride in config.strides]
    assert len(output.feature_maps) == config.scales and len(model.decoder.blocks) == config.decoder_blocks
    assert model.densify[0].projection.out_channels == config.decoder_hidden_size
    assert all(densify.projection.kernel_size == (3, 3) for densify in model.densify[1:])  # of equal widths, too
    kind = nn.LayerNorm if config.densify_norm == "layer" else nn.BatchNorm2d
    assert all(isinstance(densify.norm, kind) for densify in model.densify)
    # ConvNeXt's constant for its norms of channels, torch's for the norms of batches.
    assert {densify.norm.eps for densify in model.densify} == {1e-6 if kind is nn.LayerNorm else 1e-5}
    block, errors = config.block_size, []
    for number in range(2):
        for place in output.mask[number].flatten().nonzero().flatten().tolist():
            top, left = place // (side // block) * block, place % (side // block) * block
            target, predicted = (
                images[number, :, top : top + block, left : left + block]
                for images in (pictures(side=side), output.reconstruction)
            )
            if config.normalize_target:
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            errors.append(((target - predicted) ** 2).mean())
    torch.testing.assert_close(output.loss, torch.stack(errors).mean())
    each = model.image_losses(pictures(side=side), output)
    torch.testing.assert_close(each, torch.stack(errors).view(2, -1).mean(1, keepdim=True))
    with torch.no_grad():
        assert torch.equal(model(pictures(side=side), mask=output.mask.flatten(1)).loss, output.loss)


def test_weights_begin_as_published():
    model = build(decoder_hidden_size=128)
    block, densify = model.decoder.blocks[0], model.densify[1]
    assert block.conv1.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert block.enlarge.weight.std().item() == pytest.approx((2 / (128 * 16)) ** 0.5, rel=0.03)
    assert not block.enlarge.bias.any() and not model.decoder.prediction.bias.any()
    bound = (16 * 9) ** -0.5  # torch's own for 16 channels and a kernel of 3
    assert bound * 0.95 < densify.projection.weight.abs().max() <= bound
    assert 0 < densify.mask_token.abs().max() <= 0.02


def test_threads_do_not_see_each_others_masks():
    model = build().eval()
    inputs = [(pictures(seed=number), torch.rand(2, 4)) for number in range(4)]

    def run(number):
        pixels, noise = inputs[number]
        with torch.no_grad():
            return model(pixels, noise=noise).reconstruction

    alone = [run(number) for number in range(4)]
    together = run_together(model, [partial(run, number) for number in range(4)])
    assert all(torch.equal(answer, expected) for answer, expected in zip(together, alone, strict=True))


def test_a_saved_model_is_found_by_its_auto_class(tmp_path):
    model, noise = build("convnext").eval(), torch.rand(2, 4)
    assert model.config.densify_norm == "layer"
    assert SparkConfig(backbone_config={"model_type": "convnextv2"}).densify_norm == "layer"
    model.save_pretrained(tmp_path)
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pictures(), noise=noise).loss, model(pictures(), noise=noise).loss)


def test_what_does_not_fit_is_named():
    for fields, message in (
        ({"mask_ratio": 1.0}, "mask_ratio: got 1.0"),
        ({"block_size": 24}, "block_size: got 24, accepted are powers of two"),
        ({"scales": 6}, "scales: got 6, accepted are 1 to 5"),
        ({"decoder_hidden_size": 40}, "decoder_hidden_size: got 40, accepted are multiples of 32"),
        ({"image_size": 80}, "image_size: got 80"),
        ({"densify_norm": "group"}, "densify_norm: got 'group'"),
        ({"encoder_widths": [8]}, "encoder_widths"),
    ):
        with pytest.raises(StrictDataclassError, match=message):
            build(**fields)
    vit = ViTConfig(image_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(ValueError, match=r"backbone_config: vit has maps at the strides \[\]"):
        SparkForPreTraining(SparkConfig(backbone_config=vit, image_size=64, decoder_hidden_size=32))
    model = build()
    for arguments, message in (
        ({"noise": torch.rand(2, 5)}, r"noise: got the shape \(2, 5\), expected \(2, 4\)"),
        ({"mask": torch.ones(2, 4)}, "mask_ratio: of 4 blocks of an image 4 are masked"),
        ({"mask": torch.zeros(2, 4)}, "some have to be"),
        ({"mask": torch.zeros(2, 4), "noise": torch.rand(2, 4)}, "either mask or noise"),
    ):
        with pytest.raises(ValueError, match=message):
            model(pictures(), **arguments)
    with pytest.raises(ValueError, match="32×32 pixels, accepted are two or more blocks of 32"):
        model(pictures(side=32))
    with pytest.raises(ValueError, match="does not support activation checkpointing"):
        model.activation_checkpointing_enable()


@pytest.mark.parametrize(
    "name, depths, widths, drop_path",
    [
        # Table 1 of the papers of ResNet (200: of its successor) and ConvNeXt.
        ("spark-resnet-50", [3, 4, 6, 3], [256, 512, 1024, 2048], None),
        ("spark-resnet-101", [3, 4, 23, 3], [256, 512, 1024, 2048], None),
        ("spark-resnet-152", [3, 8, 36, 3], [256, 512, 1024, 2048], None),
        ("spark-resnet-200", [3, 24, 36, 3], [256, 512, 1024, 2048], None),
        ("spark-convnext-small", [3, 3, 27, 3], [96, 192, 384, 768], 0.2),
        ("spark-convnext-base", [3, 3, 27, 3], [128, 256, 512, 1024], 0.3),
        ("spark-convnext-large", [3, 3, 27, 3], [192, 384, 768, 1536], 0.4),
        ("spark-convnext-large-384", [3, 3, 27, 3], [192, 384, 768, 1536], 0.4),
    ],
)
def test_the_encoders_of_the_presets_are_the_papers(name, depths, widths, drop_path):
    config = hf_effmodels.get_config(name)
    backbone, side = config.backbone_config, 384 if name.endswith("384") else 224
    assert (list(backbone.depths), list(backbone.hidden_sizes)) == (depths, widths)
    assert getattr(backbone, "drop_path_rate", None) == drop_path
    assert config.image_size == side and getattr(backbone, "image_size", None) in (side, None)


def test_a_convnexts_last_norm_begins_as_one_where_a_file_has_none():
    config = SparkConfig(backbone_config=ENCODERS["convnext"](), image_size=64, decoder_hidden_size=32)
    weights = {"embeddings.layernorm.weight": torch.zeros(8, dtype=torch.float64)}
    adapt(weights, config)
    assert weights["layernorm.weight"].tolist() == [1.0] * 24 and weights["layernorm.bias"].tolist() == [0.0] * 24
    assert weights["layernorm.weight"].dtype == torch.float64
    own = {"layernorm.weight": torch.full((24,), 3.0)}
    adapt(own, config)
    assert own["layernorm.weight"][0] == 3 and len(own) == 1
    of_resnet = {}
    adapt(of_resnet, SparkConfig(backbone_config=RESNET, image_size=64, decoder_hidden_size=32))
    assert not of_resnet
