"""LSSKD: heads after every stage learn class and rotation, teach one another, and drop off."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessorPil,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hf_effmodels import create_model
from hf_effmodels.training import main
from hf_effmodels.training.distillation import DistillationTrainingArguments
from hf_effmodels.training.losses import layered
from hf_effmodels.training.losses.interface import FeatureSpec
from hf_effmodels.training.losses.layered import HEADS_FILE, JointTeacherLoss, LayeredLoss, stage_modules
from hf_effmodels.training.tasks.distillation.taps import collecting

from ....processes import run_in_two
from ..contract import history
from .test_trainer import Images, trained

LABELS = {"num_labels": 3, "image_size": 32}
GHOST = [[[3, 8, 8, 0, 1]], [[3, 16, 8, 0, 2], [3, 24, 8, 0, 1]], [[5, 24, 16, 0.25, 2], [5, 40, 16, 0.25, 1]]]
GHOST += [[[5, 40, 24, 0.25, 2], [5, 48, 24, 0.25, 1]]]


def resnet():
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=4, hidden_sizes=[4, 6, 8], depths=[2, 2, 2], layer_type="basic", num_labels=3)
    )


def ghostnet():
    return create_model("ghostnetv3-1.0x", stages=GHOST, final_size=32, head_size=16, **LABELS)


def shufflenet():
    return create_model("shufflenetv2-0.5x", depths=[2, 2, 3], hidden_sizes=[4, 6, 8, 10], final_size=12, **LABELS)


def vit():
    sizes = {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(patch_size=8, **sizes, **LABELS))


@pytest.mark.parametrize(
    "student, options",
    [
        (resnet, {"stages": [1, 2, 3]}),
        (shufflenet, {"stages": [1, 2, 3]}),
        (ghostnet, {"stages": [1, 2, 3], "heads": "light"}),
        (vit, {"stages": [2, 4], "heads": "light"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_network_teaches_itself_and_is_saved_as_the_plain_one(student, options, tmp_path):
    torch.manual_seed(0)
    student = student()
    names = set(student.state_dict())
    trainer = trained(tmp_path, student, None, [LayeredLoss(**options)])
    log = trainer.state.log_history
    for name in ("task_loss", "lsskd/joint", "lsskd/divergence", "lsskd/features"):
        assert np.isfinite([entry[name] for entry in log if name in entry]).all() and log[0][name] > 0, name
    heads = trainer.losses["lsskd"].heads
    assert all(trainer.optimizer.state[parameter] for parameter in heads.parameters()), "the heads learn, too"
    trainer.save_model(str(tmp_path / "student"))
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "student").eval()
    assert set(loaded.state_dict()) == names
    pixels = Images().pixels[:2]
    with torch.no_grad():
        assert torch.equal(loaded(pixel_values=pixels).logits, student.eval()(pixel_values=pixels).logits)


def test_the_parts_are_those_of_the_formulas(tmp_path):
    """Everything by hand: rotations, features of each stage, heads of copied stages, the losses."""
    torch.manual_seed(0)
    student = resnet()
    weights = {"joint_weight": 0.5, "divergence_weight": 2.0, "feature_weight": 0.1}
    loss = LayeredLoss(stages=[1, 2, 3], temperature=2.0, **weights)
    trainer = trained(tmp_path, student, None, {"own": loss}, arguments={"max_steps": 1})
    model = trainer.model.eval()
    pixels, labels = Images().pixels[:2], torch.tensor([2, 0])
    turned = torch.cat([torch.rot90(p, k, (1, 2))[None] for p in pixels for k in range(4)])
    stages = student.resnet.encoder.stages
    with torch.no_grad():
        outputs = model(pixels, distillation={"teacher": {}, "labels": labels})
        assert torch.equal(outputs["logits"], student(turned).logits[::4])
        features = [student.resnet.embedder(turned)]
        for stage in stages:
            features.append(stage(features[-1]))
        heads = model.losses["own"].heads
        assert [len(extractor) for extractor in heads.extractors] == [2, 1, 1]
        assert [type(stage) for stage in heads.extractors[0]] == [type(stages[1]), type(stages[2])]
        assert heads.extractors[2](features[3]).shape == features[3].shape, "the last head keeps the size"
        pooled = [e(f).mean((2, 3)) for e, f in zip(heads.extractors, features[1:], strict=True)]
        logits = [c(p) for c, p in zip(heads.classifiers, pooled, strict=True)]
        joint = torch.tensor([4 * c + k for c in (2, 0) for k in range(4)])
        teacher = (logits[2] / 2).softmax(1)
        expected = {
            "joint": 0.5 * sum(F.cross_entropy(head, joint) for head in logits),
            "divergence": 2.0
            * sum(4 * (teacher * (teacher.log() - (h / 2).log_softmax(1))).sum(1).mean() for h in logits[:2]),
            "features": 0.1 * sum((p - pooled[2]).square().mean() for p in pooled[:2]),
        }
    for part, value in expected.items():
        torch.testing.assert_close(outputs["distillation"][f"own/{part}"], value, rtol=1e-4, atol=1e-6)
    original = {id(parameter) for parameter in student.parameters()}
    assert not original & {id(parameter) for parameter in heads.parameters()}


def test_a_student_learns_from_a_teacher_with_heads(tmp_path):
    """HSAKD, by hand: a teacher that was trained with heads, whose classes stand in another order."""
    torch.manual_seed(0)
    teacher, folder = resnet(), tmp_path / "teacher"
    teacher.config.id2label = {0: "c", 1: "a", 2: "b"}
    alone = LayeredLoss(stages=[1, 2, 3], divergence_weight=0.0, feature_weight=0.0, keep_heads=True)
    learnt = trained(tmp_path, teacher, None, [alone], arguments={"max_steps": 2})
    learnt.save_model(str(folder))
    heads = learnt.losses["lsskd"].heads.eval()
    names = set(teacher.state_dict())
    teacher = AutoModelForImageClassification.from_pretrained(folder).eval()
    assert set(teacher.state_dict()) == names

    student = shufflenet()
    student.config.id2label = {0: "a", 1: "b", 2: "c"}
    loss = JointTeacherLoss(stages=[1, 2, 3], temperature=2.0)
    trainer = trained(tmp_path, student, teacher, {"own": loss}, arguments={"max_steps": 1})
    assert all(trainer.optimizer.state[parameter] for parameter in loss.heads.parameters())
    trainer.save_model(str(tmp_path / "student"))
    assert not (tmp_path / "student" / HEADS_FILE).exists()
    pixels = Images().pixels[:2]
    turned = torch.cat([torch.rot90(p, k, (1, 2))[None] for p in pixels for k in range(4)])
    model, order = trainer.model.eval(), [1, 2, 0]
    with torch.no_grad():
        known = trainer.teachers(turned)
        found = model(pixels, distillation={"teacher": known, "labels": torch.tensor([2, 0])})["distillation"]
        outputs = teacher(turned, output_hidden_states=True)
        expected, _ = heads(outputs.hidden_states[1:])
        expected = [head.unflatten(1, (3, 4))[:, order].flatten(1) for head in expected]
        with collecting() as features:
            logits = student(turned).logits
        own, _ = loss.heads([features[f"stage{stage}"] for stage in (1, 2, 3)])

        def divergence(student, teacher):
            target = (teacher / 2).softmax(1)
            return 4 * (target * (target.log() - (student / 2).log_softmax(1))).sum(1).mean()

        torch.testing.assert_close(found["own/joint"], sum(map(divergence, own, expected)), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found["own/logits"], divergence(logits, outputs.logits[:, order]))
    for options, message in (
        ({"stages": [1, 2]}, "are copy heads of the stages 1, 2, 3, the student's of 1, 2; accepted are the same"),
        ({"teacher_heads": str(tmp_path)}, "cannot be read .*lsskd with keep_heads writes them"),
    ):
        loss = JointTeacherLoss(**{"stages": [1, 2, 3], "heads": "light", **options})
        with pytest.raises(ValueError, match=message):
            trained(tmp_path, shufflenet(), teacher, [loss])


def test_a_recipe_trains_resumes_and_needs_no_teacher(digits_run, tmp_path):
    run = [
        *digits_run,
        "--task",
        "distillation",
        "--losses",
        "{lsskd: {stages: [1, 2], heads: light}, kd: {weight: 0}}",
    ]
    with pytest.raises(ValueError, match="--teacher is missing"):
        main([*run, "--output_dir", str(tmp_path / "none")])
    run[run.index("--losses") + 1] = "{lsskd: {stages: [1, 2], heads: light, weight: 0.5}}"
    run += [
        "--eval_strategy",
        "no",
        "--save_steps",
        "4",
        "--save_strategy",
        "steps",
        "--load_best_model_at_end",
        "false",
    ]
    main([*run, "--output_dir", str(tmp_path / "whole")])
    found = history(tmp_path / "whole", "loss", "task_loss", "lsskd/joint", "lsskd/divergence", "lsskd/features")
    np.testing.assert_allclose(found[:, 0], found[:, 1] + 0.5 * found[:, 2:].sum(1), rtol=1e-3)
    results = json.loads((tmp_path / "whole" / "all_results.json").read_text())
    assert "eval_accuracy" in results and "eval_teacher_accuracy" not in results
    names = AutoModelForImageClassification.from_pretrained(tmp_path / "whole").state_dict()
    assert not [name for name in names if "head" in name or "extractor" in name]
    checkpoint = str(tmp_path / "whole" / "checkpoint-8")
    main([*run, "--output_dir", str(tmp_path / "resumed"), "--resume_from_checkpoint", checkpoint])
    again = history(tmp_path / "resumed", "loss", "lsskd/joint")
    assert np.array_equal(again[-2:], history(tmp_path / "whole", "loss", "lsskd/joint")[-2:])


def _main_without_norms(arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layered, "light_extractors", lambda widths: [nn.Conv2d(w, widths[-1], 3) for w in widths])
        main(arguments)


@pytest.mark.thorough
def test_two_processes_learn_from_a_teacher_with_heads_as_one_does(digits_run, tmp_path):
    """Networks and heads are without batch norms, so a step is the same wherever its pictures are."""
    for name, width in (("teacher", 12), ("student", 8)):
        torch.manual_seed(width)
        config = ConvNextConfig(patch_size=2, hidden_sizes=[6, width], depths=[1, 1], num_stages=2, num_labels=10)
        ConvNextForImageClassification(config).save_pretrained(tmp_path / name)
        ConvNextImageProcessorPil(size={"shortest_edge": 16}, crop_pct=1.0).save_pretrained(tmp_path / name)
    stages = ["convnext.encoder.stages.0", "convnext.encoder.stages.1"]
    run = ["--task", "distillation", *digits_run, "--eval_strategy", "no", "--save_strategy", "no", "--max_steps", "2"]
    run += ["--load_best_model_at_end", "false", "--student_taps", *stages]
    taught, kinds = tmp_path / "taught", "{stages: [1, 2], heads: light"
    losses = f"{{lsskd: {kinds}, divergence_weight: 0, feature_weight: 0, keep_heads: true}}}}"
    _main_without_norms([*run, "--model", str(tmp_path / "teacher"), "--losses", losses, "--output_dir", str(taught)])
    run += ["--model", str(tmp_path / "student"), "--teacher", str(taught), "--teacher_taps", *stages]
    run += ["--losses", f"{{hsakd: {kinds}}}}}"]
    two, one = tmp_path / "two", tmp_path / "one"
    run_in_two(_main_without_norms, [*run, "--output_dir", str(two)])
    _main_without_norms([*run, "--per_device_train_batch_size", "16", "--output_dir", str(one)])
    names = "loss", "task_loss", "hsakd/joint", "hsakd/logits", "grad_norm"
    of_one = history(one, *names)
    assert of_one.shape == (2, 5) and (of_one > 0).all()
    np.testing.assert_allclose(history(two, *names), of_one, rtol=1e-4, atol=1e-5)


def test_student_and_heads_learn_at_rates_of_their_own(tmp_path):
    rates = {
        "learning_rate": 0.5,
        "learning_rate_factors": {"classifier": 10, "losses": 0.1, "losses.lsskd.heads.classifiers.1": 2},
    }
    trainer = trained(tmp_path, resnet(), None, [LayeredLoss(stages=[1, 2, 3])], arguments={"max_steps": 1, **rates})
    found = {id(p): group["initial_lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    model = trainer.model
    assert {found[id(p)] for p in model.student.classifier.parameters()} == {5.0}
    assert {found[id(p)] for p in model.student.resnet.parameters()} == {0.5}
    heads = model.losses["lsskd"].heads
    assert {found[id(p)] for p in heads.extractors.parameters()} == {0.05}
    assert {found[id(p)] for p in heads.classifiers[1].parameters()} == {1.0}
    with pytest.raises(
        ValueError, match="--learning_rate_factors: 'clasifier' is of no parameter; nearest: .*classifier"
    ):
        trained(
            tmp_path,
            resnet(),
            None,
            [LayeredLoss(stages=[1, 2, 3])],
            arguments={"learning_rate_factors": "{clasifier: 2}"},
        )
    with pytest.raises(
        ValueError, match="--learning_rate_factors: got 0 for classifier, accepted are positive numbers"
    ):
        DistillationTrainingArguments(output_dir=str(tmp_path), learning_rate_factors={"classifier": 0})


def test_what_cannot_be_learned_so_is_said_before_training(digits_run, tmp_path):
    out = ["--task", "distillation", "--output_dir", str(tmp_path / "refused")]
    for losses, options, message in (
        ("{lsskd: {}}", ["--mixup", "0.2"], "--mixup: the loss lsskd needs one class for each picture"),
        ("{lsskd: {stages: [2]}}", [], "stages: got \\[2\\], accepted are two or more numbers from 1, in order"),
        ("{lsskd: {heads: deep}}", [], "lsskd: heads: got 'deep', accepted are copy, light"),
        ("{lsskd: {feature_weight: -1}}", [], "weight of features: got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            main([*digits_run, *out, "--losses", losses, *options])
    flat = ResNetConfig(embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic", num_labels=3)
    with pytest.raises(ValueError, match="has no second block that keeps the width; use light heads"):
        trained(tmp_path, ResNetForImageClassification(flat), None, [LayeredLoss(stages=[1, 2])])
    with pytest.raises(ValueError, match="heads: the stages give tokens, tokens, no maps; accepted is light"):
        trained(tmp_path, vit(), None, [LayeredLoss(stages=[1, 2])])
    wide = Images()
    wide.pixels = torch.randn(8, 3, 32, 48)
    with pytest.raises(ValueError, match="rotates pictures, which have to be square; got 32×48"):
        trained(tmp_path, resnet(), None, [LayeredLoss(stages=[1, 2, 3])], train_dataset=wide)
    with pytest.raises(ValueError, match="which are no parts of one list"):
        stage_modules(resnet(), ["resnet.encoder.stages.0", "resnet.embedder"])


def test_convolutions_of_heads_begin_at_the_published_deviation():
    """Kaiming's, by the maps that a convolution makes: sqrt(2 / (width * 9))."""
    specs = [FeatureSpec((channels, 4, 4), "maps", path=f"stages.{n}") for n, channels in enumerate((16, 256))]
    torch.manual_seed(0)
    first, last = (extractor[0].weight for extractor in layered._new_heads("light", None, specs, 3).extractors)
    assert first.shape == (256, 16, 3, 3) and last.shape == (256, 256, 3, 3)
    for weight in (first, last):
        torch.testing.assert_close(weight.std().item(), (2 / (256 * 9)) ** 0.5, rtol=0.02, atol=0)


