"""A model of two weights, whose training can be followed with a pencil."""

from functools import partial

import pytest
import torch
from torch import nn

from hf_effmodels.training.run.recipe_arguments import RecipeArguments
from hf_effmodels.training.run.trainer import RecipeTrainer

from ...hub.conftest import tiny  # noqa: F401

START = (0.5, -0.25)


class Line(nn.Module):
    """Predicts y = w · x by the mean square error."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(START))

    def forward(self, x, labels):
        predicted = x @ self.w
        return {"loss": (predicted - labels).square().mean(), "predicted": predicted}


class LineByItems(Line):
    """The same, which the Trainer tells the number of items of the whole step."""

    def forward(self, x, labels, num_items_in_batch=None, **kwargs):
        predicted = x @ self.w
        squares = (predicted - labels).square()
        return {"loss": squares.sum() / (num_items_in_batch or len(labels)), "predicted": predicted}


class Points(torch.utils.data.Dataset):
    """n points of the plane; `labels` are whole numbers."""

    def __init__(self, n: int):
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randn(n, 2, generator=generator)
        self.y = torch.randint(-2, 3, (n,), generator=generator).float()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, number):
        return {"x": self.x[number % len(self)], "labels": self.y[number % len(self)]}


@pytest.fixture
def line_trainer(tmp_path):
    """Makes a trainer of plain gradient descent that goes through the points in their order and logs each step."""
    return partial(make_line_trainer, str(tmp_path / "run"))


def make_line_trainer(folder, model, points, **arguments):
    settings = {
        "output_dir": folder,
        "optim": "sgd",
        "optim_args": {"momentum": 0, "nesterov": False},
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "num_train_epochs": 1,
    }
    return RecipeTrainer(
        model=model, args=RecipeArguments(**{**settings, **arguments}), train_dataset=points, eval_dataset=points
    )


def logged(trainer, key: str) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry and "loss" in entry]
