"""Run a function on several ranks of torch.distributed, with an end to every wait."""

from __future__ import annotations

import datetime as dt
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

LIMIT_S = 300


def _work(rank: int, world_size: int, folder: str, function: Callable[..., Any], args: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world_size,
        timeout=dt.timedelta(seconds=LIMIT_S),
    )
    try:
        torch.save(function(rank, *args), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def run_ranks(world_size: int, folder: Path, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What ``function(rank, *args)`` returns on each rank; whoever hangs is ended and fails."""
    folder = folder / uuid.uuid4().hex
    folder.mkdir()
    work = (world_size, str(folder), function, args)
    context = mp.spawn(_work, args=work, nprocs=world_size, join=False)
    end = time.monotonic() + LIMIT_S
    try:
        while not context.join(timeout=1):
            if time.monotonic() > end:
                raise TimeoutError(f"ranks still run after {LIMIT_S} s")
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world_size)]
