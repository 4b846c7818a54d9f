"""From full precision to ternary weights in the first steps of a training run."""

from transformers import TrainerCallback

from .bitlinear import BitLinear


class WarmStart(TrainerCallback):
    """w + lambda (w_q - w): lambda rises evenly from 0 to 1 over the first `steps` optimizer steps.

    It follows from the number of the step alone, so that a run that goes on finds it again.
    """

    def __init__(self, steps: int):
        self.steps = steps

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        share = min(1.0, (state.global_step + 1) / self.steps) if self.steps else 1.0
        for module in model.modules():
            if isinstance(module, BitLinear):
                module.share = share
