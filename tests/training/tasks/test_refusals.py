"""What a task's trainer cannot do with weights in parts, or go on from, is said by the argument or the file."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from hf_effmodels.training.run.trainer import RecipeTrainer
from hf_effmodels.training.run.weights import WeightsError
from hf_effmodels.training.tasks.contrastive_language_image.trainer import ContrastiveTrainer
from hf_effmodels.training.tasks.data_free_distillation import task as data_free_task
from hf_effmodels.training.tasks.data_free_distillation.trainer import STATE_FILE, DataFreeTrainer
from hf_effmodels.training.tasks.image_classification.task import add_branches
from hf_effmodels.training.tasks.language_distillation.trainer import PROJECTIONS_FILE, LanguageDistillationTrainer
from hf_effmodels.training.tasks.source_free_adaptation.trainer import ROUND_FILE, AdaptationTrainer
from hf_effmodels.training.tasks.super_resolution.trainer import SuperResolutionTrainer

WHOLE = {"is_fsdp_enabled": False, "is_deepspeed_enabled": False}
IN_PARTS = [WHOLE | {name: True} for name in WHOLE]
NEW = {
    SuperResolutionTrainer: (
        {"objective": None, "complete": None, "evaluation": None},
        "super-resolution: FSDP and DeepSpeed are not supported",
    ),
    ContrastiveTrainer: ({}, "--fsdp, --deepspeed: a contrastive loss needs whole towers in each process."),
}


@pytest.mark.parametrize("trainer", NEW, ids=lambda trainer: trainer.__name__)
def test_trainers_that_need_whole_weights_refuse_both_ways_of_sharding(trainer, monkeypatch):
    options, message = NEW[trainer]
    for flags in (WHOLE, *IN_PARTS):
        monkeypatch.setattr(RecipeTrainer, "__init__", lambda self, flags=flags, **_: vars(self).update(flags))
        monkeypatch.setattr(RecipeTrainer, "add_callback", lambda *_: None)
        if flags is WHOLE:
            trainer(**options)
            continue
        with pytest.raises(ValueError, match=f"^{message}"):
            trainer(**options)


@pytest.mark.parametrize("flags", IN_PARTS)
def test_projections_to_a_teacher_of_another_width_need_whole_weights(flags):
    with pytest.raises(ValueError, match="^--hidden_states_weight: the teacher has another width, .* accepted is 0"):
        LanguageDistillationTrainer._project_to(SimpleNamespace(**flags), 8)


def _arguments(**changed):
    plain = {"eval_strategy": "no", "load_best_model_at_end": False, "fp16": False, "fsdp": [], "deepspeed": None}
    return SimpleNamespace(**plain | changed)


@pytest.mark.parametrize("changed", [{"fsdp": ["full_shard"]}, {"deepspeed": "zero.json"}])
def test_options_of_sharding_are_refused_where_weights_are_taken_whole(changed):
    weights = dict.fromkeys(("head", "feature", "ensemble", "disagreement", "statistics"), 1.0)
    distillation = SimpleNamespace(**{f"{name}_weight": value for name, value in weights.items()})
    data = SimpleNamespace(dataset=None, max_train_samples=None)
    data_free_task._check(distillation, data, _arguments())
    with pytest.raises(ValueError, match="^--fsdp, --deepspeed: the generator's step takes whole weights"):
        data_free_task._check(distillation, data, _arguments(**changed))
    with pytest.raises(ValueError, match="^--training_branches: .* does not go with FSDP or DeepSpeed.$"):
        add_branches(torch.nn.Linear(2, 2), SimpleNamespace(), _arguments(training_branches={"kind": "x"}, **changed))
    add_branches(torch.nn.Linear(2, 2), SimpleNamespace(), _arguments(training_branches=None, **changed))


@pytest.mark.parametrize(
    "names, message",
    [
        (("head", "feature", "ensemble"), "all are 0, nothing would be learnt"),
        (("disagreement", "statistics"), "both are 0, the generator would learn nothing"),
    ],
)
def test_a_side_without_any_loss_is_refused_and_one_loss_is_enough(names, message):
    every = ("head", "feature", "ensemble", "disagreement", "statistics")
    data = SimpleNamespace(dataset=None, max_train_samples=None)

    def check(**weights):
        weights = {f"{name}_weight": weights.get(name, 1.0) for name in every}
        data_free_task._check(SimpleNamespace(**weights), data, _arguments())

    none = dict.fromkeys(names, 0.0)
    for one in names:
        check(**none | {one: 0.5})
    options = ", ".join(f"--{name}_weight" for name in names)
    with pytest.raises(ValueError, match=f"^{options}: {message}"):
        check(**none)


LOADED = {
    LanguageDistillationTrainer: (PROJECTIONS_FILE, f"it lacks {PROJECTIONS_FILE}."),
    DataFreeTrainer: (STATE_FILE, f"it lacks {STATE_FILE}, the generator."),
    AdaptationTrainer: (ROUND_FILE, f"it lacks {ROUND_FILE}, the labels of its round."),
}


def _trainer(kind, monkeypatch):
    """A trainer of a kind that has nothing but what it reads of a checkpoint beside its model."""
    read = []
    trainer = object.__new__(kind)
    base = kind.__mro__[1]
    monkeypatch.setattr(base, "_load_from_checkpoint", lambda self, *given: read.append(given), raising=False)
    trainer.args = SimpleNamespace(device=torch.device("cpu"))
    if kind is LanguageDistillationTrainer:
        trainer.model = SimpleNamespace(projections=torch.nn.Linear(2, 2))
        trainer.accelerator = SimpleNamespace(unwrap_model=lambda model: model)
    if kind is DataFreeTrainer:
        trainer.generator = torch.nn.Linear(2, 2)
        trainer.generator_optimizer = torch.optim.Adam(trainer.generator.parameters())
    return trainer, read


@pytest.mark.parametrize("kind", LOADED, ids=lambda kind: kind.__name__)
def test_a_checkpoint_without_what_lies_beside_its_weights_is_not_gone_on_from(kind, monkeypatch, tmp_path):
    name, message = LOADED[kind]
    trainer, read = _trainer(kind, monkeypatch)
    with pytest.raises(WeightsError, match=f"^{re.escape(f'{tmp_path}: {message}')}$"):
        trainer._load_from_checkpoint(str(tmp_path), "model")
    assert read == [(str(tmp_path), "model")], "the weights are those of the checkpoint"


def test_projections_are_those_of_the_checkpoint(monkeypatch, tmp_path):
    trainer, _ = _trainer(LanguageDistillationTrainer, monkeypatch)
    kept = {"weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "bias": torch.tensor([5.0, 6.0])}
    save_file(kept, tmp_path / PROJECTIONS_FILE)
    trainer._load_from_checkpoint(str(tmp_path))
    for name, tensor in trainer.model.projections.state_dict().items():
        assert torch.equal(tensor, kept[name])
    trainer.model = SimpleNamespace()
    trainer._load_from_checkpoint(str(tmp_path / "nowhere"))  # of one width nothing lies beside the weights


def test_a_generator_goes_on_with_its_moments_and_another_one_is_refused(monkeypatch, tmp_path):
    trainer, _ = _trainer(DataFreeTrainer, monkeypatch)
    trainer.generator(torch.randn(3, 2)).square().sum().backward()
    trainer.generator_optimizer.step()
    save_file(trainer._generator_state(), tmp_path / STATE_FILE)
    other, _ = _trainer(DataFreeTrainer, monkeypatch)
    other._load_from_checkpoint(str(tmp_path))
    for one, two in zip(trainer.generator.parameters(), other.generator.parameters(), strict=True):
        assert torch.equal(one, two)
        moments = (each.generator_optimizer.state[p] for each, p in ((trainer, one), (other, two)))
        for before, after in zip(*(sorted(kept.items()) for kept in moments), strict=True):
            assert before[0] == after[0] and torch.equal(before[1], after[1])
    other.generator = torch.nn.Linear(3, 2)
    with pytest.raises(WeightsError, match=f"^{re.escape(str(tmp_path / STATE_FILE))}: Error.* size mismatch"):
        other._load_from_checkpoint(str(tmp_path))


def test_the_labels_of_a_round_are_those_of_the_checkpoint(monkeypatch, tmp_path):
    trainer, _ = _trainer(AdaptationTrainer, monkeypatch)
    labels = {"labels": torch.tensor([2, 0, 1])}
    for rounds in ([{"epoch": 1}], None):
        facts = {} if rounds is None else {"rounds": json.dumps(rounds)}
        save_file(labels, tmp_path / ROUND_FILE, metadata={"format": "pt", **facts})
        trainer._load_from_checkpoint(str(tmp_path))
        assert trainer.round.keys() == labels.keys() and torch.equal(trainer.round["labels"], labels["labels"])
        assert trainer.rounds == (rounds or [])
