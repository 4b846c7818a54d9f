"""What a language model's run logs beside its loss: the load of experts and the speed, against numbers by hand."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from hf_effmodels.training import prepare
from hf_effmodels.training.tasks.causal_lm import trainer as module
from hf_effmodels.training.tasks.causal_lm.trainer import MixtureStatistics


def test_the_load_counts_all_experts_that_a_token_goes_to_and_the_balance_is_a_mean():
    statistics = MixtureStatistics()
    config = SimpleNamespace(num_experts_per_tok=2)
    first = torch.tensor([[3.0, 2.0, 1.0, 0.0], [3.0, 1.0, 2.0, 0.0]])  # experts 0, 1 and 0, 2
    second = torch.tensor([[0.0, 1.0, 2.0, 3.0]])  # 3, 2
    statistics.add({"router_logits": (first,), "aux_loss": torch.tensor(1.5)}, config)
    statistics.add({"router_logits": (second,), "aux_loss": torch.tensor(0.5)}, config)
    logs = statistics.take(Accelerator(cpu=True))
    assert statistics.last_load[0].tolist() == pytest.approx([2 / 6, 1 / 6, 2 / 6, 1 / 6])
    assert logs == pytest.approx(
        {"balance_loss": 1.0, "expert_load_max/layer_0": 2 / 6, "expert_load_min/layer_0": 1 / 6}
    )
    assert statistics.take(Accelerator(cpu=True)) == {}, "what was taken is gone"


def test_each_line_of_the_log_has_the_balance_since_the_line_before():
    statistics, config = MixtureStatistics(), SimpleNamespace(num_experts_per_tok=1)
    for balances in ([1.5, 0.5], [4.0], [0.25, 0.75, 2.0]):
        for balance in balances:
            statistics.add({"router_logits": (torch.eye(2),), "aux_loss": torch.tensor(balance)}, config)
        assert statistics.take(Accelerator(cpu=True))["balance_loss"] == pytest.approx(sum(balances) / len(balances))


def test_the_load_and_the_balance_are_those_of_all_processes():
    """Two others have sent three tokens to the second expert, in one batch each, of a balance of 3."""
    statistics, config = MixtureStatistics(), SimpleNamespace(num_experts_per_tok=1)
    statistics.add({"router_logits": (torch.eye(2),), "aux_loss": torch.tensor(1.5)}, config)
    others = (torch.tensor([[0.0, 6.0]]), 6.0, 2.0)
    both = SimpleNamespace(
        reduce=lambda own, how: tuple(a + b for a, b in zip(own, others, strict=True)) if how == "sum" else None
    )
    logs = {"balance_loss": 2.5, "expert_load_max/layer_0": 7 / 8, "expert_load_min/layer_0": 1 / 8}
    assert statistics.take(both) == pytest.approx(logs)


def test_the_speed_is_that_of_training_alone(text_run, tmp_path, monkeypatch):
    """A clock that evaluations and checkpoints move by an hour."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock.now)
    trainer = prepare("prepare_training", [*text_run, "--output_dir", str(tmp_path / "run")]).trainer

    def hour(*args, **kwargs):
        clock.now += 3600

    parent = module.CausalLMTrainer.__mro__[1]
    monkeypatch.setattr(parent, "evaluation_loop", hour)
    monkeypatch.setattr(parent, "_save_checkpoint", hour)
    monkeypatch.setattr(trainer.processing_class, "save_pretrained", hour)
    trainer.watch.lap()
    trainer._tokens = 640
    clock.now += 8
    trainer.evaluation_loop()
    trainer._save_checkpoint(trainer.model, None)
    clock.now += 2
    assert trainer._speed()["tokens_per_second"] == 64.0


def test_a_training_on_a_device_of_unknown_peak_says_so_and_an_evaluation_does_not(
    text_run, tmp_path, caplog, monkeypatch
):
    caplog.set_level("INFO", logger="hf_effmodels")
    told = "the peak of this device (cpu) at this precision is not known: no MFU is logged; --peak_tflops tells it"
    trainer = prepare("prepare_training", [*text_run, "--output_dir", str(tmp_path / "run")]).trainer
    assert told in caplog.text and "mfu" not in trainer._speed()
    caplog.clear()
    options = {"model": trainer.model, "args": trainer.args, "processing_class": trainer.processing_class}
    module.CausalLMTrainer(**options, eval_dataset=trainer.eval_dataset)
    assert told not in caplog.text
    asked = []
    monkeypatch.setattr(module, "peak_tflops", lambda *given: asked.append(given) or 3.0)
    for half in ("bf16", "fp16", None):  # a peak is that of half precision, of either kind
        if half:
            setattr(trainer.args, half, True)
        module.CausalLMTrainer(**options, train_dataset=trainer.train_dataset)
        if half:
            setattr(trainer.args, half, False)
    assert asked == [(trainer.args.device, True)] * 2 + [(trainer.args.device, False)]
    trainer.args.peak_tflops = 2.0
    known = module.CausalLMTrainer(**options, train_dataset=trainer.train_dataset)
    assert told not in caplog.text and known._speed()["mfu"] == 0 and known._peak == 2.0
