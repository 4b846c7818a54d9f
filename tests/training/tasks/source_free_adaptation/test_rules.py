"""Single rules of an adaptation without its source: what a round labels, measures, reports and leaves as it was."""

import logging
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers.trainer_utils import IntervalStrategy

from hf_effmodels.training.tasks.source_free_adaptation import task as adaptation
from hf_effmodels.training.tasks.source_free_adaptation import trainer as adapting
from hf_effmodels.training.tasks.source_free_adaptation.data import Targets
from hf_effmodels.training.tasks.source_free_adaptation.trainer import AdaptationTrainer

from ..recorders import Calls, Named
from ..test_rare_preparations import patched, reader
from ..test_rare_steps import bare


def test_a_sample_is_what_the_rounds_plan_says_drawn_by_its_own_numbers():
    read = []

    class Source(list):
        def read(self, number, channels):
            read.append((number, channels))
            return f"picture {number}"

    source = Source(range(5))
    dataset = SimpleNamespace(
        seed=9, source=source, num_channels=3, transform=lambda picture, rng: (picture, rng.integers(1 << 30))
    )
    targets = Targets(dataset, steps_per_round=2, batch_size=3)
    assert len(targets) == 6 and targets.pictures.tolist() == [[0, 1, 2], [3, 4, 0]]
    targets.pictures, targets.classes = np.array([[4, 4, 1], [2, 0, 3]]), np.array([[7, 7, 5], [6, 8, 8]])
    for epoch in (0, 1):
        for index in range(6):
            step, place = divmod(index, 3)
            number = int(targets.pictures[step, place])
            drawn = np.random.default_rng((9, epoch, index)).integers(1 << 30)
            assert targets[6 * epoch + index] == {
                "pixel_values": (f"picture {number}", drawn), "labels": int(targets.classes[step, place]),
                "step": step, "place": place,
            }  # fmt: skip
            assert read[-1] == (number, 3)


# A round


def labelled(monkeypatch, classes=(0, 1, 2), known=(0, 2), before=None, **options):
    """What a round has made, its trainer, and what its parts were given; of four classes of four pictures."""
    calls = Calls()
    clusters = SimpleNamespace(labels=torch.tensor([0, 1, 2, 1]), change=0.25)
    kept = torch.tensor([True, True, True, False])
    number = len(known)
    estimate = SimpleNamespace(
        classes=torch.tensor(known), mean=torch.full((number, 2), 1.0), target_mean=torch.full((number, 2), 2.0),
        std=torch.full((number, 2), 3.0),
    )  # fmt: skip
    patched(
        monkeypatch,
        adapting,
        spherical_clusters=calls.of("cluster", clusters),
        keep_confident=calls.of("keep", (kept, torch.tensor(classes))),
        estimate_source=calls.of("estimate", estimate),
    )
    settings = {
        "augmented_features": False, "cluster_tolerance": 0.1, "distance_threshold": 0.2, "std_factor": 0.3,
        "min_samples_per_class": 4, "estimate_source": True, **options,
    }  # fmt: skip
    trainer = bare(
        AdaptationTrainer,
        adaptation=SimpleNamespace(**settings),
        head=nn.Linear(2, 4),
        features=lambda epoch=None, again=False: ("features", epoch, again),
        round=before,
        rounds=[],
    )
    return trainer, calls, kept


@pytest.mark.parametrize("augmented", [True, False])
@pytest.mark.parametrize("estimates", [True, False])
def test_pictures_are_labelled_by_ones_and_measured_by_others_where_they_are_augmented(
    augmented, estimates, monkeypatch, caplog
):
    before = {"labels": torch.tensor([0, 1, 1, 1])}
    options = {"augmented_features": augmented, "estimate_source": estimates}
    trainer, calls, kept = labelled(monkeypatch, before=before, **options)
    with caplog.at_level(logging.INFO):
        found = trainer._label(5)
    first, second = (("features", 5, False), ("features", 5, True)) if augmented else [("features", None, False)] * 2
    [(clustered, how)] = calls["cluster"]
    assert clustered[0] == first and torch.equal(clustered[1], trainer.head.weight) and how == {"tolerance": 0.1}
    assert calls["keep"][0][1] == {"threshold": 0.2, "min_samples": 4}
    [(given, how)] = calls["estimate"]
    assert given[0] == second and torch.equal(given[4], trainer.head.weight) and how == {"std_factor": 0.3}
    assert given[1].tolist() == [0, 1, 2, 1] and given[2] is kept and given[3].tolist() == [0, 1, 2]
    assert {name: value.tolist() for name, value in found.items()} == {
        "epoch": 5, "labels": [0, 1, 2, 1], "kept": kept.tolist(), "classes": [0, 2],
        "mean": [[1.0 if estimates else 2.0] * 2] * 2, "std": [[3.0] * 2] * 2,
    }  # fmt: skip
    told = {"kept": 0.75, "classes": 2, "centre_change": 0.25, "labels_changed": 0.25}
    assert trainer.rounds == [{"round": 6, **told}]
    assert "round 6: left out, without enough near pictures: classes [1, 3]" in caplog.text


