"""Distributed data parallelism and ``fully_shard``.

Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch


def rank_store(prefix: str) -> Any:
    """The key-value store through which the ranks met, with a prefix that keeps keys apart."""
    from torch.distributed import distributed_c10d

    return distributed_c10d.PrefixStore(prefix, distributed_c10d._get_default_store())


def active_data_parallel() -> Any:
    """The DistributedDataParallel whose forward is running, or None."""
    if not torch.distributed.is_available():
        return None
    return torch.nn.parallel.DistributedDataParallel._get_active_ddp_module()


def sharding_group(module: torch.nn.Module) -> Any:
    """The process group over which ``fully_shard`` spreads the parameters of a module, or None."""
    state_of = getattr(module, "_get_fsdp_state", None)
    if state_of is None:
        return None
    state = state_of()
    groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]
    infos = (group.mesh_info for group in groups if group is not None)
    return next((info.shard_process_group for info in infos), None)


def is_distributed_tensor(tensor: torch.Tensor) -> bool:
    """Whether ranks hold parts of this tensor, as under ``fully_shard`` and tensor parallelism."""
    return hasattr(tensor, "device_mesh")


def inside_data_parallel(wrapper: Any) -> contextlib.AbstractContextManager[None]:
    """Run as if inside the forward of a DistributedDataParallel."""
    return wrapper._inside_ddp_forward()  # type: ignore[no-any-return]
