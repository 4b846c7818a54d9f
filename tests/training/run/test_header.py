"""What is said and refused before a run begins, of trainers that say what is looked at and no more."""

import types
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from hf_effmodels.training.run import preflight
from hf_effmodels.training.run.header import (
    class_facts,
    class_warnings,
    header,
    multiply_adds,
    total_steps,
    warnings_of,
)
from hf_effmodels.training.run.preflight import check_trainable

ARGUMENTS = {
    **{"max_steps": -1, "num_train_epochs": 2.0, "dataloader_drop_last": False, "world_size": 1, "bf16": False},
    **{"fp16": False, "device": torch.device("cpu"), "output_dir": "out", "per_device_train_batch_size": 4},
    **{"neftune_noise_alpha": None, "gradient_checkpointing": False, "use_liger_kernel": False},
    **{"bf16_full_eval": False, "fp16_full_eval": False, "include_num_input_tokens_seen": "no"},
    **{"metric_for_best_model": None, "optim": "sgd", "layer_decay": None, "optim_args": {}},
    **{"optim_target_modules": None},
}


def trainer_of(model=None, samples=range(10), batch=4, create=lambda: None, **arguments):
    return types.SimpleNamespace(
        args=types.SimpleNamespace(**{**ARGUMENTS, **arguments}),
        accelerator=types.SimpleNamespace(unwrap_model=lambda model: model),
        model=nn.Linear(2, 3) if model is None else model,
        train_dataset=samples,
        eval_dataset=None,
        get_total_train_batch_size=lambda args: batch,
        metric_names=lambda: ("loss", "accuracy"),
        optimizer=None,
        is_fsdp_enabled=False,
        is_deepspeed_enabled=False,
        create_optimizer=create,
    )


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({}, 6),
        ({"dataloader_drop_last": True}, 4),
        ({"samples": range(3), "dataloader_drop_last": True}, 2),
        ({"samples": range(8)}, 4),
        ({"num_train_epochs": 0.4}, 2),
        ({"max_steps": 5}, 5),
        ({"max_steps": 5, "samples": iter("stream")}, 5),
        ({"samples": iter("stream")}, None),
        ({"batch": 1}, 20),
    ],
)
def test_a_run_has_so_many_steps(given, steps):
    assert total_steps(trainer_of(**given)) == steps


def test_the_header_says_model_data_and_where_it_runs():
    model = nn.Linear(2, 3)
    assert header(trainer_of(model), {"task": "t"}) == [
        "t: Linear, 0.000 M parameters",
        "training on 10 samples, evaluating on nothing",
        "cpu, float32, 4 samples a step, 6 steps; into out",
    ]
    model.bias.requires_grad_(False)
    stream = trainer_of(model, iter("stream"), batch=8, world_size=2, bf16=True)
    assert header(stream, {"task": "t", "model": "net"}) == [
        "t: Linear net, 0.000 M parameters, 0.000 M of them trained",
        "training on a stream of samples, evaluating on nothing",
        "cpu, 2 processes, bfloat16, 8 samples a step, steps as the data lasts; into out",
    ]
    frozen = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2).bfloat16().requires_grad_(False))
    assert header(trainer_of(frozen), {"task": "t"})[-1].startswith("cpu, bfloat16 and float32, 4 samples")
    assert header(trainer_of(frozen, bf16=True), {"task": "t"})[-1].startswith("cpu, bfloat16, 4 samples")
    with torch.device("meta"):
        large = nn.Linear(10**4, 10**4, bias=False)
    first, told, last = header(trainer_of(large, fp16=True), {"task": "t", "detector": "d"}, ["a fact"])
    assert first == "t: Linear d, 100 M parameters" and told == "a fact" and ", float16, " in last


def test_statistics_that_lag_are_those_of_the_norms_that_are_trained():
    norm = nn.Sequential(nn.BatchNorm1d(2, momentum=0.1), nn.BatchNorm1d(2, momentum=0.5)).eval()
    (said,) = warnings_of(trainer_of(norm), 20)
    assert said.startswith("batch norms: after 20 steps their statistics are still 12 % of") and "(29 steps" in said
    assert not norm.training
    assert warnings_of(trainer_of(norm), 29) == [] and warnings_of(trainer_of(norm, iter("stream"))) == []
    assert len(warnings_of(trainer_of(norm))) == 1
    norm[0].track_running_stats = False
    assert warnings_of(trainer_of(norm), 5) == []


def test_few_pictures_are_fewer_than_five_and_five_names_are_told():
    names = [f"c{number}" for number in range(8)]
    labels = np.repeat(np.arange(8), [5, 4, 0, 0, 0, 0, 0, 0])
    empty, few, unmeasured = class_warnings(labels, np.array([0]), names)
    assert empty.startswith("6 classes have no training sample (c2, c3, c4, c5, c6, ...): they cannot be learnt.")
    assert few.startswith("1 classes have fewer than 5 training samples (c1): ")
    assert unmeasured == "1 classes are not evaluated: there is no sample (c1)."
    assert class_warnings(np.arange(8).repeat(5), np.arange(8), names) == []
    assert class_facts("training", np.array([1, 0, 1]), names[:3]) == "training: 3 samples, 3 classes (0 to 2 each)"


