"""VanillaNet's deep training: two convolutions become one while they are trained."""

import json
import logging
import math
from pathlib import Path

from torch import nn
from transformers import TrainerCallback

logger = logging.getLogger(__name__)

# What float division may lack of a whole epoch.
_ROUNDING = 1e-6


class DeepTrainingCallback(TrainerCallback):
    """Anneals the activation between the two convolutions of every layer from ReLU to the identity.

    The slope λ of epoch e (from 0) is e / E, or (1 - cos(πe / E)) / 2, and 1 from epoch E on (VanillaNet,
    https://arxiv.org/abs/2305.12972, section 3.1). E and the schedule come from the configuration:
    `deep_training_epochs` and `deep_training_schedule`.

    λ itself is `config.act_learn`. So every checkpoint says which function its weights belong to, a moving average of
    the weights is evaluated with the same λ, and a resumed run goes on with the λ of its epoch. Once λ has arrived at
    1, `deep_training_epochs` is 0: fine-tuning the trained model does not begin again at ReLU.

    Args:
        model: the network, or the one it is a part of; by default the model that the Trainer trains.
    """

    def __init__(self, model: nn.Module | None = None):
        self.model = model
        self.schedules: list[tuple[nn.Module, int, str]] = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.schedules = [
            (module, module.config.deep_training_epochs, module.config.deep_training_schedule)
            for module in deep_training_models(model if self.model is None else self.model)
        ]
        for module, epochs, _ in self.schedules:
            if state.num_train_epochs <= epochs:
                logger.warning(
                    "deep_training_epochs is %d, num_train_epochs %d: %s will not be annealed to the end, and cannot "
                    "be folded. Train for at least %d epochs.",
                    epochs,
                    state.num_train_epochs,
                    type(module).__name__,
                    epochs + 1,
                )
        self.on_epoch_begin(args, state, control)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._anneal(math.floor((state.epoch or 0) + _ROUNDING))

    def on_train_end(self, args, state, control, **kwargs):
        """The Trainer has loaded the weights of the best checkpoint, but not their λ."""
        if args.load_best_model_at_end and state.best_model_checkpoint:
            best = json.loads((Path(state.best_model_checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
            # After the last step of epoch e the state says e + 1.
            self._anneal(max(0, math.ceil(best["epoch"] - _ROUNDING) - 1))

    def _anneal(self, epoch: int) -> None:
        for module, epochs, schedule in self.schedules:
            module.set_act_learn(act_learn_at(epoch, epochs, schedule))
            module.config.deep_training_epochs = epochs if epoch < epochs else 0


def act_learn_at(epoch: int, decay_epochs: int, schedule: str = "linear") -> float:
    """λ in `epoch`, counted from 0, of an annealing over `decay_epochs`; `schedule` is "linear" or "cosine"."""
    if epoch >= decay_epochs:
        return 1.0
    progress = epoch / decay_epochs
    return progress if schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2


def deep_training_models(model: nn.Module) -> list[nn.Module]:
    """The models in `model` (itself, or what it is built from) that are to be annealed, one for each configuration."""
    found = {}
    for module in model.modules():
        if hasattr(module, "set_act_learn") and module.config.deep_training_epochs > 0:
            found.setdefault(id(module.config), module)
    return list(found.values())
