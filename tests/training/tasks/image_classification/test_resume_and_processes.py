"""Runs that are killed and runs of two processes, started as a user starts them."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import debug_launcher
from safetensors.torch import load_file

from hf_effmodels.training import evaluate, main
from hf_effmodels.training.run.output_folder import WEIGHTS_WITHOUT_EMA, newest_checkpoint

from .test_image_classification import GHOSTNET, history, weights

SCRIPTS = Path(__file__).resolve().parents[4] / "scripts"
KILLED_WHILE_SAVING = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from hf_effmodels.training import main
from hf_effmodels.training.tasks.image_classification.task import ImageClassificationTrainer as Trainer

save = Trainer._save_rng_state
def kill(self, folder):
    if self.state.global_step == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, folder)
Trainer._save_rng_state = kill
main(sys.argv[1:])
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(digits_run, tmp_path):
    # Five steps an epoch, saved every four: the kill hits the third epoch, in the midst of saving step 12, and the
    # run goes on from step 8, in the midst of the second.
    digits_run += [
        *GHOSTNET,
        "--num_train_epochs",
        "3",
        "--optim",
        "lamb",
        "--weight_decay",
        "0.05",
        "--ema_decay",
        "0.8",
    ]
    digits_run += ["--eval_strategy", "steps", "--eval_steps", "4", "--save_strategy", "steps", "--save_steps", "4"]
    digits_run += [
        "--randaugment",
        "rand-m9-mstd0.5-inc1",
        "--random_erasing",
        "0.5",
        "--mixup",
        "0.2",
        "--cutmix",
        "1",
    ]
    digits_run += ["--label_smoothing_factor", "0.1", "--warmup_steps", "3", "--save_total_limit", "3"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    main([*digits_run, "--output_dir", str(whole)])

    command = [sys.executable, "-c", KILLED_WHILE_SAVING, *digits_run, "--output_dir", str(killed)]
    run = subprocess.run(command, env=environment(), capture_output=True, timeout=300)
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    assert (killed / "checkpoint-12" / "model.safetensors").exists()
    assert newest_checkpoint(killed).name == "checkpoint-8"

    # Other worker processes read the images now: their number decides nothing.
    workers = ["--dataloader_num_workers", "1", "--dataloader_persistent_workers", "true"]
    main([*digits_run, *workers, "--output_dir", str(killed), "--resume_from_checkpoint", "true"])
    for key in (["loss", "grad_norm", "learning_rate"], ["eval_loss", "eval_accuracy"]):
        assert np.array_equal(history(whole, *key), history(killed, *key))
    for a, b in (
        (weights(whole), weights(killed)),
        *((load_file(f / "checkpoint-15" / WEIGHTS_WITHOUT_EMA) for f in (whole, killed)),),
    ):
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_accelerate_launch_starts_two_processes_that_follow_the_trajectory_of_one(digits_run, tmp_path):
    digits_run += ["--ema_decay", "0.5", "--max_grad_norm", "0", "--per_device_eval_batch_size", "3"]
    two, one = tmp_path / "two", tmp_path / "one"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu"]
    command += ["--main_process_port", str(free_port()), str(SCRIPTS / "train.py"), *digits_run]
    command += ["--per_device_train_batch_size", "4", "--output_dir", str(two)]
    run = subprocess.run(command, env=environment(), capture_output=True, timeout=300)
    assert run.returncode == 0, run.stderr.decode()
    main([*digits_run, "--output_dir", str(one)])
    # 40 images in batches of 4 by two processes are 5 steps an epoch; one process alone would make 10.
    for keys in (["loss", "grad_norm", "learning_rate"], ["eval_loss", "eval_accuracy"]):
        np.testing.assert_allclose(history(two, *keys), history(one, *keys), rtol=1e-4)
    assert all(torch.allclose(weights(one)[name], tensor, atol=1e-5) for name, tensor in weights(two).items())
    # 11 images for evaluation, of which two processes read 12 in batches of 3: none is counted twice.
    assert json.loads((two / "all_results.json").read_text())["eval_samples"] == 11
    assert len(list((two / "checkpoint-10").glob("rng_state_*.pth"))) == 2


def test_two_processes_save_the_batch_norm_statistics_they_evaluate_with(digits_run, tmp_path):
    # Each process sees other images. The mean of their statistics is what is measured, and what is saved.
    output = str(tmp_path / "run")
    arguments = [*digits_run, *GHOSTNET, "--load_best_model_at_end", "false", "--num_train_epochs", "1"]
    debug_launcher(
        main, ([*arguments, "--per_device_train_batch_size", "4", "--output_dir", output],), num_processes=2
    )
    results = json.loads((Path(output) / "all_results.json").read_text())
    again = ["--dataset", "digits", "--max_eval_samples", "11", "--output", str(tmp_path / "e.json")]
    assert evaluate(["--model", output, *again])["loss"] == pytest.approx(results["eval_loss"], rel=1e-5)
    during = history(output, "eval_loss")[-1, 0]
    assert during == pytest.approx(results["eval_loss"], rel=1e-5)


def test_wrong_input_ends_the_program_with_one_line(tmp_path, monkeypatch, capsys):
    arguments = ["train.py", "--model", "ghostnetv3-1x", "--dataset", "digits", "--output_dir", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="2"):
        main()
    written = capsys.readouterr().err
    assert written.startswith("train.py: error: unknown preset 'ghostnetv3-1x'; nearest: ghostnetv3-1.")
    assert written.count("\n") == 1 and not (tmp_path / "run").exists()