def test_heads_are_of_a_known_kind_and_of_the_network_they_were_trained_with(tmp_path):
    for loss in (LayeredLoss, JointTeacherLoss):
        with pytest.raises(ValueError, match="^heads: got 'deep', accepted are "):
            loss(stages=[1, 2], heads="deep")
    specs = [FeatureSpec((channels, 4, 4), "maps", path=f"stages.{n}") for n, channels in enumerate((4, 6))]
    teacher = SimpleNamespace(config=SimpleNamespace(num_labels=3), name_or_path=str(tmp_path))
    state = layered._new_heads("light", None, specs, 3).state_dict()
    facts = {"heads": "light", "stages": "1,2"}
    save_file(state, tmp_path / HEADS_FILE, facts)
    loaded = layered._load_heads(None, teacher, specs, [1, 2]).state_dict()
    assert loaded.keys() == state.keys() and all(torch.equal(value, state[name]) for name, value in loaded.items())
    # A file of another name, and folders of any.
    (tmp_path / "a.safetensors").mkdir()
    for place in (tmp_path / "a.safetensors" / HEADS_FILE, tmp_path / "mine.safetensors"):
        save_file({name: value + 1 for name, value in state.items()}, place, facts)
    for place in (tmp_path / "a.safetensors", tmp_path / "mine.safetensors"):
        loaded = layered._load_heads(str(place), teacher, specs, [1, 2]).state_dict()
        assert all(torch.equal(value, state[name] + 1) for name, value in loaded.items())
    with pytest.raises(ValueError, match=f"^teacher_heads: {tmp_path / 'nowhere' / HEADS_FILE} cannot be read"):
        layered._load_heads(str(tmp_path / "nowhere"), teacher, specs, [1, 2])
    teacher.config.num_labels = 4
    with pytest.raises(ValueError) as error:
        layered._load_heads(None, teacher, specs, [1, 2])
    said = str(error.value)
    assert said.startswith(f"teacher_heads: {tmp_path / HEADS_FILE} is of another network: ")
    assert "size mismatch" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("labels", [torch.zeros(2, 3), torch.zeros(2, 1)])
