"""Codes through the task: the first layers' features imitated in few bits, then the rest of the network."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForImageClassification, ConvNextConfig, ConvNextForImageClassification

from hf_effmodels import ChannelCodedForImageClassification, CodedForImageClassification
from hf_effmodels.models import create_image_processor
from hf_effmodels.training import evaluate, main, prepare
from hf_effmodels.training.tasks.distillation import coded as coded_students

from ..contract import follow_one, goes_on_the_same, history

FEATURES = "resnet.encoder.stages.0, resnet.encoder.stages.1"


def run(teacher, *more: str) -> list[str]:
    """Arguments of a run of three steps, without student, losses and folder."""
    return [
        *("--task", "distillation", "--teacher", str(teacher), "--dataset", "digits", "--train_crop", "none"),
        *("--max_train_samples", "18", "--max_eval_samples", "9", "--per_device_train_batch_size", "6"),
        *("--num_train_epochs", "1", "--logging_steps", "1", "--eval_strategy", "no", "--max_grad_norm", "0"),
        *("--load_best_model_at_end", "false", "--disable_tqdm", "true", "--save_strategy", "no", *more),
    ]


def first_stage(teacher, *more: str, widths: str = "[3]") -> list[str]:
    losses = f"{{coded_features: {{beta: 0.7, weight: 2, features: [{FEATURES}]}}}}"
    code = ["--model", str(teacher), "--codec", f"{{at: stages.0, widths: {widths}}}", "--losses", losses]
    rates = ["--learning_rate", "0.01", "--weight_decay", "0", "--lr_scheduler_type", "constant"]
    return run(teacher, *code, "--labels_weight", "0", *rates, *more)


def second_stage(teacher, student, *more: str) -> list[str]:
    losses = "{kd: {temperature: 1, weight: 0.25}}"
    options = ["--optim", "sgd", "--learning_rate", "0.05", "--lr_scheduler_type", "constant"]
    return run(teacher, "--model", str(student), "--losses", losses, "--labels_weight", "0.75", *options, *more)


@pytest.mark.parametrize(
    "kind, codec",
    [
        (CodedForImageClassification, {"at": "stages.0", "widths": [3]}),
        (ChannelCodedForImageClassification, {"at": "stages.0", "shrink": 3, "bits": 6}),
    ],
)
def test_a_code_is_of_the_kind_its_settings_are_of_and_drawn_from_the_seed(kind, codec, monkeypatch):
    monkeypatch.setattr(kind, "around", lambda *given, **settings: (*given, settings))
    assert coded_students.with_code("student", codec, 5) == ("student", {**codec, "seed": 5})
    assert coded_students.with_code("student", None, 5) == "student"


@pytest.mark.parametrize("widths", [[3], [2, 3]])
def test_codes_are_measured_width_by_width_on_pictures_of_the_evaluation(widths, monkeypatch):
    """Of one alone the accuracy is the run's own."""
    asked = []

    def measure(network, dataset, *, width, samples, batch):
        asked.append((network, dataset, width, samples, batch))
        return {"bytes": 10.0 * width, "accuracy": width / 10}

    monkeypatch.setattr(coded_students, "measure_coded", measure)
    network = SimpleNamespace(config=SimpleNamespace(widths=widths))
    args = SimpleNamespace(per_device_eval_batch_size=7)
    found = coded_students.coded_metrics(SimpleNamespace(network=network, eval_dataset="pictures", args=args))
    assert asked == [(network, "pictures", width, 512, 7) for width in widths]
    assert found == (
        {"eval_bytes": 30.0}
        if widths == [3]
        else {
            **{"eval_width_2_bytes": 20.0, "eval_width_2_accuracy": 0.2},
            **{"eval_width_3_bytes": 30.0, "eval_width_3_accuracy": 0.3},
        }
    )


@pytest.fixture(scope="module")
def coded(teacher, tmp_path_factory):
    """What the first stage of two widths leaves."""
    folder = tmp_path_factory.mktemp("coded") / "run"
    results = main(first_stage(teacher, "--output_dir", str(folder), widths="[2, 3]"))
    return folder, results


