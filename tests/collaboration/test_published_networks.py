"""Checkpoints of SC2 Benchmark become coded classifiers; files of their layout with random numbers stand for them."""

import re

import pytest
import torch

import hf_effmodels
from hf_effmodels import CodedConfig, CodedForImageClassification
from hf_effmodels.cli import main
from hf_effmodels.collaboration.codecs.entropic import EntropicBottleneck, from_official
from hf_effmodels.hub.convert import ConversionError, convert, convert_state_dict
from hf_effmodels.registry import ARCHITECTURES

ENTRY = ARCHITECTURES["coded_classifier"]
RESNET = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [8, 12, 16], "depths": [1, 2, 1]}
REGNET = {"model_type": "regnet", "embedding_size": 4, "hidden_sizes": [8, 16], "depths": [1, 2], "groups_width": 4}
FIELDS = {
    "resnet": {"network": RESNET, "at": "resnet.encoder.stages.0", "widths": [3]},
    "regnet": {
        "network": {**REGNET, "layer_type": "y"},
        "at": "regnet.encoder.stages.0",
        "widths": [3],
        "encoder_channels": [5, 6],
        "decoder_channels": [10, 9],
    },
}
#: Ours -> what the release calls it, written from its source and torchvision's and timm's.
BOTTLENECK = (
    (r"^bottleneck\.convolutions\.(\d)", lambda m: f"A.{2 * int(m[1])}"),
    (r"^bottleneck\.norms\.3\.(\d)", lambda m: f"A.{2 * int(m[1]) + 1}"),
    (r"^bottleneck\.decoder\.", "S."),
    (r"^bottleneck\.priors\.3\.analysis", "h_a"),
    (r"^bottleneck\.priors\.3\.synthesis", "h_s"),
    (r"^bottleneck\.priors\.3\.side\.", "entropy_bottleneck."),
    (r"^bottleneck\.priors\.3\.", "G."),
    (r"\.(quantized_cdf|offset|cdf_length)$", r"._\1"),
)
NETWORKS = {
    "resnet": (
        (r"^network\.resnet\.encoder\.stages\.(\d)\.layers", lambda m: f"layer{int(m[1]) + 1}"),
        (r"layer\.(\d)\.convolution", lambda m: f"conv{int(m[1]) + 1}"),
        (r"layer\.(\d)\.normalization", lambda m: f"bn{int(m[1]) + 1}"),
        (r"shortcut\.convolution", "downsample.0"),
        (r"shortcut\.normalization", "downsample.1"),
        (r"^network\.classifier\.1", "fc"),
    ),
    "regnet": (
        (r"^network\.regnet\.encoder\.stages\.(\d)\.layers\.(\d)", lambda m: f"s{int(m[1]) + 1}.b{int(m[2]) + 1}"),
        (r"layer\.2\.attention\.0", "se.fc1"),
        (r"layer\.2\.attention\.2", "se.fc2"),
        (r"layer\.3\.convolution", "conv3.conv"),
        (r"layer\.3\.normalization", "conv3.bn"),
        (r"layer\.(\d)\.convolution", lambda m: f"conv{int(m[1]) + 1}.conv"),
        (r"layer\.(\d)\.normalization", lambda m: f"conv{int(m[1]) + 1}.bn"),
        (r"shortcut\.convolution", "downsample.conv"),
        (r"shortcut\.normalization", "downsample.bn"),
        (r"^network\.classifier\.1", "head.fc"),
    ),
}


def model_of(network: str, prior: str, tables: bool = True) -> CodedForImageClassification:
    torch.manual_seed(3)
    config = CodedConfig(
        **FIELDS[network], prior=prior, hyper_channels=2, target_channels=8, num_labels=5, image_size=64
    )
    model = CodedForImageClassification(config).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.is_floating_point() and "priors" not in name:
                value.add_(0.1 * torch.rand_like(value))
    if tables:
        model.fix_code()
    return model


def official_of(model: CodedForImageClassification, network: str) -> dict[str, torch.Tensor]:
    """Its weights as the release has them, with CompressAI's constants."""
    hyper = model.config.prior != "factorized"
    places = {"A": "g_a", "S": "g_s", "G": "gaussian_conditional"}
    places = places if hyper else {"A": "encoder", "S": "decoder", "G": "entropy_bottleneck"}
    found = {}
    for name, value in model.state_dict().items():
        if name.startswith("bottleneck."):
            for pattern, new in BOTTLENECK:
                name = re.sub(pattern, new, name)
            first, _, rest = name.partition(".")
            name = f"bottleneck_layer.{places.get(first, first)}.{rest}"
        else:
            for pattern, new in NETWORKS[network]:
                name = re.sub(pattern, new, name)
        found[name] = value.clone()
    first = "bottleneck_layer." + places["A"]
    found |= {
        f"{first}.1.beta_reparam.pedestal": torch.tensor([2.0**-36]),
        f"{first}.1.beta_reparam.lower_bound.bound": torch.tensor([1e-3]),
        "bottleneck_layer.entropy_bottleneck.target": torch.tensor([-21.4, 0.0, 21.4]),
        "bottleneck_layer.entropy_bottleneck.likelihood_lower_bound.bound": torch.tensor([1e-9]),
    }
    if hyper:
        scales = torch.exp(torch.linspace(torch.log(torch.tensor(0.11)), torch.log(torch.tensor(256.0)), 64))
        found |= {
            "bottleneck_layer.gaussian_conditional.scale_table": scales if model.code_is_fixed else torch.empty(0),
            "bottleneck_layer.gaussian_conditional.lower_bound_scale.bound": torch.tensor([0.11]),
        }
    return found


