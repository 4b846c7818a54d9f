"""Single rules of a distillation without data: who is taken for what, what is agreed on, what is told in the end."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_effmodels.training.tasks.data_free_distillation import task as data_free
from hf_effmodels.training.tasks.data_free_distillation import teachers as of_teachers
from hf_effmodels.training.tasks.data_free_distillation.data import Places
from hf_effmodels.training.tasks.data_free_distillation.teachers import load_teachers, student_processor
from hf_effmodels.training.tasks.data_free_distillation.trainer import DataFreeTrainer

from ..recorders import Calls, Named
from ..test_rare_preparations import Stop, patched, stop
from ..test_rare_steps import bare


def test_an_epoch_has_the_places_of_each_of_its_steps_in_order():
    places = Places(3, 4, seed=5)
    assert len(places) == 12
    # Those of any epoch, of which each has its own numbers.
    assert [int(places[number]["place"]) for number in range(24)] == [0, 1, 2, 3] * 6


@pytest.mark.parametrize("classes, names", [(5, ()), (6, ("top_5_accuracy",))])
def test_of_more_than_five_classes_the_five_likeliest_are_measured_too(classes, names):
    trainer = bare(DataFreeTrainer, model=SimpleNamespace(config=SimpleNamespace(num_labels=classes)))
    assert trainer.metric_names() == ("loss", "accuracy", *names, "samples")


def test_student_and_teachers_agree_where_the_means_of_their_heads_do():
    """In two of three images, though the first head alone says otherwise; in the last it is the one that agrees."""
    heads = torch.tensor([[[3.0, 2.0, 0.0], [0.0, 4.0, 0.0]]] * 2 + [[[0.0, 9.0, 0.0], [0.0, 0.0, 10.0]]])
    taught = torch.tensor([[0.0, 5.0, 1.0]] * 3)
    trainer = bare(
        DataFreeTrainer,
        images=torch.zeros(3, 1, 2, 2),
        is_in_train=True,
        teachers=[lambda pixels: (taught, None)] * 2,
        distillation=SimpleNamespace(feature_weight=0.0, head_weight=1.0, ensemble_weight=2.0),
    )
    student = nn.Identity()
    student.forward = lambda pixel_values: SimpleNamespace(head_logits=heads)
    loss, outputs = trainer.task_loss(student.train(), {"place": torch.tensor([0, 1, 2])})
    assert outputs["parts"]["agreement"].item() == pytest.approx(2 / 3) and "features" not in outputs["parts"]
    expected = (heads - taught[:, None]).abs().mean() + 2 * (heads.mean(1) - taught).abs().mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("weight, width, refused", [(0.2, 4, False), (0.0, 8, False), (0.2, 8, True)])
def test_features_are_as_wide_as_the_teachers_where_they_count(weight, width, refused):
    class Student(nn.Module):
        def forward(self, pixel_values):
            return SimpleNamespace(head_features=torch.zeros(len(pixel_values), 1, 4))

    seen = []

    class Teacher(SimpleNamespace):
        def __call__(self, pixels):
            seen.append(tuple(pixels.shape))

    teacher = Teacher(name="one", width=width)
    given = SimpleNamespace(num_channels=1, size=8)
    arguments = Student(), [teacher], given, SimpleNamespace(feature_weight=weight), None
    if refused:
        with pytest.raises(ValueError, match="--feature_weight: got 0.2, but .* teacher 1, one, are 8 wide, the stu"):
            data_free._try_out(*arguments)
    else:
        data_free._try_out(*arguments)
    assert seen == [(2, 1, 8, 8)]


@pytest.mark.parametrize("size", [None, 24])
def test_the_students_image_processor_is_the_first_teachers_and_that_stays_as_it_is(size, teachers):
    loaded = load_teachers(teachers, None, False, statistics=True)
    before = copy.deepcopy([one.processor.to_dict() for one in loaded])
    found = student_processor(loaded, size)
    assert found is not loaded[0].processor and list(found.image_mean) == [0.4]
    assert {*dict(found.size).values()} - {None} == {size or 8}
    found.image_mean = [9.0]
    assert [one.processor.to_dict() for one in loaded] == before


def test_teachers_whose_images_are_made_in_a_way_of_their_own_are_refused(teachers, monkeypatch):
    read = of_teachers.load_image_processor

    def swapped(*given, **options):
        processor = read(*given, **options)
        processor.do_flip_channel_order = True
        return processor

    monkeypatch.setattr(of_teachers, "load_image_processor", swapped)
    with pytest.raises(ValueError, match="^--teachers: its image processor swaps red and blue"):
        load_teachers(teachers, None, False, statistics=True)


@pytest.mark.parametrize("sizes", [{}, {"image_size": 12}, {"num_channels": 2}, {"image_size": 12, "num_channels": 2}])
def test_a_student_is_of_the_teachers_images_where_its_own_are_not_said(sizes, monkeypatch):
    told, blamed = [], []
    load = SimpleNamespace(load_classifier=lambda *given: told.append(given) or stop())
    patched(
        monkeypatch,
        data_free,
        _TASK=load,
        blaming_model_config=lambda *given, **options: blamed.append((given, options)) or nullcontext(),
    )
    args = Named("model", model="mhwrn4x161", model_config={"depths": [1, 1]}, num_channels=None, image_size=None)
    vars(args).update(sizes)
    loaded = [SimpleNamespace(classes=["a", "b"])] * 3
    given = SimpleNamespace(size=8, num_channels=1)
    with pytest.raises(Stop):
        data_free._student(args, SimpleNamespace(real_samples=None), loaded, given)
    own = {"image_size": 8, "num_channels": 1}
    own = {name: value for name, value in own.items() if name not in sizes}
    assert told == [(args, ["a", "b"])] and args.model_config == {**own, "depths": [1, 1], "num_heads": 3}
    assert blamed == [((args.model_config, None), {"num_channels": None, "image_size": None, **sizes})]


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("few", [True, False])
def test_what_came_of_a_training_without_data_is_told(measured, few, monkeypatch, tmp_path):
    calls = Calls()

    class Images(list):
        source = SimpleNamespace(split="somewhere/test", labels=[1, 0])

    patched(
        monkeypatch,
        data_free,
        fit_aggregation=calls.of("fit", (0.5, 0.25)),
        _batches=lambda dataset, trainer: [(torch.zeros(2, 1), None)],
        _accuracies=lambda trainer: [0.25, 0.75],
        save_results=calls.of("save", "results"),
        save_generator=calls.of("generator"),
        has_matplotlib=lambda: False,
        write_card=calls.of("card"),
        training_summary=calls.of("summary", {"optim": "sgd"}),
    )
    network = nn.Identity()
    network.forward = lambda pixel_values: SimpleNamespace(head_features=torch.ones(2, 1, 3))
    evaluated = {"eval_loss": 2.0, "eval_accuracy": 0.5, "eval_top_5_accuracy": 1.0}
    trainer = SimpleNamespace(
        network=network,
        eval_dataset=Images([0, 1]) if measured else None,
        evaluate=lambda: evaluated,
        generator="generator",
        args=SimpleNamespace(should_save=True, output_dir=str(tmp_path), device="cpu"),
        get_total_train_batch_size=lambda args: 6,
    )
    data = SimpleNamespace(dataset="mine", eval_dataset="theirs" if few else None)
    settings = SimpleNamespace(aggregation_steps=30, aggregation_learning_rate=0.1)
    given = trainer, Images([0, 1]) if few else None, "config", Named("model"), data, settings, "pixels", "train"
    assert data_free._report(*given) == "results"
    if few:
        [(fitted, options)] = calls["fit"]
        assert fitted[0] is network and fitted[1].shape == (2, 1, 3) and fitted[2].tolist() == [1, 0]
        assert options == {"steps": 30, "learning_rate": 0.1} and not network.training
    assert ("fit" in calls) == few
    metrics = {**evaluated, "eval_teacher_1_accuracy": 0.25, "eval_teacher_2_accuracy": 0.75} if measured else {}
    assert calls["save"] == [((trainer, "train", metrics), {})]
    [(told, card)] = calls["card"]
    assert told == (trainer, {"accuracy": 0.5, "top_5_accuracy": 1.0} if measured else {})
    more = ", and 2 real ones for the aggregation" if few else ""
    assert card == {
        "split": "test" if measured else "", "dataset": None, "measured_on": "theirs" if few else "mine",
        "model": "model.model", "pipeline_tag": "image-classification", "sample": "pixels",
        "training": {"training_data": f"images of a generator{more}", "optim": "sgd"},
    }  # fmt: skip
    of_real = data_free._OF_REAL_SAMPLES
    assert calls["summary"] == [(("config", data_free.HYPER_PARAMETERS + (of_real if few else ()), 6), {})]
    assert of_real == ("real_samples", "aggregation_steps", "aggregation_learning_rate")
