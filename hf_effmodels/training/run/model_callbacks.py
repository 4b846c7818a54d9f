"""Callbacks that belong to an architecture's training, and which model needs which."""

from transformers import PreTrainedModel, TrainerCallback

from ...modeling.vanillanet.deep_training import DeepTrainingCallback, deep_training_models


def callbacks_for(model: PreTrainedModel) -> list[TrainerCallback]:
    """The callbacks that the model's configuration asks for."""
    return [DeepTrainingCallback()] if deep_training_models(model) else []


__all__ = ["DeepTrainingCallback", "callbacks_for"]
