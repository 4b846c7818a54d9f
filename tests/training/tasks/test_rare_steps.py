"""What trainers do in a step, a checkpoint or a preparation that a small run does not come to."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from transformers import PreTrainedTokenizerFast, ResNetModel

from hf_effmodels.training.data.seeded import SeededDataset
from hf_effmodels.training.elastic.sorted_training import SortedTraining
from hf_effmodels.training.losses.interface import DistillationLoss
from hf_effmodels.training.run.trainer import RecipeTrainer
from hf_effmodels.training.tasks.causal_lm import task as causal_lm
from hf_effmodels.training.tasks.causal_lm import throughput
from hf_effmodels.training.tasks.causal_lm.trainer import CausalLMTrainer
from hf_effmodels.training.tasks.contrastive_language_image import trainer as contrastive
from hf_effmodels.training.tasks.distillation import task as distillation_task
from hf_effmodels.training.tasks.distillation import trainer as distillation
from hf_effmodels.training.tasks.distillation.episodes import Episodes, Shape
from hf_effmodels.training.tasks.distillation.model import DistillationModel
from hf_effmodels.training.tasks.distillation.teacher import Teacher
from hf_effmodels.training.tasks.image_text_to_text import generation, reports
from hf_effmodels.training.tasks.image_text_to_text import task as image_text
from hf_effmodels.training.tasks.image_text_to_text.trainer import ImageTextToTextTrainer
from hf_effmodels.training.tasks.language_distillation.projections import ProjectedStudent
from hf_effmodels.training.tasks.language_distillation.trainer import PROJECTIONS_FILE, LanguageDistillationTrainer
from hf_effmodels.training.tasks.masked_image_modeling import models as masked_models
from hf_effmodels.training.tasks.masked_image_modeling import task as masked_task
from hf_effmodels.training.tasks.masked_image_modeling.data import MaskedImages
from hf_effmodels.training.tasks.masked_image_modeling.stages import Epochs, Stages
from hf_effmodels.training.tasks.masked_image_modeling.trainer import MaskedImageTrainer
from hf_effmodels.training.tasks.object_detection.trainer import DetectionTrainer
from hf_effmodels.training.tasks.source_free_adaptation import trainer as adaptation
from hf_effmodels.training.tasks.source_free_adaptation.trainer import ROUND_FILE, AdaptationTrainer
from hf_effmodels.training.tasks.visual_sequence_modeling import task as visual_task
from hf_effmodels.training.tasks.visual_sequence_modeling.trainer import VQVAE, VisualSequenceTrainer


def bare(kind, **attributes):
    """A trainer that has nothing but what it is asked for here."""
    trainer = object.__new__(kind)
    vars(trainer).update(attributes)
    return trainer


# Language models


@pytest.mark.parametrize(
    "name, peak",
    [
        ("NVIDIA H200", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 NVL", 835.0),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_the_peak_of_a_device_is_known_by_its_name(name, peak, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert throughput.peak_tflops(torch.device("cuda"), True) == peak
    assert throughput.peak_tflops(torch.device("cuda"), False) is None, "in float32 it is another one"
    assert throughput.peak_tflops(torch.device("cpu"), True) is None


@pytest.mark.parametrize(
    "fsdp, in_training, gathers", [(True, False, True), (True, True, False), (False, False, False)]
)
def test_weights_in_parts_are_saved_whole_but_not_in_a_checkpoint(fsdp, in_training, gathers, monkeypatch):
    saved = []
    monkeypatch.setattr(RecipeTrainer, "save_model", lambda self, *given: saved.append(given), raising=False)
    monkeypatch.setattr(CausalLMTrainer, "_save", lambda self, folder, state_dict: saved.append((folder, state_dict)))
    accelerator = SimpleNamespace(get_state_dict=lambda model: f"all of {model}")
    for should_save in (True, False):
        args = SimpleNamespace(should_save=should_save, output_dir="output")
        trainer = bare(
            CausalLMTrainer,
            is_fsdp_enabled=fsdp, is_in_train=in_training, model="model", accelerator=accelerator, args=args,
        )  # fmt: skip
        trainer.save_model()
        trainer.save_model("folder", True)
        if gathers:
            expected = [("output", "all of model"), ("folder", "all of model")] * should_save
        else:
            expected = [(None, False), ("folder", True)]
        assert saved == expected
        saved.clear()


class OfAnotherCode(PreTrainedTokenizerFast):
    """Its module is a test's."""


