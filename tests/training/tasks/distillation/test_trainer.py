"""The trainer used by hand: what is trained, saved and left alone, with networks that this package did not write."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessorPil,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from hf_effmodels import create_model
from hf_effmodels.training import main, prepare
from hf_effmodels.training.distillation import (
    CorrelationLoss,
    CrdLoss,
    DistillationLoss,
    DistillationTrainer,
    DistillationTrainingArguments,
    DistLoss,
    FitNetLoss,
    KdLoss,
    OfaLoss,
    ReviewKdLoss,
    RkdLoss,
    Teacher,
    Teachers,
    make_teacher,
)
from hf_effmodels.training.losses.interface import FeatureSpec, Networks
from hf_effmodels.training.losses.registry import make_losses
from hf_effmodels.training.tasks.distillation.model import DistillationModel
from hf_effmodels.training.tasks.distillation.taps import Taps, dry_run
from hf_effmodels.training.tasks.distillation.task import teacher_accuracy
from hf_effmodels.training.tasks.distillation.teacher import _normalization
from hf_effmodels.training.tasks.distillation.trainer import STATE_FILE, _named, _sample_labels

from ..contract import history, same, weights

LABELS = {"num_labels": 3}


def resnet(**more):
    more |= LABELS
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1] * 4, layer_type="basic", **more)
    return ResNetForImageClassification(config)


def vit():
    shape = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 32, "patch_size": 8}
    return ViTForImageClassification(ViTConfig(num_hidden_layers=4, **shape, **LABELS))


def swin():
    shape = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2]}
    return SwinForImageClassification(SwinConfig(window_size=2, **shape, **LABELS))


def convnext():
    return ConvNextForImageClassification(ConvNextConfig(depths=[1] * 4, hidden_sizes=[8, 12, 16, 20], **LABELS))


class Talkative(ViTForImageClassification):
    """A network that gives a logit more than it has labels."""

    def __init__(self):
        super().__init__(vit().config)
        self.classifier = torch.nn.Linear(16, 4)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter([])


class Images(torch.utils.data.Dataset):
    """Noise with classes, 32 pixels each way."""

    def __init__(self, count: int = 8, index: bool = False):
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randn(count, 3, 32, 32, generator=generator)
        self.labels, self.index = torch.arange(count) % 3, index

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, number):
        sample = {"pixel_values": self.pixels[number], "labels": self.labels[number]}
        return sample | {"index": torch.tensor(number)} if self.index else sample


def trained(tmp_path, student, teacher, losses, **options):
    settings = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "logging_steps": 1, "learning_rate": 1e-3}
    settings |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "disable_tqdm": True}
    arguments = {
        name: options.pop(name) for name in [*options] if name in DistillationTrainingArguments.__annotations__
    }
    arguments |= options.pop("arguments", {})
    args = DistillationTrainingArguments(output_dir=str(tmp_path / "run"), **{**settings, **arguments})
    options.setdefault("train_dataset", Images())
    trainer = DistillationTrainer(model=student, teacher=teacher, losses=losses, args=args, **options)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    "student, teacher", [(resnet, vit), (vit, convnext), (swin, resnet), (convnext, swin)], ids=lambda f: f.__name__
)
def test_any_network_learns_from_any_other_and_is_saved_alone(student, teacher, tmp_path):
    torch.manual_seed(0)
    student, teacher = student(), teacher()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    losses = [
        OfaLoss(eps=1.5),
        KdLoss(temperature=2),
        FitNetLoss(),
        RkdLoss(),
        CorrelationLoss(embed_dim=4),
        DistLoss(),
    ]
    if not isinstance(student, SwinForImageClassification | ViTForImageClassification):
        losses.append(ReviewKdLoss(mid_channels=8))
    start = [parameter.clone() for parameter in student.parameters()]
    trainer = trained(tmp_path, student, teacher, losses)
    log = trainer.state.log_history
    for name in ("task_loss", "ofa/logits", "ofa/stages", "kd", "fitnet", "rkd", "cc", "dist"):
        assert np.isfinite([entry[name] for entry in log if name in entry]).all() and name in log[0], name
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert (
        all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
        and not teacher.training
    )
    assert sum(not torch.equal(a, b) for a, b in zip(start, student.parameters(), strict=True)) > len(start) // 2
    optimized = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert {id(parameter) for parameter in trainer.model.parameters()} <= optimized, "projectors learn, too"
    trainer.save_model(str(tmp_path / "student"))
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "student").eval()
    assert not (tmp_path / "student" / STATE_FILE).exists()
    pixels = Images().pixels[:2]
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels).logits, student.eval()(pixels).logits)


def test_all_losses_together_stay_finite_in_bfloat16(tmp_path):
    torch.manual_seed(0)
    losses = [
        OfaLoss(),
        FitNetLoss(),
        RkdLoss(),
        CorrelationLoss(embed_dim=4),
        ReviewKdLoss(mid_channels=8),
        DistLoss(),
    ]
    losses += [CrdLoss(num_negatives=5, embed_dim=4)]
    options = {"train_dataset": Images(index=True), "sample_labels": Images().labels}
    trainer = trained(tmp_path, resnet(), vit(), losses, arguments={"bf16": True}, **options)
    logged = [value for entry in trainer.state.log_history for key, value in entry.items() if key != "epoch"]
    assert np.isfinite(logged).all()


def test_the_same_loss_may_stand_twice_and_a_weight_counts(tmp_path):
    torch.manual_seed(0)
    trainer = trained(tmp_path, resnet(), vit(), [KdLoss(weight=0.25), KdLoss(temperature=4, weight=2)])
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(first["task_loss"] + 0.25 * first["kd"] + 2 * first["kd_2"], rel=1e-3)


@pytest.mark.parametrize("name", ["kd", "soft_targets"])
def test_losses_of_one_name_are_numbered_and_none_takes_anothers_place(name):
    """Also of a name in two words, and beside one that begins alike."""
    made = [make_losses({name: {"weight": weight}})[name] for weight in (1, 2, 3)]
    other = KdLoss()
    other.name = f"{name}_of_ones_own"
    assert _named([made[0], other, *made[1:]]) == {
        name: made[0], other.name: other, f"{name}_2": made[1], f"{name}_3": made[2],
    }  # fmt: skip


def test_losses_are_told_of_the_end_of_every_step_and_begin_as_the_runs_seed_says(tmp_path):
    """Steps of two batches, so that what a loss remembers moves on once for both."""

    class Told(FitNetLoss):
        def end_step(self):
            told.append(self)

    told, begun = [], []
    arguments = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 1, "seed": 3}
    arguments |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "disable_tqdm": True}
    args = DistillationTrainingArguments(output_dir=str(tmp_path), **arguments)
    for number in (0, 1):  # whatever has been drawn before
        torch.manual_seed(number)
        given = {"model": resnet(), "teacher": resnet(), "losses": [Told(stages=[1])], "train_dataset": Images()}
        trainer = DistillationTrainer(**given, args=args)
        begun.append(given["losses"][0].projector["1"].weight.detach().clone())
    assert torch.equal(*begun)
    trainer.train()
    assert told == given["losses"] * 2  # of eight pictures


def test_every_teacher_is_tried_out_before_anything_is_trained(tmp_path):
    """One that cannot take the student's pictures says so at once, whichever it is."""
    given = {"model": vit(), "losses": [KdLoss()], "train_dataset": Images()}
    given |= {"args": DistillationTrainingArguments(output_dir=str(tmp_path))}
    large = ViTForImageClassification(ViTConfig(**{**vit().config.to_dict(), "image_size": 64}))
    for teachers in ([large, resnet()], [resnet(), large]):
        with pytest.raises(ValueError, match=r"doesn't match model \(64\*64\)"):
            DistillationTrainer(teacher=teachers, **given)


