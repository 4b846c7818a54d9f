"""The contract is kept by every folder of `hf_effmodels/training/tasks/`."""

import importlib

from hf_effmodels.training import list_tasks

from .contract import TaskContract


def test_every_task_runs_the_contract():
    for task in list_tasks():
        module = importlib.import_module(f"{__package__}.{task.replace('-', '_')}.test_contract")
        [kept] = [
            c
            for c in vars(module).values()
            if isinstance(c, type) and issubclass(c, TaskContract) and c is not TaskContract
        ]
        assert kept.task == task
