"""Several processes on a CPU: who starts them, and who shards their weights. None is started here."""

import os
import sys
import types

import accelerate.commands.config.config_args as of_accelerate
import psutil
import pytest
from accelerate.utils import DistributedType

from hf_effmodels.training.run import launch, sharding


@pytest.fixture
def started(monkeypatch):
    """What this process was replaced by, where it was; it stands where `accelerate launch` has left it."""
    for name in launch.WORLD_SIZES:
        monkeypatch.delenv(name, raising=False)
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29501"), ("ACCELERATE_USE_CPU", "True")):
        monkeypatch.setenv(name, value)
    commands = []
    monkeypatch.setattr(os, "execv", lambda program, words: commands.append(words))
    monkeypatch.setattr(sys, "argv", ["train.py", "--task", "x"])
    monkeypatch.setitem(sys.modules, "__main__", types.SimpleNamespace(__spec__=None))
    return commands


def launched_by(monkeypatch, *words):
    monkeypatch.setattr(psutil, "Process", lambda number: types.SimpleNamespace(cmdline=lambda: [*words]))


def test_torchrun_starts_what_accelerate_was_asked_for(started, monkeypatch):
    launched_by(monkeypatch, "python", "/bin/accelerate", "launch", "--cpu", "--num_processes", "3", "train.py")
    launch.start_missing_processes()
    (words,) = started
    assert words[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert words[3:] == [
        *("--nproc_per_node", "3", "--nnodes", "1", "--node_rank", "0"),
        *("--master_addr", "127.0.0.1", "--master_port", "29501", "train.py", "--task", "x"),
    ]
    assert "MASTER_ADDR" not in os.environ and "MASTER_PORT" not in os.environ


@pytest.mark.parametrize("processes, own", [("6", "2"), ("3", "1")])
def test_a_machine_starts_its_share_and_a_module_is_started_as_one(started, monkeypatch, processes, own):
    launched_by(
        monkeypatch,
        *(
            "python",
            "-m",
            "accelerate-launch",
            "--num_processes",
            processes,
            "--num_machines",
            "3",
            "--machine_rank",
            "2",
            "x",
        ),
    )
    main = types.SimpleNamespace(__spec__=types.SimpleNamespace(name="hf_effmodels.training.__main__"))
    monkeypatch.setitem(sys.modules, "__main__", main)
    launch.start_missing_processes()
    (words,) = started
    assert words[3:9] == ["--nproc_per_node", own, "--nnodes", "3", "--node_rank", "2"]
    assert words[-4:] == ["-m", "hf_effmodels.training", "--task", "x"]


def test_what_the_command_does_not_say_is_in_accelerates_file(started, monkeypatch):
    said = types.SimpleNamespace(num_processes=4, num_machines=2, machine_rank=1)
    asked = []
    monkeypatch.setattr(of_accelerate, "load_config_from_file", lambda file: asked.append(file) or said)
    launched_by(monkeypatch, "/site/accelerate/commands/launch.py", "--config_file", "mine.yaml", "train.py")
    launch.start_missing_processes()
    assert asked == ["mine.yaml"]
    assert started[0][3:9] == ["--nproc_per_node", "2", "--nnodes", "2", "--node_rank", "1"]


def test_one_process_is_this_one_and_so_is_one_of_several_or_of_none(started, monkeypatch):
    launched_by(monkeypatch, "accelerate", "launch", "--num_processes", "1", "train.py")
    launch.start_missing_processes()
    launched_by(monkeypatch)  # it would not say
    for name in launch.WORLD_SIZES:
        monkeypatch.setenv(name, "2")
        launch.start_missing_processes()
        monkeypatch.delenv(name)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")
    launch.start_missing_processes()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.delenv("MASTER_ADDR")
    launch.start_missing_processes()
    assert not started


def test_a_launcher_that_does_not_say_how_many_is_told_of(started, monkeypatch):
    launched_by(monkeypatch, "bash", "start.sh")
    with pytest.raises(OSError, match="does not say how many it should have been. .*--nproc_per_node N train.py ...$"):
        launch.start_missing_processes()


class Plugin:
    def __init__(self, fsdp_version=2):
        self.fsdp_version, self.precisions = fsdp_version, []

    def set_mixed_precision(self, precision):
        self.precisions.append(precision)


@pytest.fixture
def accelerator(monkeypatch):
    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)
    shared = types.SimpleNamespace(distributed_type=DistributedType.MULTI_CPU)
    monkeypatch.setattr(sharding, "PartialState", lambda: shared)
    state = types.SimpleNamespace(fsdp_plugin=Plugin(), distributed_type=DistributedType.MULTI_CPU)
    return types.SimpleNamespace(
        state=state, shared=shared, distributed_type=DistributedType.MULTI_CPU, mixed_precision="no"
    )


def test_weights_are_sharded_on_cpus_where_that_was_asked_for(accelerator, monkeypatch):
    sharding.shard_on_cpus(accelerator)
    assert accelerator.state.distributed_type == accelerator.shared.distributed_type == DistributedType.MULTI_CPU
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    sharding.shard_on_cpus(accelerator)
    assert accelerator.state.distributed_type == accelerator.shared.distributed_type == DistributedType.FSDP
    assert accelerator.state.fsdp_plugin.precisions == []


def test_a_plugin_is_made_where_there_is_none_and_has_the_precision(accelerator, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "1")
    monkeypatch.setattr(sharding, "FullyShardedDataParallelPlugin", Plugin)
    del accelerator.state.fsdp_plugin
    accelerator.mixed_precision = "bf16"
    sharding.shard_on_cpus(accelerator)
    assert accelerator.state.fsdp_plugin.precisions == ["bf16"]


def test_what_needs_gpus_is_refused_on_cpus_and_left_alone_on_gpus(accelerator, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    accelerator.state.fsdp_plugin = Plugin(fsdp_version=1)
    with pytest.raises(ValueError, match="^fsdp_version: got 1, which needs GPUs; accepted on CPUs is 2.$"):
        sharding.shard_on_cpus(accelerator)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "True")
    for kind in (DistributedType.MULTI_CPU, DistributedType.NO):
        accelerator.distributed_type = kind
        with pytest.raises(ValueError, match="^distributed_type: got DEEPSPEED, which needs GPUs; accepted on CPUs "):
            sharding.shard_on_cpus(accelerator)
    accelerator.distributed_type = DistributedType.MULTI_GPU
    sharding.shard_on_cpus(accelerator)
    assert accelerator.shared.distributed_type == DistributedType.MULTI_CPU
