"""Several processes on a CPU, started by `accelerate launch --cpu --num_processes N`."""

import os
import sys

#: As accelerate's own start-up reads the number of processes, whoever launched them (torchrun, MPI).
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
# `accelerate launch`, `accelerate-launch`, `python -m accelerate.commands.launch`, and that file's path.
_LAUNCHERS = ("launch", "launch.py")


def start_missing_processes() -> None:
    """Replace this process by as many as `accelerate launch --cpu --num_processes N` was asked for.

    accelerate starts CPU processes only through an MPI host file; without one it silently starts a single process,
    with the address of a rendezvous in its environment and nobody to meet there. This continues with torchrun.

    Raises:
        OSError: the number that was asked for cannot be found out.
    """
    several = "MASTER_ADDR" in os.environ and os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
    if not several or any(name in os.environ for name in WORLD_SIZES):
        return
    asked = _launcher_arguments()
    machines = asked.num_machines or 1
    if (asked.num_processes or 1) <= 1:
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(asked.num_processes // machines)]
    command += ["--nnodes", str(machines), "--node_rank", str(asked.machine_rank or 0)]
    command += ["--master_addr", os.environ.pop("MASTER_ADDR"), "--master_port", os.environ.pop("MASTER_PORT")]
    os.execv(sys.executable, [*command, *_program(), *sys.argv[1:]])


def _program() -> list[str]:
    """What runs, for torchrun: a script's path, or the name of a module that was started by `-m`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return [sys.argv[0]] if spec is None else ["-m", spec.name.removesuffix(".__main__")]


def _launcher_arguments():
    """What `accelerate launch` was asked for, read by its own parser from its command line (it is our parent)."""
    import psutil
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    words = psutil.Process(os.getppid()).cmdline()
    start = next((index for index, word in enumerate(words) if word.endswith(_LAUNCHERS)), None)
    if start is None:
        raise OSError(
            "the environment asks for several CPU processes, one was started, and the launcher does not say how many "
            f"it should have been. Start them with: torchrun --nproc_per_node N {sys.argv[0]} ..."
        )
    asked = launch_command_parser().parse_known_args(words[start + 1 :])[0]
    if asked.num_processes is None:
        defaults = load_config_from_file(asked.config_file)
        asked.num_processes, asked.num_machines = defaults.num_processes, defaults.num_machines
        asked.machine_rank = defaults.machine_rank
    return asked
