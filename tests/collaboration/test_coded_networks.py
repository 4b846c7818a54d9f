"""Networks around a code: what they take over, what they cost, and what is refused."""

import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from hf_effmodels import ChannelCodedForImageClassification, CodedForImageClassification, cli
from hf_effmodels.collaboration.codecs.arguments import CodecArguments
from hf_effmodels.collaboration.codecs.entropic_student.configuration_entropic_student import CodedConfig
from hf_effmodels.collaboration.codecs.hyperprior import HyperPrior
from hf_effmodels.collaboration.codecs.mahppo.configuration_mahppo import ChannelCodedConfig
from hf_effmodels.collaboration.codecs.measured import batch_of, measure_coded, measure_image_codec
from hf_effmodels.collaboration.codecs.networks import sides
from hf_effmodels.collaboration.codecs.prior import bits
from hf_effmodels.collaboration.codecs.slimmable import SlimmableBottleneck
from hf_effmodels.collaboration.splitting.points import Trace
from hf_effmodels.models import create_image_processor
from hf_effmodels.training.data.normalization import Normalization
from hf_effmodels.training.run.arguments import FilledReader
from hf_effmodels.training.task import load_task

from .test_codec_training import Bars, resnet

KINDS = [(CodedForImageClassification, [3]), (ChannelCodedForImageClassification, 2)]


@pytest.fixture(scope="module")
def whole() -> ResNetForImageClassification:
    return resnet().eval()


@pytest.fixture(scope="module")
def coded(whole) -> CodedForImageClassification:
    model = CodedForImageClassification.around(whole, "stages.0", [2, 3])
    with torch.no_grad():
        model.bottleneck.convolutions[-1].weight.mul_(40)  # numbers that are worth bytes
    model.fix_code()
    return model.eval()


@pytest.mark.parametrize("kind, code", KINDS)
def test_labels_and_sizes_are_those_of_the_network(whole, kind, code):
    model = resnet()
    model.config.id2label, model.config.label2id = {0: "a", 1: "b", 2: "c"}, {"a": 0, "b": 1, "c": 2}
    made = kind.around(model.train(), "stages.0", code)
    assert made.training and not kind.around(whole, "stages.0", code).training
    config = made.config
    assert config.at == "resnet.encoder.stages.0" and config.image_size == 32 and config.num_channels == 3
    assert config.id2label == {0: "a", 1: "b", 2: "c"} and config.num_labels == made.num_labels == 3
    assert not {"id2label", "label2id"} & set(config.network) and config.network["model_type"] == "resnet"
    assert made.network.config.id2label == config.id2label and made.network.config.label2id == config.label2id
    assert made.network.config.id2label is not config.id2label  # a change of one is none of the other
    pixels, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 1])
    found = made.eval()(pixels, labels=labels)
    torch.testing.assert_close(found.loss, F.cross_entropy(found.logits, labels))
    assert made(pixels).loss is None
    logits = made(pixels, return_dict=False)[0]
    assert torch.equal(logits, found.logits)


def test_a_network_of_one_channel_keeps_it():
    config = ResNetConfig(num_channels=1, embedding_size=6, hidden_sizes=[6, 8], depths=[1, 1], layer_type="basic")
    made = ChannelCodedForImageClassification.around(ResNetForImageClassification(config), "stages.0", 2)
    assert made.config.num_channels == 1 and made.config.channels == 6 and made.config.image_size is None
    assert made.eval()(torch.randn(1, 1, 32, 32)).logits.shape == (1, 2)
    assert made.bytes_sent(torch.randn(3, 1, 32, 32)) == 3 * 8 * 8 + 2 * 4  # a byte for each, and two ends


