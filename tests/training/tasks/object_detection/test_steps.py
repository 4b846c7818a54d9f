"""What a step of detection is told: which boxes are assigned how, what a batch counts, momentum and the average."""

import math
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from hf_effmodels.training.optim.detection_schedule import DetectionSchedule
from hf_effmodels.training.tasks.object_detection import trainer as module
from hf_effmodels.training.tasks.object_detection.arguments import DetectionArguments
from hf_effmodels.training.tasks.object_detection.data import DetectionImages
from hf_effmodels.training.tasks.object_detection.trainer import DetectionTrainer, _StepSettings


def _told(epoch, atss_epochs, training=True, teacher=None, per_box=False):
    asked = []

    def model(**inputs):
        asked.append(inputs)
        return SimpleNamespace(loss="of the model")

    model.training = training
    trainer = SimpleNamespace(
        state=SimpleNamespace(epoch=epoch),
        args=SimpleNamespace(atss_epochs=atss_epochs),
        teacher=teacher,
        _loss_is_per_box=per_box,
        _share="share",
        _distilled=lambda *given: given,
    )
    inputs = {"pixel_values": 1, "labels": 2}
    loss, outputs = DetectionTrainer.task_loss(trainer, model, inputs)
    assert inputs == {"pixel_values": 1, "labels": 2} and outputs.loss == "of the model"
    return loss, asked[0]


@pytest.mark.parametrize(
    "epoch, atss_epochs, training, assigner",
    [
        (None, 0, True, "tal"),
        (None, 1, True, "atss"),
        (1.9, 2, True, "atss"),
        (2.0, 2, True, "tal"),
        (0.5, 2, False, "tal"),
    ],
)
def test_boxes_are_assigned_by_atss_in_the_first_epochs_of_training(epoch, atss_epochs, training, assigner):
    loss, inputs = _told(epoch, atss_epochs, training)
    assert loss == "of the model"
    assert inputs == {"pixel_values": 1, "labels": 2, "assigner": assigner, "share": "share"}


def test_a_taught_detector_computes_no_loss_of_its_own_and_one_of_others_takes_the_batch_alone():
    (outputs, inputs, labels, epoch), asked = _told(3.7, 9, teacher="teacher")
    assert (outputs.loss, inputs, labels, epoch) == ("of the model", {"pixel_values": 1}, 2, 3)
    assert asked == {"pixel_values": 1}
    loss, asked = _told(0.5, 9, training=False, teacher="teacher")
    assert loss == "of the model" and asked["assigner"] == "tal"
    loss, asked = _told(0.5, 9, per_box=True)
    assert loss == "of the model" and asked == {"pixel_values": 1, "labels": 2}


def test_the_loss_of_others_counts_processes_no_second_time():
    with module._boxes_of_this_process():
        assert not module.detr_loss.is_accelerate_available()
    assert module.detr_loss.is_accelerate_available()


def _begin(step, **args):
    """The settings after the beginning of a step."""
    schedule = DetectionSchedule(epochs=4, steps_per_epoch=10, warmup_epochs=1, least_warmup_steps=1)
    groups = [{"momentum": 0.5}, {}]
    ema = SimpleNamespace(decay=0.9)
    trainer = SimpleNamespace(
        _schedule=lambda: schedule, optimizer=SimpleNamespace(param_groups=groups), ema=ema if args["ema"] else None
    )
    arguments = SimpleNamespace(ema_decay=0.9, **args)
    _StepSettings(trainer).on_step_begin(arguments, SimpleNamespace(global_step=step), None)
    return groups, ema.decay


def test_the_average_forgets_less_from_step_to_step():
    for step in (0, 1, 7):
        # The average is taken after the step: its first update has the number 1.
        expected = 0.9 * (1 - math.exp(-(step + 1) / 5))
        assert _begin(step, detection_schedule=False, ema_ramp=5.0, ema=True)[1] == pytest.approx(expected)
    assert _begin(3, detection_schedule=False, ema_ramp=0.0, ema=True)[1] == 0.9
    assert _begin(3, detection_schedule=False, ema_ramp=5.0, ema=False)[1] == 0.9


def test_momentum_rises_with_the_warm_up_where_the_optimizer_has_one():
    groups, decay = _begin(5, detection_schedule=True, ema_ramp=0.0, ema=True)
    # Half-way of ten steps: between 0.8 and 0.937.
    assert groups == [{"momentum": pytest.approx((0.8 + 0.937) / 2)}, {}] and decay == 0.9
    assert _begin(5, detection_schedule=False, ema_ramp=0.0, ema=True)[0] == [{"momentum": 0.5}, {}]


