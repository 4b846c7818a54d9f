"""What the networks of CDFKD-MFS alone have: heads that weigh each other, kinds of trunks, layouts of checkpoints."""

import math
import re

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch.nn import functional as F
from transformers import AutoModelForImageClassification, ConvNextConfig, ResNetConfig, Swinv2Config

from hf_effmodels import get_config
from hf_effmodels.hub.convert import ConversionError, convert_state_dict
from hf_effmodels.modeling.cdfkd_mfs.configuration_cdfkd_mfs import CdfkdMfsConfig
from hf_effmodels.modeling.cdfkd_mfs.modeling_cdfkd_mfs import CdfkdMfsBackbone, CdfkdMfsForImageClassification, _fit
from hf_effmodels.registry import ARCHITECTURES

SMALL = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 2, 2], "num_labels": 5}


def build(**fields) -> CdfkdMfsForImageClassification:
    torch.manual_seed(0)
    model = CdfkdMfsForImageClassification(CdfkdMfsConfig(**{**SMALL, **fields})).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, std=0.2)
    return model


@torch.no_grad()
def test_attention_begins_as_the_mean_and_is_the_softmax_of_query_times_key():
    model, pixels = build(aggregation="attention", attention_size=6), torch.randn(2, 3, 32, 32)
    outputs = model(pixels)
    torch.testing.assert_close(outputs.logits, outputs.head_logits.mean(1))
    module = model.aggregation
    torch.nn.init.normal_(module.query.weight)
    torch.nn.init.normal_(module.query.bias)
    outputs = model(pixels)
    expected = torch.zeros(2, 5)
    for image in range(2):
        features = outputs.head_features[image]
        query = module.query.weight @ features.mean(0) + module.query.bias
        scores = [query @ (module.key.weight @ f + module.key.bias) / math.sqrt(6) for f in features]
        for weight, logits in zip(torch.stack(scores).softmax(0), outputs.head_logits[image], strict=True):
            expected[image] += weight * logits
    torch.testing.assert_close(outputs.logits, expected)
    assert not torch.allclose(outputs.logits, outputs.head_logits.mean(1), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    "fields",
    [
        {"trunk": "wide_resnet"},
        {"trunk": "wide_resnet", "sharing": "none", "num_heads": 1, "stem": "imagenet"},
        {"sharing": "last_block"},
        {"stem": "imagenet", "num_heads": 2},
    ],
    ids=["wide", "wide teacher", "last block", "imagenet"],
)
def test_every_kind_folds_and_gives_the_same(fields):
    model, pixels = build(**fields).double(), torch.randn(2, 3, 48, 40).double()
    expected = model(pixels).head_logits
    assert expected.shape == (2, fields.get("num_heads", 3), 5)
    torch.testing.assert_close(model.reparameterize()(pixels).head_logits, expected, rtol=1e-9, atol=1e-12)
    assert not [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]


FOREIGN = {
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24], depths=[1, 1, 1], layer_type="basic"),
    "convnext": ConvNextConfig(hidden_sizes=[8, 16, 24], depths=[1, 1, 1], num_stages=3, patch_size=2),
    "swinv2": Swinv2Config(image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_any_backbone_whose_maps_halve_is_a_trunk(kind, tmp_path):
    config = FOREIGN[kind]
    config.out_features = [name for name in config.stage_names if name != "stem"][:2]
    size = 38 if kind != "swinv2" else 32  # odd maps, which such a backbone may round down
    model = build(trunk="backbone", backbone_config=config.to_dict(), num_heads=2)
    pixels = torch.randn(2, 3, size, size)
    outputs = model(pixels, labels=torch.tensor([0, 1]))
    outputs.loss.backward()
    assert not [name for name, p in model.cdfkd_mfs.encoders.named_parameters() if p.grad is None]
    maps = model.cdfkd_mfs.trunk(pixels)
    first = model.cdfkd_mfs.encoders[0][1](maps[0])[:, :, : maps[1].shape[2], : maps[1].shape[3]]
    features = model.cdfkd_mfs.encoders[1][1](torch.cat([maps[1], first], 1)).mean((2, 3))
    expected = F.linear(features, model.classifier[1].weight, model.classifier[1].bias)
    torch.testing.assert_close(outputs.head_logits[:, 1], expected)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(pixels).logits, outputs.logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="trunk is 'backbone'"):
        model.reparameterize()
    with pytest.raises(ValueError, match=r"pixel_values: got shape \(2, 1, .*, expected \(batch, 3"):
        model(pixels[:, :1])