def test_what_a_code_cannot_be_around_is_named(whole):
    class Other(ResNetForImageClassification):
        pass

    other = Other(whole.config)
    lacking = resnet()
    lacking.classifier[1].weight = None
    for model, at, code, options, message in (
        (whole, "classifier.0", 2, {}, r"^at: classifier.0 gives \[1, 8\], accepted are channels of maps.$"),
        (whole, "stages.0", 0, {}, "^shrink: got 0, accepted are whole numbers from 1.$"),
        (whole, "stages.0", 2, {"bits": 9}, "^bits: got 9, accepted are whole numbers from 1 to 8.$"),
        (whole, "stages.0", 2, {"seed": -1}, "^seed: got -1, accepted are whole numbers from 0.$"),
        (
            other,
            "stages.0",
            2,
            {},
            "^model: got Other, but its configuration builds a ResNetForImageClassification.$",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            ChannelCodedForImageClassification.around(model, at, code, **options)
    with pytest.raises(ValueError, match="^model: got Other, but its configuration builds a ResNet"):
        CodedForImageClassification.around(other, "stages.0", [2])
    with pytest.raises(ValueError, match="^seed: got True"):
        CodedForImageClassification.around(whole, "stages.0", [2], seed=True)
    unfixed = CodedForImageClassification.around(whole, "stages.0", [2])
    with pytest.raises(ValueError, match=r"^model: its code has no tables yet; train it, or call fix_code\(\).$"):
        unfixed.halves()


def test_a_network_that_lacks_what_its_configuration_builds_is_named(whole):
    model = resnet()
    layer = model.resnet.encoder.stages[1].layers[0].layer[0].convolution
    layer.bias = nn.Parameter(torch.zeros(8))  # more than it builds is nothing
    made = ChannelCodedForImageClassification.around(model, "stages.0", 2)
    assert torch.equal(made.network.state_dict()["classifier.1.weight"], model.classifier[1].weight)
    model.classifier[1] = nn.Linear(8, 3, bias=False)
    for kind, code in KINDS:
        with pytest.raises(
            ValueError,
            match="^model: it lacks classifier.1.bias, which its configuration builds; accepted are plain networks.$",
        ):
            kind.around(model, "stages.0", code)


def test_configurations_that_are_none_are_named():
    for kind, config in (
        (CodedForImageClassification, CodedConfig()),
        (ChannelCodedForImageClassification, ChannelCodedConfig()),
        (ChannelCodedForImageClassification, ChannelCodedConfig(network={"depths": [1]})),
    ):
        with pytest.raises(ValueError, match=rf"^network: it is missing; {kind.__name__}.around\(model, at\) makes"):
            kind(config)
    for fields, message in (
        ({"table_lengths": [3, 4]}, "table_lengths: got 2 for 1 widths, accepted are as many."),
        ({"num_channels": 1}, "num_channels: got 1, the encoder takes 3."),
        ({"widths": [2, 2]}, r"widths: got \[2, 2\], accepted is a list of different whole numbers from 1."),
        ({"prior": "x"}, "prior: got 'x'"),
    ):
        with pytest.raises(Exception, match=message):
            CodedConfig(**fields)
    assert CodedConfig(widths=(5, 2)).widths == [2, 5]
    assert [sides(SimpleNamespace(image_size=size)) for size in (None, 8, [8, 9])] == [None, (8, 8), (8, 9)]
    with pytest.raises(ValueError, match=r"^encoder_channels: got \(4, 5\) for 2 widths, accepted with several are"):
        SlimmableBottleneck([2, 3], 8, encoder_channels=[4, 5])
    assert SlimmableBottleneck([3], 8, encoder_channels=[4, 5]).convolutions[0].out_channels == 4


def test_a_code_says_what_it_is():
    config = CodedConfig(at="stages.0", widths=[3, 2], prior="scale_hyperprior")
    assert config.describe() == (
        "2, 3 channels in the place of all up to stages.0, scale hyperprior prior; learns still"
    )
    fixed = CodedConfig(at="stages.0", table_lengths=[7])
    assert fixed.describe() == "24 channels in the place of all up to stages.0, factorized prior; is fixed"
    assert ChannelCodedConfig(at="x", channels=30, shrink=8, bits=5).describe() == (
        "5 bits for each of 3 channels after x"
    )
    assert ChannelCodedConfig(at="x", channels=3, shrink=8).describe() == "8 bits for each of 1 channels after x"


def test_sides_of_which_no_side_code_is_are_refused():
    prior = HyperPrior(2, 3).eval()
    prior.update()
    with pytest.raises(ValueError, match=r"^shape: got \(2, 7\), accepted are sides from 3.$"):
        prior.decompress([], (2, 7))
    assert prior.decompress([], (3, 7)).shape == (0, 2, 3, 7)
    for stream in (b"", b"\x05\x00\x00abc"):
        with pytest.raises(ValueError, match="^stream: it ends too early.$"):
            prior.decompress([stream], (7, 7))


def test_bytes_are_those_written_and_counted_for_the_first_samples_alone(coded):
    data = Bars(7)
    pixels, labels = batch_of(data, range(7), "cpu")
    assert torch.equal(pixels, data.pixels) and torch.equal(labels, data.labels)
    for width in (2, 3):
        with torch.no_grad():
            right = int((coded(pixels, width=width).logits.argmax(-1) == labels).sum())
            latent, prior = coded.bottleneck.encoder(pixels, width), coded.bottleneck.prior(width)
            sizes, estimates = [len(s) for s in prior.compress(latent)], (bits(prior(latent)[1]) / 8).tolist()
        for samples, counted in ((None, 7), (3, 3), (4, 4), (9, 7)):
            for batch in (2, 3, 64):
                found = measure_coded(coded, data, width=width, samples=samples, batch=batch)
                assert found == {
                    "accuracy": right / 7,
                    "bytes": sum(sizes[:counted]) / counted,
                    "estimated_bytes": pytest.approx(sum(estimates[:counted]) / counted, rel=1e-5),
                }
    assert measure_coded(coded, data) == measure_coded(coded, data, width=3)
    for options, message in (
        ({"samples": 0}, "samples: got 0"),
        ({"samples": -1}, "samples: got -1"),
        ({"batch": 0}, "batch: got 0"),
        ({"width": 4}, "width: got 4, accepted are 2, 3"),
    ):
        with pytest.raises(ValueError, match=message):
            measure_coded(coded, data, **options)
    with pytest.raises(ValueError, match="samples: got 0"):
        measure_coded(coded, Bars(0))


def test_tables_that_decode_something_else_are_told(coded, monkeypatch):
    prior = coded.bottleneck.prior(3)
    right = prior.decompress
    monkeypatch.setattr(prior, "decompress", lambda *given: right(*given) + 1)
    with pytest.raises(ValueError, match="^model: what its tables decode is not what they have encoded.$"):
        measure_coded(coded, Bars(2))
    measure_coded(coded, Bars(2), width=2)  # those of others are in order


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_pictures_are_those_of_pillow(kind, channels):
    normalization = Normalization((0.02, 0.015, 0.01)[:channels], (-2.0, -1.0, -0.5)[:channels])
    scale, shift = (torch.tensor(v)[:, None, None] for v in (normalization.scale, normalization.shift))
    values = torch.randint(0, 256, (5, channels, 8, 8), generator=torch.Generator().manual_seed(0))
    data = [{"pixel_values": scale * v + shift, "labels": n % 2} for n, v in enumerate(values)]
    written, decoded = 0, []
    for picture in values:
        buffer, array = io.BytesIO(), picture.byte().permute(1, 2, 0).numpy()
        Image.fromarray(array[..., 0] if channels == 1 else array).save(buffer, kind, quality=30)
        written += len(buffer.getvalue())
        image = Image.open(buffer).convert("L" if channels == 1 else "RGB")
        pixels = torch.from_numpy(np.array(image)).reshape(8, 8, channels).permute(2, 0, 1)
        decoded.append(scale * pixels + shift)
    seen = []

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, pixel_values):
            assert not self.training
            seen.append(pixel_values)
            return SimpleNamespace(logits=torch.tensor([[0.0, 1.0]]).expand(len(pixel_values), 2))

    found = measure_image_codec(Network(), normalization, data, kind, 30, batch=2)
    assert found == {"accuracy": 2 / 5, "bytes": written / 5}
    assert [len(batch) for batch in seen] == [2, 2, 1]
    torch.testing.assert_close(torch.cat(seen), torch.stack(decoded), rtol=1e-5, atol=1e-5)
    for wrong in ((kind, 0), (kind, 101), (kind, True), (kind.lower(), 50)):
        with pytest.raises(ValueError, match=f"^kind: got '{wrong[0]}' of quality {wrong[1]}, accepted are JPEG and"):
            measure_image_codec(Network(), normalization, data, *wrong)


@pytest.fixture
def folder(whole, tmp_path):
    whole.save_pretrained(tmp_path / "model")
    create_image_processor("devit-s", image_size=32).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


class Prepared:
    """In the place of a training: what it is asked for, and a network of a code without a table."""

    def __init__(self, folder):
        self.folder, self.asked, self.told = folder, [], []
        self.model = ResNetForImageClassification.from_pretrained(folder)
        transform = SimpleNamespace(normalization=Normalization((0.02,) * 3, (-2.0,) * 3))
        self.trainer = SimpleNamespace(
            remove_callback=lambda callback: self.told.append(callback.__name__),
            add_callback=self.log,
            eval_dataset=Bars(3),
            train_dataset=SimpleNamespace(transform=transform),
            processing_class=create_image_processor("devit-s", image_size=32),
        )

    def log(self, callback):
        for rank, logs in ((0, {"loss": 0.25}), (1, {"loss": 1.0}), (0, {"eval": 1.0}), (0, None)):
            state = SimpleNamespace(epoch=1.9, is_world_process_zero=rank == 0)
            callback.on_log(None, state, None, logs=logs)

    def prepare(self, reader: FilledReader):
        assert (reader.task, reader.outer) == ("distillation", ())
        self.asked.append(reader.read(*load_task("distillation").TRAINING_ARGUMENTS))
        return self

    def __call__(self):
        print("lines of a training")
        own, *_, training = self.asked[-1]
        widths = (self.asked[-1][0].codec or self.asked[-2][0].codec)["widths"]
        student = CodedForImageClassification.around(self.model, "stages.0", widths)
        student.fix_code()
        student.save_pretrained(training.output_dir)


def test_both_runs_of_a_code_are_those_published(folder, tmp_path, monkeypatch, capsys):
    prepared = Prepared(folder)
    monkeypatch.setattr(load_task("distillation"), "prepare_training", prepared.prepare)
    out = tmp_path / "out"
    argv = ["train-codec", str(folder), str(out), "--at", "stages.0", "--dataset", "digits"]
    assert cli.main([*argv, "--features", "stages.1", "resnet.pooler", "--qualities", "40"]) == 0
    said, noise = capsys.readouterr()
    assert "lines of a training" in noise and "lines of a training" not in said
    assert prepared.told == ["PrinterCallback"] * 2
    lines = said.splitlines()
    assert lines[:4] == [
        "beta 0.16, features",
        "beta 0.16  features epoch   2  loss 0.2500",
        "beta 0.16, logits",
        "beta 0.16  logits   epoch   2  loss 0.2500",
    ]
    report = json.loads((out / "rate_accuracy.json").read_text())
    (row,), pictures = report["bottlenecks"], report["pictures"]
    assert lines[4:] == [
        "    bytes  estimated    right",
        f"{'':>20}{100 * report['accuracy']:>8.2f}%  the whole network",
        f"{row['bytes']:>9.1f}{row['estimated_bytes']:>11.1f}{100 * row['accuracy']:>8.2f}%  beta 0.16, 24 channels",
        *(f"{p['bytes']:>9.1f}{'':>11}{100 * p['accuracy']:>8.2f}%  {p['kind']} 40" for p in pictures),
        "bytes of an image, without the container around them",
    ]
    with torch.no_grad():
        pixels, labels = batch_of(Bars(3), range(3), "cpu")
        right = int((prepared.model.eval()(pixels).logits.argmax(-1) == labels).sum())
    assert report["accuracy"] == right / 3 and report["model"] == str(folder)
    assert sorted(p.name for p in (out / "beta-0.16").iterdir()) == ["features", "head", "logits", "tail"]
    (own, network, data, augmentation, first), (other, behind, *_, second) = prepared.asked
    stages = ["resnet.encoder.stages.0", "resnet.encoder.stages.1", "resnet.pooler"]
    assert own.teacher == other.teacher == network.model == str(folder) and data.dataset == "digits"
    assert behind.model == first.output_dir == str(out / "beta-0.16" / "features")
    assert second.output_dir == str(out / "beta-0.16" / "logits")
    assert own.codec == {"at": stages[0], "widths": [24], "prior": "factorized"} and other.codec is None
    assert own.losses == {"coded_features": {"weight": 1.0, "features": stages, "beta": 0.16}}
    assert other.losses == {"kd": {"temperature": 1.0, "weight": 0.5}}
    assert (own.labels_weight, other.labels_weight) == (0.0, 0.5)
    expected = {
        "num_train_epochs": (10, 10),
        "per_device_train_batch_size": (64, 128),
        "per_device_eval_batch_size": (64, 64),
        "learning_rate": (1e-3, 1e-3),
        "weight_decay": (0.0, 5e-4),
        "seed": (0, 1),
        "max_grad_norm": (0, 0),
        "lr_scheduler_type": ("step", "step"),
        "resume_from_checkpoint": ("auto", "auto"),
        "save_total_limit": (1, 1),
        "load_best_model_at_end": (False, False),
        "lr_scheduler_kwargs": (
            {"decay_epochs": [5.0, 8.0], "decay_rate": 0.1, "warmup_epochs": 0.0},
            {"decay_epochs": [5.0], "decay_rate": 0.1, "warmup_epochs": 0.0},
        ),
    }
    assert {name: (getattr(first, name), getattr(second, name)) for name in expected} == expected
    assert [str(getattr(run.optim, "value", run.optim)) for run in (first, second)] == ["adamw_torch", "sgd"]
    assert second.optim_args == "momentum=0.9,nesterov=False" and second.weight_decay_on == "all"


def test_what_is_said_of_a_code_is_what_learns(folder, tmp_path, monkeypatch, capsys):
    prepared = Prepared(folder)
    monkeypatch.setattr(load_task("distillation"), "prepare_training", prepared.prepare)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # no picture then
    argv = ["train-codec", str(folder), str(tmp_path / "out"), "--at", "stages.0", "--dataset", "digits", "--json"]
    argv += ["--betas", "0.5", "2", "--channels", "3", "2", "--prior", "scale_hyperprior", "--qualities", "7", "9"]
    argv += ["--first_epochs", "3", "--second_epochs", "1", "--first_batch", "5", "--second_batch", "6"]
    argv += ["--first_learning_rate", "0.1", "--second_learning_rate", "0.2", "--seed", "4"]
    assert cli.main(argv) == 0
    report = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "out" / "rate_accuracy.png").exists()
    found = [(row["beta"], row["width"]) for row in report["bottlenecks"]]
    assert found == [(0.5, 2), (0.5, 3), (2.0, 2), (2.0, 3)]
    assert [(p["kind"], p["quality"]) for p in report["pictures"]] == [
        ("JPEG", 7), ("JPEG", 9), ("WEBP", 7), ("WEBP", 9),
    ]  # fmt: skip
    (own, *_, first), (_, *_, second), (other, *_), _ = prepared.asked
    assert own.codec == {"at": "resnet.encoder.stages.0", "widths": [3, 2], "prior": "scale_hyperprior"}
    assert own.losses["coded_features"]["features"] == ["resnet.encoder.stages.0"]
    assert [asked.losses["coded_features"]["beta"] for asked in (own, other)] == [0.5, 2.0]
    assert (first.num_train_epochs, first.per_device_train_batch_size, first.learning_rate) == (3, 5, 0.1)
    assert (second.num_train_epochs, second.per_device_train_batch_size, second.learning_rate) == (1, 6, 0.2)
    assert (first.seed, second.seed) == (4, 5)
    assert first.lr_scheduler_kwargs["decay_epochs"] == [2.0] and second.lr_scheduler_kwargs["decay_epochs"] == [1.0]


