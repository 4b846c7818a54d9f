"""Runs of two processes, started as a user starts them."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_effmodels.training import evaluate, main

from ....processes import run_in_two
from .test_image_classification import GHOSTNET, history, weights

SCRIPTS = Path(__file__).resolve().parents[4] / "scripts"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def test_accelerate_launch_starts_two_processes_that_follow_the_trajectory_of_one(digits_run, tmp_path):
    digits_run += ["--ema_decay", "0.5", "--max_grad_norm", "0", "--per_device_eval_batch_size", "3"]
    digits_run += ["--max_train_samples", "41"]
    two, one = tmp_path / "two", tmp_path / "one"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu"]
    command += ["--main_process_port", str(free_port()), str(SCRIPTS / "train.py"), *digits_run]
    command += ["--per_device_train_batch_size", "4", "--output_dir", str(two)]
    run = subprocess.run(command, env=environment(), capture_output=True, timeout=300)
    assert run.returncode == 0, run.stderr.decode()
    main([*digits_run, "--output_dir", str(one)])
    # 41 images in batches of 4 by two processes are 6 steps an epoch, the last of a single image, which leaves nothing
    # for the second process; batches of 4 of one process alone would make 11.
    for keys in (["loss", "grad_norm", "learning_rate"], ["eval_loss", "eval_accuracy"]):
        np.testing.assert_allclose(history(two, *keys), history(one, *keys), rtol=1e-4)
    assert all(torch.allclose(weights(one)[name], tensor, atol=1e-5) for name, tensor in weights(two).items())
    # 11 images for evaluation, of which two processes read 12 in batches of 3: none is counted twice.
    assert json.loads((two / "all_results.json").read_text())["eval_samples"] == 11
    assert len(list((two / "checkpoint-12").glob("rng_state_*.pth"))) == 2


def test_two_processes_save_the_batch_norm_statistics_they_evaluate_with(digits_run, tmp_path):
    # Each process sees other images. The mean of their statistics is what is measured, and what is saved.
    output = str(tmp_path / "run")
    arguments = [*digits_run, *GHOSTNET, "--load_best_model_at_end", "false", "--num_train_epochs", "1"]
    run_in_two(main, [*arguments, "--per_device_train_batch_size", "4", "--output_dir", output])
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
    assert written.startswith(
        "train.py: error: --model: unknown preset 'ghostnetv3-1x', and no such folder; nearest: ghostnetv3-1."
    )
    assert written.count("\n") == 1 and not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["weights", "rate"])
def test_a_run_that_ends_in_its_midst_says_why_in_one_line(digits_run, tmp_path, monkeypatch, capsys, what):
    run = [*digits_run, "--num_train_epochs", "1", "--disable_tqdm", "true"]
    if what == "weights":
        main([*run, *GHOSTNET, "--output_dir", str(tmp_path / "other")])
        run += ["--resume_from_checkpoint", str(tmp_path / "other" / "checkpoint-5")]
        message = "checkpoint-5: these are not the weights of this model: it lacks "
    else:
        run += ["--learning_rate", "1e30", "--max_grad_norm", "0"]
        message = "step 2: the loss is nan. The run ends here, with --learning_rate 1e\\+30"
    monkeypatch.setattr(sys, "argv", ["train.py", *run, "--output_dir", str(tmp_path / "run")])
    with pytest.raises(SystemExit, match="2"):
        main()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train.py: error: ")]
    assert len(lines) == 1 and re.search(message, lines[0])
