"""A bottleneck learns in two stages, and its bytes are counted."""

import copy
import json

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import ResNetConfig, ResNetForImageClassification

from hf_effmodels import cli
from hf_effmodels.collaboration.codecs.prior import bits
from hf_effmodels.collaboration.codecs.training import (
    BottleneckTraining,
    measure_bottleneck,
    measure_image_codec,
    train_bottleneck,
)
from hf_effmodels.collaboration.splitting import SplitHead, SplitTail
from hf_effmodels.models import create_image_processor
from hf_effmodels.training.data.normalization import Normalization


class Bars(Dataset):
    """Bright bars, of the class of their place; a little noise."""

    def __init__(self, count: int):
        random = torch.Generator().manual_seed(3)
        self.labels = torch.arange(count) % 3
        self.pixels = 0.1 * torch.randn(count, 3, 32, 32, generator=random)
        for number, label in enumerate(self.labels.tolist()):
            self.pixels[number, :, 8 * label : 8 * label + 8] += 1

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> dict:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return {"pixel_values": self.pixels[number], "labels": int(self.labels[number])}


def resnet() -> ResNetForImageClassification:
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=6, hidden_sizes=[6, 8], depths=[1, 1], layer_type="basic", num_labels=3, image_size=32
    )
    return ResNetForImageClassification(config)


