"""Processes beside a test's own, and functions that run on several ranks of them."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import traceback
import uuid
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

LIMIT_S = 300

# One server imports the libraries; processes are forked from it in no time.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    [
        "autockpt.curves",
        "autockpt.fitting.search",
        "autockpt.batch.largest",
        "autockpt.command.cli",
        "autockpt.command.tasks.graph_file",
        "autockpt.command.targets.target",
        "autockpt.choices.plain",
        "autockpt.command.tasks.examination",
        "autockpt.command.tasks.verification",
        "autockpt.command.tasks.watching",
        "torch.distributed.fsdp",
        "pytest",
        # What the first plan of a program loads, and the models of many.
        "torch._dynamo.backends.inductor",
        "torch._inductor.fx_passes.joint_graph",
        "torch.export._trace",
        "torch.distributed.tensor.experimental",
        "numba.np.npyimpl",
        "autockpt_solvers.methods.greedy",
        "ortools.sat.python.cp_model",
        "transformers.models.gpt2.modeling_gpt2",
    ]
)


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
    except BaseException:
        (Path(folder) / f"{rank}.txt").write_text(traceback.format_exc())
        raise
    finally:
        dist.destroy_process_group()


def run_ranks(world_size: int, folder: Path, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What ``function(rank, *args)`` returns on each rank; a rank that hangs or fails raises."""
    folder = folder / uuid.uuid4().hex
    folder.mkdir()
    ranks = [
        context.Process(target=_work, args=(rank, world_size, str(folder), function, args))
        for rank in range(world_size)
    ]
    for process in ranks:
        process.start()
    running = {process.sentinel: (rank, process) for rank, process in enumerate(ranks)}
    try:
        while running:
            ended = connection.wait(running, timeout=LIMIT_S)
            if not ended:
                raise TimeoutError(f"ranks still run after {LIMIT_S} s")
            for rank, process in (running.pop(sentinel) for sentinel in ended):
                process.join()
                if process.exitcode:
                    reason = folder / f"{rank}.txt"
                    told = reason.read_text() if reason.exists() else f"it gave {process.exitcode}"
                    raise RuntimeError(f"rank {rank} failed: {told}")
    finally:
        for process in ranks:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world_size)]