def test_a_model_of_this_package_is_not_trained_with_a_tokenizer_whose_code_lies_elsewhere():
    ours = object.__new__(causal_lm.CausalLMTrainer)  # any object whose class is of this package
    args = SimpleNamespace(license=None)
    stock, other = object.__new__(PreTrainedTokenizerFast), object.__new__(OfAnotherCode)
    causal_lm._check_report(ours, stock, args)
    causal_lm._check_report(object.__new__(ResNetModel), other, args)
    with pytest.raises(ValueError, match="^--tokenizer: got a OfAnotherCode, whose code lies on the Hub; "):
        causal_lm._check_report(ours, other, args)


def test_weights_that_are_not_there_yet_are_not_tried_out():
    asked = []

    class Model(nn.Linear):
        device = torch.device("cpu")

        def forward(self, input_ids):
            asked.append((input_ids.tolist(), self.training))

    blocks = [{"input_ids": torch.tensor([3, 4])}]
    with torch.device("meta"):
        causal_lm._try_forward(Model(2, 2), blocks, None)
    sharded = Model(2, 2)
    sharded.weight.data = torch.empty(0)
    causal_lm._try_forward(sharded, blocks, None)
    assert not asked
    causal_lm._try_forward(Model(2, 2), blocks, None)
    assert asked == [([[3, 4]], False)]


def test_an_experts_load_is_written_where_nothing_can_be_drawn(tmp_path):
    import json

    from hf_effmodels.training.tasks.causal_lm.reports import _write_expert_load

    _write_expert_load(torch.tensor([[0.25, 0.75], [0.1234567, 0.5]], dtype=torch.float64), tmp_path, False)
    assert json.loads((tmp_path / "expert_load.json").read_text()) == {"layers": [[0.25, 0.75], [0.123457, 0.5]]}
    assert [file.name for file in tmp_path.iterdir()] == ["expert_load.json"]


# Distilled language models


@pytest.mark.parametrize("should_save", [True, False])
@pytest.mark.parametrize("projected", [True, False])
def test_a_checkpoint_has_the_projections_beside_its_weights(projected, should_save, tmp_path, monkeypatch):
    saved = []
    base = LanguageDistillationTrainer.__mro__[1]
    monkeypatch.setattr(base, "_save_checkpoint", lambda self, *given: saved.append(given))
    model = SimpleNamespace(projections=nn.Linear(2, 3)) if projected else SimpleNamespace()
    trainer = bare(
        LanguageDistillationTrainer,
        model=model,
        accelerator=SimpleNamespace(unwrap_model=lambda model: model),
        args=SimpleNamespace(should_save=should_save),
        state=SimpleNamespace(global_step=12),
        _get_output_dir=lambda trial: str(tmp_path / trial),
    )
    for _ in range(2):  # a folder that is there already is written into
        trainer._save_checkpoint("model", "trial")
    file = tmp_path / "trial" / "checkpoint-12" / PROJECTIONS_FILE
    assert file.is_file() == (projected and should_save) and saved == [("model", "trial")] * 2
    if file.is_file():
        found = load_file(file)
        assert found.keys() == {"weight", "bias"} and torch.equal(found["weight"], model.projections.weight)


@pytest.mark.parametrize("training, in_train", [(False, True), (True, False), (False, False)])
def test_a_distilled_language_model_is_evaluated_without_its_teacher(training, in_train, monkeypatch):
    base = LanguageDistillationTrainer.__mro__[1]
    monkeypatch.setattr(base, "task_loss", lambda self, *given: given)

    def teacher(**_):
        raise AssertionError("it is not asked")

    trainer = bare(LanguageDistillationTrainer, is_in_train=in_train, teacher=teacher)
    model = SimpleNamespace(training=training)
    assert trainer.task_loss(model, {"labels": 1}, 7) == (model, {"labels": 1}, 7)


