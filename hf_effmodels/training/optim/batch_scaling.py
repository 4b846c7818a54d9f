"""Batch size, learning rate and optimizer (https://arxiv.org/abs/2402.02791, section 5)."""

import logging

logger = logging.getLogger(__name__)

#: A batch of more tokens than this hurts.
MOST_BATCH_TOKENS = 4_000_000
#: The final recipe: tokens of a batch and the learning rate that goes with it.
BATCH_TOKENS, LEARNING_RATE = 2_000_000, 2e-4


def scale_learning_rate(
    learning_rate: float, batch_tokens: float, new_batch_tokens: float, exponent: float = 0.5
) -> float:
    """The learning rate for another batch size: a batch of k times the tokens takes k^exponent times the rate.

    Args:
        learning_rate: that is right for `batch_tokens` tokens of a batch.
        new_batch_tokens: of the new batch. Above 4 million tokens a warning is logged.
        exponent: 0.5 was best of those the paper tried; 1 is linear scaling, 0 none.

    Raises:
        ValueError: a number that is not above 0, or an exponent outside of [0, 1].
    """
    for name, value in (
        ("learning_rate", learning_rate),
        ("batch_tokens", batch_tokens),
        ("new_batch_tokens", new_batch_tokens),
    ):
        if not value > 0:
            raise ValueError(f"{name}: got {value}, accepted are numbers above 0.")
    if not 0 <= exponent <= 1:
        raise ValueError(f"exponent: got {exponent}, accepted are numbers from 0 to 1.")
    if new_batch_tokens > MOST_BATCH_TOKENS:
        logger.warning("a batch of %.3g tokens: the paper finds batches above 4 million harmful.", new_batch_tokens)
    return learning_rate * (new_batch_tokens / batch_tokens) ** exponent


def optimizer_settings(batch_tokens: float = BATCH_TOKENS, exponent: float = 0.5) -> dict:
    """The paper's final recipe for a batch of so many tokens, as arguments of a training recipe.

    AdamW (0.9, 0.95), ε 1e-8, weight decay 0.1, gradients clipped at 1, a cosine from 2e-4 at 2 million tokens a
    batch, warm-up of 3 % of the steps, down to a tenth (these two from the published configuration file).
    """
    rate = scale_learning_rate(LEARNING_RATE, BATCH_TOKENS, batch_tokens, exponent)
    return {
        "optim": "adamw_torch",
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-8,
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "learning_rate": rate,
        "lr_scheduler_type": "cosine",
        "min_lr": rate / 10,
        "warmup_steps": 0.03,
    }
