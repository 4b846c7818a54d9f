"""What is added to the student's loss, what the teacher sees, and what is refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoModelForImageClassification,
    ConvNextImageProcessorPil,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    MobileViTImageProcessor,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_effmodels.training import main, prepare
from hf_effmodels.training.losses.decoupled import decoupled_loss
from hf_effmodels.training.losses.kl_divergence import kl_divergence_loss
from hf_effmodels.training.losses.registry import losses_by_name, make_losses
from hf_effmodels.training.tasks.distillation.arguments import DistillationArguments
from hf_effmodels.training.tasks.distillation.teacher import Teacher, load_teacher, same_classes

from ..contract import history, same, weights


def test_the_loss_is_the_students_and_the_weighted_losses_each_logged(distilled_run, teacher, tmp_path):
    options = ["--losses", "{kd: {temperature: 3, weight: 0.25}, dkd: {alpha: 2, beta: 0.5}}", "--max_steps", "1"]
    run = prepare("prepare_training", [*distilled_run, *options, "--output_dir", str(tmp_path / "run")])
    trainer = run.trainer
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        student = trainer.model.train()(batch["pixel_values"]).logits
        # As the teacher's processor would have made them: undo ours, do theirs.
        ours = trainer.processing_class
        mean, std = (torch.tensor(v)[:, None, None] for v in (ours.image_mean, ours.image_std))
        raw = batch["pixel_values"] * std + mean
        mean, std = (torch.tensor(v)[:, None, None] for v in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
        seen = F.interpolate((raw - mean) / std, (24, 24), mode="bilinear")
        expected = AutoModelForImageClassification.from_pretrained(teacher).eval()(seen).logits
    kd = kl_divergence_loss(student, expected, 3.0)
    dkd = decoupled_loss(student, expected, batch["labels"], alpha=2, beta=0.5)
    own = F.cross_entropy(student, batch["labels"])
    run()
    [logged] = history(tmp_path / "run", "loss", "task_loss", "kd", "dkd")
    found = [own + 0.25 * kd + dkd, own, kd, dkd]
    np.testing.assert_allclose(logged, [float(value) for value in found], rtol=2e-3)


def test_a_weight_of_nothing_trains_the_student_alone(distilled_run, digits_run, tmp_path):
    options = [
        "--max_steps",
        "3",
        "--load_best_model_at_end",
        "false",
        "--eval_strategy",
        "no",
        "--save_strategy",
        "no",
    ]
    main([*distilled_run, *options, "--losses", "{kd: {weight: 0}}", "--output_dir", str(tmp_path / "none")])
    main([*digits_run, *options, "--output_dir", str(tmp_path / "alone")])
    main([*distilled_run, *options, "--output_dir", str(tmp_path / "taught")])
    assert same(weights(tmp_path / "none"), weights(tmp_path / "alone"))
    assert not same(weights(tmp_path / "taught"), weights(tmp_path / "alone"))


def test_a_run_tells_both_accuracies_and_who_taught(distilled_run, teacher, tmp_path):
    results = main([*distilled_run, "--num_train_epochs", "1", "--output_dir", str(tmp_path / "run")])
    assert 0 <= results["eval_teacher_accuracy"] <= 1 and 0 <= results["eval_accuracy"] <= 1
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| losses.kd.weight | `1.0` |" in card and "| teacher |" in card
    saved = weights(tmp_path / "run")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert len(saved) == len(model.state_dict()), "the student alone is saved"
    again = ["--losses", "{kd: {temperature: 2}}", "--resume_from_checkpoint", "true"]
    with pytest.raises(ValueError, match="losses: "):
        main([*distilled_run, *again, "--num_train_epochs", "1", "--output_dir", str(tmp_path / "run")])


def processors(**student):
    teacher = ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=1.0)
    return teacher, ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=1.0, **student)


@pytest.mark.parametrize(
    "student",
    [
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.9, 0.8, 0.7]},
        {"do_normalize": False},
        {"do_normalize": False, "do_rescale": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [0.5, 0.6, 0.7]},
        {"image_mean": [120.0, 90.0, 40.0], "image_std": [60.0, 50.0, 70.0], "do_rescale": False},
    ],
)
def test_the_teacher_sees_the_same_whatever_the_student_is_used_to(student):
    torch.manual_seed(0)
    model = MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.35, num_labels=4)).eval()
    theirs, ours = processors(**student)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = model(theirs(picture, return_tensors="pt")["pixel_values"]).logits
    pixels = torch.as_tensor(ours(picture, return_tensors="pt")["pixel_values"], dtype=torch.float32)
    found = Teacher(model, theirs, ours, range(4)).logits(pixels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def tiny_vit(labels):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(**shape, image_size=16, patch_size=8, **labels)), ViTImageProcessor(
        size={"height": 16, "width": 16}
    )


def tiny_swin(labels):
    config = SwinConfig(
        image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, **labels
    )
    return SwinForImageClassification(config), ViTImageProcessor(size={"height": 32, "width": 32})


def tiny_mobilenet(labels):
    model = MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.35, **labels))
    return model, ConvNextImageProcessorPil(size={"shortest_edge": 32})


@pytest.mark.parametrize("make", [tiny_vit, tiny_swin, tiny_mobilenet])
def test_any_classifier_of_transformers_teaches_by_the_names_of_its_classes(make, distilled_run, tmp_path):
    names = [str(number) for number in reversed(range(10))]  # in another order than the student's
    torch.manual_seed(0)
    model, processor = make(named(names))
    model.save_pretrained(tmp_path / "teacher")
    processor.save_pretrained(tmp_path / "teacher")
    options = ["--teacher", str(tmp_path / "teacher"), "--output_dir", str(tmp_path / "run")]
    run = prepare("prepare_training", [*distilled_run, *options])
    found = load_teacher(str(tmp_path / "teacher"), run.trainer.model, run.trainer.processing_class, revision=None)
    assert found.classes.tolist() == list(reversed(range(10)))
    pixels = torch.randn(2, 3, 32, 32) if make is not tiny_vit else torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = model.eval()(pixels).logits.flip(1)
    torch.testing.assert_close(Teacher(model, None, None, found.classes.tolist()).logits(pixels), expected)
    run()
    assert np.isfinite(history(tmp_path / "run", "kd")).all()


#: Settings of losses whose own are for other networks: student and teacher here have two stages.
SETTINGS = {"ofa": {"stages": [1, 2]}, "fitnet": {"stages": [1, 2]}, "review": {"stages": [1, 2]}}
SETTINGS |= {"crd": {"num_negatives": 7, "embed_dim": 4}, "cwd": {"stages": [2]}}
SETTINGS["manifold"] = {"student_blocks": ["stage1"], "teacher_blocks": ["stage1"], "max_patches": 1}


#: These are between attention blocks, of a fusion or a code, need columns of the data or whole labels: they have tests
#: of their own.
APART = ("coded_channels", "coded_features", "dekd", "fused_tokens", "hsakd", "lsskd", "text_alignment")
OTHERS = [name for name in losses_by_name() if name not in APART]


@pytest.mark.parametrize("name", OTHERS)
def test_every_loss_trains(name, distilled_run, tmp_path):
    options = [
        "--losses",
        json.dumps({name: SETTINGS.get(name, {})}),
        "--max_steps",
        "2",
        "--output_dir",
        str(tmp_path / "run"),
    ]
    options += [
        "--eval_strategy",
        "no",
        "--save_strategy",
        "no",
        "--load_best_model_at_end",
        "false",
        "--mixup",
        "0.5",
    ]
    assert np.isfinite(main([*distilled_run, *options])["train_loss"])


@pytest.mark.parametrize(
    "losses, message",
    [
        ({"kdd": {}}, "--losses: got 'kdd', accepted are .*kd, "),
        ({"kd": {"T": 4}}, "--losses: kd takes no 'T', accepted are temperature, weight"),
        ({"kd": {"temperature": 0}}, "--losses: kd: temperature: got 0"),
        ({"kd": {"temperature": "hot"}}, "--losses: kd: temperature: got 'hot', accepted are numbers"),
        ({"augconf": {"alpha": 2}}, "--losses: augconf: alpha: got 2"),
        ({"dist": {"weight": True}}, "--losses: dist: weight: got True"),
        ({"kd": {"weight": -1}}, "--losses: kd: weight: got -1"),
        ({"adaptconf": {"warmup": -1}}, "--losses: adaptconf: warmup: got -1"),
        (
            {"ofa": {"stages": [0, 1]}},
            r"--losses: ofa: stages: got \[0, 1\], accepted are different numbers from 1 to 4",
        ),
        ({"ofa": {"stages": "1"}}, "--losses: ofa: stages: got '1', accepted are lists of whole numbers"),
        ({"ofa": {"eps": [1, 2]}}, "--losses: ofa: eps: got 2 values, accepted are one, or one for each of the 4"),
        ({"ofa": {"eps": 0}}, "--losses: ofa: eps: got 0"),
        ({"ofa": {"kd_weight": -1}}, "--losses: ofa: kd_weight: got -1"),
        ({"ofa": {"non_target_power": 1}}, "--losses: ofa: non_target_power: got 1, accepted are true and false"),
        ({"crd": {"num_negatives": 0}}, "--losses: crd: num_negatives: got 0"),
        ({"crd": {"num_negatives": 1.5}}, "--losses: crd: num_negatives: got 1.5, accepted are whole numbers"),
        ({"cc": {"embed_dim": 0}}, "--losses: cc: embed_dim: got 0"),
        ({"review": {"mid_channels": 0}}, "--losses: review: mid_channels: got 0"),
        ({"fitnet": {"stages": []}}, r"--losses: fitnet: stages: got \[\]"),
    ],
)
def test_wrong_losses_are_named(losses, message):
    with pytest.raises(ValueError, match=message):
        make_losses(losses)


def named(names):
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def test_classes_of_other_names_are_refused(tmp_path):
    (teacher, processor), (student, ours) = tiny_vit(named(["cat", "dog"])), tiny_vit(named(["cat", "cow"]))
    teacher.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"the classes of .* \(cat, dog\) are not the student's \(cat, cow\)"):
        load_teacher(str(tmp_path), student, ours, revision=None)


@pytest.mark.parametrize(
    "own, expected",
    [
        (["dog", "emu", "cat"], [2, 0]),  # it knows more
        (["dog", "cat"], [1, 0]),
        (["LABEL_0", "LABEL_1"], [0, 1]),  # by position
        (["dog", "emu", "cow"], "--teacher: one has 3 classes, the student has 2"),
        (["cat"], "--teacher: one has 1 classes, the student has 2"),
        (["LABEL_0", "LABEL_1", "LABEL_2"], "--teacher: one has 3 classes, the student has 2"),
    ],
)
def test_a_teacher_has_the_students_classes_and_may_know_more_of_them_by_name(own, expected):
    student, teacher = (
        SimpleNamespace(num_labels=len(names), id2label=dict(enumerate(names))) for names in (["cat", "dog"], own)
    )
    if isinstance(expected, list):
        assert same_classes(student, teacher, "one") == expected
        return
    with pytest.raises(ValueError, match=f"^{expected}"):
        same_classes(student, teacher, "one")


@pytest.mark.parametrize(
    "given, message",
    [
        ({"teacher": "{a: 1, b: 2}", "teacher_revision": "main"}, "--teacher_revision: it is that of one teacher"),
        ({"teacher": {"a": True}}, "--teacher: a: got True, accepted are positive weights"),
        ({"teacher": {"a": float("inf")}}, "--teacher: got inf in .*, accepted are finite numbers"),
        ({"teacher": {"a": -1}}, "--teacher: a: got -1, accepted are positive weights"),
        ({"teacher": {"a": "1"}}, "--teacher: a: got '1', accepted are positive weights"),
        ({"teacher": "a", "stored_labels": "b"}, "--teacher and --stored_labels exclude each other"),
        ({"codec": {"at": 3}}, "--codec: got {'at': 3}, accepted is a mapping of at, a module, and either widths"),
        ({"codec": {"at": "x", "bits": 6}}, "--codec: got {'at': 'x', 'bits': 6}, accepted is a mapping of at"),
        ({"codec": {"at": "x", "width": [3]}}, "--codec: got {'at': 'x', 'width': "),
        ({"codec": {"at": "x", "shrink": 2, "widths": [3]}}, "--codec: got {'at': 'x', 'shrink': 2, 'widths': "),
        ({"codec": {"shrink": 2}}, "--codec: got {'shrink': 2}"),
    ],
)
def test_wrong_arguments_of_a_distillation_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        DistillationArguments(**given)


def test_one_teacher_in_a_mapping_may_have_a_revision_and_logits_are_learned_by_default():
    args = DistillationArguments(teacher="{a: 2}", teacher_revision="main")
    assert args.teachers == {"a": 2} and args.losses == {"kd": {"weight": 1.0}}
    assert DistillationArguments(teacher=" {a: 2}").teachers == {"a": 2}  # as of a block in a recipe
    few = DistillationArguments(few_shot_dataset="x", few_shot_classes=[7, "cat"])
    assert few.few_shot_classes == ["7", "cat"]  # names, also where a recipe says numbers
    assert DistillationArguments(teacher="a").teachers == {"a": 1.0} and DistillationArguments().teachers == {}
    assert DistillationArguments(losses="{dist: {weight: 2}, rkd: }").losses == {
        "dist": {"weight": 2}, "rkd": {"weight": 1.0},
    }  # fmt: skip


def test_wrong_teachers_are_named_before_anything_is_written(digits_run, tmp_path):
    run = ["--task", "distillation", *digits_run, "--output_dir", str(tmp_path / "run")]
    with pytest.raises(ValueError, match="--teacher is missing"):
        main(run)
    with pytest.raises(ValueError, match="--losses: kd: got 4, accepted is a mapping"):
        main([*run, "--teacher", "nowhere/at-all", "--losses", "{kd: 4}"])
    with pytest.raises(OSError, match="--teacher: 'nowhere/at-all' cannot be found"):
        main([*run, "--teacher", "nowhere/at-all"])
    with pytest.raises(OSError, match="--teacher: there is no folder"):
        main([*run, "--teacher", str(tmp_path / "later")])
    model, processor = tiny_vit({"num_labels": 10})
    model.save_pretrained(tmp_path / "swapped")
    MobileViTImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(
        tmp_path / "swapped"
    )
    for argument in ("--teacher", "--model"):
        with pytest.raises(ValueError, match=f"{argument}: its image processor swaps red and blue"):
            main([*run, "--teacher", str(tmp_path / "swapped"), argument, str(tmp_path / "swapped")])
    model, processor = tiny_vit({"num_labels": 3})
    model.save_pretrained(tmp_path / "three")
    processor.save_pretrained(tmp_path / "three")
    with pytest.raises(ValueError, match="has 3 classes, the student has 10"):
        main([*run, "--teacher", str(tmp_path / "three")])
    assert not (tmp_path / "run" / "training_config.yaml").exists()