def test_stages_that_do_not_halve_the_map_are_refused():
    config = ConvNextConfig(hidden_sizes=[8, 16, 24], depths=[1, 1, 1], num_stages=3, patch_size=2)
    config.out_features = ["stage1", "stage3"]
    with pytest.raises(ValueError, match=r"a map of 4×4 follows one that was halved to 8×8"):
        build(trunk="backbone", backbone_config=config)(torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trunk": "vgg"}, "trunk: got 'vgg', accepted are resnet"),
        ({"depths": [1, 1]}, r"depths: got \[1, 1\], expected one for each"),
        ({"sharing": "none"}, "num_heads: got 3"),
        ({"sharing": "last_block", "depths": [1, 1, 1]}, "'last_block' takes trunk='resnet'"),
        ({"num_heads": 0, "sharing": "multi_level"}, "num_heads: got 0"),
        ({"trunk": "backbone"}, "backbone_config"),
        ({"backbone_config": ResNetConfig()}, "backbone_config: it belongs to trunk='backbone'"),
    ],
)
def test_configurations_that_cannot_be_are_refused(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        CdfkdMfsConfig(**{**SMALL, **fields})


def official_names(names, depths) -> dict[str, str]:
    """Our names of a multi-level ResNet student -> those of the release for 224 pixels, by hand."""
    found = {}
    for name in names:
        theirs = name.removeprefix("cdfkd_mfs.").replace("stem.convolution.conv", "shared_conv.0")
        theirs = theirs.replace("stem.convolution.norm", "shared_conv.1")
        if block := re.match(r"stages\.(\d)\.blocks\.(\d)\.(.*)", theirs):
            stage, number, rest = int(block[1]), int(block[2]), block[3]
            rest = rest.replace("shortcut.conv", "downsample.0").replace("shortcut.norm", "downsample.1")
            rest = re.sub(r"conv(\d)\.conv", r"conv\1", re.sub(r"conv(\d)\.norm", r"bn\1", rest))
            place = "t." if number == depths[stage] - 1 else f"b.{number}."
            theirs = f"shared_layer{stage + 1}_{place}{rest}"
        if encoder := re.match(r"encoders\.(\d)\.(\d)\.(.*)", theirs):
            order = ["reduce_depthwise", "reduce.conv", "reduce.norm", "", "project_depthwise", "project.conv"]
            layer, _, kind = encoder[3].rpartition(".")
            place = 6 if layer == "project.norm" else order.index(layer)
            theirs = f"encoder{int(encoder[1]) + 1}.{encoder[2]}.op.{place}.{kind}"
        found[name] = theirs.replace("classifier.", "linear.")
    return found


@torch.no_grad()
def test_official_students_for_224_pixels_convert_and_another_depth_is_refused():
    fields = {"hidden_sizes": [8, 8, 16, 16, 32], "depths": [2, 3, 2, 2], "num_labels": 5, "num_heads": 2}
    config = get_config("mhresnet34", **fields)
    model = CdfkdMfsForImageClassification(config).eval()
    names = official_names(model.state_dict(), fields["depths"])
    official = {names[name]: value for name, value in model.state_dict().items()}
    assert {"shared_layer2_b.1.conv1.weight", "shared_layer2_t.bn2.bias", "shared_layer3_b.0.downsample.1.bias"} <= (
        official.keys()
    )
    converted, _ = convert_state_dict(ARCHITECTURES["cdfkd_mfs"], config, official)
    pixels = torch.randn(1, 3, 64, 64)
    assert torch.equal(converted(pixels).head_logits, model(pixels).head_logits)
    other = get_config("mhresnet34", **{**fields, "depths": [2, 4, 2, 2]})
    with pytest.raises(ConversionError, match="missing"):
        convert_state_dict(ARCHITECTURES["cdfkd_mfs"], other, official)
    fewer = get_config("mhresnet34", **{**fields, "depths": [2, 3, 2], "hidden_sizes": [8, 8, 16, 16]})
    with pytest.raises(ConversionError, match="unexpected"):
        convert_state_dict(ARCHITECTURES["cdfkd_mfs"], fewer, official)


def test_a_trunk_that_is_a_backbone_has_none_of_its_own():
    config = CdfkdMfsConfig(**{**SMALL, "trunk": "backbone", "backbone_config": ResNetConfig(out_features=["stage4"])})
    with pytest.raises(
        ValueError, match="trunk: 'backbone' is a backbone itself, AutoBackbone makes it of config.bac"
    ):
        CdfkdMfsBackbone(config)


@pytest.mark.parametrize(
    "gathered, fits",
    [
        *(((4, 6), True), ((5, 6), True), ((4, 7), True), ((5, 7), True)),
        *(((6, 6), False), ((4, 8), False), ((3, 6), False), ((4, 5), False)),
    ],
)
def test_what_was_gathered_may_be_a_row_or_a_column_larger_than_the_next_map(gathered, fits):
    values = torch.randn(2, 3, *gathered)
    if fits:
        assert torch.equal(_fit(values, torch.zeros(2, 5, 4, 6)), values[:, :, :4, :6])
        return
    with pytest.raises(ValueError, match="backbone_config: a map of 4×6 follows one that was halved to "):
        _fit(values, torch.zeros(2, 5, 4, 6))
