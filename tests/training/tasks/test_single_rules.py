"""Single rules of tasks: where a bound lies, what a process takes, means of unequal parts, what is written."""

import dataclasses
import json
import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hf_effmodels.training.data.normalization import Normalization
from hf_effmodels.training.data.stored_labels import settings_of
from hf_effmodels.training.tasks.contrastive_language_image import data as captions
from hf_effmodels.training.tasks.contrastive_language_image import evaluation as two_tower_evaluation
from hf_effmodels.training.tasks.contrastive_language_image import task as two_towers
from hf_effmodels.training.tasks.data_free_distillation import task as data_free
from hf_effmodels.training.tasks.data_free_distillation import trainer as data_free_trainer
from hf_effmodels.training.tasks.data_free_distillation.pictures import write_grid
from hf_effmodels.training.tasks.data_free_distillation.teachers import input_of
from hf_effmodels.training.tasks.data_free_distillation.trainer import DataFreeTrainer
from hf_effmodels.training.tasks.distillation import task as distillation
from hf_effmodels.training.tasks.distillation.teacher import Teachers
from hf_effmodels.training.tasks.image_classification.transforms import AugmentationArguments
from hf_effmodels.training.tasks.image_text_to_text import task as questions
from hf_effmodels.training.tasks.language_distillation import task as language_distillation
from hf_effmodels.training.tasks.masked_image_modeling import task as masked_images
from hf_effmodels.training.tasks.source_free_adaptation import task as adaptation
from hf_effmodels.training.tasks.source_free_adaptation import trainer as adaptation_trainer
from hf_effmodels.training.tasks.source_free_adaptation.data import plan_round
from hf_effmodels.training.tasks.source_free_adaptation.trainer import AdaptationTrainer
from hf_effmodels.training.tasks.visual_sequence_modeling import task as sequences

from .recorders import Calls, Named
from .test_rare_preparations import patched
from .test_rare_steps import bare