def test_checkpointing_of_activations_is_turned_on_in_the_student():
    told = []
    student = nn.Module()
    student.gradient_checkpointing_enable = lambda *given, **named: told.append((given, named))
    projected = object.__new__(ProjectedStudent)
    nn.Module.__init__(projected)
    projected.student = student
    projected.gradient_checkpointing_enable(1, gradient_checkpointing_kwargs={"use_reentrant": False})
    assert told == [((1,), {"gradient_checkpointing_kwargs": {"use_reentrant": False}})]


# Distilled classifiers


def test_a_process_spreads_a_distilled_network_as_it_spreads_the_student():
    for blocks in (["Block"], None):
        student = SimpleNamespace(_no_split_modules=blocks)
        assert DistillationModel._no_split_modules.fget(SimpleNamespace(student=student)) == blocks
    assert DistillationModel._no_split_modules.fget(SimpleNamespace(student=SimpleNamespace())) is None


def test_of_gathered_weights_those_of_the_student_are_saved(monkeypatch):
    saved = []
    base = distillation.DistillationTrainer.__mro__[1]
    monkeypatch.setattr(base, "_save", lambda self, folder, state: saved.append((self.model, folder, state)))
    for name, value in (("network", "student"), ("losses", {})):
        monkeypatch.setattr(distillation.DistillationTrainer, name, value)
    trainer = bare(distillation.DistillationTrainer, model="whole")
    trainer._save("folder", {"student.a.weight": 1, "losses.own.weight": 2, "student.student.b": 3})
    trainer._save("folder", None)
    assert saved == [("student", "folder", {"a.weight": 1, "student.b": 3}), ("student", "folder", None)]
    assert trainer.model == "whole"


@pytest.mark.parametrize("whole", [True, False])
def test_a_checkpoint_in_parts_holds_the_losses_with_the_rest(whole, monkeypatch):
    losses = nn.ModuleDict({"own": nn.Linear(1, 1)})
    for name, value in (("losses", losses), ("loads_weights_itself", whole), ("episodes", "yes"), ("cosine_scale", 3)):
        monkeypatch.setattr(distillation.DistillationTrainer, name, value, raising=False)
    state = bare(distillation.DistillationTrainer)._state_of_losses()
    assert len(state) == (3 if whole else 0)


class Loss(DistillationLoss):
    name = "mine"


def test_episodes_are_not_taught_by_stored_labels_or_several_teachers():
    shape, args = (
        Shape(2, 1, 1),
        SimpleNamespace(per_device_train_batch_size=8, gradient_accumulation_steps=1, world_size=1),
    )
    distillation._check_episodes(shape, {}, None, None, args)
    stored = object.__new__(distillation.StoredLabels)
    with pytest.raises(ValueError, match="^--stored_labels: they are of single pictures; .* name a --teacher.$"):
        distillation._check_episodes(shape, {}, stored, None, args)
    for count in (1, 2):
        teachers = object.__new__(distillation.Teachers)
        teachers.teachers = ["teacher"] * count
        if count == 1:
            distillation._check_episodes(shape, {}, teachers, None, args)
        else:
            with pytest.raises(ValueError, match="^--teacher: with --episodes_per_epoch accepted is one.$"):
                distillation._check_episodes(shape, {}, teachers, None, args)


@pytest.mark.parametrize("error", [TypeError, KeyError, IndexError, NotImplementedError])
def test_a_stream_tells_no_sizes_of_its_columns(error):
    class Stream:
        def __getitem__(self, index):
            raise error

    loss = SimpleNamespace(columns=("text",))
    assert distillation._column_shapes({"own": loss}, Stream()) == {}
    rows = [{"text": [[1, 2, 3]], "other": 1}]
    assert distillation._column_shapes({"own": loss}, rows) == {"text": (1, 3)}


@pytest.mark.parametrize(
    "max_steps, batch, samples, epochs, expected",
    [(7, 4, 28, 9, 1), (8, 4, 28, 9, 2), (-1, 4, 28, 2.5, 3), (0, 4, 28, 2, 2)],
)
def test_a_training_begins_as_many_epochs_as_its_steps_take(max_steps, batch, samples, epochs, expected):
    args = SimpleNamespace(max_steps=max_steps, num_train_epochs=epochs)
    trainer = SimpleNamespace(args=args, get_total_train_batch_size=lambda args: batch, train_dataset=range(samples))
    assert distillation_task.epochs_of(trainer) == expected


