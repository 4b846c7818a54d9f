"""What a model says of files, folders and texts: `hf-effmodels predict` and `hf-effmodels chat`.

A module of `tasks/` does one task. `load_predictor` finds out which one a model is for.
"""

from .predictor import Predictor, load_predictor

__all__ = ["Predictor", "load_predictor"]
