"""Sharded weights: FSDP2 on CPUs, where accelerate would quietly fall back to data parallelism."""

import os

from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin


def shard_on_cpus(accelerator: Accelerator) -> None:
    """Let an accelerator whose processes were started with FSDP (`recipes/accelerate/fsdp2.yaml`) on CPUs shard there,
    over gloo. For trying a sharded run out, not for speed.

    Raises:
        ValueError: FSDP1 or DeepSpeed, which need GPUs.
    """
    on_cpus = accelerator.distributed_type in (DistributedType.MULTI_CPU, DistributedType.NO)
    if on_cpus and _is_set("ACCELERATE_USE_DEEPSPEED"):
        raise ValueError("distributed_type: got DEEPSPEED, which needs GPUs; accepted on CPUs are FSDP and MULTI_CPU.")
    if accelerator.distributed_type != DistributedType.MULTI_CPU or not _is_set("ACCELERATE_USE_FSDP"):
        return
    state = accelerator.state
    plugin = getattr(state, "fsdp_plugin", None) or FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise ValueError("fsdp_version: got 1, which needs GPUs; accepted on CPUs is 2.")
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)
    state.fsdp_plugin = plugin
    # As accelerate's own start-up does: each further AcceleratorState() takes over what PartialState says.
    state.distributed_type = PartialState().distributed_type = DistributedType.FSDP


def _is_set(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true")
