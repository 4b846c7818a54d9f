"""The learning rate of another batch size."""

import pytest

from hf_effmodels.training.optim.batch_scaling import optimizer_settings, scale_learning_rate


def test_the_learning_rate_follows_the_root_of_the_batch(caplog):
    assert scale_learning_rate(1e-4, 1e6, 4e6) == pytest.approx(2e-4)
    assert scale_learning_rate(1e-4, 1e6, 4e6, exponent=1) == pytest.approx(4e-4)
    assert not caplog.records
    scale_learning_rate(1e-4, 1e6, 5e6)
    assert "above 4 million" in caplog.text
    assert optimizer_settings()["learning_rate"] == 2e-4
    larger = optimizer_settings(8e6)
    assert (larger["learning_rate"], larger["min_lr"]) == pytest.approx((4e-4, 4e-5))
    caplog.clear()
    scale_learning_rate(1e-4, 1e6, 4e6 + 1)
    assert caplog.records


def test_the_settings_are_those_of_the_papers_final_recipe():
    assert optimizer_settings() == {
        **{"optim": "adamw_torch", "adam_beta1": 0.9, "adam_beta2": 0.95, "adam_epsilon": 1e-8, "weight_decay": 0.1},
        **{"max_grad_norm": 1.0, "learning_rate": 2e-4, "lr_scheduler_type": "cosine", "warmup_steps": 0.03},
        "min_lr": pytest.approx(2e-5),
    }
    assert optimizer_settings(8e6, exponent=1)["learning_rate"] == pytest.approx(8e-4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 1e6, 5e6), "^learning_rate: got 0, accepted are numbers above 0"),
        ((1e-4, 0, 5e6), "^batch_tokens: got 0"),
        ((1e-4, 1e6, -1), "^new_batch_tokens: got -1"),
        ((1e-4, 1e6, 2e6, 1.1), "^exponent: got 1.1, accepted are numbers from 0 to 1"),
        ((1e-4, 1e6, 2e6, -0.1), "^exponent: got -0.1"),
    ],
)
def test_what_no_learning_rate_follows_from_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        scale_learning_rate(*arguments)
    assert scale_learning_rate(1e-4, 1e6, 5e5, exponent=0) == 1e-4
