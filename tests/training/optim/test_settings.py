"""Settings that an optimizer or a schedule would ignore, or fail with in training, are refused before it."""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import SchedulerType, Trainer

from hf_effmodels.training.optim.settings import check_schedule_settings
from hf_effmodels.training.run.recipe_arguments import RecipeArguments


def check(kind: str, **settings) -> None:
    known = [name.value for name in SchedulerType]
    name = SchedulerType(kind) if kind in known else kind
    args = SimpleNamespace(lr_scheduler_type=name, lr_scheduler_kwargs=settings, learning_rate=0.1, min_lr=0.05)
    check_schedule_settings(args)


@pytest.mark.parametrize(
    "kind, settings",
    [
        *((kind, {}) for kind in ("linear", "constant", "constant_with_warmup", "warmup_cosine", "step", "greedy")),
        ("cosine", {"num_cycles": 2}),
        ("polynomial", {"power": 2.0, "lr_end": 0.05}),
        ("warmup_stable_decay", {"num_decay_steps": 2, "min_lr_ratio": 0.5}),
        ("cosine_with_min_lr", {"min_lr": 0.01}),
        ("cosine_over_warmup", {"warmup_lr": 0.05, "warmup_prefix": True}),
        ("inverse_decay", {"alpha": 0.1, "beta": 2}),
        ("step", {"decay_epochs": [1, 2], "decay_rate": 0.5, "warmup_epochs": 0, "warmup_lr": 0.01}),
        ("reduce_lr_on_plateau", {"factor": 0.3, "patience": 2}),
        ("greedy", {"factor": 0.9}),
    ],
)
def test_settings_that_a_schedule_has_are_taken(kind, settings):
    check(kind, **settings)


@pytest.mark.parametrize(
    "kind, settings, message",
    [
        ("warmup_cosine", {"warmup_lr": 0.01}, "warmup_cosine takes no 'warmup_lr', accepted is nothing"),
        ("constant_with_warmup", {"num_warmup_steps": 1}, "takes no 'num_warmup_steps', accepted is nothing"),
        ("cosine", {"num_training_steps": 4}, "cosine takes no 'num_training_steps', accepted are num_cycles"),
        ("cosine", {"last_epoch": 4}, "cosine takes no 'last_epoch', accepted are num_cycles"),
        (
            "step",
            {"steps_per_epoch": 3},
            "step takes no 'steps_per_epoch', accepted are decay_epochs, decay_rate, warm",
        ),
        ("inverse_decay", {"gamma": 3}, "inverse_decay takes no 'gamma', accepted are alpha, beta"),
        ("inverse_decay", {"alpha": -1}, "inverse_decay with {'alpha': -1} cannot be made: alpha, beta: got -1"),
        (
            "cosine_over_warmup",
            {"num_warmup_steps": 1},
            "takes no 'num_warmup_steps', accepted are warmup_lr, warmup_p",
        ),
        ("cosine_over_warmup", {"min_lr": 0.01}, "takes no 'min_lr', accepted are"),  # an argument of its own
        ("cosine_over_warmup", {"warmup_lr": 0.2}, "cosine_over_warmup with .* cannot be made: warmup_lr: got 0.2"),
        ("reduce_lr_on_plateau", {"factors": 0.3}, "reduce_lr_on_plateau with .* cannot be made: .*'factors'"),
        ("reduce_lr_on_plateau", {"factor": 2.0}, "reduce_lr_on_plateau with .* cannot be made: Factor"),
        # What fails at the end of the training alone, or only there has a rate that is none.
        ("polynomial", {"power": -3}, "polynomial with {'power': -3} cannot be made: "),
        ("inverse_sqrt", {"timescale": -3}, "inverse_sqrt with {'timescale': -3} cannot be made: "),
        ("warmup_stable_decay", {"num_decay_steps": 2, "min_lr_ratio": -3}, "leads to a learning rate of -0.3"),
        ("warmup_stable_decay", {"num_decay_steps": 2, "min_lr_ratio": math.inf}, "leads to a learning rate of inf"),
    ],
)
def test_settings_that_a_schedule_cannot_follow_are_named(kind, settings, message):
    with pytest.raises(ValueError, match=f"^--lr_scheduler_kwargs: .*{message}"):
        check(kind, **settings)


