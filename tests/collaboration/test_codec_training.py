"""A code learns in two stages, in the place of any classifier's first layers, and its bytes are counted."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import (
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    RegNetConfig,
    RegNetForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    pipeline,
)

from hf_effmodels import ChannelCodedForImageClassification, CodedForImageClassification, cli
from hf_effmodels.collaboration.codecs.measured import measure_coded, measure_image_codec
from hf_effmodels.collaboration.codecs.prior import bits
from hf_effmodels.collaboration.splitting import SplitHead, SplitTail
from hf_effmodels.models import create_image_processor
from hf_effmodels.training.data.normalization import Normalization
from hf_effmodels.training.distillation import CodedTrainer, DistillationTrainingArguments
from hf_effmodels.training.losses.coded_features import CodedFeaturesLoss
from hf_effmodels.training.losses.kl_divergence import KdLoss
from hf_effmodels.training.run.header import warnings_of


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


STAGES = ("resnet.encoder.stages.0", "resnet.encoder.stages.1")


def learn(student, teacher, loss, folder, epochs: int, rate: float, **options):
    arguments = DistillationTrainingArguments(
        output_dir=str(folder), num_train_epochs=epochs, per_device_train_batch_size=8, learning_rate=rate,
        weight_decay=0.0, max_grad_norm=0, lr_scheduler_type="constant", logging_strategy="epoch", eval_strategy="no",
        save_strategy="no", load_best_model_at_end=False, report_to=["none"], disable_tqdm=True, **options,
    )  # fmt: skip
    weight = 0.0 if isinstance(loss, CodedFeaturesLoss) else 0.5
    trainer = CodedTrainer(student, teacher, [loss], arguments, train_dataset=Bars(24), labels_weight=weight)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_both_stages_learn_what_is_theirs_and_nothing_else(whole, tmp_path):
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    student = CodedForImageClassification.around(whole, "stages.0", [3])
    curve = learn(student, whole, CodedFeaturesLoss(list(STAGES), beta=0.01), tmp_path, 10, 0.01)
    assert curve[-1] < 0.5 * curve[0]
    # The network stays as it is, its batch norms' statistics, too.
    assert all(torch.equal(value, before[name]) for name, value in student.network.state_dict().items())
    student.fix_code()
    code = {n: v.clone() for n, v in student.bottleneck.state_dict().items() if not n.startswith("decoder")}
    decoder = student.bottleneck.decoder[0].weight.clone()
    learn(student, whole, KdLoss(weight=0.5), tmp_path, 4, 0.05, optim="sgd")
    assert all(torch.equal(value, before[name]) for name, value in whole.state_dict().items())
    assert all(
        torch.equal(value, code[name]) for name, value in student.bottleneck.state_dict().items() if name in code
    )
    assert not torch.equal(student.bottleneck.decoder[0].weight, decoder)
    behind = student.network.state_dict()
    assert {n for n in before if n.startswith(("resnet.encoder.stages.1", "classifier"))} == behind.keys()
    assert all(not torch.equal(behind[n], before[n]) for n in behind if n.endswith("weight"))
    student.eval()
    measured = measure_coded(student, Bars(12), batch=5)
    assert measured["accuracy"] > 0.9
    data = Bars(12)
    with torch.no_grad():
        coded = student.bottleneck.encode(data.pixels)
        likelihoods = student.bottleneck(data.pixels)[1]
    assert measured["bytes"] == pytest.approx(coded.num_bytes / 12)
    assert measured["estimated_bytes"] == pytest.approx(float(bits(likelihoods).sum()) / 8 / 12, rel=1e-4)
    fewer = measure_coded(student, data, samples=5, batch=2)
    assert fewer["accuracy"] == measured["accuracy"]
    assert fewer["bytes"] == student.bottleneck.encode(data.pixels[:5]).num_bytes / 5
    cheap = CodedForImageClassification.around(whole, "stages.0", [3])
    learn(cheap, whole, CodedFeaturesLoss(list(STAGES), beta=100.0), tmp_path, 10, 0.05)
    cheap.fix_code()
    assert measure_coded(cheap.eval(), data)["estimated_bytes"] < 0.9 * measured["estimated_bytes"]


CLASSIFIERS = {
    "resnet": lambda: (resnet(), "stages.0"),
    "convnext": lambda: (
        ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[6, 8], depths=[1, 1], num_stages=2, num_labels=3)),
        "stages.0",
    ),
    "regnet": lambda: (
        RegNetForImageClassification(
            RegNetConfig(embedding_size=6, hidden_sizes=[6, 8], depths=[1, 1], groups_width=2, num_labels=3)
        ),
        "stages.0",
    ),
    "mobilenet": lambda: (
        MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.35, num_labels=3, image_size=32)),
        "layer.1",
    ),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
@torch.no_grad()
def test_any_classifier_takes_a_code_and_comes_back_from_its_folder(name, tmp_path):
    model, at = CLASSIFIERS[name]()
    model, pixels = model.eval(), torch.randn(2, 3, 32, 32)
    coded = CodedForImageClassification.around(model, at, [2, 4]).eval()
    kept, found = {}, coded.network.state_dict()
    handle = model.get_submodule(coded.config.at).register_forward_hook(lambda *call: kept["features"])
    for width in (2, 4):
        kept["features"] = coded.bottleneck(pixels, width=width)[0]
        torch.testing.assert_close(coded(pixels, width=width).logits, model(pixels).logits)
    handle.remove()
    assert found and found.keys() < model.state_dict().keys()
    coded.fix_code()
    coded.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    with ThreadPoolExecutor(4) as pool:  # nothing of one pass is kept for another
        seen = list(pool.map(lambda i: again(pixels, width=(2, 4)[i % 2]).logits, range(8)))
    for i, logits in enumerate(seen):
        assert torch.equal(logits, again(pixels, width=(2, 4)[i % 2]).logits)
        torch.testing.assert_close(logits, coded(pixels, width=(2, 4)[i % 2]).logits)
    head, tail = again.halves()
    torch.testing.assert_close(tail(head(pixels, width=2), (2, 3, 32, 32)), coded(pixels, width=2).logits)
    fewer = ChannelCodedForImageClassification.around(model, at, 2, 5).eval()
    head, tail = fewer.halves()
    torch.testing.assert_close(tail(head(pixels), (2, 3, 32, 32)), fewer(pixels).logits)


@pytest.mark.parametrize("kind, code", [(CodedForImageClassification, [3]), (ChannelCodedForImageClassification, 2)])
def test_threads_do_not_see_each_others_images_and_codes(whole, kind, code):
    models = [kind.around(whole, "stages.0", code, seed=seed).eval() for seed in (0, 1)]
    calls = [(models[0], 0.0), (models[0], 1.0), (models[1], 2.0)]

    def ask(call):
        model, offset = call
        with torch.no_grad():  # a thread has a mode of its own
            return model(torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32) + offset).logits

    for model in models:
        model.fix_code()
    alone = [ask(call) for call in calls]
    # All meet where what a pass has left for its cut is there, and nobody has come to the cut.
    barrier = threading.Barrier(len(calls), timeout=60)
    for model in models:
        model.network.resnet.embedder.register_forward_pre_hook(lambda module, args: (barrier.wait(), None)[1])
    with ThreadPoolExecutor(len(calls)) as pool:
        together = list(pool.map(ask, calls))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_coded_classifier_is_one_for_pipelines_and_the_commands(whole, tmp_path, capsys):
    coded = CodedForImageClassification.around(whole, "stages.0", [3]).eval()
    with pytest.raises(ValueError, match="no tables yet"):
        coded.halves()
    coded.fix_code()
    coded.save_pretrained(tmp_path / "model")
    processor = create_image_processor("devit-s", image_size=32)
    processor.save_pretrained(tmp_path / "model")
    picture = Image.effect_noise((32, 32), 90).convert("RGB")
    answer = pipeline("image-classification", str(tmp_path / "model"))(picture)
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = coded(pixels).logits.softmax(-1)[0]
    assert [a["score"] for a in answer] == pytest.approx(expected.sort(descending=True).values.tolist(), rel=1e-4)
    assert cli.main(["split", str(tmp_path / "model"), str(tmp_path / "halves")]) == 0
    head = SplitHead.from_pretrained(tmp_path / "halves" / "head")
    tail = SplitTail.from_pretrained(tmp_path / "halves" / "tail")
    torch.testing.assert_close(tail(head(pixels), (1, 3, 32, 32)).softmax(-1)[0], expected)
    same = ["--at", "resnet.encoder.stages.0"]
    for options in (["--at", "stages.1"], ["--bits", "4"], [*same, "--bits", "8"]):
        assert cli.main(["split", str(tmp_path / "model"), str(tmp_path / "x"), *options]) == 2
        assert "--at: MODEL is coded after resnet.encoder.stages.0 already" in capsys.readouterr().err
        assert not (tmp_path / "x").exists()
    assert cli.main(["split", str(tmp_path / "model"), str(tmp_path / "same"), *same]) == 0
    again = ["train-codec", str(tmp_path / "model"), str(tmp_path / "x"), "--at", "stages.0", "--dataset", "digits"]
    assert cli.main(again) == 2 and "model has a code already" in capsys.readouterr().err


def test_of_norms_that_stay_as_they_are_a_short_run_says_nothing(whole):
    channels = ChannelCodedForImageClassification.around(whole, "stages.0", 2)
    for model in (CodedForImageClassification.around(whole, "stages.0", [3]), channels):
        trainer = SimpleNamespace(model=model, accelerator=SimpleNamespace(unwrap_model=lambda model: model))
        assert warnings_of(trainer, steps=3) == [] and not model.training
        model.fix_code()
        (said,) = warnings_of(trainer, steps=3)
        assert "batch norms: after 3 steps their statistics are still 73 %" in said and not model.training


def test_pictures_are_sent_as_files(whole):
    processor = create_image_processor("devit-s", image_size=32)
    normalization = Normalization.of(processor, 3)
    fine, coarse = (measure_image_codec(whole, normalization, Bars(12), "JPEG", q, batch=5) for q in (95, 5))
    assert fine["bytes"] > coarse["bytes"] > 100
    webp = measure_image_codec(whole, normalization, Bars(12), "WEBP", 50)
    assert 0 < webp["bytes"] < fine["bytes"] and 0 <= webp["accuracy"] <= 1
    with pytest.raises(ValueError, match="kind: got 'PNG'"):
        measure_image_codec(whole, normalization, Bars(3), "PNG", 50)


@pytest.mark.parametrize("kind, code", [(CodedForImageClassification, [3]), (ChannelCodedForImageClassification, 2)])
def test_a_new_code_is_drawn_by_its_seed(whole, kind, code):
    made = [kind.around(whole, "stages.0", code, seed=seed).state_dict() for seed in (0, 0, 1)]
    names = [name for name in made[0] if not name.startswith("network") and name.endswith("weight")]
    assert names and all(torch.equal(made[0][name], made[1][name]) for name in names)
    assert not any(torch.equal(made[0][name], made[2][name]) for name in names)


def test_what_cannot_be_coded_is_named(whole):
    for at, widths, message in (
        ("stages.9", [3], "at: got 'stages.9'"),
        ("stages.1", [3], r"at: resnet.encoder.stages.1 gives \(8, 4, 4\)"),
        ("classifier.0", [3], "accepted are channels of maps"),
        ("stages.0", [], "widths: got"),
    ):
        with pytest.raises(ValueError, match=message):
            CodedForImageClassification.around(whole, at, widths)
    gray = ResNetForImageClassification(ResNetConfig(num_channels=1, hidden_sizes=[6, 8], depths=[1, 1]))
    with pytest.raises(ValueError, match="model: it takes images of 1 channels"):
        CodedForImageClassification.around(gray, "stages.0")
    coded = CodedForImageClassification.around(*CLASSIFIERS["convnext"](), [3])
    with pytest.raises(ValueError, match="accepted are images whose sides are multiples of four"):
        coded(torch.randn(1, 3, 34, 34))


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
    assert [(row["beta"], row["width"]) for row in report["bottlenecks"]] == [(0.1, 2), (2.0, 2)]
    assert 0 <= report["accuracy"] <= 1 and report["at"] == "resnet.encoder.stages.0"
    assert [(row["kind"], row["quality"]) for row in report["pictures"]] == [("JPEG", 40), ("WEBP", 40)]
    assert (tmp_path / "out" / "rate_accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "bytes" in capsys.readouterr().out
    # Called again it goes on from what is there, which is all.
    before = load_file(tmp_path / "out" / "beta-2" / "tail" / "tail.safetensors")
    again = ["train-codec", model, out, *options, "--betas", "0.1", "2", "--qualities", "40", "--json"]
    assert cli.main(again) == 0
    assert json.loads(capsys.readouterr().out) == report
    after = load_file(tmp_path / "out" / "beta-2" / "tail" / "tail.safetensors")
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    head, tail = (kind.from_pretrained(tmp_path / "out" / "beta-2" / kind.half) for kind in (SplitHead, SplitTail))
    assert tail(head(torch.randn(2, 3, 32, 32)), (2, 3, 32, 32)).shape == (2, 10)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "rate_accuracy.json").write_text("mine")
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "rate_accuracy.png").write_text("mine")
    for argv, message in (
        ([model, out, *options, "--betas", "-1"], "--betas: got -1"),
        ([model, out, *options[:-2]], "--at is missing"),
        ([model, str(tmp_path / "new"), *options[:-1], "stages.7"], "--at: got 'stages.7'"),
        ([model, str(tmp_path / "new"), *options[:-1], "stages.1"], "error: --at: "),
        ([model, str(tmp_path / "new"), *options, "--features", "x"], "--features: 'x' is none"),
        ([model, str(tmp_path / "new"), *options, "--qualities", "0"], "--qualities: got 0"),
        ([model, out, *options, "--betas", "1", "1.0000001"], "accepted are one and more that differ in six digits"),
        ([model, out, *options, "--seed", "-1"], "--seed: got -1"),
        ([model, str(tmp_path / "theirs"), *options], "rate_accuracy.json is there, and no file of train-codec"),
        (
            [model, str(tmp_path / "drawn"), *options],
            "rate_accuracy.png is there, and no rate_accuracy.json beside it",
        ),
        ([model, f"{model}/config.json", *options], "--output: "),
    ):
        assert cli.main(["train-codec", *argv]) == 2
        assert message in capsys.readouterr().err, argv
    assert not (tmp_path / "new").exists()