def test_a_loss_of_ones_own_reads_a_column_and_a_module_by_its_path(tmp_path):
    class Pull(DistillationLoss):
        columns = ("target",)
        needs_teacher = False

        def student_features(self):
            return ("vit.layers.2",)

        def forward(self, student, teacher, batch):
            assert teacher == {} and 0 <= batch.epoch < batch.epochs == 1
            return F.mse_loss(student["vit.layers.2"].mean((1, 2)), batch.extra["target"])

    class WithTargets(Images):
        def __getitem__(self, number):
            return super().__getitem__(number) | {"target": torch.tensor(0.5)}

    torch.manual_seed(0)
    data = {"train_dataset": WithTargets(), "eval_dataset": WithTargets()}
    trainer = trained(tmp_path, vit(), None, [Pull(weight=0.5)], **data)
    assert "Pull" in trainer.state.log_history[0]
    assert trainer.evaluate()["eval_loss"] > 0, "the student is not given the column"
    with pytest.raises(
        ValueError, match="losses: Pull reads target from the samples, which hold pixel_values, labels"
    ):
        trained(tmp_path, vit(), None, [Pull()])


@pytest.mark.parametrize("epochs, batch", [(3, 4), (2, 8)])
def test_a_sample_without_a_seed_of_its_own_gets_another_one_in_every_epoch(tmp_path, epochs, batch):
    """So that what is drawn by them, as negatives are, differs from epoch to epoch, and is the same in every run."""

    class Seen(DistillationLoss):
        needs_index, needs_teacher = True, False

        def student_features(self):
            return ()

        def forward(self, student, teacher, batch):
            seen.extend(zip(batch.index.tolist(), batch.seeds.tolist(), strict=True))
            return torch.zeros(())

    runs = []
    for run in range(2):
        seen = []
        arguments = {"num_train_epochs": epochs, "per_device_train_batch_size": batch}
        data = {"train_dataset": Images(index=True), "sample_labels": Images().labels}
        torch.manual_seed(0)
        trained(tmp_path / str(run), resnet(), None, [Seen()], arguments=arguments, **data)
        runs.append(seen)
    assert runs[0] == runs[1]
    for number in range(8):
        seeds = [seed for index, seed in runs[0] if index == number]
        assert len(set(seeds)) == len(seeds) == epochs
    assert len(set(runs[0])) == 8 * epochs and min(seed for _, seed in runs[0]) >= 0