@pytest.mark.parametrize(
    "optim, text, message",
    [
        ("sgd", "momentum=0", "^--optim_args: got 'momentum=0', which sgd does not take .Nesterov"),
        ("lamb", "betas=3", "^--optim_args: got 'betas=3', which lamb does not take"),
        ("lamb", "momentum=0.9", "^--optim_args: lamb takes no 'momentum', accepted are betas, "),
        ("adagrad", "lr_decay=fast", "^--optim_args: got 'lr_decay=fast': "),
        *(
            (optim, f"{name}={text}", f"^--optim_args: got {value} for '{name}', accepted are finite numbers.$")
            for optim, name in (("adagrad", "lr_decay"), ("sgd", "momentum"), ("lamb", "eps"), ("rmsprop", "alpha"))
            for text, value in (("nan", "nan"), ("inf", "inf"), ("-inf", "-inf"), ("1e999", "inf"))
        ),
        ("lamb", "eps=.inf", "^--optim_args: got inf for 'eps', accepted are finite numbers.$"),  # as YAML writes it
        ("adagrad", "lr_decay=0.1,", "^--optim_args: got 'lr_decay=0.1,', accepted is such as"),
        ("rmsprop", "nope=0.5", "^--optim_args: rmsprop takes no 'nope'.$"),
        ("adamw_torch", "eps=0.5", "^--optim_args: adamw_torch takes no 'eps'; --adam_beta1, .* are arguments.$"),
    ],
)
def test_settings_that_an_optimizer_does_not_have_are_named(optim, text, message):
    with pytest.raises(ValueError, match=message):
        RecipeArguments(output_dir="out", optim=optim, optim_args=text)


@pytest.mark.parametrize("optim, text", [("adagrad", "lr_decay=0.1"), ("rmsprop", "alpha=0.5,momentum=0.9")])
def test_settings_of_transformers_optimizers_that_they_read_are_taken(optim, text):
    assert RecipeArguments(output_dir="out", optim=optim, optim_args=text).optim_args == text


@pytest.mark.parametrize(
    "error, message",
    [
        (ImportError("install it"), "--optim: adamw_bnb_8bit cannot be used here: install it"),
        (KeyError("rank"), "--optim_args: got 'rank=3': 'rank'"),
        (ValueError("it takes a model"), None),  # which is not there yet
    ],
)
def test_an_optimizer_that_cannot_be_asked_is_told_by_its_reason(monkeypatch, error, message):
    def ask(args, model=None):
        raise error

    monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", staticmethod(ask))
    if message is None:
        RecipeArguments(output_dir="out", optim="adamw_bnb_8bit", optim_args="rank=3")
        return
    with pytest.raises(ValueError, match=f"^{message}$"):
        RecipeArguments(output_dir="out", optim="adamw_bnb_8bit", optim_args="rank=3")


@pytest.mark.parametrize("error", [ValueError, TypeError, AttributeError, KeyError])
def test_a_setting_whose_value_an_optimizer_complains_of_is_one_that_it_reads(monkeypatch, error):
    def ask(args, model=None):
        if args.optim_args != "rank=3":
            raise error("it was looked at")
        return torch.optim.SGD, {"rank": 3}

    monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", staticmethod(ask))
    assert RecipeArguments(output_dir="out", optim="adamw_bnb_8bit", optim_args="rank=3").optim_args == "rank=3"
    monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", staticmethod(lambda args, model=None: (None, {})))
    with pytest.raises(ValueError, match="^--optim_args: adamw_bnb_8bit takes no 'rank'; "):
        RecipeArguments(output_dir="out", optim="adamw_bnb_8bit", optim_args="rank=3")
