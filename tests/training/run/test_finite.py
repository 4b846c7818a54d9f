"""A run that has come apart ends, and says at which step and with what settings."""

import math
from types import SimpleNamespace

import pytest
from torch import nn

from hf_effmodels.training.run.finite import NotFiniteError, check_finite

from .conftest import Line, Points


class Breaks(Line):
    """Its loss is `value` from the given forward pass on."""

    def __init__(self, value, at):
        super().__init__()
        self.value, self.at, self.calls = value, at, 0

    def forward(self, x, labels):
        self.calls += 1
        outputs = super().forward(x, labels)
        return {**outputs, "loss": outputs["loss"] * (self.value if self.calls >= self.at else 1.0)}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_at_its_step(line_trainer, value):
    trainer = line_trainer(Breaks(value, at=3), Points(16), per_device_train_batch_size=4)
    message = (
        r"step 3: the loss is -?(nan|inf).*--learning_rate 0.1 \(at this step 0.1\), --optim sgd, --max_grad_norm 0"
    )
    with pytest.raises(NotFiniteError, match=message):
        trainer.train()
    assert trainer.state.global_step == 2 and trainer.model.w.isfinite().all()


@pytest.mark.parametrize("clip", [0, 1.0])
def test_a_gradient_that_is_not_finite_ends_the_run_before_it_reaches_the_weights(line_trainer, clip):
    class Steep(Line):
        def forward(self, x, labels):
            outputs = super().forward(x, labels)
            root = (self.w - self.w.detach()).square().sum().sqrt()  # 0, with the derivative 0 / 0
            return {**outputs, "loss": outputs["loss"] + root}

    trainer = line_trainer(Steep(), Points(16), max_grad_norm=clip, logging_strategy="no")
    with pytest.raises(NotFiniteError, match="step 1: grad_norm is nan"):
        trainer.train()
    assert trainer.model.w.isfinite().all()


@pytest.mark.parametrize("at", [1, 3])
def test_a_part_of_the_loss_that_is_logged_and_not_finite_ends_the_run_where_it_is_logged(line_trainer, at):
    trainer, steps = line_trainer(Line(), Points(16), per_device_train_batch_size=4), []

    def named_parts(outputs):
        steps.append(1)
        return {"part": outputs["loss"].detach() * (math.nan if len(steps) >= at else 1.0)}

    trainer.named_parts = named_parts
    with pytest.raises(NotFiniteError, match=rf"^step {at}: part is nan\. .*\(at this step 0\.1\)"):
        trainer.train()
    assert trainer.state.global_step == at


@pytest.mark.parametrize("measure", ["evaluate", "predict"])
def test_a_metric_that_is_not_finite_ends_the_run(line_trainer, measure):
    trainer = line_trainer(Breaks(math.nan, at=1), Points(8))
    with pytest.raises(NotFiniteError, match="step 0: (eval|test)_loss is nan"):
        getattr(trainer, measure)(Points(8))


def test_what_may_be_infinite(line_trainer):
    args = line_trainer(nn.Linear(1, 1), Points(8)).args
    check_finite({"eval_psnr_y": math.inf, "epoch": 1, "name": "x", "accuracy": 0.5}, 1, args)
    args.fp16 = True
    check_finite({"grad_norm": math.inf}, 1, args)
    for name, value in (("eval_psnr_y", math.nan), ("loss", math.inf), ("eval_psnr_y", -math.inf)):
        with pytest.raises(NotFiniteError, match=f"step 7: {name} is .*rate 0.1 .at this step 0.5.*, in fp16"):
            check_finite({name: value}, 7, args, learning_rate=0.5)


@pytest.mark.parametrize(("precision", "said"), [({}, "float32"), ({"bf16": True}, "bf16")])
def test_without_float16_an_infinite_gradient_ends_the_run_and_its_own_rate_is_told(precision, said):
    own = {"learning_rate": 0.25, "optim": "sgd", "max_grad_norm": 1.5, "fp16": False, "bf16": False, **precision}
    args = SimpleNamespace(**own)
    settings = r"--learning_rate 0.25 \(at this step {}\), --optim sgd, --max_grad_norm 1.5, in {}\."
    for given, rate in ((None, "0.25"), (0.125, "0.125"), (0.0, "0")):
        with pytest.raises(NotFiniteError, match="step 4: grad_norm is inf.*" + settings.format(rate, said)):
            check_finite({"loss": 1.0, "grad_norm": math.inf}, 4, args, given)
    check_finite({"loss": 1.0, "grad_norm": 1e30, "top1": 0, "text": "nan"}, 4, args)