def test_a_teacher_goes_where_the_pictures_are():
    teacher = object.__new__(Teacher)
    teacher.model, teacher.factor = nn.Linear(2, 2).half(), None
    seen = teacher.see(torch.zeros(1, 3, 2, 2, device="meta"))
    assert seen.device.type == "meta" and seen.dtype == torch.float16
    assert {parameter.device.type for parameter in teacher.model.parameters()} == {"meta"}


@pytest.mark.parametrize("kind", [Episodes, MaskedImages])
def test_a_sample_by_itself_is_that_of_the_first_epoch(kind, monkeypatch):
    assert issubclass(kind, SeededDataset)
    monkeypatch.setattr(kind, "sample_of_epoch", lambda self, *given: given)
    assert object.__new__(kind).sample(5, "rng") == (0, 5, "rng")


# Detection


def test_the_scores_of_a_process_without_samples_of_its_own_count_as_nothing():
    reduced = []
    accelerator = SimpleNamespace(reduce=lambda scores, how: reduced.append((scores.tolist(), how)) or "mean")
    for idle, expected in ((False, [3.0]), (True, [0.0])):
        trainer = bare(DetectionTrainer, accelerator=accelerator, idle=idle)
        assert trainer._mean_over_processes(torch.tensor([3.0])) == "mean"
        assert reduced.pop() == (expected, "mean")


# Pictures and text


def test_a_step_without_any_answer_is_divided_by_one(monkeypatch):
    monkeypatch.setattr(RecipeTrainer, "task_loss", lambda self, model, inputs, number: number)
    trainer = bare(ImageTextToTextTrainer)
    for number, expected in ((0, 1), (1, 1), (5, 5), (None, None)):
        assert trainer.task_loss(None, {}, number) == expected
        if number is not None:
            found = trainer.task_loss(None, {}, torch.tensor(number))
            assert isinstance(found, torch.Tensor) and int(found) == expected