def test_arguments_of_a_code_that_are_none_are_named(folder, tmp_path, capsys, coded):
    coded.save_pretrained(tmp_path / "coded")
    argv = [str(folder), str(tmp_path / "new"), "--dataset", "digits"]
    at = [*argv, "--at", "stages.0"]
    for given, message in (
        ([*at, "--prior", "x"], "--prior: got 'x', accepted are factorized, scale_hyperprior, mean_scale_hyperprior."),
        ([*at, "--channels", "2", "2"], "--channels: got [2, 2], accepted are different whole numbers from 1."),
        ([*at, "--channels", "0"], "--channels: got 0 in [0], accepted are whole numbers from 1."),
        (
            [*at, "--features", "convolution"],
            "--features: 'convolution' may be resnet.embedder.embedder.convolution, ",
        ),
        ([*at, "--features", "stages.7"], "--features: 'stages.7' is none; accepted are names of modules."),
        (
            [str(tmp_path / "coded"), *at[1:]],
            f"--model: {tmp_path / 'coded'} has a code already; accepted are classifiers without.",
        ),
        ([str(tmp_path / "no"), *at[1:]], "--model: "),
        ([str(folder), str(folder), *at[2:]], "--output: "),
    ):
        assert cli.main(["train-codec", *given]) == 2
        assert message in capsys.readouterr().err, given
    assert not (tmp_path / "new").exists()
    for fields, message in (
        ({"betas": []}, "--betas: got"),
        ({"channels": []}, "--channels: got"),
        ({"second_batch": 0}, "--second_batch: got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            CodecArguments(model="m", output="o", at="x", **fields)


def test_what_is_not_used_at_all_is_the_tails(whole):
    model = resnet().eval()
    model.spare = nn.Linear(2, 3)
    cut = Trace(model).cut("stages.0")
    assert {"spare.weight", "spare.bias", "classifier.1.weight"} <= cut.tail
    assert not [name for name in cut.head if name.startswith(("spare", "classifier"))]
    assert cut.head | cut.tail == set(dict(model.named_parameters())) | set(dict(model.named_buffers()))