def test_several_teachers_are_averaged_in_probabilities():
    torch.manual_seed(0)
    members, pixels = [resnet(), vit()], torch.randn(2, 3, 32, 32)
    teachers = Teachers([make_teacher(member, None, vit(), None) for member in members], [3, 1])
    with torch.no_grad():
        expected = sum(w * m.eval()(pixels).logits.softmax(1) for w, m in zip((0.75, 0.25), members, strict=True))
    torch.testing.assert_close(teachers(pixels)["logits"].softmax(1), expected)
    with pytest.raises(ValueError, match=r"weights of the teachers: got \[1, 0\]"):
        Teachers(teachers.teachers, [1, 0])


@pytest.mark.parametrize("weights, shares", [([3, 1], (0.75, 0.25)), (None, (0.5, 0.5))])
def test_teachers_of_a_trainer_count_as_much_as_their_weights_say(weights, shares, tmp_path):
    torch.manual_seed(0)
    members, pixels = [resnet(), vit()], Images().pixels[:2]
    args = {"output_dir": str(tmp_path), "eval_strategy": "no", "load_best_model_at_end": False}
    given = {"losses": [KdLoss()], "train_dataset": Images(), "args": DistillationTrainingArguments(**args)}
    trainer = DistillationTrainer(model=vit(), teacher=members, teacher_weights=weights, **given)
    with torch.no_grad():
        expected = sum(w * m.eval()(pixels).logits.softmax(1) for w, m in zip(shares, members, strict=True))
    torch.testing.assert_close(trainer.teachers(pixels)["logits"].softmax(1), expected)


def test_the_teacher_is_skipped_in_evaluation_and_sees_what_its_processor_makes(tmp_path):
    torch.manual_seed(0)
    seen, teacher = [], resnet()
    teacher.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    ours = ConvNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_pct=1.0, image_mean=[0.5] * 3, image_std=[0.2] * 3
    )
    theirs = ConvNextImageProcessorPil(
        size={"shortest_edge": 16}, crop_pct=1.0, image_mean=[0.4] * 3, image_std=[0.1] * 3
    )
    options = {"eval_dataset": Images(), "processing_class": ours, "teacher_processor": theirs}
    trainer = trained(tmp_path, vit(), teacher, [KdLoss()], **options)
    calls = len(seen)
    assert calls and all(pixels.shape[-2:] == (16, 16) for pixels in seen)
    trainer.evaluate()
    assert len(seen) == calls


