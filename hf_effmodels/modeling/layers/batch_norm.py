"""Batch norm under activation checkpointing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def _frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms normalise by the batch as in training, but leave their running statistics and counters alone."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # Not track_running_stats = False: the recomputation must save the same tensors as the first pass.
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter


class BatchNormMixin:
    """Lets a PreTrainedModel with batch norms be trained with activation checkpointing and end with the same buffers,
    and names its batch norms.

    The backward pass computes every checkpointed block a second time. Left alone, that would move the running
    statistics twice per step.
    """

    def batch_norm_names(self) -> list[str]:
        """Full names of the batch norms, for `modules_to_save` of PEFT's configurations.

        Training an adapter moves their running statistics, which an adapter's file does not hold unless it is told
        to: without them the reloaded model gives other outputs than the trained one. A folded model has none.
        """
        return [name for name, module in self.named_modules() if isinstance(module, _BatchNorm)]

    def _set_gradient_checkpointing(self, enable: bool = True, gradient_checkpointing_func: Callable = None, **kwargs):
        if gradient_checkpointing_func is None:
            return super()._set_gradient_checkpointing(enable=enable, **kwargs)
        if getattr(gradient_checkpointing_func, "keywords", {}).get("use_reentrant"):
            raise ValueError(
                "gradient_checkpointing_kwargs: use_reentrant=True would update the running statistics of batch norms "
                "twice in a step; accepted is use_reentrant=False."
            )
        contexts = partial(_checkpoint_contexts, self)
        checkpoint = partial(gradient_checkpointing_func, context_fn=contexts)
        return super()._set_gradient_checkpointing(enable=enable, gradient_checkpointing_func=checkpoint, **kwargs)


def _checkpoint_contexts(model: nn.Module):
    return nullcontext(), _frozen_statistics(model)
