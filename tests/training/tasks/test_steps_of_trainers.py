"""What single methods of trainers hand on, leave out, count and do once."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from hf_effmodels.training.data.stored_labels import StoredLabels
from hf_effmodels.training.losses.joint_labels import rotated
from hf_effmodels.training.tasks.distillation import trainer as distilling
from hf_effmodels.training.tasks.distillation.episodes import Shape
from hf_effmodels.training.tasks.distillation.teacher import Teachers
from hf_effmodels.training.tasks.distillation.trainer import DistillationTrainer
from hf_effmodels.training.tasks.mask_generation import task as masks
from hf_effmodels.training.tasks.masked_image_modeling import task as masked_images
from hf_effmodels.training.tasks.object_detection.trainer import DetectionTrainer
from hf_effmodels.training.tasks.semantic_segmentation.trainer import SegmentationTrainer
from hf_effmodels.training.tasks.visual_sequence_modeling import task as sequences

from .recorders import Calls, Named
from .test_rare_steps import bare

# Detection and segmentation


@pytest.mark.parametrize("kind", [DetectionTrainer, SegmentationTrainer])
def test_a_dense_model_is_measured_once_a_step_and_anew_where_the_best_weights_are_back(kind, monkeypatch):
    network, asked, logged = nn.Linear(1, 1).train(), [], []
    monkeypatch.setattr(kind, "network", network)

    def evaluation(model):
        asked.append((model is network, model.training))
        return SimpleNamespace(metrics={"map": float(len(asked))})

    trainer = bare(
        kind,
        is_in_train=True,
        state=SimpleNamespace(global_step=5),
        args=SimpleNamespace(load_best_model_at_end=False),
        evaluated_weights=nullcontext,
        compute_loss_context_manager=nullcontext,
        evaluation=evaluation,
        log=logged.append,
        last_measured=None,
        control=None,
        _measured_at=None,
        callback_handler=SimpleNamespace(on_evaluate=lambda args, state, control, metrics: dict(metrics)),
    )
    assert trainer.evaluate() == trainer.evaluate() == {"eval_map": 1.0}
    assert asked == [(True, False)] and network.training and logged == [{"eval_map": 1.0}] * 2
    trainer.state.global_step = 6
    assert trainer.evaluate(metric_key_prefix="test") == {"test_map": 2.0} == trainer.control
    trainer.is_in_train = False
    assert trainer.evaluate() == {"eval_map": 2.0}, "the last step, asked for again by the report"
    trainer.args.load_best_model_at_end = True
    assert trainer.evaluate() == {"eval_map": 3.0} and asked == [(True, False)] * 3 and not network.training


def test_boxes_of_a_step_are_those_of_its_batches_in_all_processes_but_for_repeated_ones(monkeypatch):
    batches = [{"labels": [{"class_labels": torch.zeros(n)} for n in each]} for each in ((2, 0), (3,), (4, 1))]
    reduced = []

    def begin(self, iterator, number, device):
        return batches, number

    monkeypatch.setattr(DetectionTrainer.__mro__[1], "get_batch_samples", begin)
    trainer = bare(
        DetectionTrainer,
        args=SimpleNamespace(device="cpu"),
        idle_batch=batches[2],  # without samples left it repeats one
        accelerator=SimpleNamespace(reduce=lambda own, how: reduced.append((float(own), how)) or 3 * own),
    )
    assert trainer.get_batch_samples(iter(()), 3, "cpu") == (batches, 3)
    assert reduced == [(5.0, "sum")] and trainer._boxes_of_step == 15.0


@pytest.mark.parametrize(
    "loss, ignored, expected, passes",
    [(2.0, True, 2.0, 1), (float("nan"), True, 0.0, 2), (float("nan"), False, None, 1)],
)
def test_pictures_without_any_class_have_no_loss_and_what_is_no_number_stays_so(
    loss, ignored, expected, passes, monkeypatch
):
    seen = []

    def task_loss(self, model, inputs, number):
        seen.append((inputs["labels"].tolist(), inputs["pixel_values"], number))
        return torch.tensor(loss if len(seen) == 1 else 7.0), f"outputs {len(seen)}"

    monkeypatch.setattr(SegmentationTrainer.__mro__[1], "task_loss", task_loss)
    labels = torch.tensor([255, 255 if ignored else 1])
    found, outputs = bare(SegmentationTrainer).task_loss("model", {"labels": labels, "pixel_values": "pixels"}, 3)
    assert torch.isnan(found) if expected is None else found.item() == expected
    assert len(seen) == passes and outputs == f"outputs {passes}" and labels.tolist()[0] == 255
    assert seen[-1] == ([0, 0] if passes == 2 else labels.tolist(), "pixels", 3)


# Distillation


class Recorded:
    """A teacher that keeps what it was shown."""

    def __init__(self):
        self.seen, self.in_precision_of_run = [], False

    def __call__(self, pixels):
        assert self.in_precision_of_run
        self.seen.append(pixels)
        return {"logits": "taught"}

    @contextmanager
    def autocast(self):
        self.in_precision_of_run = True
        yield
        self.in_precision_of_run = False


def distilled(monkeypatch, epoch=1.25, step=7, max_steps=-1, planned=4.0, rotates=False, **more):
    monkeypatch.setattr(DistillationTrainer, "_model", SimpleNamespace(teacher_rotates=rotates))
    teacher = Recorded()
    given = {
        "state": SimpleNamespace(epoch=epoch, global_step=step, num_train_epochs=9),
        "args": SimpleNamespace(max_steps=max_steps, num_train_epochs=planned),
        "accelerator": SimpleNamespace(autocast=teacher.autocast),
        "episodes": None,
        "teachers": teacher,
        "_columns": [],
    }
    return bare(DistillationTrainer, **{**given, **more})


@pytest.mark.parametrize("rotates", [True, False])
@pytest.mark.parametrize("max_steps, epochs", [(-1, 4.0), (20, 9.0)])
def test_a_batch_brings_its_losses_what_they_are_computed_from(rotates, max_steps, epochs, monkeypatch):
    trainer = distilled(monkeypatch, rotates=rotates, max_steps=max_steps, _columns=["texts"])
    pixels = torch.arange(8.0).reshape(2, 1, 2, 2)
    given = {
        "pixel_values": pixels, "labels": torch.tensor([1, 2]), "index": torch.tensor([3, 4]), "own_share": "shares",
        "texts": "the texts", "sample_seed": torch.tensor([5, 6]),
    }  # fmt: skip
    found = trainer._with_teacher(given)
    assert set(found) == {"pixel_values", "labels", "distillation"} and len(given) == 6  # which stays as it is
    [seen] = trainer.teachers.seen
    assert torch.equal(seen, rotated(pixels) if rotates else pixels) and found["pixel_values"] is pixels
    known = found["distillation"]
    assert (known["index"].tolist(), known["seeds"].tolist(), known["labels"].tolist()) == ([3, 4], [5, 6], [1, 2])
    assert (known["epoch"], known["epochs"], known["own_share"]) == (1.25, epochs, "shares")
    assert known["teacher"] == {"logits": "taught"} and known["extra"] == {"texts": "the texts"}
    # Without a number of its own a sample gets one of the step.
    given.pop("sample_seed")
    assert trainer._with_teacher(given)["distillation"]["seeds"].tolist() == [7_000_024, 7_000_025]


@pytest.mark.parametrize(
    "epoch, asked", [(None, 0), (0.0, 0), (0.9999, 0), (0.9999999, 1), (1.0, 1), (2.49, 2), (2.9999999, 3)]
)
def test_stored_labels_are_those_of_the_epoch_whatever_its_fraction_is_rounded_to(epoch, asked, monkeypatch):
    """Steps are counted in parts of an epoch, whose sum may be a little less than the whole."""
    calls = []
    stored = object.__new__(StoredLabels)
    stored.logits = lambda *given: calls.append(given) or "stored"
    trainer = distilled(monkeypatch, epoch=epoch, teachers=stored)
    index, seeds = torch.tensor([3]), torch.tensor([5])
    found = trainer._with_teacher({"pixel_values": None, "labels": None, "index": index, "sample_seed": seeds})
    assert calls == [(asked, index, seeds)] and found["distillation"]["teacher"] == {"logits": "stored"}
    assert found["distillation"]["epoch"] == (epoch or 0.0)


@pytest.mark.parametrize(
    "in_train, training, taught", [(True, True, True), (True, False, False), (False, True, False)]
)
def test_a_student_that_is_evaluated_is_given_what_is_its_own(in_train, training, taught, monkeypatch):
    monkeypatch.setattr(DistillationTrainer.__mro__[1], "compute_loss", lambda self, model, inputs, *_: inputs)
    trainer = distilled(monkeypatch, is_in_train=in_train, _columns=["texts"])
    inputs = dict.fromkeys(("pixel_values", "labels", "index", "sample_seed", "own_share", "texts", "width"), 1)
    found = trainer.compute_loss(SimpleNamespace(training=training), inputs)
    assert set(found) == {"pixel_values", "labels", "width"} | ({"distillation"} if taught else set())


@pytest.mark.parametrize("training, expected", [(True, 0.25 * 6.0), (False, 6.0)])
def test_labels_weigh_less_in_training_alone(training, expected, monkeypatch):
    monkeypatch.setattr(DistillationTrainer.__mro__[1], "classification_loss", lambda self, *given: 6.0)
    trainer = bare(DistillationTrainer, labels_weight=0.25, model=SimpleNamespace(training=training))
    assert trainer.classification_loss("outputs", "labels", 3) == expected


@pytest.mark.parametrize(
    "batch, accumulation, world, number, message",
    [
        (12, 1, 1, 24, None),
        (12, 2, 1, 24, None),
        (12, 1, 2, 24, None),
        (6, 2, 2, 24, None),
        (8, 1, 1, 24, "--per_device_train_batch_size: got 8, accepted are multiples of an episode's 6 pictures"),
        (12, 1, 1, 30, "--episodes_per_epoch: got 5, accepted are multiples of the 2 of a step"),
        (6, 3, 1, 24, "--episodes_per_epoch: got 4, accepted are multiples of the 3 of a step"),
        (6, 1, 3, 24, "--episodes_per_epoch: got 4, accepted are multiples of the 3 of a step"),
    ],
)
def test_a_step_and_an_epoch_are_made_of_whole_episodes(batch, accumulation, world, number, message):
    args = SimpleNamespace(
        per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, world_size=world
    )
    shape = Shape(way=2, shot=1, query=2)
    if message is None:
        distilling._check_episodes(shape, {}, None, range(number), args)
        return
    with pytest.raises(ValueError, match=message):
        distilling._check_episodes(shape, {}, None, range(number), args)


def test_a_teacher_of_several_is_the_first_for_features_and_all_for_logits():
    logits = [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])]
    asked = []

    class One:
        def __init__(self, number):
            self.number = number

        def __call__(self, pixels):
            asked.append(self.number)
            return {"logits": logits[self.number].clone(), "stage1": self.number}

        def logits(self, pixels):
            return self(pixels)["logits"]

    found = Teachers([One(0), One(1)], [1, 3])(None)
    expected = 0.25 * logits[0].softmax(1) + 0.75 * logits[1].softmax(1)
    assert found["stage1"] == 0 and asked == [0, 1]
    torch.testing.assert_close(found["logits"].exp(), expected)
    alone = Teachers([One(1)], [0.5])(None)  # which is heard as it is
    assert torch.equal(alone["logits"], logits[1])


# Evaluations by themselves


def test_masks_are_measured_as_means_over_pictures_whatever_the_batches(monkeypatch, tmp_path, capsys):
    class Data(list):
        pass

    calls, sizes = Calls(), []
    data = Data({"index": torch.tensor(n)} for n in range(5))

    def measure(model, batch):
        numbers = batch["index"].float()
        sizes.append(len(numbers))
        return {"miou_point": numbers / 10, "miou_box": numbers / 5}

    monkeypatch.setattr(masks, "measure", measure)
    monkeypatch.setattr(masks, "write_results_file", calls.of("write", lambda file, results, call: results))
    args = SimpleNamespace(per_device_eval_batch_size=2, output="results.json")
    found = masks._evaluate(SimpleNamespace(to=lambda device: None), data, "a-sam", args, "call")
    facts = {"model": "a-sam", "dataset": "shapes over photographs", "split": "5 pictures"}
    expected = {**facts, "miou_point": pytest.approx(0.2), "miou_box": pytest.approx(0.4)}
    [(given, _)] = calls["write"]
    assert found == expected and given == ("results.json", expected, "call") and sizes == [2, 2, 1]
    assert capsys.readouterr().out == "mIoU of a point 20.00  of a box 40.00  n 5\n"


@pytest.mark.parametrize("one_mask", [True, False])
def test_masked_images_are_measured_one_by_one_where_a_batch_has_one_mask(one_mask, monkeypatch):
    sizes, calls = [], Calls()

    class Model:
        one_mask_per_batch = one_mask
        config = SimpleNamespace(scale_weights=[0.25, 0.75])

        def to(self, device):
            pass

        def __call__(self, **batch):
            sizes.append(len(batch["pixel_values"]))

        def image_losses(self, pixels, outputs):
            return torch.stack([pixels[:, 0], 2 * pixels[:, 0]], dim=1)

    class Data(list):
        source = SimpleNamespace(split="mine/test")

    data = Data({"pixel_values": torch.tensor([float(n)]), "noise": torch.zeros(1)} for n in range(5))
    monkeypatch.setattr(masked_images, "write_results_file", calls.of("write", lambda file, results, call: results))
    args = SimpleNamespace(per_device_eval_batch_size=2, dataloader_num_workers=0, output="results.json")
    found = masked_images._evaluate(Model(), data, "a-model", "mine", args, "call")
    assert sizes == ([1] * 5 if one_mask else [2, 2, 1])
    assert found == {
        "model": "a-model", "dataset": "mine", "split": "mine/test", "samples": 5,
        "loss": pytest.approx(0.25 * 2 + 0.75 * 4), "loss_scale_1": pytest.approx(2), "loss_scale_2": pytest.approx(4),
    }  # fmt: skip
    assert calls["write"][0][0][0] == "results.json" and calls["write"][0][0][2] == "call"


# Sequences of images


@pytest.mark.parametrize("expanded", [{}, {"pose": 2}])
def test_pairs_to_train_on_are_expanded_and_those_to_evaluate_on_are_not(expanded, monkeypatch):
    calls = Calls()
    monkeypatch.setattr(sequences, "encode_rows", calls.of("encode", lambda *given: given[1].task))

    class Task(list):
        def __init__(self, task, number):
            super().__init__(range(number))
            self.task = task

    pairs = [Task("pose", 3), Task("segment", 2)], [Task("pose", 2), Task("segment", 4)]
    data = Named("data", expand=expanded)
    assert sequences._tokens("tokenizer", data, 7, pairs) == (["pose", "segment"], ["pose", "segment"])
    copies = expanded.get("pose", 0)
    assert [given for given, _ in calls["encode"]] == [
        ("tokenizer", pairs[0][0], copies, 7, range(3 * (1 + copies))),
        ("tokenizer", pairs[0][1], 0, 7, range(2)),
        ("tokenizer", pairs[1][0], 0, 7, range(2)),
        ("tokenizer", pairs[1][1], 0, 7, range(4)),
    ]


def test_tasks_of_a_table_are_limited_each_by_its_own_number(monkeypatch):
    from hf_effmodels.training.data.token_pairs import TokenPairs

    def table(folder, split):
        number = {"train": 5, "test": 4}[split]
        ids = np.arange(number)[:, None]
        return [TokenPairs(task, [f"{split}{n}" for n in range(number)], ids, 10 + ids) for task in ("a", "b")]

    monkeypatch.setattr(sequences, "read_table", table)
    data = Named("data", expand={}, task_samples={"b": 3}, max_eval_samples=2)
    train, evaluation = sequences._tokens(None, data, 0, None)
    assert [[*task.names] for task in train] == [[f"train{n}" for n in range(5)], ["train0", "train2", "train4"]]
    assert train[1].images.tolist() == [[0], [2], [4]] and train[1].answers.tolist() == [[10], [12], [14]]
    assert [[*task.names] for task in evaluation] == [["test0", "test3"]] * 2
    data.expand = {"a": 1}
    with pytest.raises(ValueError, match="--expand: a table of tokens holds its copies already"):
        sequences._tokens(None, data, 0, None)
