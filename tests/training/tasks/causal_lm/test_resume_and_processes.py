"""Runs that are killed, and runs of two processes."""

import numpy as np
import pytest
import torch
from accelerate.utils import patch_environment
from safetensors.torch import load_file

from hf_effmodels.training import main
from hf_effmodels.training.run.output_folder import WEIGHTS_WITHOUT_EMA, newest_checkpoint

from ....processes import run_in_two
from ..contract import history, run_until_killed, same, weights

STREAM = ["--streaming", "true", "--eval_documents", "4", "--shuffle_blocks", "16"]
FSDP = {
    "accelerate_use_fsdp": "true",
    "fsdp_version": "2",
    "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "fsdp_reshard_after_forward": "true",
    "fsdp_state_dict_type": "SHARDED_STATE_DICT",
}


#: A network that draws random numbers in every step.
WITH_DROPOUT = ["--model", "gpt2", "--model_config", "{n_embd: 32, n_layer: 2, n_head: 2, n_positions: 16}"]


@pytest.mark.parametrize("network", [[], WITH_DROPOUT], ids=["without dropout", "with dropout"])
def test_a_killed_run_on_a_stream_goes_on_to_the_same_weights_bit_for_bit(text_run, network, tmp_path):
    # 12 steps of two batches of 4 blocks, saved every 3 and killed in the midst of saving step 9.
    text_run += ["--save_strategy", "steps", "--save_steps", "3", "--save_total_limit", "9", "--ema_decay", "0.8"]
    text_run += ["--gradient_accumulation_steps", "2", "--weight_decay", "0.1", "--bf16", "true"]
    text_run += [*STREAM, *network]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    main([*text_run, "--output_dir", str(whole)])
    run_until_killed([*text_run, "--output_dir", str(killed)], 9)
    assert (killed / "checkpoint-9" / "model.safetensors").exists()
    assert newest_checkpoint(killed).name == "checkpoint-6"
    main([*text_run, "--output_dir", str(killed), "--resume_from_checkpoint", "true"])
    keys = ("loss", "grad_norm", "learning_rate", "epoch")
    assert np.array_equal(history(whole, *keys), history(killed, *keys))
    assert same(weights(whole), weights(killed))
    last = [folder / "checkpoint-12" / WEIGHTS_WITHOUT_EMA for folder in (whole, killed)]
    assert same(*map(load_file, last))


@pytest.mark.parametrize("mode", ["streaming", "mixture"])
def test_two_processes_follow_the_trajectory_of_one(text_run, mode, tmp_path):
    if mode == "mixture":
        text_run += ["--model", "parameternet-moe-1b", "--model_config", "{hidden_size: 32, intermediate_size: 48, "]
        text_run[-1] += "num_hidden_layers: 1, num_attention_heads: 2, num_local_experts: 2}"
    text_run += ["--max_steps", "6", "--max_grad_norm", "0", "--per_device_eval_batch_size", "3"]
    text_run += STREAM if mode == "streaming" else []
    two, one = tmp_path / "two", tmp_path / "one"
    run_in_two(main, [*text_run, "--per_device_train_batch_size", "2", "--output_dir", str(two)])
    main([*text_run, "--output_dir", str(one)])
    keys = ["loss", "grad_norm", "learning_rate"]
    keys += ["balance_loss", "expert_load_max/layer_0"] if mode == "mixture" else []
    np.testing.assert_allclose(history(two, *keys), history(one, *keys), rtol=1e-4)
    evaluated = ("eval_loss", "eval_tokens")
    np.testing.assert_allclose(history(two, *evaluated), history(one, *evaluated), rtol=1e-5)
    assert all(torch.allclose(weights(one)[name], tensor, atol=1e-5) for name, tensor in weights(two).items())


def test_fsdp2_shards_two_processes_and_resumes_bit_for_bit(text_run, tmp_path):
    text_run += ["--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2", "--max_grad_norm", "0"]
    text_run += ["--per_device_train_batch_size", "2"]
    one, whole, resumed = tmp_path / "one", tmp_path / "whole", tmp_path / "resumed"
    with patch_environment(**FSDP):
        run_in_two(main, [*text_run, "--output_dir", str(whole)])
        assert (whole / "checkpoint-2" / "pytorch_model_fsdp_0" / "__1_0.distcp").is_file()
        resume = ["--resume_from_checkpoint", str(whole / "checkpoint-2"), "--output_dir", str(resumed)]
        run_in_two(main, [*text_run, *resume])
    assert same(weights(whole), weights(resumed))
    main([*text_run, "--per_device_train_batch_size", "4", "--output_dir", str(one)])
    np.testing.assert_allclose(history(whole, "loss", "grad_norm"), history(one, "loss", "grad_norm"), rtol=1e-4)
    assert weights(whole / "hub").keys() == weights(one / "hub").keys()