def test_a_student_of_another_size_shows_its_teacher_the_same_picture():
    torch.manual_seed(0)
    teacher = resnet().eval()
    theirs = ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=1.0)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = teacher(theirs(picture, return_tensors="pt")["pixel_values"]).logits
    # Four equal pixels for each: reduced to half they are what they were.
    large = ConvNextImageProcessorPil(
        size={"shortest_edge": 64}, crop_pct=1.0, image_mean=[0.1] * 3, image_std=[0.7] * 3
    )
    pixels = large(picture.repeat(2, 0).repeat(2, 1), return_tensors="pt")["pixel_values"]
    assert pixels.shape[-1] == 64
    found = Teacher(teacher, theirs, large, range(3)).logits(torch.as_tensor(pixels))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_compiled_teacher_is_compiled_once(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda fn: compiled.append(fn) or fn)
    teacher = make_teacher(resnet(), None, vit(), None, compiled=True)
    for _ in range(2):
        teacher.logits(torch.randn(1, 3, 32, 32))
    assert len(compiled) == 1


BANKS = "{crd: {num_negatives: 7, embed_dim: 4}, fitnet: {stages: [1, 2]}, kd: {}}"


def test_a_checkpoint_holds_the_losses_beside_the_student_and_its_average(distilled_run, tmp_path):
    run = [*distilled_run, "--losses", BANKS, "--ema_decay", "0.5", "--output_dir", str(tmp_path / "run")]
    prepared = prepare("prepare_training", run)
    results = prepared()
    assert "eval_teacher_accuracy" in results
    [checkpoint, *_] = sorted((tmp_path / "run").glob("checkpoint-*"))
    assert (checkpoint / STATE_FILE).is_file()
    student = set(prepared.trainer.network.state_dict())
    assert {n.partition(":")[2] for n in weights(checkpoint) if n.startswith("model.safetensors")} == student
    state = {n.partition(":")[2] for n in weights(checkpoint) if n.startswith(STATE_FILE)}
    assert {"crd.contrast.student_memory", "fitnet.projector.1.weight"} <= state
    (checkpoint / STATE_FILE).unlink()
    with pytest.raises(ValueError, match=f"lacks {STATE_FILE}"):
        main([*run[:-1], str(tmp_path / "other"), "--resume_from_checkpoint", str(checkpoint)])


def test_losses_without_weight_leave_the_students_training_as_it_is(distilled_run, digits_run, tmp_path):
    options = [
        "--max_steps",
        "2",
        "--eval_strategy",
        "no",
        "--save_strategy",
        "no",
        "--load_best_model_at_end",
        "false",
    ]
    none = json.dumps({"ofa": {"stages": [1, 2], "weight": 0}, "crd": {"num_negatives": 5, "weight": 0}})
    main([*distilled_run, *options, "--losses", none, "--output_dir", str(tmp_path / "none")])
    main([*digits_run, *options, "--output_dir", str(tmp_path / "alone")])
    # Gradients of zero are added, which may sum the others in another order.
    alone = weights(tmp_path / "alone")
    torch.testing.assert_close(weights(tmp_path / "none"), alone, rtol=1e-6, atol=1e-10)