@pytest.mark.parametrize(
    "per_box, of_step, boxes, world, samples, expected",
    [
        (True, 6.0, 3, 1, 4, 10 * 3 * 2 / 6),
        (True, 6.0, 0, 1, 4, 10 * 1 * 2 / 6),  # a batch without boxes is divided by one
        (True, 0.0, 0, 1, 4, "by samples"),
        (False, 6.0, 3, 1, 4, "by samples"),
        (False, 6.0, 3, 2, None, "by samples"),
        (False, 6.0, 3, 2, 4, 10 * 5 * (2 // 2) / 4),  # the five of both processes
    ],
)
def test_a_batch_counts_by_its_boxes_or_the_samples_of_all_processes(
    per_box, of_step, boxes, world, samples, expected, monkeypatch
):
    monkeypatch.setattr(module.RecipeTrainer, "_weighed_by_samples", lambda *_: "by samples")
    monkeypatch.setattr(DetectionTrainer, "_loss_is_per_box", per_box)
    trainer = object.__new__(DetectionTrainer)
    trainer._boxes_of_step, trainer.idle = of_step, False
    trainer.samples_of_step = lambda: samples
    trainer.args = SimpleNamespace(world_size=world, device="cpu")
    reduced = []
    trainer.accelerator = SimpleNamespace(reduce=lambda own, how: reduced.append((float(own), how)) or 5.0)
    labels = [{"class_labels": torch.zeros(boxes)}, {"class_labels": torch.zeros(0)}]
    inputs = {"pixel_values": torch.zeros(2, 3), "labels": labels}
    found = trainer._weighed_by_samples(10.0, inputs, 2)
    assert found == (expected if isinstance(expected, str) else pytest.approx(expected))
    assert reduced == ([(2.0, "sum")] if world == 2 and samples else [])
    if reduced:
        trainer.idle = True
        trainer._weighed_by_samples(10.0, inputs, 2)
        assert reduced[1] == (0.0, "sum")


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyError, IndexError, OSError])
def test_boxes_that_cannot_be_read_are_known_as_such(error):
    def objects(row, size):
        assert size == (1, 1)
        if row == "bad":
            raise error("of one row")
        return [[1, 2, 3, 4]], [5], [False]

    images = DetectionImages(["good", "bad"], lambda row: row, objects, ["a"], "train")
    assert images._annotation(0).tolist() == [1, 2, 3, 4, 5] and images._annotation(1) == "cannot be read"


def test_objects_that_have_become_crowds_are_others():
    """They are not trained on any more: a run that goes on has to know. Without any the mark makes no difference."""

    def known(crowd):
        boxes = [[1, 2, 3, 4], [5, 6, 7, 8]]
        picture = Image.new("RGB", (9, 9))
        return DetectionImages([0], lambda row: picture, lambda row, size: (boxes, [0, 0], crowd), ["a"], "x").facts()

    marked = [known(crowd)["boxes"] for crowd in (None, [True, False], [False, True], [True, True])]
    assert len(set(marked)) == 4 and known([False, False]) == known(None)


@pytest.mark.parametrize("head_type", ["distillation", "plain"])
@pytest.mark.parametrize(
    "epoch, epochs, share", [(0, 4, 1.0), (2, 4, 0.505), (4, 4, 0.01), (9, 4, 0.01), (0, 0.2, 1.0), (1, None, 0.01)]
)
def test_what_a_teacher_adds_has_its_weights_and_fades_to_a_hundredth(head_type, epoch, epochs, share, monkeypatch):
    """7 of the boxes and 2, 3 and 5 of classes, sides and features, each with the weights of arguments and network."""
    told = {}

    def loss(name, value):
        def compute(*given, **options):
            told[name] = (given, options)
            return torch.tensor(value)

        return compute

    foreground = torch.tensor([[True, False, True]])
    assignment = SimpleNamespace(foreground=foreground, scores=torch.arange(6.0).reshape(1, 3, 2))
    boxes = SimpleNamespace(assignment=assignment, total=lambda: torch.tensor(7.0))
    monkeypatch.setattr(module, "box_losses", lambda *given, **options: told.update(boxes=(given, options)) or boxes)
    monkeypatch.setattr(module, "class_score_distillation", loss("classes", 2.0))
    monkeypatch.setattr(module, "distribution_distillation", loss("sides", 3.0))
    monkeypatch.setattr(module, "channel_wise_distillation", loss("features", 5.0))
    regression, asked = torch.randn(1, 3, 8), []

    class Teacher:
        to = asked.append
        head = staticmethod(
            lambda maps, with_training_branches: SimpleNamespace(regression=regression * with_training_branches)
        )

        def __call__(self, **inputs):
            asked.append(inputs)
            return SimpleNamespace(logits="taught", feature_maps="taught maps")

    maps = [torch.zeros(1, 2, 4, 6), torch.zeros(1, 2, 2, 3)]
    outputs = SimpleNamespace(
        logits=torch.zeros(1, 3, 2), pred_distribution=torch.randn(1, 3, 8), pred_distances="direct", feature_maps=maps
    )
    for feature_weight in (0.0, 0.25):
        trainer = SimpleNamespace(
            args=SimpleNamespace(
                distillation_temperature=20.0, class_distillation=1.5, box_distillation=0.5,
                feature_distillation=feature_weight,
            ),
            network=SimpleNamespace(
                config=SimpleNamespace(head_type=head_type, class_loss_weight=0.2, distribution_loss_weight=4.0)
            ),
            teacher=Teacher(),
            state=SimpleNamespace(num_train_epochs=epochs),
            _share="share",
        )  # fmt: skip
        found = DetectionTrainer._distilled(trainer, outputs, {"pixel_values": 1}, "labels", epoch)
        added = 1.5 * 0.2 * 2 + 0.5 * 4 * 3 + feature_weight * 5
        assert float(found) == pytest.approx(7 + share * added)
    assert asked[:2] == [outputs.logits.device, {"pixel_values": 1}]
    direct = "direct" if head_type == "distillation" else None
    given, options = told["boxes"]
    assert options == {"direct_regression": direct, "share": "share"} and given[2:4] == ("labels", [(4, 6), (2, 3)])
    (_, taught, temperature), _ = told["classes"]
    assert (taught, temperature) == ("taught", 20.0)
    (ours, theirs, weights, temperature), _ = told["sides"]
    assert temperature == 20.0 and weights.tolist() == [0 + 1, 4 + 5]
    assert torch.equal(ours, outputs.pred_distribution[0, [0, 2]].reshape(2, 4, 2))
    assert torch.equal(theirs, regression[0, [0, 2]].reshape(2, 4, 2))
    assert told["features"][0] == (maps, "taught maps")