def test_the_first_stage_learns_errors_and_bits_of_all_widths_and_makes_the_tables(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "rand_like", lambda values: torch.full_like(values, 0.75))
    prepared = prepare(
        "prepare_training", first_stage(teacher, "--output_dir", str(tmp_path / "run"), "--max_steps", "1",
                                        widths="[2, 3]")
    )  # fmt: skip
    trainer, batch = prepared.trainer, next(iter(prepared.trainer.get_train_dataloader()))
    student, whole = trainer.network, trainer.teachers.first.model
    pixels, sums = batch["pixel_values"], np.zeros(3)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    seen = trainer.teachers.first.see(pixels)
    with torch.no_grad():
        maps = whole.resnet.encoder.stages[0](whole.resnet.embedder(seen))
        later = whole.resnet.encoder.stages[1](maps)
        for width in (2, 3):
            prior = student.bottleneck.prior(width)
            code = student.bottleneck.encoder(pixels, width) + 0.25
            decoded = student.bottleneck.decoder(code)
            error = (decoded - maps).square().sum() + (whole.resnet.encoder.stages[1](decoded) - later).square().sum()
            bits = -prior.likelihoods(code).log2().sum()
            sums += [float(error) / 6, 0.7 * float(bits) / 6, float(prior.auxiliary_loss())]
    prepared()
    [logged] = history(
        tmp_path / "run", "loss", "task_loss", *(f"coded_features/{n}" for n in ("error", "bits", "quantiles"))
    )
    np.testing.assert_allclose(logged, [2 * sums.sum(), 0, *sums], rtol=1e-3)
    found = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert isinstance(found, CodedForImageClassification) and found.code_is_fixed
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| Network | resnet |" in card and "| Code | 2, 3 channels in the place of all up to " in card
    code = {path.name for path in (tmp_path / "run" / "hub").glob("*.py")}
    assert {"modeling_entropic_student.py", "halves.py"} <= code
    after = found.state_dict()
    moved = {
        name for name, value in before.items() if value.shape != after[name].shape or (value != after[name]).any()
    }
    assert not any(name.startswith("network") for name in moved)
    assert {f"bottleneck.priors.{w}.quantiles" for w in (2, 3)} <= moved and "bottleneck.decoder.2.weight" in moved
    assert {f"bottleneck.priors.{w}.quantized_cdf" for w in (2, 3)} <= moved


def test_the_second_stage_learns_decoder_and_network_from_labels_and_teacher(coded, teacher, tmp_path):
    folder, results = coded
    assert {"eval_width_2_bytes", "eval_width_2_accuracy", "eval_width_3_estimated_bytes"} <= results.keys()
    assert results["eval_width_3_accuracy"] == pytest.approx(results["eval_accuracy"])
    assert 0 < results["eval_width_2_bytes"] < results["eval_width_3_bytes"]
    output = tmp_path / "run"
    prepared = prepare(
        "prepare_training", second_stage(teacher, folder, "--output_dir", str(output), "--max_steps", "1")
    )
    trainer, batch = prepared.trainer, next(iter(prepared.trainer.get_train_dataloader()))
    student = trainer.network
    before = {name: value.clone() for name, value in student.state_dict().items()}
    stage, sums = student.network.resnet.encoder.stages[1], np.zeros(2)
    norms = {name: value.clone() for name, value in stage.state_dict().items()}
    with torch.no_grad():
        taught = trainer.teachers.first.logits(batch["pixel_values"])
        stage.train()
        for width in (2, 3):
            prior = student.bottleneck.prior(width)
            code = prior.round(student.bottleneck.encoder(batch["pixel_values"], width))
            features = stage(student.bottleneck.decoder(code))
            logits = student.network.classifier(student.network.resnet.pooler(features))
            divergence = F.kl_div(
                logits.log_softmax(-1), taught.log_softmax(-1), reduction="batchmean", log_target=True
            )
            sums += [0.75 * float(F.cross_entropy(logits, batch["labels"])), float(divergence)]
    stage.load_state_dict(norms)
    results = prepared()
    [logged] = history(output, "loss", "task_loss", "kd")
    np.testing.assert_allclose(logged, [sums[0] + 0.25 * sums[1], *sums], rtol=1e-3)
    after = AutoModelForImageClassification.from_pretrained(output).state_dict()
    moved = {name for name, value in before.items() if (value != after[name]).any()}
    still = {name for name in before if name.startswith(("bottleneck.priors", "bottleneck.norms", "bottleneck.conv"))}
    assert not moved & still and {"bottleneck.decoder.0.weight", "network.classifier.1.weight"} <= moved
    assert any(name.endswith("running_mean") for name in moved)
    measured = evaluate(
        [
            "--model",
            str(output),
            "--dataset",
            "digits",
            "--max_eval_samples",
            "9",
            "--output",
            str(tmp_path / "e.json"),
        ]
    )
    assert measured["accuracy"] == results["eval_accuracy"] and measured["loss"] == pytest.approx(results["eval_loss"])