def test_multiply_adds_that_cannot_be_counted_are_not_told():
    model = nn.Conv2d(3, 4, 1)
    kept = model.weight.clone()
    assert multiply_adds(model, torch.ones(3, 8, 4)) == "0.0 M multiply-adds for an image of 8 x 4"
    assert torch.equal(model.weight, kept) and model.training and model.weight.requires_grad  # a twin is counted
    assert multiply_adds(nn.Linear(5, 2), torch.ones(3, 8, 4)) == ""


class Words(nn.Module):
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(3, 2)

    def get_input_embeddings(self):
        return self.table


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"neftune_noise_alpha": 5.0}, "--neftune_noise_alpha: Linear has no embedding of tokens, whose output"),
        ({"gradient_checkpointing": True}, "--gradient_checkpointing: Linear does not support it."),
        ({"bf16_full_eval": True}, "--bf16_full_eval: Linear would be given pictures in float32; --bf16 true"),
        ({"fp16_full_eval": True}, "--fp16_full_eval: Linear would be given pictures in float32"),
        *(
            (
                {"include_num_input_tokens_seen": which},
                "--include_num_input_tokens_seen: Linear is given pictures, and no",
            )
            for which in ("all", "non_padding")
        ),
    ],
)
def test_what_is_for_texts_is_refused_of_other_models(given, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        check_trainable(trainer_of(**given))
    check_trainable(trainer_of(Words(), **given))


def test_liger_kernels_need_their_library(monkeypatch):
    monkeypatch.setattr(preflight, "is_liger_kernel_available", lambda: False)
    with pytest.raises(
        ImportError, match="^--use_liger_kernel needs the library liger-kernel: pip install liger-kern"
    ):
        check_trainable(trainer_of(use_liger_kernel=True))
    monkeypatch.setattr(preflight, "is_liger_kernel_available", lambda: True)
    check_trainable(trainer_of(use_liger_kernel=True))


def test_a_set_smaller_than_a_batch_that_would_be_left_out_is_told():
    few = partial(trainer_of, samples=range(7), dataloader_drop_last=True)
    check_trainable(few(per_device_train_batch_size=7))
    with pytest.raises(ValueError, match="^--per_device_train_batch_size: got 8, but there are 7 training samples"):
        check_trainable(few(per_device_train_batch_size=8))
    with pytest.raises(ValueError, match="size: got 4 and 2 processes, but there are 7 training samples"):
        check_trainable(few(per_device_train_batch_size=4, world_size=2))
    check_trainable(trainer_of(samples=range(7), per_device_train_batch_size=8))
    check_trainable(few(samples=iter("stream"), per_device_train_batch_size=8))


def test_the_best_model_is_by_a_metric_that_there_is():
    for name in ("accuracy", "eval_accuracy", None):
        check_trainable(trainer_of(metric_for_best_model=name))
    with pytest.raises(ValueError, match="^--metric_for_best_model: got 'eval_f1', accepted are loss, accuracy.$"):
        check_trainable(trainer_of(metric_for_best_model="eval_f1"))


def raising(error):
    def create():
        raise error

    return create


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            ImportError("no torchao\nat all"),
            ImportError,
            r"^--optim: sgd cannot be used here \(ImportError: no torchao\).$",
        ),
        (ValueError("--optim_args: got this"), ValueError, "^--optim_args: got this$"),
        (
            KeyError("lr"),
            ValueError,
            r"^--optim sgd, --layer_decay 0.5: no optimizer can be made .*\(KeyError: 'lr'\).$",
        ),
    ],
)
def test_an_optimizer_that_cannot_be_made_is_told_by_the_arguments_that_ask_for_it(error, kind, said):
    trainer = trainer_of(create=raising(error), layer_decay=0.5)
    with pytest.raises(kind, match=said):
        check_trainable(trainer)
    assert trainer.optimizer is None


def test_an_optimizer_is_tried_out_and_forgotten_but_not_of_shards_and_not_of_ones_own():
    trainer = trainer_of()
    trainer.create_optimizer = lambda: setattr(trainer, "optimizer", "made")
    check_trainable(trainer)
    assert trainer.optimizer is None
    for name, value in (("is_fsdp_enabled", True), ("is_deepspeed_enabled", True), ("optimizer", "mine")):
        trainer = trainer_of(create=raising(ValueError("it was made")))
        setattr(trainer, name, value)
        check_trainable(trainer)
        assert trainer.optimizer == (value if name == "optimizer" else None)