@pytest.fixture(scope="module")
def whole() -> ResNetForImageClassification:
    """A network that tells the bars apart."""
    model, data = resnet().train(), Bars(24)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(15):
        loss = F.cross_entropy(model(data.pixels).logits, data.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


SHORT = {"channels": 3, "first_batch": 8, "second_batch": 8, "first_epochs": 10, "second_epochs": 4}
LATER = ("resnet.encoder.stages.1",)


def learnt(model, told=lambda *args: None, **options):
    rates = {"first_learning_rate": 0.01, "second_learning_rate": 0.05}
    training = BottleneckTraining(**{**SHORT, "beta": 0.01, **rates, **options})
    return train_bottleneck(model, "stages.0", Bars(24), training, features=LATER, told=told)


def test_both_stages_learn_what_is_theirs_and_nothing_else(whole):
    before, curve = {name: value.clone() for name, value in whole.state_dict().items()}, []
    student, bottleneck = learnt(whole, lambda *args: curve.append(args))
    assert all(torch.equal(value, before[name]) for name, value in whole.state_dict().items())
    assert [row[:2] for row in curve] == [
        *(("features", n) for n in range(1, 11)),
        *(("logits", n) for n in range(1, 5)),
    ]
    assert curve[9][2] < 0.5 * curve[0][2]
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and not any(name.startswith(("resnet.embedder", "resnet.encoder.stages.0")) for name in changed)
    assert {"classifier.1.weight", "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight"} <= changed
    measured = measure_bottleneck(student, "stages.0", bottleneck, Bars(12), batch=5)
    assert measured["accuracy"] > 0.9
    data = Bars(12)
    with torch.no_grad():
        coded = bottleneck.encode(data.pixels)
        likelihoods = bottleneck.entropy_bottleneck(bottleneck.encoder(data.pixels))[1]
    assert measured["bytes"] == pytest.approx(coded.num_bytes / 12)
    assert measured["estimated_bytes"] == pytest.approx(float(bits(likelihoods).sum()) / 8 / 12, rel=1e-4)
    again, same = learnt(whole)
    for name, value in bottleneck.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name
    assert torch.equal(again.classifier[1].weight, student.classifier[1].weight)
    _, other = learnt(whole, seed=1, first_epochs=1)
    assert not torch.equal(other.encoder[0].weight, bottleneck.encoder[0].weight)
    _, fewer = learnt(whole, beta=100.0, first_learning_rate=0.05, second_epochs=1)
    assert measure_bottleneck(whole, "stages.0", fewer, data)["estimated_bytes"] < 0.9 * measured["estimated_bytes"]


@torch.no_grad()
def test_the_first_loss_is_squared_errors_and_bits_and_the_second_half_of_each_teacher(whole):
    data, told = Bars(8), []
    options = {**SHORT, "first_epochs": 1, "second_epochs": 1, "beta": 0.7, "alpha": 0.25, "seed": 5}
    options |= {"first_learning_rate": 1e-12, "second_learning_rate": 1e-12}
    with torch.enable_grad():
        _, bottleneck = train_bottleneck(
            whole, "stages.0", data, BottleneckTraining(**options), features=LATER, told=lambda *a: told.append(a)
        )
    stages = whole.resnet.encoder.stages
    wanted = stages[0](whole.resnet.embedder(data.pixels))
    rounded = bottleneck.rounded(data.pixels)
    # Which noise was drawn is not known: the squared error is near that of the rounded code.
    error = (rounded - wanted).square().sum() + (stages[1](rounded) - stages[1](wanted)).square().sum()
    likelihoods = bottleneck.entropy_bottleneck(bottleneck.encoder(data.pixels))[1]
    expected = (error + 0.7 * bits(likelihoods).sum()) / 8
    assert told[0][2] == pytest.approx(float(expected), rel=0.05)
    taught = whole(data.pixels).logits
    behind = copy.deepcopy(whole).requires_grad_(False)
    features = behind.resnet.encoder.stages[1].train()(rounded)  # its norms see the batch
    logits = behind.classifier(behind.resnet.pooler(features))
    divergence = (taught.softmax(-1) * (taught.log_softmax(-1) - logits.log_softmax(-1))).sum() / 8
    expected = 0.75 * F.cross_entropy(logits, data.labels) + 0.25 * divergence
    assert told[1][2] == pytest.approx(float(expected), rel=1e-3)


def test_pictures_are_sent_as_files(whole):
    processor = create_image_processor("devit-s", image_size=32)
    normalization = Normalization.of(processor, 3)
    fine, coarse = (measure_image_codec(whole, normalization, Bars(12), "JPEG", q, batch=5) for q in (95, 5))
    assert fine["bytes"] > coarse["bytes"] > 100
    webp = measure_image_codec(whole, normalization, Bars(12), "WEBP", 50)
    assert 0 < webp["bytes"] < fine["bytes"] and 0 <= webp["accuracy"] <= 1
    with pytest.raises(ValueError, match="kind: got 'PNG'"):
        measure_image_codec(whole, normalization, Bars(3), "PNG", 50)


def test_what_cannot_be_trained_is_named(whole):
    for options, message in (
        ({"beta": -1.0}, "beta: got -1"),
        ({"channels": 0}, "channels: got 0"),
        ({"alpha": 1.5}, "alpha: got 1.5"),
        ({"second_learning_rate": 0.0}, "second_learning_rate: got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            BottleneckTraining(**options)
    training = BottleneckTraining(**SHORT)
    for at, features, message in (
        ("stages.9", (), "at: got 'stages.9'"),
        ("stages.1", (), r"at: resnet.encoder.stages.1 gives \(8, 4, 4\)"),
        ("stages.0", ("nowhere",), "features: there is no module 'nowhere'"),
        ("classifier.0", (), "accepted are channels of maps"),
    ):
        with pytest.raises(ValueError, match=message):
            train_bottleneck(whole, at, Bars(6), training, features=features)


def test_the_command_writes_halves_that_load_and_what_each_beta_costs(tmp_path, capsys):
    config = ResNetConfig(embedding_size=6, hidden_sizes=[6, 8], depths=[1, 1], layer_type="basic", image_size=32)
    config.id2label = {number: str(number) for number in range(10)}
    ResNetForImageClassification(config).save_pretrained(tmp_path / "model")
    create_image_processor("devit-s", image_size=32).save_pretrained(tmp_path / "model")
    model, out = str(tmp_path / "model"), str(tmp_path / "out")
    options = ["--dataset", "digits", "--max_train_samples", "16", "--max_eval_samples", "10", "--channels", "2"]
    options += ["--first_epochs", "1", "--second_epochs", "1", "--train_crop", "none", "--at", "stages.0"]
    assert cli.main(["train-codec", model, out, *options, "--betas", "0.1", "2", "--qualities", "40"]) == 0
    report = json.loads((tmp_path / "out" / "rate_accuracy.json").read_text())
    assert [row["beta"] for row in report["bottlenecks"]] == [0.1, 2.0] and 0 <= report["accuracy"] <= 1
    assert [(row["kind"], row["quality"]) for row in report["pictures"]] == [("JPEG", 40), ("WEBP", 40)]
    assert (tmp_path / "out" / "rate_accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "bytes" in capsys.readouterr().out
    head, tail = (kind.from_pretrained(tmp_path / "out" / "beta-2" / kind.half) for kind in (SplitHead, SplitTail))
    assert tail(head(torch.randn(2, 3, 32, 32)), (2, 3, 32, 32)).shape == (2, 10)
    for argv, message in (
        ([model, out, *options, "--betas", "-1"], "--beta: got -1"),
        ([model, out, *options[:-2]], "--at is missing"),
        ([model, str(tmp_path / "new"), *options[:-1], "stages.7"], "--at: got 'stages.7'"),
        ([model, str(tmp_path / "new"), *options, "--features", "x"], "--features: there is no module 'x'"),
        ([model, str(tmp_path / "new"), *options, "--qualities", "0"], "--qualities: got 0"),
    ):
        assert cli.main(["train-codec", *argv]) == 2
        assert message in capsys.readouterr().err, argv
    assert not (tmp_path / "new").exists()