def test_classes_and_rotations_are_of_one_class_a_picture(labels):
    with pytest.raises(ValueError, match="^lsskd: labels are mixed or soft, accepted is one class for each picture"):
        LayeredLoss(stages=[1, 2])({}, {}, SimpleNamespace(labels=labels))


class Stages(nn.Module):
    """Two stages, the second of which is a stage of its own making."""

    def __init__(self, last):
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 6, 1), last)])


@pytest.mark.parametrize(
    "last, message",
    [
        (nn.Flatten(2), "give no maps of the last stage"),
        (nn.Conv2d(6, 5, 1), "give no maps of the last stage"),
        (nn.Linear(7, 7), "do not run"),
    ],
)
def test_copied_stages_that_make_no_maps_by_themselves_are_refused(last, message):
    specs = [FeatureSpec((4, 8, 8), "maps", path="stages.0"), FeatureSpec((6, 8, 8), "maps", path="stages.1")]
    copies = layered._copies(Stages(nn.Conv2d(6, 6, 1)), specs)
    assert all(copy.training for copy in copies)
    with pytest.raises(ValueError, match=f"^heads: copies of the stages after stages.0 {message}.*; accepted is li"):
        layered._copies(Stages(last), specs)


def test_a_stage_may_return_its_maps_within_something_else():
    class Within(nn.Module):
        def __init__(self, wrap):
            super().__init__()
            self.wrap = wrap

        def forward(self, features):
            return self.wrap(features + 1)

    ways = (lambda x: {"maps": x, "more": 0}, lambda x: (x, 0), lambda x: [x], lambda x: x)
    found = layered._FirstTensor(nn.Sequential(*map(Within, ways)))(torch.zeros(1, 2))
    assert found.tolist() == [[4.0, 4.0]]
