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
    with pytest.raises(ValueError, match="batch_tokens: got 0"):
        scale_learning_rate(1e-4, 0, 5e6)