# Without data


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "number, side, columns, rows, times", [(3, 16, 3, 1, 4), (10, 30, 8, 2, 3), (70, 64, 8, 8, 1), (1, 100, 1, 1, 1)]
)
def test_generated_images_are_shown_eight_in_a_row_and_enlarged_to_sixty_four_pixels_at_least(
    number, side, columns, rows, times, channels, tmp_path
):
    """Numbers of the network become those of the picture again: x = v / 100 - 0.5."""
    normalization = Normalization((0.01,) * channels, (-0.5,) * channels)
    values = (
        torch.arange(number, dtype=torch.float32)[:, None, None, None] + 20 * torch.arange(channels)[:, None, None]
    )
    values[0] = 999.0  # beyond white
    write_grid((values / 100 - 0.5).expand(-1, -1, side, side), normalization, tmp_path / "x.png")
    cell = side * times
    with Image.open(tmp_path / "x.png") as image:
        assert image.mode == {1: "L", 3: "RGB", 4: "RGBA"}[channels]
        assert image.size == (columns * (cell + 2) - 2, rows * (cell + 2) - 2)
        pixels = np.asarray(image).reshape(image.height, image.width, channels)
    for place in range(columns * rows):
        top, left = (place // columns) * (cell + 2), (place % columns) * (cell + 2)
        shown = pixels[top : top + cell, left : left + cell]
        expected = [255] * channels if place == 0 or place >= number else [place + 20 * c for c in range(channels)]
        assert (shown == expected).all()


@pytest.mark.parametrize(
    "batch, accumulation, world, index, expected",
    [
        (4, 1, 1, 0, [(0, 4)]),
        (2, 3, 1, 0, [(0, 2), (2, 4), (4, 6)]),
        (2, 2, 2, 0, [(0, 2), (4, 6)]),
        (2, 2, 2, 1, [(2, 4), (6, 8)]),
    ],
)
def test_each_process_has_its_batches_of_a_steps_images(batch, accumulation, world, index, expected):
    args = SimpleNamespace(per_device_train_batch_size=batch, world_size=world, process_index=index)
    trainer = bare(DataFreeTrainer, args=args, batch_size=batch * accumulation * world)
    assert [(piece.start, piece.stop) for piece in trainer._pieces()] == expected


def test_a_generator_has_its_turn_after_so_many_steps_and_is_shown_after_each_epoch():
    turns, shown = [], []
    trainer = SimpleNamespace(
        distillation=SimpleNamespace(student_steps=3),
        train_generator=lambda: turns.append(state.global_step),
        write_pictures=shown.append,
    )
    callback, state = data_free_trainer._Turns(trainer), SimpleNamespace(global_step=0, epoch=0.0)
    for step in range(1, 8):
        state.global_step = step
        callback.on_step_end(None, state, None)
    for epoch in (None, 0.2, 0.9999, 1.9999, 2.0001, 3.0):
        state.epoch = epoch
        callback.on_epoch_end(None, state, None)
    assert turns == [3, 6] and shown == [1, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("schedule, rate", [("same", 0.02 * 0.25), ("constant", 0.02)])
def test_the_generators_rate_falls_as_the_students_does_or_stays(schedule, rate):
    """The student's has fallen from 0.8 to 0.2. A gradient of ones moves a weight by the rate."""
    generator = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.2)
    trainer = bare(
        DataFreeTrainer,
        generator=generator,
        generator_optimizer=torch.optim.SGD(generator.parameters(), 7.0),
        distillation=SimpleNamespace(generator_schedule=schedule, generator_learning_rate=0.02),
        args=SimpleNamespace(learning_rate=0.8, world_size=1),
        optimizer=optimizer,
        state=SimpleNamespace(global_step=3),
        _generate=lambda which, step: generator(torch.ones(1, 1)),
        _gradient_of=torch.ones_like,
        _seen={},
        _generator_steps=0,
    )
    with pytest.MonkeyPatch.context() as inside:
        inside.setattr(DataFreeTrainer.__mro__[1], "training_step", lambda *_: None)
        trainer.training_step(None, None)
    before = generator.weight.item()
    trainer.train_generator()
    assert before - generator.weight.item() == pytest.approx(rate, rel=1e-4)
    # They are the ones that were made last, to be shown.
    assert trainer.images.item() == before and not trainer.images.requires_grad and trainer._generator_steps == 1


def test_what_a_generator_is_logged_with_is_the_mean_over_its_own_steps(monkeypatch):
    logged, checked = [], []
    monkeypatch.setattr(data_free_trainer, "check_finite", lambda *given: checked.append((dict(given[0]), *given[1:])))
    monkeypatch.setattr(DataFreeTrainer.__mro__[1], "log", lambda self, logs, start=None: logged.append(dict(logs)))
    trainer = bare(
        DataFreeTrainer,
        _seen={},
        _generator_steps=0,
        args="args",
        state=SimpleNamespace(global_step=4),
        accelerator=SimpleNamespace(reduce=lambda value, how: 2 * value),
    )
    for value in (1.0, 2.0, 6.0):
        trainer._record("generator_disagreement", torch.tensor(value))
    trainer._generator_steps = 3
    trainer.log({"eval_loss": 1.0})
    trainer.log({"loss": 1.0, "learning_rate": 0.5})
    trainer.log({"loss": 2.0})
    told = {"loss": 1.0, "learning_rate": 0.5, "generator_disagreement": 6.0}
    assert logged == [{"eval_loss": 1.0}, told, {"loss": 2.0}]
    assert checked == [({"generator_disagreement": 6.0}, 4, "args", 0.5)]


@pytest.mark.parametrize(
    "changed, message",
    [
        ({}, None),
        ({"head_weight": 0, "feature_weight": 0}, None),
        ({"head_weight": 0, "feature_weight": 0, "ensemble_weight": 0}, "--head_weight, --feature_weight, --ensemble"),
        ({"disagreement_weight": 0}, None),
        ({"disagreement_weight": 0, "statistics_weight": 0}, "--disagreement_weight, --statistics_weight: both are 0"),
        ({"max_train_samples": 5}, "--max_train_samples: nothing is trained on"),
        ({"fp16": True}, "--fp16: the generator's"),
        ({"fsdp": "full_shard"}, "--fsdp, --deepspeed"),
        ({"deepspeed": "x"}, "--fsdp, --deepspeed"),
        ({"dataset": None}, "--eval_strategy: got 'epoch', which needs --dataset"),
        (
            {"dataset": None, "eval_strategy": "no", "load_best_model_at_end": True},
            "--load_best_model_at_end: what is",
        ),
        ({"dataset": None, "eval_strategy": "no"}, None),
        ({"load_best_model_at_end": True}, None),
    ],
)
def test_what_a_training_without_data_cannot_be_asked_for_is_named(changed, message):
    from transformers.trainer_utils import IntervalStrategy

    names = ("head_weight", "feature_weight", "ensemble_weight", "disagreement_weight", "statistics_weight")
    given = {**dict.fromkeys(names, 1.0), "dataset": "x", "max_train_samples": None, "eval_strategy": "epoch"}
    given |= {"load_best_model_at_end": False, "fp16": False, "fsdp": "", "deepspeed": None, **changed}
    given["eval_strategy"] = IntervalStrategy(given["eval_strategy"])
    everything = SimpleNamespace(**given)
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        data_free._check(everything, everything, everything)


@pytest.mark.parametrize(
    "processor, side",
    [
        ({"size": {"height": 24, "width": 24}}, 24),
        ({"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 28, "width": 28}}, 28),
        ({"size": {"shortest_edge": 32}, "do_center_crop": False, "crop_size": {"height": 28, "width": 28}}, 32),
        ({"size": {"height": 24, "width": 32}}, None),
    ],
)
def test_images_of_a_network_are_as_large_as_its_processor_makes_them(processor, side, monkeypatch):
    monkeypatch.setattr(Normalization, "of", lambda processor, channels: Normalization((1.0,) * channels, (0.0,)))
    with pytest.raises(ValueError, match="--teachers: .*accepted are squares") if side is None else nullcontext():
        found = input_of(SimpleNamespace(**processor), 2)
        assert (found.size, found.num_channels) == (side, 2)


def test_teachers_are_measured_on_every_image_once_whatever_the_batches():
    """Five images in batches of two; the first teacher is right in all but the last one, the second in that alone."""

    class Data(list):
        pass

    dataset = Data({"pixel_values": torch.full((1,), float(n)), "labels": n % 2} for n in range(5))
    right = [
        lambda pixels: (nn.functional.one_hot(torch.where(pixels[:, 0] < 4, pixels[:, 0] % 2, 1).long(), 2), None),
        lambda pixels: (nn.functional.one_hot((pixels[:, 0] < 4).long() * (1 - pixels[:, 0].long() % 2), 2), None),
    ]
    trainer = SimpleNamespace(
        teachers=right,
        eval_dataset=dataset,
        args=SimpleNamespace(per_device_eval_batch_size=2, device="cpu"),
        accelerator=SimpleNamespace(autocast=nullcontext),
    )
    assert data_free._accuracies(trainer) == [0.8, 0.2]


# Adaptation


@pytest.mark.parametrize("epoch, again, first", [(None, False, None), (3, False, 2), (3, True, 3)])
@pytest.mark.parametrize("world, index, own", [(1, 0, [0, 1, 2, 3, 4]), (2, 0, [0, 1, 4]), (2, 1, [2, 3])])
def test_features_are_of_every_picture_once_by_turns_of_the_processes(epoch, again, first, world, index, own):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(2, 3)

        def forward(self, pixel_values):
            modes.append(self.training)
            return self.head(pixel_values)

    network, modes, read, drawn, reduced = Network().train(), [], [], [], []

    def picture(number, channels):
        read.append((number, channels))
        return torch.tensor([number + 1.0, 10.0])

    def transform(picture, rng):
        drawn.append(rng.integers(1 << 30))
        return picture

    def reduce(values, how):
        reduced.append(how)
        return values

    trainer = bare(
        AdaptationTrainer,
        model=network,
        head=network.head,
        _unaugmented=lambda picture: picture,
        train_dataset=SimpleNamespace(source=Source(5, picture), num_channels=3, transform=transform),
        args=SimpleNamespace(
            per_device_eval_batch_size=2, device="cpu", process_index=index, world_size=world, seed=9, data_seed=7
        ),
        accelerator=SimpleNamespace(unwrap_model=lambda model: model, autocast=nullcontext, reduce=reduce),
    )
    found = trainer.features(epoch, again)
    expected = torch.zeros(5, 2)
    expected[own] = torch.tensor([[number + 1.0, 10.0] for number in own])
    assert torch.equal(found, expected) and read == [(number, 3) for number in own]
    assert not any(modes) and network.training and reduced == (["sum"] if world > 1 else [])
    numbers = [] if epoch is None else [np.random.default_rng((7, first, 3, n)).integers(1 << 30) for n in own]
    assert drawn == numbers


def test_each_step_of_each_round_draws_its_own_source_and_each_round_its_own_pictures(monkeypatch):
    """And a run that goes on from its middle draws what it would have drawn."""
    drawn = {"source": {}, "pictures": {}}

    class Estimate:
        def __init__(self, *parts):
            pass

        def sample(self, classes, count, generator):
            drawn["source"][seed, epoch, step] = generator.initial_seed()
            return torch.zeros(count, 2)

    def plan(labels, kept, classes, seed, **_):
        drawn["pictures"][seed] = np.random.default_rng(seed).integers(1 << 60)
        return None, np.array([[0, 0, 1, 1]] * 2)

    patched(monkeypatch, adaptation_trainer, SourceEstimate=Estimate, plan_round=plan)
    monkeypatch.setattr(adaptation_trainer, "contrastive_domain_discrepancy", lambda *_: {"loss": 1.0})
    monkeypatch.setattr(AdaptationTrainer.__mro__[1], "begin_epoch", lambda self, epoch: None)
    for seed, epoch in ((7, 0), (7, 1), (7, 2), (8, 0)):
        known = dict.fromkeys(("labels", "kept", "classes", "mean", "std"), torch.zeros(1))
        trainer = bare(
            AdaptationTrainer,
            round={**known, "epoch": torch.tensor(epoch)},
            head=nn.Linear(2, 2),
            model=SimpleNamespace(config=SimpleNamespace(num_labels=2)),
            train_dataset=SimpleNamespace(steps_per_round=2, batch_size=4),
            adaptation=SimpleNamespace(discrepancy_weight=1, samples_per_class=2),
            args=SimpleNamespace(seed=9, data_seed=seed),
        )
        trainer.begin_epoch(epoch)
        for step in (0, 1, 0):
            before = drawn["source"].get((seed, epoch, step))
            trainer._loss_of_step(step, torch.zeros(4, 2), torch.zeros(4, 2))
            assert before in (None, drawn["source"][seed, epoch, step])
    assert len({*drawn["source"].values()}) == len(drawn["source"]) == 8
    assert len({*drawn["pictures"].values()}) == len(drawn["pictures"]) == 4


class Source:
    def __init__(self, number, read):
        self.number, self.read = number, read

    def __len__(self):
        return self.number


@pytest.mark.parametrize("saves", [True, False])
def test_an_adaptation_tells_all_pictures_and_the_mean_over_the_classes_before_and_after(saves, tmp_path, monkeypatch):
    """Three pictures of the first class, one of the second: before only the second is told, after two of the first."""
    labels = np.array([0, 0, 0, 1])
    predicted = {"before": np.array([1, 1, 1, 1]), "after": np.array([0, 0, 1, 0])}
    before = SimpleNamespace(name="before", to=lambda device: before, eval=lambda: before)
    calls = Calls()
    network = SimpleNamespace(name="after", config="its configuration")
    of_task = SimpleNamespace(
        class_names=lambda config: ["cat", "dog", "none"],
        load_classifier=calls.of("load", (before, None)),
        plot_confusion=calls.of("plot"),
    )
    patched(
        monkeypatch,
        adaptation,
        _TASK=of_task,
        _predictions=lambda model, dataset, trainer: predicted[model.name],
        has_matplotlib=lambda: True,
    )
    trainer = SimpleNamespace(
        network=network,
        rounds=[{"round": 1}],
        args=SimpleNamespace(device="cpu", should_save=saves, output_dir=str(tmp_path)),
        eval_dataset=SimpleNamespace(source=SimpleNamespace(labels=labels.tolist())),
        save_metrics=calls.of("save"),
    )
    run = SimpleNamespace(trainer=trainer, report=lambda metrics: {"eval_accuracy": 0.5, **metrics})
    results = adaptation._report(run, "arguments", {"train_loss": 1.0})
    assert calls["load"] == [(("arguments", ["cat", "dog", "none"]), {"named": False, "new_head": False})]
    expected = {"eval_accuracy_before": 0.25, "eval_class_accuracy_before": 0.5, "eval_class_accuracy": 1 / 3}
    assert results == pytest.approx({"eval_accuracy": 0.5, "train_loss": 1.0, **expected})
    if not saves:
        assert not [*tmp_path.iterdir()] and "save" not in calls and "plot" not in calls
        return
    written = json.loads((tmp_path / "adaptation.json").read_text())
    assert written == {
        "before": {"accuracy": 0.25, "of_class": {"cat": 0.0, "dog": 1.0}},
        "after": {"accuracy": 0.5, "of_class": {"cat": pytest.approx(2 / 3), "dog": 0.0}},
        "rounds": [{"round": 1}],
    }
    [(plotted, _)] = calls["plot"]
    assert plotted[0] is predicted["before"] and plotted[3] == tmp_path / "confusion_matrix_before.png"
    assert calls["save"] == [(("eval", {k: v for k, v in results.items() if k.startswith("eval_")}), {})]


@pytest.mark.parametrize(
    "batch, each, kept_of_class, sizes",
    [(6, 3, {0: 9, 1: 9, 2: 9}, [3, 3]), (7, 2, {0: 9, 1: 9}, [4, 3]), (6, 3, {0: 2, 5: 3}, [3, 3])],
)
def test_a_round_takes_the_pictures_that_are_kept_and_some_twice_only_where_it_must(batch, each, kept_of_class, sizes):
    labels = np.repeat([*kept_of_class], 12)
    kept = np.zeros(len(labels), bool)
    for place, number in enumerate(kept_of_class.values()):
        kept[12 * place + 1 : 12 * place + 1 + number] = True
    options = {"steps": 5, "batch_size": batch, "samples_per_class": each}
    pictures, classes = plan_round(labels, kept, np.array([*kept_of_class]), **options, seed=(1, 2))
    assert kept[pictures].all() and np.array_equal(labels[pictures], classes)
    for chosen, of in zip(pictures, classes, strict=True):
        groups = list(dict.fromkeys(of.tolist()))
        assert [int((of == group).sum()) for group in groups] == sizes
        assert of.tolist() == [group for group, size in zip(groups, sizes, strict=True) for _ in range(size)]
        for group, size in zip(groups, sizes, strict=True):
            different = len(set(chosen[of == group].tolist()))
            assert different == size or kept_of_class[group] < size
    again = plan_round(labels, kept, np.array([*kept_of_class]), **options, seed=(1, 2))
    other = plan_round(labels, kept, np.array([*kept_of_class]), **options, seed=(1, 3))
    assert np.array_equal(again[0], pictures) and not np.array_equal(other[0], pictures)


# Distillation


@pytest.mark.parametrize("saves", [True, False])
@pytest.mark.parametrize("taught", [True, False])
@pytest.mark.parametrize("novel", [None, "new classes"])
def test_a_distillation_reports_what_the_teacher_tells_and_what_new_classes_show(saves, taught, novel, monkeypatch):
    calls = Calls()
    patched(
        monkeypatch,
        distillation,
        teacher_accuracy=calls.of("teacher", 0.75),
        _few_shot=calls.of("few_shot", {"eval_few_shot_accuracy": 0.5}),
    )
    trainer = SimpleNamespace(
        network=nn.Identity(),
        teachers=object.__new__(Teachers) if taught else "stored",
        episodes=None,
        args=SimpleNamespace(should_save=saves),
        save_metrics=calls.of("save"),
    )
    run = SimpleNamespace(trainer=trainer, report=lambda metrics: {"eval_accuracy": 0.25, **metrics})
    found = distillation._report(run, novel, "settings", {"train_loss": 1.0})
    measured = {"eval_teacher_accuracy": 0.75} if taught else {}
    measured |= {"eval_few_shot_accuracy": 0.5} if novel else {}
    assert found == {"eval_accuracy": 0.25, "train_loss": 1.0, **measured}
    assert calls.get("few_shot", []) == ([((trainer, novel, "settings"), {})] if novel else [])
    kept = {"eval_accuracy": 0.25, **measured}
    assert calls.get("save", []) == ([(("eval", kept), {})] if saves and measured else [])


@pytest.mark.parametrize("loss, perplexity", [(math.log(3), 3.0), (699.0, math.exp(699)), (701.0, math.inf)])
def test_a_teacher_of_language_is_told_by_its_perplexity(loss, perplexity, monkeypatch):
    order, calls = [], Calls()
    monkeypatch.setattr(language_distillation, "teacher_loss", lambda trainer: order.append("teacher") or loss)
    trainer = SimpleNamespace(
        drop_projections=lambda: order.append("drop"),
        args=SimpleNamespace(should_save=True),
        save_metrics=calls.of("save"),
    )
    run = SimpleNamespace(trainer=trainer, report=lambda metrics: order.append("report") or {"eval_perplexity": 2.0})
    found = language_distillation._report(run, {})
    # What is saved and evaluated is the student alone; its card tells what the teacher has reached.
    assert order == ["drop", "teacher", "report"]
    assert trainer.card_facts == {"teacher_perplexity": {3.0: "3", math.inf: "inf"}.get(perplexity, "3.73115e+303")}
    assert found == {"eval_perplexity": 2.0, "eval_teacher_perplexity": pytest.approx(perplexity)}
    assert calls["save"] == [(("eval", found), {})]


def test_the_loss_of_a_teacher_of_language_is_the_mean_over_tokens_and_not_over_batches():
    """Of three texts in batches of two: the last has one token that counts, the others two each."""
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    rows = [([0, 1, 0], [-100, 1, 0]), ([1, 1, 0], [-100, 1, 1]), ([0, 0, 1], [-100, -100, 1])]
    dataset = [{"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)} for ids, labels in rows]
    batches = []

    def teacher(input_ids, use_cache):
        assert use_cache is False
        batches.append(len(input_ids))
        return SimpleNamespace(logits=logits.expand(len(input_ids), 3, 2))

    trainer = SimpleNamespace(
        eval_dataset=dataset,
        teacher=teacher,
        args=SimpleNamespace(per_device_eval_batch_size=2, device="cpu"),
        accelerator=SimpleNamespace(autocast=nullcontext),
    )
    scores = logits.log_softmax(-1)
    counted = [scores[0, 1], scores[1, 0], scores[0, 1], scores[1, 1], scores[1, 1]]
    assert language_distillation.teacher_loss(trainer) == pytest.approx(-sum(counted).item() / 5)
    assert batches == [2, 1]


# Two towers


@pytest.mark.parametrize("train, evaluation, message", [
    (8, 2, None), (7, 2, r"--per_device_train_batch_size: got 4, but train has 7 pairs: no batch is full"),
    (8, 1, "eval has 1 pair, accepted are 2 or more"),
])  # fmt: skip
def test_pairs_fill_one_step_of_all_processes_and_two_are_compared(train, evaluation, message):
    class Pairs(list):
        def __init__(self, number, split):
            super().__init__(range(number))
            self.split = split

    args = SimpleNamespace(per_device_train_batch_size=4, world_size=2)
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        two_towers._check_sizes(Pairs(train, "train"), Pairs(evaluation, "eval"), args)


@pytest.mark.parametrize("asked, most, used", [(None, 77, 77), (77, 77, 77), (5, 77, 5), (78, 77, None)])
def test_captions_are_as_long_as_is_asked_for_up_to_what_the_tower_takes(asked, most, used):
    model = SimpleNamespace(config=SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=most)))
    with (
        pytest.raises(ValueError, match="--max_length: got 78, but the text tower takes 77")
        if not used
        else nullcontext()
    ):
        assert two_towers._length(SimpleNamespace(max_length=asked), model) == used


@pytest.mark.parametrize(
    "places, longest, top_k, matching, message",
    [
        (6, 8, 6, "one_to_one", None),
        (6, 9, 6, "one_to_one", "--max_length: captions may have 7 words, but images 6 places, .* up to 8 tokens"),
        (6, 9, 6, "soft", None),
        (6, 4, 7, "soft", "--model_config: token_top_k: got 7, accepted are 1 to .* 6"),
    ],
)
def test_words_find_places_of_their_own_where_they_have_to(places, longest, top_k, matching, message):
    config = SimpleNamespace(token_top_k=top_k, token_matching=matching)
    trainer = SimpleNamespace(network=SimpleNamespace(config=config))
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        two_towers._check_matching(places, trainer, longest)


@pytest.mark.parametrize(
    "processor, found",
    [
        ({"size": {"height": 24, "width": 32}}, (24, 32)),
        ({"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 28, "width": 36}}, (28, 36)),
        ({"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"shortest_edge": 30}}, (30, 30)),
        ({"size": {"shortest_edge": 40}, "do_center_crop": False, "crop_size": {"height": 28, "width": 28}}, None),
        ({"size": {"shortest_edge": 40}}, None),
    ],
)
def test_images_of_two_towers_are_as_large_as_the_processor_makes_them(processor, found):
    with pytest.raises(ValueError, match="images of no fixed size") if found is None else nullcontext():
        assert captions.input_size(SimpleNamespace(**processor)) == found


@pytest.mark.parametrize("number, group, counted", [(5, 2, [2, 2]), (5, 3, [3, 2]), (4, 4, [4]), (4, 9, [4])])
def test_the_loss_of_pairs_is_by_groups_each_by_its_size_and_one_alone_is_left_out(number, group, counted):
    rng = np.random.default_rng(0)
    images, texts = (rng.standard_normal((number, 3)) for _ in range(2))
    total, start = 0.0, 0
    for size in counted:
        scores = 2.5 * images[start : start + size] @ texts[start : start + size].T
        for of in (scores, scores.T):
            own = np.diag(of) - np.log(np.exp(of).sum(1))
            total -= own.sum() / 2
        start += size
    assert two_tower_evaluation.mean_loss(images, texts, 2.5, group) == pytest.approx(total / sum(counted))


@pytest.mark.parametrize("classes", [True, False])
def test_an_example_is_shown_with_names_or_captions_to_choose_from(classes, tmp_path):
    class Shown:
        labels = [0] if classes else None
        names, templates = tuple(f"n{n}" for n in range(12)), ("a {}", "the {}")

        def read(self, index, channels):
            assert (index, channels) == (0, 3)
            return Image.new("RGB", (2, 2))

        def texts(self, index):
            return [f"text {index}", "another"]

        def __len__(self):
            return 5

    words = two_towers._example(Shown(), tmp_path)
    file = str(tmp_path / "example.png")
    if classes:
        assert words == [file, "--template", "a {}", "--labels", *(f"n{n}" for n in range(10))]
    else:
        assert words == [file, "--template", "{}", "--labels", "text 0", "text 1", "text 2"]
    with Image.open(file) as image:
        assert image.size == (2, 2)


# Masked images


@pytest.mark.parametrize(
    "visible, batch, samples, drops, refused",
    [(1, 2, 4, False, False), (1, 2, 5, False, True), (1, 2, 5, True, False), (2, 1, 3, False, False),
     (1, 1, 4, True, True), (2, 4, 5, False, False)],
)  # fmt: skip
def test_batch_norms_have_two_visible_blocks_in_every_batch_of_an_epoch(visible, batch, samples, drops, refused):
    args = SimpleNamespace(per_device_train_batch_size=batch, dataloader_drop_last=drops)
    trainer = SimpleNamespace(args=args, train_dataset=range(samples))
    message = f"--per_device_train_batch_size: got {batch}, with which a batch of the {samples} images has one block"
    with pytest.raises(ValueError, match=message) if refused else nullcontext():
        masked_images._check_statistics(trainer, visible)


# Questions about pictures


@pytest.mark.parametrize(
    "train, save_base, elsewhere, precision, expected",
    [
        ("adapters", False, True, "float32", True),
        ("adapters", False, True, "4bit", True),
        ("adapters", True, True, "float32", False),
        ("adapters", False, False, "float32", False),
        ("adapters+vision", False, True, "float32", False),
        ("adapters", True, True, "4bit", None),
    ],
)
def test_adapters_alone_are_saved_where_the_rest_can_be_found_again(
    train, save_base, elsewhere, precision, expected, monkeypatch
):
    monkeypatch.setattr(questions, "has_base_elsewhere", lambda args: elsewhere)
    model_args = SimpleNamespace(base_precision=precision, tokenizer=None, text_model="a/model")
    args = SimpleNamespace(train=train, save_base=save_base)
    with pytest.raises(ValueError, match="--save_base: with 4bit") if expected is None else nullcontext():
        assert questions._saves_adapters_only(model_args, args) is expected


# Sequences of images


@pytest.mark.parametrize("size", [None, 24])
@pytest.mark.parametrize("went_on", [True, False])
def test_an_image_tokenizer_that_a_run_trains_is_of_all_its_pictures_or_that_of_the_run(size, went_on, monkeypatch):
    calls = Calls()

    class Task(list):
        def read(self, number):
            return self[number]

    pairs = [Task([("a0", "b0"), ("a1", "b1")]), Task([("c0", "d0")])], []
    pairs[0][0][0] = (SimpleNamespace(size=(40, 32)), "b0")

    class Tokenizer:
        from_pretrained = staticmethod(calls.of("load", "that of the run"))

        def __new__(cls, *given):
            return ("tokenizer", *given)

    patched(
        monkeypatch,
        sequences,
        DelvmImageTokenizer=Tokenizer,
        to_pixels=calls.of("pixels", lambda images, size: torch.zeros(len(images), 3, 2, 2)),
        train_image_tokenizer=calls.of("train", "a network"),
    )
    model_args = Named("model", trains_tokenizer=True, image_size=size)
    trained = "a checkpoint" if went_on else None
    found = sequences._image_tokenizer(model_args, None, SimpleNamespace(seed=5), pairs, trained)
    if went_on:
        assert found == "that of the run" and calls["load"] == [(("a checkpoint",), {"image_size": size})]
        return
    side = size or 32
    assert found == ("tokenizer", "a network", side)
    assert [given[1] for given, _ in calls["pixels"]] == [side] * 3
    [((pixels, of, seed), _)] = calls["train"]
    assert pixels.shape == (6, 3, 2, 2) and of is model_args and seed == 5


@pytest.mark.parametrize(
    "table, asked, size, expected",
    [
        (None, "a/tokenizer", 24, ("a/tokenizer", 24)),
        (None, "a/tokenizer", None, ("a/tokenizer", None)),
        ({"image_tokenizer": "its/own", "image_size": 16}, None, None, ("its/own", 16)),
        ({"image_tokenizer": "its/own", "image_size": 16}, "another", 16, ("another", 16)),
        ({"image_tokenizer": "its/own", "image_size": 16}, None, 24, "--image_size: got 24, but the table was made"),
    ],
)
def test_an_image_tokenizer_is_the_one_asked_for_or_that_of_the_table(table, asked, size, expected, monkeypatch):
    calls = Calls()
    tokenizer = SimpleNamespace(codebook=torch.zeros(2, 2))
    patched(
        monkeypatch,
        sequences,
        read_settings=lambda folder: {**table, "codes": "the codes"},
        load_image_tokenizer=calls.of("load", tokenizer),
        fingerprint=lambda parts: "the codes",
    )
    model_args = Named("model", trains_tokenizer=False, image_tokenizer=asked, image_size=size, model="llama")
    pairs = None if table else ([], [])
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            sequences._image_tokenizer(model_args, Named("data"), None, pairs, None)
        return
    assert sequences._image_tokenizer(model_args, Named("data"), None, pairs, None) is tokenizer
    assert calls["load"] == [((*expected, "model.token"), {})]


@pytest.mark.parametrize("name", ["mixup", "cutmix", "label_maps"])
def test_losses_and_labels_of_single_pictures_do_without_mixed_ones(name):
    args = SimpleNamespace(**{**dict.fromkeys(("mixup", "cutmix", "label_maps")), name: 1})
    rotating, plain = SimpleNamespace(rotates=True), SimpleNamespace(rotates=False, teacher_features=list)
    with pytest.raises(ValueError, match=f"^--{name}: the loss turned needs one class for each picture"):
        distillation._check_labels({"kd": plain, "turned": rotating}, args)
    assert distillation._check_labels({"kd": plain}, args) is None
    if name != "label_maps":
        with pytest.raises(ValueError, match=f"^--stored_labels: they are of pictures that are not mixed; --{name} 0"):
            distillation._check_for_stored({"kd": plain}, [args])


def test_stored_labels_are_logits_and_teach_no_features():
    losses = {"kd": SimpleNamespace(teacher_features=list), "fitnet": SimpleNamespace(teacher_features=lambda: ["a"])}
    with pytest.raises(ValueError, match="^--stored_labels: they are logits, and the loss fitnet needs a teacher's f"):
        distillation._check_for_stored(losses, [SimpleNamespace(mixup=0, cutmix=0)])


@pytest.mark.parametrize("name", ["mixup", "cutmix", "label_maps", "label_smoothing_factor"])
def test_episodes_have_classes_of_their_own_which_are_neither_mixed_nor_smoothed(name):
    plain = {"mixup": 0.0, "cutmix": 0.0, "label_maps": None, "label_smoothing_factor": 0.0}
    args = SimpleNamespace(**plain, repeated_augmentation=1, loss="cross_entropy")
    asked = SimpleNamespace(episodes_per_epoch=4, codec=None)
    assert distillation._check_for_episodes(asked, args) is None
    setattr(args, name, 0.1)
    with pytest.raises(ValueError, match=f"^--{name}: it does not go with --episodes_per_epoch, which has classes of"):
        distillation._check_for_episodes(asked, args)
    asked.episodes_per_epoch = None
    assert distillation._check_for_episodes(asked, args) is None


def test_labels_are_stored_for_the_seed_the_pictures_the_classes_and_how_they_are_varied():
    config = SimpleNamespace(num_labels=2, id2label={1: "b", 0: "a"})
    pictures = type("Pictures", (list,), {"seed": 7})("xyz")
    trainer = SimpleNamespace(network=SimpleNamespace(config=config), train_dataset=pictures)
    augmentation = AugmentationArguments(train_crop="none", horizontal_flip=0.25)
    found = distillation.stored_settings(trainer, [None, None, augmentation, None])
    assert found == settings_of(seed=7, samples=3, classes=["a", "b"], augmentation=dataclasses.asdict(augmentation))
    assert "0.25" in str(found)  # the content of them, not a digest


def test_an_image_is_found_by_what_is_said_of_another_in_the_same_words():
    own, turned = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[[1, 0, 2]]
    for said, share in ((["a dog", "a dog", "a cat"], 1.0), (["a dog", "a wolf", "a cat"], 1 / 3)):
        source = captions.ImageTexts([], "test", np.arange(3), captions=said)
        found = two_tower_evaluation.measure(own, turned, source, 1.0, 3)
        for way in ("image_to_text", "text_to_image"):
            assert found[f"{way}_recall_at_1"] == pytest.approx(share)