@pytest.mark.parametrize("epochs, planned, expected", [(7, 9, 7), (None, 9, 9), (0.5, 9, 1), (None, 0.2, 1)])
def test_the_schedule_is_the_one_that_the_arguments_say(epochs, planned, expected):
    args = SimpleNamespace(
        num_train_epochs=planned, learning_rate=0.02, final_lr_factor=0.03, detection_warmup_epochs=1.5,
        least_warmup_steps=11, warmup_bias_lr=0.4, momentum=0.5, warmup_momentum=0.6,
    )  # fmt: skip
    for steps in (5, 0):
        trainer = SimpleNamespace(args=args, state=SimpleNamespace(num_train_epochs=epochs), steps_per_epoch=steps)
        assert DetectionTrainer._schedule(trainer) == DetectionSchedule(
            expected, max(steps, 1), 0.02, 0.03, warmup_epochs=1.5, least_warmup_steps=11,
            warmup_bias_learning_rate=0.4, momentum=0.5, warmup_momentum=0.6,
        )  # fmt: skip


def _trainer(network, **given):
    args = DetectionArguments(
        output_dir="none", report_to=[], use_cpu=True, eval_strategy="no", save_strategy="no",
        load_best_model_at_end=False, optim="sgd", learning_rate=0.5, per_device_train_batch_size=2, **given,
    )  # fmt: skip
    data = [{"pixel_values": torch.zeros(1), "labels": []}] * 7
    return DetectionTrainer(model=network, args=args, train_dataset=data, evaluation=lambda network: None)


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("factors", [None, {"head": 10}])
def test_norms_weights_and_biases_have_the_rate_and_the_decay_of_their_kind(norms, factors):
    """Though there are no norms, and though a part learns faster; of an epoch of four steps, two of them warm up."""
    network = nn.Sequential()
    network.add_module("body", nn.Conv2d(1, 2, 1))
    if norms:
        network.add_module("norm", nn.BatchNorm2d(2))
    network.add_module("head", nn.Linear(2, 1))
    trainer = _trainer(
        network, detection_schedule=True, num_train_epochs=3, weight_decay=0.25, warmup_bias_lr=0.4,
        learning_rate_factors=factors, detection_warmup_epochs=0.5, least_warmup_steps=1, final_lr_factor=0.1,
    )  # fmt: skip
    trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    optimizer, schedule = trainer.create_optimizer(), trainer.create_scheduler(12)
    rates = []
    for _ in range(9):
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        rates.append({name: groups[id(p)]["lr"] for name, p in network.named_parameters()})
        optimizer.step()
        schedule.step()
    # A cosine from 1 to a tenth over three epochs, 1, 0.775, 0.325: after the warm-up that of the epoch before.
    others = [0.0, 0.25, *[0.5] * 6, 0.5 * 0.775]
    biases = [0.4, 0.45, *others[2:]]
    for name, parameter in network.named_parameters():
        times = 10 if factors and name.startswith("head") else 1
        expected = [times * rate for rate in (biases if name.endswith("bias") else others)]
        assert [step[name] for step in rates] == pytest.approx(expected), name
        decays = name in ("body.weight", "head.weight")
        assert groups[id(parameter)]["weight_decay"] == (0.25 if decays else 0.0), name


@pytest.mark.parametrize(
    "given, expected",
    [({}, False), ({"ema_ramp": 5.0, "ema_decay": 0.9}, True), ({"detection_schedule": True}, True)],
)
def test_each_step_sets_momentum_or_the_average_where_one_of_them_changes(given, expected):
    trainer = _trainer(nn.Linear(1, 1), **given)
    assert any(isinstance(one, _StepSettings) for one in trainer.callback_handler.callbacks) == expected