@pytest.mark.parametrize("stage", [1, pytest.param(2, marks=pytest.mark.thorough)])
def test_a_killed_stage_goes_on_to_the_same_weights_bit_for_bit(stage, coded, teacher, tmp_path):
    arguments = first_stage(teacher, widths="[2, 3]") if stage == 1 else second_stage(teacher, coded[0])
    goes_on_the_same(arguments, tmp_path)


@pytest.mark.thorough
def test_two_processes_and_eight_batches_summed_follow_one(tmp_path):
    """The second stage, which draws nothing, of a network without batch norms: each width's pass of each process
    counts once."""
    torch.manual_seed(2)
    sizes = {"hidden_sizes": [6, 8], "depths": [1, 1], "num_stages": 2, "num_labels": 10, "image_size": 24}
    whole, processor = tmp_path / "whole", create_image_processor("devit-s", image_size=24)
    model = ConvNextForImageClassification(ConvNextConfig(**sizes, initializer_range=0.3)).eval()
    student = CodedForImageClassification.around(model, "stages.0", [2, 3])
    student.fix_code()
    for folder, saved in ((whole, model), (tmp_path / "student", student)):
        saved.save_pretrained(folder)
        processor.save_pretrained(folder)
    follow_one(second_stage(whole, tmp_path / "student", "--max_steps", "2"), tmp_path)