def test_taps_and_two_teachers_are_taken_from_the_command_line(distilled_run, teacher, tmp_path):
    import shutil

    shutil.copytree(teacher, tmp_path / "second")
    run = [*distilled_run, "--max_steps", "1", "--output_dir", str(tmp_path / "run")]
    run += ["--teacher", f"{{{teacher}: 2, {tmp_path / 'second'}: 1}}", "--losses", "{fitnet: {stages: [1]}, kd: {}}"]
    taps = ["--student_taps", "convnext.encoder.stages.0", "--teacher_taps", "resnet.encoder.stages.0.layers.0"]
    prepared = prepare("prepare_training", [*run, *taps])
    assert prepared.trainer.teachers.weights == pytest.approx([2 / 3, 1 / 3])
    assert prepared.trainer.teachers.first.specs["stage1"].path == "resnet.encoder.stages.0.layers.0"
    prepared()
    assert len(history(tmp_path / "run", "fitnet", "kd")) == 1
    run[run.index("--output_dir") + 1] = str(tmp_path / "other")
    with pytest.raises(
        ValueError, match="--student_taps: there is no feature at 'convnext.stages'; nearest: convnext"
    ):
        main([*run, *taps, "--student_taps", "convnext.stages"])
    # What a loss names by itself is no tap that was typed.
    with pytest.raises(ValueError, match="^--losses, student: there is no feature at 'devit.parts.0.*; nearest: con"):
        main([*run, *taps, "--losses", "{dekd: {}}"])
    with pytest.raises(ValueError, match="--teacher: .*: got 0, accepted are positive weights"):
        main([*run, "--teacher", f"{{{teacher}: 0}}"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"teacher": None}, "teacher: got None, which kd cannot do without"),
        ({"losses": [torch.nn.Linear(1, 1)]}, "losses: got Linear for Linear, accepted are DistillationLoss modules"),
        ({"args": TrainingArguments()}, "args: got TrainingArguments, accepted are DistillationTrainingArguments"),
        ({"teacher": torch.nn.Linear(1, 1)}, "teacher: got Linear, accepted are classifiers of transformers"),
        ({"losses": [CrdLoss()]}, "losses: crd looks up samples by their numbers: .* a stream cannot"),
        ({"losses": [OfaLoss()], "student_taps": ["vit.layers.0"]}, "got 1 stages, a loss asks for stage 4"),
        ({"losses": [CrdLoss()], "train_dataset": Stream()}, "losses: crd looks up samples .* a stream cannot"),
        ({"model": Talkative()}, "model: it gives 4 logits for the 3 of its labels"),
        ({"teacher": resnet(num_channels=1)}, "--teacher: ResNet.* takes 1 channels, the student 3"),
        (
            {"teacher_processor": ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=1.0)},
            "teacher: it comes with an image processor, but the student's, .* is missing; give processing_class",
        ),
    ],
)
def test_what_does_not_go_together_is_told_before_anything_is_trained(options, message, tmp_path):
    given = {"model": vit(), "teacher": resnet(), "losses": [KdLoss()], "train_dataset": Images()}
    given |= {"args": DistillationTrainingArguments(output_dir=str(tmp_path))}
    with pytest.raises(ValueError, match=message):
        DistillationTrainer(**{**given, **options})


def test_labels_of_all_samples_are_those_of_the_column(tmp_path):
    """Of a data set that is no image classification of this package, which has a column of them."""

    class Table(Images):
        column_names = ("pixel_values", "labels", "index")

        def __getitem__(self, number):
            return self.labels if number == "labels" else super().__getitem__(number)

    loss = CrdLoss(num_negatives=2, embed_dim=4)
    trained(tmp_path, resnet(), vit(), [loss], train_dataset=Table(index=True), arguments={"max_steps": 1})
    assert loss.others.labels.tolist() == [n % 3 for n in range(8)] and loss.contrast.student_memory.shape == (8, 4)


def test_labels_that_are_given_go_before_those_of_the_data_set_and_its_source_before_a_column():
    class Data(Images):
        source = SimpleNamespace(labels=[2, 2])
        column_names = ("labels",)

        def __getitem__(self, number):
            return [1, 1] if number == "labels" else super().__getitem__(number)

    data = Data(2, index=True)
    assert _sample_labels(data, [0, 1], ["crd"]).tolist() == [0, 1]
    assert _sample_labels(data, None, ["crd"]).tolist() == [2, 2]
    data.source = None
    assert _sample_labels(data, None, ["crd"]).tolist() == [1, 1]
    for unknown in (Images(2), Images(2, index=True)):  # without numbers, or without labels of all
        with pytest.raises(ValueError, match="^losses: crd, other looks up samples by their numbers: "):
            _sample_labels(unknown, [0, 1] if not unknown.index else None, ["crd", "other"])


def test_losses_learn_in_the_precision_of_the_student(tmp_path):
    args = {"output_dir": str(tmp_path), "eval_strategy": "no", "load_best_model_at_end": False}
    given = {"losses": [FitNetLoss(stages=[1])], "args": DistillationTrainingArguments(**args)}
    trainer = DistillationTrainer(model=resnet().double(), teacher=vit(), train_dataset=Images(), **given)
    assert {weight.dtype for weight in trainer.losses.parameters()} == {torch.float64}