def test_a_first_round_changes_no_labels_and_one_class_is_too_few(monkeypatch, caplog):
    trainer, _, _ = labelled(monkeypatch, classes=(0, 1, 2, 3), known=(0, 1, 2, 3))
    trainer._label(0)
    assert [*trainer.rounds[0]] == ["round", "kept", "classes", "centre_change"] and "left out" not in caplog.text
    trainer, _, _ = labelled(monkeypatch, classes=(1,))
    with pytest.raises(ValueError, match="--distance_threshold: got 0.2, within which 1 classes have .* in round 3"):
        trainer._label(2)


@pytest.mark.parametrize("known, asked, named", [(None, 4, True), (4, 4, False), (3, 4, True)])
def test_pictures_are_labelled_once_a_round(known, asked, named, monkeypatch):
    """A round that was under way when its run ended goes on with its labels."""
    monkeypatch.setattr(AdaptationTrainer.__mro__[1], "begin_epoch", lambda self, epoch: None)
    monkeypatch.setattr(adapting, "plan_round", lambda *_, **__: ("pictures", "classes"))
    made = dict.fromkeys(("labels", "kept", "classes"), torch.zeros(1)) | {"epoch": torch.tensor(asked)}
    labelled = []
    trainer = bare(
        AdaptationTrainer,
        round=None if known is None else {**made, "epoch": torch.tensor(known)},
        _label=lambda epoch: labelled.append(epoch) or made,
        adaptation=SimpleNamespace(samples_per_class=2),
        train_dataset=SimpleNamespace(steps_per_round=2, batch_size=4),
        args=SimpleNamespace(seed=1, data_seed=None),
    )
    trainer.begin_epoch(asked)
    assert labelled == [asked] * named and trainer.train_dataset.pictures == "pictures"


# A step of several batches


def test_a_first_look_at_a_step_drops_out_what_the_second_does_and_is_not_remembered():
    torch.manual_seed(3)
    head = nn.Linear(6, 2)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop, self.head = nn.BatchNorm1d(6), nn.Dropout(0.5), head

        def forward(self, pixel_values):
            return SimpleNamespace(logits=self.head(self.drop(self.norm(pixel_values))))

    network = Network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trainer = bare(
        AdaptationTrainer,
        model=network,
        head=head,
        train_dataset=SimpleNamespace(batch_size=4),
        accelerator=SimpleNamespace(unwrap_model=lambda model: model, autocast=nullcontext),
        args=SimpleNamespace(device=torch.device("cpu"), world_size=1),
        _loss_of_step=lambda step, features, logits: step * (features.square().sum() + logits.sum()),
    )
    batches = [
        {"step": torch.tensor([2, 2]), "place": torch.tensor(place), "pixel_values": torch.randn(2, 6)}
        for place in ([3, 0], [1, 2])
    ]
    state = torch.get_rng_state()
    known = trainer._gradients_of_step(batches)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    features, logits = torch.zeros(4, 6), torch.zeros(4, 2)
    network.train()
    for batch in batches:
        seen = network.drop(network.norm(batch["pixel_values"]))
        features[batch["place"]], logits[batch["place"]] = seen.detach(), head(seen).detach()
    torch.testing.assert_close(known["features"], 4 * features)
    torch.testing.assert_close(known["logits"], torch.full((4, 2), 2.0))
    torch.testing.assert_close(known["loss"], 2 * (features.square().sum() + logits.sum()))
    assert not known["loss"].requires_grad