def channels(model, *more: str, joint: bool) -> list[str]:
    """A run of MAHPPO's code alone, or of code and network by the labels; no teacher."""
    arguments = run("nobody", "--model", str(model), "--optim", "sgd", "--learning_rate", "0.05", *more)
    at = arguments.index("--teacher")
    del arguments[at : at + 2]
    if joint:
        return ["--task", "image-classification", *arguments[2:]]
    code = ["--codec", "{at: stages.0, shrink: 3, bits: 6}", "--losses", "{coded_channels: {weight: 2}}"]
    return [*arguments, *code, "--labels_weight", "0.1"]


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A classifier without batch norms, and the same with a code that learns with it."""
    torch.manual_seed(2)
    folder, processor = tmp_path_factory.mktemp("networks"), create_image_processor("devit-s", image_size=24)
    sizes = {"hidden_sizes": [6, 8], "depths": [1, 1], "num_stages": 2, "num_labels": 10, "image_size": 24}
    model = ConvNextForImageClassification(ConvNextConfig(**sizes, initializer_range=0.3))
    coded = ChannelCodedForImageClassification.around(model, "stages.0", 3, 6)
    coded.fix_code()
    for name, saved in (("whole", model), ("coded", coded)):
        saved.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder


@pytest.mark.thorough
@pytest.mark.parametrize("joint", [False, True], ids=["code", "code and network"])
def test_channels_learn_alike_in_one_batch_in_eight_and_in_two_processes(joint, teacher, networks, tmp_path):
    """The code alone around a network with batch norms, too, which stay as they are meanwhile."""
    arguments = channels(networks / "coded" if joint else teacher, "--max_steps", "2", joint=joint)
    follow_one(arguments, tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("joint", [False, True], ids=["code", "code and network"])
def test_channels_of_a_killed_run_are_the_same_bit_for_bit(joint, teacher, networks, tmp_path):
    goes_on_the_same(channels(networks / "coded" if joint else teacher, joint=joint), tmp_path)


def test_fewer_channels_learn_to_come_back_and_then_with_the_network(teacher, tmp_path):
    code = ["--model", str(teacher), "--codec", "{at: stages.0, shrink: 3, bits: 6}"]
    code += ["--losses", "{coded_channels: {weight: 2}}", "--labels_weight", "0.1", "--learning_rate", "0.1"]
    arguments = run(teacher, *code, "--max_steps", "1", "--output_dir", str(tmp_path / "first"))
    at = arguments.index("--teacher")
    prepared = prepare("prepare_training", arguments[:at] + arguments[at + 2 :])
    student, batch = prepared.trainer.network, next(iter(prepared.trainer.get_train_dataloader()))
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with torch.no_grad():
        features = student.network.resnet.encoder.stages[0](student.network.resnet.embedder(batch["pixel_values"]))
        encoder, decoder = student.code.codec.encoder[0], student.code.codec.decoder[0]
        assert encoder.out_channels == 2
        restored = decoder(encoder(features))
        pooled = student.network.resnet.pooler(student.network.resnet.encoder.stages[1](restored))
        difference = (restored - features).abs()
        smooth = torch.where(difference < 1, difference**2 / 2, difference - 0.5).mean()
        labels = 0.1 * F.cross_entropy(student.network.classifier(pooled), batch["labels"])
    results = prepared()
    [logged] = history(tmp_path / "first", "loss", "task_loss", "coded_channels")
    np.testing.assert_allclose(logged, [float(labels + 2 * smooth), float(labels), float(smooth)], rtol=1e-3)
    coded = AutoModelForImageClassification.from_pretrained(tmp_path / "first")
    moved = {name for name, value in coded.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {f"code.codec.{part}.0.{name}" for part in ("encoder", "decoder") for name in ("weight", "bias")}
    pixels = batch["pixel_values"]
    head, tail = coded.halves()
    with torch.no_grad():
        found = coded(pixels).logits
    torch.testing.assert_close(tail(head(pixels), tuple(pixels.shape)), found)
    assert results["eval_bytes"] == 2 * 6 * 6 * 6 / 8 + 8  # 2 channels of 6×6, six bits each; two ends
    # The second stage is the student's own task.
    joint = ["--model", str(tmp_path / "first"), "--dataset", "digits", "--train_crop", "none", "--max_steps", "1"]
    joint += ["--max_train_samples", "18", "--max_eval_samples", "9", "--per_device_train_batch_size", "6"]
    joint += ["--learning_rate", "0.05", "--optim", "sgd", "--disable_tqdm", "true"]
    main([*joint, "--output_dir", str(tmp_path / "second")])
    after = AutoModelForImageClassification.from_pretrained(tmp_path / "second").state_dict()
    assert {name for name, value in coded.state_dict().items() if not torch.equal(value, after[name])} == after.keys()


def test_codes_that_cannot_be_are_named_before_anything_is_written(coded, teacher, tmp_path):
    output = ["--output_dir", str(tmp_path / "run")]
    for arguments, message in (
        (first_stage(teacher, widths="[0]"), r"--codec: widths: got \[0\]"),
        ([*first_stage(teacher), "--codec", "{at: stages.9}"], "--codec: at: got 'stages.9'"),
        ([*first_stage(teacher), "--codec", "{at: stages.1}"], "--codec: at: resnet.encoder.stages.1 gives"),
        ([*first_stage(teacher), "--codec", "{to: stages.1}"], "--codec: got "),
        ([*first_stage(teacher), "--codec", "{at: stages.0, shrink: 2, widths: [2]}"], "--codec: got "),
        (
            [*first_stage(teacher), "--codec", "{at: stages.0, shrink: 0}"],
            "--codec: shrink: got 0, accepted are whole",
        ),
        ([*first_stage(teacher), "--codec", "{at: stages.0, shrink: 2, bits: 9}"], "--codec: bits: got 9"),
        ([*first_stage(teacher), "--codec", "{at: stages.0, shrink: 1.5}"], "--codec: shrink: got 1.5"),
        ([*first_stage(teacher), "--losses", "{coded_features: {beta: -1, features: [x]}}"], "beta: got -1"),
        ([*first_stage(teacher), "--losses", "{coded_features: {features: []}}"], "features: got"),
        ([*first_stage(teacher), "--labels_weight", "-1"], "--labels_weight"),
        ([*second_stage(teacher, coded[0]), "--codec", "{at: stages.0}"], "--codec: --model has a code already"),
        (
            [*second_stage(teacher, coded[0]), "--losses", f"{{coded_features: {{features: [{FEATURES}]}}}}"],
            "a student whose code learns",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            main([*arguments, *output])
    assert not (tmp_path / "run").exists()