@pytest.mark.parametrize("marks", [True, False])
def test_which_rows_have_a_picture_is_said_where_no_token_marks_them(marks):
    encoder = SimpleNamespace(
        question=lambda sample, room: sample.tokens,
        tokenizer=SimpleNamespace(pad_token_id=9),
        processor=SimpleNamespace(use_cls_token=marks),
    )
    samples = [SimpleNamespace(tokens=[1, 2], image=None), SimpleNamespace(tokens=[3, 4, 5], image="picture")]
    found = generation._batch(samples, encoder, lambda image: torch.ones(3), 4, [0, 1], None)
    assert found["input_ids"].tolist() == [[9, 1, 2], [3, 4, 5]]
    assert found["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]
    assert found["pixel_values"].shape == (1, 3)
    assert ("image_mask" in found) != marks
    if not marks:
        assert found["image_mask"].tolist() == [False, True]
    assert generation._batch(samples[:1], encoder, None, 4, [0], None).keys() == {"input_ids", "attention_mask"}


def test_a_folder_for_peft_needs_peft(tmp_path, monkeypatch, caplog):
    import sys

    monkeypatch.setitem(sys.modules, "hf_effmodels.adapters", None)
    with caplog.at_level("INFO"):
        assert reports.save_peft_adapter(None, tmp_path / "peft") is None
    assert "peft is not installed: no folder peft" in caplog.text and not [*tmp_path.iterdir()]


def test_instructions_are_not_answered(monkeypatch):
    asked = []
    monkeypatch.setattr(image_text, "generate_answers", lambda *given, **named: asked.append(named) or ["a"])
    args = SimpleNamespace(per_device_eval_batch_size=3, bf16=False)
    for kind, expected in (("instructions", None), ("captions", ["a"])):
        monkeypatch.setattr(image_text, "resolve_format", lambda data_args, kind=kind: kind)
        monkeypatch.setattr(image_text, "NEW_TOKENS", {"captions": 5})
        data = SimpleNamespace(max_new_tokens=None)
        assert image_text._answers(None, None, None, None, data, args) == expected
    assert [(given["batch_size"], given["max_new_tokens"]) for given in asked] == [(3, 5)]


# Masked pictures


@pytest.mark.parametrize(
    "epochs, step, skips, expected",
    [
        ("known", 7, False, (2, 12)),
        ("known", 7, True, (2, 0)),
        ("known", 0, False, None),
        (None, 7, False, None),
    ],
)
def test_a_run_goes_on_within_the_epoch_of_its_step_where_batches_change(epochs, step, skips, expected, monkeypatch):
    monkeypatch.setattr(RecipeTrainer, "_init_training_state", lambda self, *given: ("stock", "stock"))
    epochs = epochs and SimpleNamespace(place=lambda step: {7: (2, 3)}[step])
    args = SimpleNamespace(ignore_data_skip=skips, gradient_accumulation_steps=4)
    trainer = bare(MaskedImageTrainer, epochs=epochs, state=SimpleNamespace(global_step=step), args=args)
    assert trainer._init_training_state(1) == (expected or ("stock", "stock"))


@pytest.mark.parametrize("sizes, factors", [((64, 32), [1, 0.5, 0.5]), ((32, 64), [1, 1, 2])])
def test_the_learning_rate_is_in_proportion_to_the_batch_of_its_stage(sizes, factors):
    """Of 64 samples an epoch has one batch of 64 or two of 32; the second epoch has the second size."""
    stages = Stages((0, 1), (16, 16), sizes)
    trainer = bare(MaskedImageTrainer, stages=stages, epochs=Epochs(stages, 64, 1, 1, 2, -1))
    scaled = trainer._in_proportion(lambda step: 3.0 - step)
    assert [scaled(step) for step in range(3)] == [(3.0 - step) * factors[step] for step in range(3)]


def test_a_schedule_that_is_no_factor_of_the_step_does_not_go_with_batches_that_change(monkeypatch):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    plateau, factors = ReduceLROnPlateau(optimizer), LambdaLR(optimizer, lambda step: 0.5)
    trainer = bare(MaskedImageTrainer, args=SimpleNamespace(lr_scheduler_type="greedy"))
    trainer._in_proportion = lambda factor: ("in proportion", factor(0))
    for scheduler in (plateau, factors):
        monkeypatch.setattr(RecipeTrainer, "create_scheduler", lambda *_, scheduler=scheduler: scheduler)
        trainer.epochs = None
        assert trainer.create_scheduler(3) is scheduler
    trainer.epochs = "known"
    assert trainer.create_scheduler(3).lr_lambdas == [("in proportion", 0.5)]
    monkeypatch.setattr(RecipeTrainer, "create_scheduler", lambda *_: plateau)
    with pytest.raises(ValueError, match="^--lr_scheduler_type: greedy does not go with --progressive_batch_sizes.$"):
        trainer.create_scheduler(3)


class Encoder(nn.Module):
    def __init__(self, *names):
        super().__init__()
        for name in names:
            setattr(self, name, nn.Parameter(torch.zeros(1)))


@pytest.mark.parametrize("kind", ["simmim", "spark"])
def test_an_encoder_that_lacks_weights_is_not_gone_on_from(kind, caplog):
    model = SimpleNamespace(encoder=Encoder("a", "b", "mask_token"), config=SimpleNamespace(model_type=kind))
    given = Encoder("a", "b", "neck")
    given.a.data.fill_(5)
    with caplog.at_level("INFO"):
        masked_models._load_encoder(model, given, "folder")
    assert model.encoder.a.item() == 5
    assert ("not of use for the encoder: neck" in caplog.text) == (kind != "spark")  # of a detector the rest is known
    with pytest.raises(ValueError, match="^--model: folder lacks weights of the encoder: b.$"):
        masked_models._load_encoder(model, Encoder("a"), "folder")


@pytest.mark.parametrize(
    "sizes, argument",
    [({"sizes": [64], "starts": [0]}, "--model"), ({"sizes": [32, 64], "starts": [0, 3]}, "--progressive_sizes")],
)
def test_pictures_of_a_size_that_a_model_does_not_take_are_refused_by_their_option(sizes, argument):
    asked = []

    class Model(nn.Module):
        def forward(self, pixel_values):
            if pixel_values.shape[-1] > 32:
                raise ValueError("too large")
            return SimpleNamespace(loss=torch.zeros(()))

    class Data:
        def __len__(self):
            return 10

        def __getitem__(self, number):
            asked.append(number)
            return {"pixel_values": torch.zeros(1, sizes["sizes"][-1] if number else sizes["sizes"][0])}

    trainer = SimpleNamespace(
        model=Model(),
        train_dataset=Data(),
        data_collator=lambda samples: samples[0],
        args=SimpleNamespace(device="cpu"),
    )
    options = {"num_channels": None, "image_size": None, "method": None, "method_config": {}}
    settings = SimpleNamespace(model="folder", model_config={}, **options)
    with pytest.raises(ValueError, match=f"^{argument}: folder takes no images of 64×64: too large$"):
        masked_task._try_out(trainer, settings, SimpleNamespace(**sizes))
    assert asked == [10 * start for start in sizes["starts"]]


# Source-free adaptation


def test_features_are_gathered_without_a_trace_in_the_batch_norms():
    norm = nn.BatchNorm1d(2, momentum=0.3)
    model = nn.Sequential(norm, nn.BatchNorm1d(2, momentum=None)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = 3 * torch.randn(8, 2) + 1
    with adaptation._kept_statistics(model):
        seen = model(inputs)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    normed = (inputs - inputs.mean(0)) / (inputs.var(0, correction=0) + norm.eps).sqrt()
    torch.testing.assert_close(seen, normed, rtol=1e-3, atol=1e-3)  # those of the batch, as in training
    with pytest.raises(ZeroDivisionError), adaptation._kept_statistics(model):
        1 / 0  # noqa: B018
    model(inputs)
    torch.testing.assert_close(norm.running_mean, 0.3 * inputs.mean(0))
    assert norm.momentum == 0.3 and model[1].momentum is None and int(norm.num_batches_tracked) == 1


def test_classes_whose_mean_feature_has_no_direction_are_told(monkeypatch):
    for name, value in (
        ("spherical_clusters", lambda *_, **__: SimpleNamespace(labels=None)),
        ("keep_confident", lambda *_, **__: (torch.ones(4), [0, 1, 2])),
        ("estimate_source", lambda *_, **__: SimpleNamespace(classes=[1])),
    ):
        monkeypatch.setattr(adaptation, name, value)
    settings = dict.fromkeys(("augmented_features", "cluster_tolerance", "distance_threshold"))
    settings |= dict.fromkeys(("min_samples_per_class", "std_factor", "estimate_source"))
    trainer = bare(
        adaptation.AdaptationTrainer,
        adaptation=SimpleNamespace(**settings),
        head=nn.Linear(2, 3),
        features=lambda *_, **__: torch.zeros(4, 2),
    )
    with pytest.raises(ValueError, match="^--model: in round 3 the mean features of 2 of 3 classes are next to zero"):
        trainer._label(2)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_checkpoint_has_the_labels_of_its_round(labelled, first, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(RecipeTrainer, "_save_checkpoint", lambda self, *given: saved.append(given))
    trainer = bare(
        AdaptationTrainer,
        round={"labels": torch.tensor([2, 0, 1]), "epoch": torch.tensor(3)} if labelled else None,
        rounds=[{"kept": 2}],
        args=SimpleNamespace(should_save=first),
        state=SimpleNamespace(global_step=7),
        _get_output_dir=lambda trial: str(tmp_path / trial),
    )
    trainer._save_checkpoint("model", "trial")
    file = tmp_path / "trial" / "checkpoint-7" / ROUND_FILE
    assert saved == [("model", "trial")] and file.is_file() == file.parent.is_dir() == (labelled and first)
    if labelled and first:
        assert {name: value.tolist() for name, value in load_file(file).items()} == {"labels": [2, 0, 1], "epoch": 3}


# Visual sentences


@pytest.mark.parametrize("keeps, first", [(True, True), (True, False), (False, True)])
def test_a_checkpoint_has_the_image_tokenizer_that_was_trained_with_it(keeps, first, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(RecipeTrainer, "_save_checkpoint", lambda self, *given: saved.append(given))
    trainer = bare(
        VisualSequenceTrainer,
        keeps_tokenizer=keeps,
        args=SimpleNamespace(should_save=first),
        state=SimpleNamespace(global_step=4),
        vqvae=SimpleNamespace(save_pretrained=saved.append),
        _get_output_dir=lambda trial: str(tmp_path / trial),
    )
    trainer._save_checkpoint("model", "trial")
    expected = [tmp_path / "trial" / "checkpoint-4" / VQVAE] if keeps and first else []
    assert saved == [*expected, ("model", "trial")]


def test_a_run_goes_on_with_the_image_tokenizer_it_has_trained(monkeypatch, tmp_path):
    loaded = []
    kind = SimpleNamespace(
        from_pretrained=lambda folder, image_size: loaded.append((folder, image_size)) or "tokenizer"
    )
    monkeypatch.setattr(visual_task, "DelvmImageTokenizer", kind)
    settings = SimpleNamespace(trains_tokenizer=True, image_size=24)
    assert visual_task._image_tokenizer(settings, None, None, ["pairs"], tmp_path) == "tokenizer"
    assert loaded == [(tmp_path, 24)]


def test_a_pipeline_that_is_trained_on_brings_its_image_tokenizer(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(visual_task, "load_image_tokenizer", lambda *given: asked.append(given) or "tokenizer")
    settings = SimpleNamespace(
        trains_tokenizer=False, image_tokenizer=None, image_size=24, model=str(tmp_path), token="mine"
    )
    with pytest.raises(ValueError, match="^--image_tokenizer is missing: "):
        visual_task._image_tokenizer(settings, None, None, ["pairs"], None)
    (tmp_path / "model_index.json").write_text("{}")
    assert visual_task._image_tokenizer(settings, None, None, ["pairs"], None) == "tokenizer"
    assert asked == [(str(tmp_path), 24, "mine")]


# Images and their captions


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 4, 2)])
def test_rows_of_all_processes_are_filled_up_to_the_longest_of_them(shape, world, monkeypatch):
    """Another process has texts of seven words; single numbers have no length."""
    asked = []

    def longest(length, op):
        asked.append((int(length), op))
        length.fill_(7)

    monkeypatch.setattr(contrastive.dist, "all_reduce", longest)
    monkeypatch.setattr(contrastive, "gather_rows", lambda values, true_gradient: (values, true_gradient))
    trainer = bare(contrastive.ContrastiveTrainer, args=SimpleNamespace(world_size=world))
    values = torch.randn(shape)
    found = trainer._gathered(values)
    if world == 1:
        assert found is values and not asked
        return
    found, true_gradient = found
    assert true_gradient is True
    if len(shape) == 1:
        assert torch.equal(found, values) and not asked
        return
    assert asked == [(4, torch.distributed.ReduceOp.MAX)] and found.shape == (3, 7, *shape[2:])
    assert torch.equal(found[:, :4], values) and not found[:, 4:].any()


@pytest.mark.parametrize("group, sizes", [(None, [5]), (5, [5]), (9, [5]), (3, [3, 2]), (2, [2, 2, 1]), (1, [1] * 5)])
def test_words_are_matched_in_groups_whose_losses_weigh_as_many_pairs(group, sizes, monkeypatch):
    told = []

    def loss(patches, words, mask, *options):
        told.append((len(patches), len(words), mask.dtype, options))
        return (patches.mean((1, 2)) + 10 * words.mean((1, 2)) + 100 * mask.float().mean(1)).mean()

    monkeypatch.setattr(contrastive, "token_matching_loss", loss)
    config = SimpleNamespace(token_top_k=2, token_matching="strict")
    trainer = SimpleNamespace(network=SimpleNamespace(config=config), args=SimpleNamespace(token_group=group))
    patches, words, mask = torch.randn(5, 4, 3, requires_grad=True), torch.randn(5, 2, 3), torch.randint(2, (5, 2))
    found = contrastive.ContrastiveTrainer._match_words(trainer, patches, words, mask, "scale")
    pairs = patches.mean((1, 2)) + 10 * words.mean((1, 2)) + 100 * mask.float().mean(1)
    torch.testing.assert_close(found, pairs.mean())
    assert told == [(size, size, torch.bool, ("scale", 2, "strict")) for size in sizes]
    found.backward()
    torch.testing.assert_close(patches.grad, torch.full_like(patches, 1 / 60))


@pytest.mark.parametrize("classes", [5, 6])
@pytest.mark.parametrize("rank, world", [(0, 1), (1, 2), (3, 4)])
def test_classes_are_told_from_all_processes_pictures(classes, rank, world, monkeypatch):
    """Each measures its own three pictures at most, and the others' right answers are added."""
    dataset, own = range(3), [*range(3)][rank::world]
    source = SimpleNamespace(class_number=lambda number: number + 1, names=["x"] * classes)
    told = {}

    class Images(list):
        pass

    images = Images(dataset)
    images.source = source
    monkeypatch.setattr(
        contrastive, "zero_shot_vectors", lambda *given: told.update(given=given) or np.ones((len(own), 2))
    )

    def accuracy(vectors, of_classes, labels):
        told.update(labels=labels.tolist(), classes=of_classes)
        return {"accuracy": 1 / len(own), "top_5_accuracy": 1.0}

    monkeypatch.setattr(contrastive, "zero_shot_accuracy", accuracy)
    trainer = bare(
        contrastive.ContrastiveTrainer,
        zero_shot=images,
        data_collator="collator",
        args=SimpleNamespace(process_index=rank, world_size=world, per_device_eval_batch_size=4, device="cpu"),
        accelerator=SimpleNamespace(reduce=lambda counts, how: counts + torch.tensor([5.0, 2.0, 3.0])),
        _class_vectors=lambda data: ("vectors of", data),
    )
    monkeypatch.setattr(contrastive.ContrastiveTrainer, "network", "network")
    found = trainer._zero_shot()
    total = 5 + len(own)
    expected = {"accuracy": (2 + bool(own)) / total, "top_5_accuracy": (3 + len(own)) / total}
    assert found == pytest.approx({name: expected[name] for name in [*expected][: 1 + (classes > 5)]})
    assert told["given"] == ("network", images, "collator", 4, (rank, world))
    if own:
        assert told["labels"] == [number + 1 for number in own] and told["classes"] == ("vectors of", images)


def test_the_factor_of_the_cosines_stays_at_a_hundred():
    for value, expected in ((4.0, 4.0), (5.0, math.log(100))):
        network = SimpleNamespace(logit_scale=nn.Parameter(torch.tensor(value)))
        contrastive._Clamp(SimpleNamespace(network=network)).on_optimizer_step(None, None, None)
        assert network.logit_scale.item() == pytest.approx(expected)


# Sub-models side by side


def test_gradients_of_sub_models_are_the_mean_over_processes(monkeypatch):
    """Another process has twice the gradient; what no sub-model has used has none."""
    asked = []

    def add(gradient, op):
        asked.append(op)
        gradient += 2 * gradient

    monkeypatch.setattr(torch.distributed, "all_reduce", add)
    model = nn.ParameterList([torch.zeros(2), torch.zeros(3)])
    model[0].grad = torch.tensor([1.0, -2.0])
    trainer = SimpleNamespace(model=model, accelerator=SimpleNamespace(num_processes=2))
    SortedTraining._average_gradients(trainer)
    assert model[0].grad.tolist() == [1.5, -3.0] and model[1].grad is None
    assert asked == [torch.distributed.ReduceOp.SUM]


@pytest.mark.parametrize("given", [True, False])
def test_a_detectors_groups_have_their_own_rates_in_whichever_optimizer(given, monkeypatch):
    told = []
    monkeypatch.setattr(RecipeTrainer, "create_scheduler", lambda self, *given: told.append(given) or "is")
    rates = {0: (0.1, 0.2, 0.4), 3: (0.2, 0.3, 0.1)}
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(6)]
    own, other = (
        torch.optim.SGD([{"params": [p], "rate": rate} for rate, p in enumerate(weights[n : n + 3])], lr=0.5)
        for n in (0, 3)
    )
    trainer = bare(
        DetectionTrainer,
        args=SimpleNamespace(detection_schedule=True, learning_rate=0.5),
        lr_scheduler=None,
        optimizer=own,
        _schedule=lambda: SimpleNamespace(learning_rates=lambda step: rates.get(step, (0.0, 0.0, 0.0))),
    )
    assert trainer.create_scheduler(9, other if given else None) == "is"
    chosen = other if given else own
    assert told == [(9, chosen)] and trainer.lr_scheduler.optimizer is chosen and trainer._created_lr_scheduler
    assert [group["lr"] for group in chosen.param_groups] == pytest.approx(rates[0])
    for _ in range(3):
        chosen.step()
        trainer.lr_scheduler.step()
    assert [group["lr"] for group in chosen.param_groups] == pytest.approx(rates[3])
    assert [group["lr"] for group in (own if given else other).param_groups] == [0.5] * 3