@pytest.mark.parametrize("processes", [1, 2])
def test_batches_of_a_step_have_their_shares_of_its_loss_and_together_its_gradient(processes):
    """A batch of three pictures and one of a single one; the mean over processes, which torch takes, makes it one."""
    torch.manual_seed(4)
    network, head, pixels = nn.Linear(5, 6), nn.Linear(6, 2), torch.randn(4, 5)

    def whole(step, features, logits):
        return step * (features.square().sum() + (features[0] * features[3]).sum() + logits.exp().prod())

    features = network(pixels)
    loss = whole(3, features, head(features))
    weights = [*network.parameters(), *head.parameters()]
    expected = torch.autograd.grad(loss, weights)
    seen = features.detach().requires_grad_(), head(features).detach().requires_grad_()
    gradients = torch.autograd.grad(whole(3, *seen), seen)
    trainer = bare(
        AdaptationTrainer,
        head=head,
        is_in_train=True,
        train_dataset=SimpleNamespace(batch_size=4),
        args=SimpleNamespace(world_size=processes),
        _step_gradients={"loss": loss.detach(), "features": gradients[0], "logits": gradients[1]},
    )

    class Model(nn.Module):
        def forward(self, pixel_values):
            return SimpleNamespace(logits=head(network(pixel_values)))

    losses = []
    for place in ([3, 0, 2], [1]):
        inputs = {"step": torch.full((len(place),), 3), "place": torch.tensor(place), "pixel_values": pixels[place]}
        losses.append(trainer.task_loss(Model().train(), inputs)[0])
    share = processes * loss.detach()
    torch.testing.assert_close(torch.stack(losses), torch.stack([share * 3 / 4, share / 4]))
    for found, of_step in zip(torch.autograd.grad(sum(losses), weights), expected, strict=True):
        torch.testing.assert_close(found, processes * of_step)


# What is said of a run


@dataclass
class Prepared:
    trainer: object
    report: object = None
    facts: object = None
    warnings: object = None
    evaluation: object = None
    config: object = None


@pytest.mark.parametrize("measured", [True, False])
def test_an_adaptation_says_what_it_is_measured_by_and_what_it_can_be_measured_on(measured, monkeypatch):
    names = ["a", "b"]
    train = type("Source", (list,), {"names": None, "split": "mine/train"})(range(7))
    evaluation = SimpleNamespace(split="mine/test") if measured else None
    trainer = SimpleNamespace(
        network=SimpleNamespace(config=None),
        eval_dataset=SimpleNamespace(source=SimpleNamespace(labels=[0, 1, 1])),
    )
    run = Prepared(trainer, "stock", ["stock"], ["shown by its labels"], {"eval_fraction": 0.1})
    calls = Calls()
    given = SimpleNamespace(
        load_data=calls.of("load", (train, evaluation)),
        prepare_training=calls.of("prepare", run),
        class_names=lambda config: names,
    )
    patched(monkeypatch, adaptation, _TASK=given, _own_classes=lambda args: names)
    model = Named("model", model="folder", ignore_mismatched_sizes=False)
    data = Named("data")
    args = SimpleNamespace(
        random_weights=False,
        **dict.fromkeys(("mixup", "cutmix", "label_smoothing_factor"), 0.0),
        **{"label_maps": None, "bitnet": "none", "bivit": "none", "repeated_augmentation": 1},
        loss="cross_entropy",
        load_best_model_at_end=False,
        eval_strategy=IntervalStrategy.EPOCH,
    )
    found = adaptation.prepare_training(reader("settings", model, data, None, args))
    assert calls["load"] == [((data, "model.token"), {"labelled": False})]
    assert calls["prepare"][0][1]["new_head"] is False
    last = "evaluating on 3 pictures of mine/test, 2 classes" if measured else "there are no labels to evaluate by"
    assert found.facts == ["adapting to 7 pictures of mine/train, whose labels are not looked at", last]
    assert found.warnings == [] and found.trainer is trainer
    assert found.evaluation == ({"eval_fraction": 0.1} if measured else {"eval_dataset": "DATASET"})
    report = adaptation._report if measured else adaptation._report_unlabelled
    assert found.report.func is report and found.report.args == ((run, model) if measured else (run, model, data))
    assert args.eval_strategy == (IntervalStrategy.EPOCH if measured else IntervalStrategy.NO)


def test_a_classifiers_classes_are_those_of_its_revision(monkeypatch):
    calls = Calls()
    monkeypatch.setattr(adaptation, "AutoConfig", SimpleNamespace(from_pretrained=calls.of("read", "config")))
    monkeypatch.setattr(adaptation, "_TASK", SimpleNamespace(class_names=lambda config: f"names of {config}"))
    assert adaptation._own_classes(Named("model", model="some/one")) == "names of config"
    place = {"revision": "model.revision", "token": "model.token", "trust_remote_code": "model.trust_remote_code"}
    assert calls["read"] == [(("some/one",), place)]