@pytest.mark.parametrize("says, takes", [({}, 3), ({"num_channels": 1}, 1)])
def test_a_student_that_says_nothing_of_its_channels_takes_three(says, takes):
    student = torch.nn.Linear(1, 1)
    student.config = SimpleNamespace(num_labels=3, id2label={n: f"LABEL_{n}" for n in range(3)}, **says)
    for channels in (1, 2, 3):
        config = ResNetConfig(num_channels=channels, embedding_size=4, hidden_sizes=[4], depths=[1], num_labels=3)
        teacher = ResNetForImageClassification(config)
        if channels == takes:
            assert make_teacher(teacher, None, student, None).channels == takes
            continue
        with pytest.raises(ValueError, match=f"--teacher: ResNet.* takes {channels} channels, the student {takes}"):
            make_teacher(teacher, None, student, None)


@pytest.mark.parametrize("normalizes, rescales", [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("mean, std", [(None, None), ([0.1, 0.2, 0.3], None), (None, [0.4, 0.5, 0.6]), ([0.5], [0.2])])
def test_a_teachers_pictures_are_normalised_as_its_processor_says_it(mean, std, normalizes, rescales):
    """A value v of 0 to 255 becomes (v · factor - m) / s, without m and s where it does not normalise; where a
    processor says nothing, they are 0 and 1 of three colours."""
    said = {"image_mean": mean, "image_std": std, "do_normalize": normalizes, "do_rescale": rescales}
    found_mean, found_std = _normalization(SimpleNamespace(**said, rescale_factor=1 / 128))
    colours = 1 if mean == [0.5] else 3
    mean, std = (mean or [0.0] * 3, std or [1.0] * 3) if normalizes else ([0.0] * colours, [1.0] * colours)
    values = torch.tensor([[0.0] * colours, [51.0] * colours, [255.0] * colours])
    expected = (values * (1 / 128 if rescales else 1) - torch.tensor(mean)) / torch.tensor(std)
    assert found_mean.shape == found_std.shape == (colours,)
    torch.testing.assert_close((values / 255 - found_mean) / found_std, expected)


def test_a_teacher_that_was_trained_in_between_says_what_it_says_in_evaluation():
    torch.manual_seed(0)
    teacher = make_teacher(resnet(), None, vit(), None)
    pixels = torch.randn(4, 3, 32, 32)
    expected = teacher.logits(pixels)
    teacher.model.train()
    assert torch.equal(teacher.logits(pixels), expected) and not teacher.model.training


def test_losses_learn_as_fast_as_the_classifier_of_a_student_that_numbers_its_layers():
    student = create_model(
        "tinyvit-5m", image_size=32, embed_dims=[8, 16, 24, 32], depths=[1, 1, 2, 1], num_heads=[1, 1, 2]
    )
    loss = FitNetLoss(stages=[1])
    taps = Taps(student, dry_run(student, torch.randn(2, 3, 32, 32)), ["pooled", "stage1"])
    loss.build(Networks(taps.specs, {"stage1": FeatureSpec((5, 4, 4), "maps")}, 1000))
    model = DistillationModel(student, {"fitnet": loss}, taps)
    layers = model.learning_layers()
    assert layers.keys() == dict(model.named_parameters()).keys()
    assert layers["losses.fitnet.projector.1.weight"] == layers["student.classifier.weight"] == 4
    assert {n: at for n, at in layers.items() if n.startswith("student.")} == {
        f"student.{name}": at for name, at in student.learning_layers().items()
    }
    assert not hasattr(
        DistillationModel(vit(), {}, Taps(vit(), dry_run(vit(), Images().pixels[:2]), [])), "learning_layers"
    )
    asked = []
    student.gradient_checkpointing_enable = lambda *args, **kwargs: asked.append((args, kwargs))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert asked == [((), {"gradient_checkpointing_kwargs": {"use_reentrant": False}})]


def test_a_student_starts_from_random_weights_with_repeated_augmentation(
    distilled_run, convnext_folder, teacher, tmp_path
):
    run = [*distilled_run, "--random_weights", "true", "--repeated_augmentation", "3"]
    prepared = prepare("prepare_training", [*run, "--output_dir", str(tmp_path / "run")])
    pretrained = AutoModelForImageClassification.from_pretrained(convnext_folder).state_dict()
    fresh = prepared.trainer.network.state_dict()
    assert fresh.keys() == pretrained.keys() and not same(fresh, pretrained)
    assert fresh["classifier.weight"].shape == (10, 16)
    # A network without a size of its own in its configuration is shown pictures of any.
    resnet = ["--model", str(teacher), "--image_size", "20", "--output_dir", str(tmp_path / "other")]
    other = prepare("prepare_training", [*run, *resnet]).trainer
    assert other.train_dataset[0]["pixel_values"].shape == (3, 20, 20)
    batch = next(iter(prepared.trainer.get_train_dataloader()))
    labels = batch["labels"].tolist()
    assert labels[0] == labels[1] == labels[2] and not torch.equal(*batch["pixel_values"][:2])


class Noted(DistillationLoss):
    """Keeps what it is shown."""

    def __init__(self, rotates, needs_teacher=True):
        super().__init__()
        self.rotates, self.needs_teacher = rotates, needs_teacher

    def forward(self, student, teacher, batch):
        self.student, self.teacher, self.labels = student, teacher, batch.labels
        return student["logits"].sum()


@pytest.mark.parametrize("taught", [True, False])
def test_beside_a_loss_of_four_rotations_the_others_see_the_pictures_as_they_are(taught):
    """Every fourth of the rotated ones is upright. A teacher is shown rotations where a loss of them asks for it."""
    torch.manual_seed(0)
    student, pixels = resnet().eval(), torch.randn(2, 3, 32, 32)
    taps = Taps(student, dry_run(student, pixels), ["pooled", "stage4"])
    turned, plain = Noted(True, needs_teacher=taught), Noted(False)
    model = DistillationModel(student, {"turned": turned, "plain": plain}, taps).eval()
    assert model.teacher_rotates == taught
    shown = torch.arange(8.0)[:, None] if taught else torch.arange(2.0)[:, None]
    known = {"teacher": {"logits": shown, "pooled": shown + 10}, "labels": torch.tensor([0, 1])}
    with torch.no_grad():
        outputs = model(pixels, distillation=known)
        every = torch.stack([torch.rot90(picture, turns, (1, 2)) for picture in pixels for turns in range(4)])
        expected = {"logits": student(every).logits, "stage4": student.resnet(every).last_hidden_state}
    assert turned.teacher["pooled"].flatten().tolist() == (shown + 10).flatten().tolist()
    own = shown[::4] if taught else shown
    assert {name: value.tolist() for name, value in plain.teacher.items()} == {
        "logits": own.tolist(), "pooled": (own + 10).tolist(),
    }  # fmt: skip
    for name, value in expected.items():
        torch.testing.assert_close(turned.student[name], value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(plain.student[name], value[::4], rtol=1e-4, atol=1e-5)
    assert len(plain.student["pooled"]) == 2 and len(turned.student["pooled"]) == 8
    torch.testing.assert_close(outputs["logits"], plain.student["logits"])


class Forgetful(KdLoss):
    """Asks for a feature under a name that nobody has."""

    name = "forgetful"

    def build(self, networks):
        networks.teacher["stage7"]


def test_a_fault_of_a_loss_is_not_taken_for_a_teacher_without_features(tmp_path):
    with pytest.raises(KeyError, match="stage7"):
        trained(tmp_path, resnet(), resnet(), [Forgetful(temperature=1)])


def test_a_teachers_accuracy_is_the_share_of_pictures_that_it_tells():
    """Of seven pictures, three at a time; it says of each the class that its first number names."""
    seen = []

    def logits(pixels):
        seen.append(len(pixels))
        return torch.nn.functional.one_hot(pixels[:, 0].long(), 4).float()

    said, labels = [0, 3, 2, 1, 1, 0, 2], [0, 3, 1, 1, 1, 2, 0]
    samples = [{"pixel_values": torch.tensor([float(s)]), "labels": t} for s, t in zip(said, labels, strict=True)]
    trainer = SimpleNamespace(
        eval_dataset=samples,
        args=SimpleNamespace(per_device_eval_batch_size=3, device="cpu"),
        accelerator=SimpleNamespace(autocast=nullcontext),
    )
    assert teacher_accuracy(SimpleNamespace(logits=logits), trainer) == 4 / 7 and seen == [3, 3, 1]