def as_in_2022(weights: dict) -> dict:
    """The prefix and CompressAI's names of then."""
    found = {}
    for name, value in weights.items():
        for kind, one in (("matrices", "matrix"), ("biases", "bias"), ("factors", "factor")):
            name = name.replace(f"entropy_bottleneck.{kind}.", f"entropy_bottleneck._{one}")
        found[f"backbone.{name}"] = value
    return found


@pytest.mark.parametrize("tables", [True, False], ids=["coded", "learning"])
@pytest.mark.parametrize("prior", ["factorized", "mean_scale_hyperprior"])
@pytest.mark.parametrize("network", FIELDS)
@torch.no_grad()
def test_official_files_give_the_numbers_they_hold(network, prior, tables):
    model, pixels = model_of(network, prior, tables), torch.randn(2, 3, 64, 64)
    official, expected = official_of(model, network), model(pixels).logits
    for layout in (official, as_in_2022(official)):
        given = len(layout)
        config = CodedConfig(**model.config.to_dict() | {"table_lengths": None})
        converted, ignored = convert_state_dict(ENTRY, config, layout)
        assert len(layout) == given and all(re.search("pedestal|bound|target", name) for name in ignored)
        assert converted.code_is_fixed == tables
        assert torch.equal(converted(pixels).logits, expected)
    if tables:
        ours, theirs = (m.halves() for m in (converted, model))
        sent = ours[0](pixels)
        assert torch.equal(sent["streams"], theirs[0](pixels)["streams"])
        torch.testing.assert_close(ours[1](sent, (2, 3, 64, 64)), expected)
        alone = EntropicBottleneck(3, **vars(model.bottleneck.shape))
        alone.load_state_dict(from_official(official))
        assert alone.encode(pixels).streams == tuple(theirs[0].codec.bottleneck.encode(pixels).streams)


def test_files_that_are_not_of_the_network_are_refused_by_name():
    model = model_of("resnet", "mean_scale_hyperprior")
    official, fields = official_of(model, "resnet"), model.config.to_dict() | {"table_lengths": None}
    place = "bottleneck_layer.gaussian_conditional.scale_table"
    for change, lacking, others, message in (
        ({"layer9.0.conv1.weight": torch.zeros(1)}, None, {}, "1 unexpected: layer9.0.conv1.weight"),
        ({}, "fc.bias", {}, "1 missing: network.classifier.1.bias"),
        ({}, "bottleneck_layer.h_a.0.weight", {}, "1 missing: bottleneck.priors.3.analysis.0.weight"),
        ({}, None, {"prior": "factorized"}, r"15 missing: .*23 unexpected: bottleneck\.priors\.3\.side\."),
        ({}, None, {"hyper_channels": 4}, "of another shape"),
        ({place: official[place] * 2}, None, {}, "its deviations are not CompressAI's"),
        ({place: torch.ones(3)}, None, {}, "its deviations are not CompressAI's"),
    ):
        weights = {name: value for name, value in (official | change).items() if name != lacking}
        with pytest.raises(ConversionError, match=message):
            convert_state_dict(ENTRY, CodedConfig(**fields | others), weights)
    learning = official_of(model_of("resnet", "factorized", tables=False), "resnet")  # has tables without values
    with pytest.raises(ConversionError, match="unexpected: ") as refused:
        convert_state_dict(ARCHITECTURES["ghostnet"], hf_effmodels.get_config("ghostnet-0.5x"), learning)
    assert refused.value.names_are_foreign  # for which the preset that fits is looked up


def test_presets_tell_what_is_known_and_no_more(capsys):
    for name in hf_effmodels.list_models("entropic-student-*"):
        info = hf_effmodels.model_info(name)
        assert info.published == () and info.weights.startswith("https://github.com/yoshitomo-matsubara/sc2-benchmark")
        assert info.tasks == ("image-classification",) and info.weights_license is None
    assert main(["info", "entropic-student-resnet50-mshp"]) == 0
    assert "26.696" in (told := capsys.readouterr().out) and "2108.11898" in told
    for name in hf_effmodels.list_models("mahppo-*"):
        assert hf_effmodels.model_info(name).weights is None


@pytest.mark.thorough
def test_a_file_of_another_preset_is_refused_with_the_one_that_fits(tmp_path):
    """Of full size: ResNet-50 with a factorised prior."""
    names, model = NETWORKS["resnet"], hf_effmodels.create_model("entropic-student-resnet50")
    rules = [(pattern.replace(r"\.3", r"\.24"), new) for pattern, new in BOTTLENECK]
    weights = {}
    for name, value in model.state_dict().items():
        ours = name.startswith("bottleneck.")
        for pattern, new in rules if ours else names:
            name = re.sub(pattern, new, name)
        for short, long in (("A.", "encoder."), ("S.", "decoder."), ("G.", "entropy_bottleneck.")):
            name = re.sub(rf"^{short}", long, name)
        weights[f"bottleneck_layer.{name}" if ours else name] = value
    torch.save({"model": weights, "args": None}, tmp_path / "official.pt")
    for preset in ("entropic-student-resnet101", "entropic-student-resnet50-mshp", "ghostnet-0.5x"):
        with pytest.raises(ConversionError, match="It fits 'entropic-student-resnet50'."):
            convert(preset, tmp_path / "official.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert("entropic-student-resnet50", tmp_path / "official.pt", tmp_path / "out", license="mit")
    again = CodedForImageClassification.from_pretrained(tmp_path / "out")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert "published variant `entropic-student-resnet50`" in (tmp_path / "out" / "README.md").read_text()
