"""Training under hard limits on memory, each in a process of its own; part of `gpu_check.py`."""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

import autockpt
from autockpt import zoo
from autockpt.experiments.side_by_side import Trainer

# An allocator that is held to a limit loses some of it to fragments; the least of these factors
# at which the optimized model trains is written down.
_LIMIT_FACTORS = (1.0, 1.02, 1.05, 1.1, 1.2)
# What Python itself may take during a step, on top of tensors.
_CPU_SLACK_BYTES = 8 * 2**20


def optimize(trainer: Trainer, budget_bytes: int, time_limit_s: float, *, verify: bool) -> None:
    """Lets a trainer's model follow a plan."""
    example = trainer.example
    autockpt.optimize(
        trainer.model,
        budget_bytes,
        sample_args=example.args,
        sample_kwargs=dict(example.kwargs),
        loss_fn=example.loss_fn,
        optimizer=trainer.optimizer,
        time_limit_s=time_limit_s,
        verify=verify,
    )


def check_limit(
    name: str, options: argparse.Namespace, budget_bytes: int, eager_peak_bytes: int
) -> dict[str, Any]:
    """Trains both in processes that cannot have more memory than a little over the budget."""
    tried: dict[str, Any] = {}
    for factor in _LIMIT_FACTORS:
        task = {
            "name": name,
            "size": options.size,
            "device": options.device,
            "budget_bytes": budget_bytes,
            "limit_bytes": (limit_bytes := int(budget_bytes * factor)),
            "steps": options.steps,
            "time_limit_s": options.time_limit,
        }
        tried = {"factor": factor, "optimized": in_a_process({**task, "optimized": True})}
        if tried["optimized"]["outcome"] == "trained":
            tried["eager"] = in_a_process({**task, "optimized": False})
            room_bytes = limit_bytes + (_CPU_SLACK_BYTES if options.device == "cpu" else 0)
            fails = tried["eager"]["outcome"] == "out of memory"
            return tried | {"ok": fails or eager_peak_bytes <= room_bytes}
    return tried | {"ok": False}


def in_a_process(task: dict[str, Any], option: str = "--limited") -> dict[str, Any]:
    """Does a task in a process of its own."""
    script = str(Path(__file__).with_name("gpu_check.py").resolve())
    command = [sys.executable, script, option, json.dumps(task)]
    # On the CPU every block above 64 KiB gets pages of its own, which go back when it is freed:
    # otherwise what the process holds says little about what its tensors take.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment
    )
    if done.returncode != 0:
        end = done.stderr.strip().splitlines()[-1:] or [""]
        return {"outcome": f"failed with code {done.returncode}: {end[0]}"}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def train_limited(
    *,
    name: str,
    size: zoo.Size,
    device: str,
    budget_bytes: int,
    limit_bytes: int,
    steps: int,
    time_limit_s: float,
    optimized: bool,
) -> dict[str, Any]:
    """Trains under a hard limit; runs in a process of its own."""
    on_cuda = device != "cpu"
    if on_cuda:
        total_bytes = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(limit_bytes / total_bytes, device)
    trainer = Trainer(zoo.build(name, size, device=device))
    try:
        if optimized:
            # Its own check would run eager once, which the limit does not allow.
            optimize(trainer, budget_bytes, time_limit_s, verify=False)
        if not on_cuda:
            # What planning and the first step leave in the process is no tensor of a step.
            trainer.step()
            trainer.optimizer.zero_grad(set_to_none=True)
            gc.collect()
            limit_data_segment(limit_bytes - trainer.resting_bytes() + _CPU_SLACK_BYTES)
        loss = [trainer.step().item() for _ in range(steps)][-1]
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            return {"outcome": "out of memory"}
        raise
    answer: dict[str, Any] = {"outcome": "trained", "loss": loss}
    if on_cuda:
        answer["max_memory_allocated_bytes"] = torch.cuda.max_memory_allocated(device)
        answer["max_memory_reserved_bytes"] = torch.cuda.max_memory_reserved(device)
    return answer


def limit_data_segment(more_bytes: int) -> None:
    """Lets this process have so many bytes more than it has now (Linux)."""
    import resource

    ctypes.CDLL(None).malloc_trim(0)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now_bytes = int(status["VmData"].split()[0]) * 1024
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (now_bytes + more_bytes, hard))


def check_guard(
    name: str, options: argparse.Namespace, budget_bytes: int, cap_bytes: int
) -> dict[str, Any]:
    """Trains by a plan for more memory than the process may have: the guard is to plan tighter."""
    if options.device == "cpu":
        return {"skipped": "the guard watches devices with memory of their own"}
    task = {
        "name": name,
        "size": options.size,
        "device": options.device,
        "budget_bytes": budget_bytes,
        "cap_bytes": cap_bytes,
        "steps": 6,
        "time_limit_s": options.time_limit,
    }
    return task | in_a_process(task, "--guarded")


def train_guarded(
    *,
    name: str,
    size: zoo.Size,
    device: str,
    budget_bytes: int,
    cap_bytes: int,
    steps: int,
    time_limit_s: float,
) -> dict[str, Any]:
    """Trains under a cap below the budget, and goes on after errors; in a process of its own."""
    total_bytes = torch.cuda.get_device_properties(device).total_memory
    trainer = Trainer(zoo.build(name, size, device=device))
    optimize(trainer, budget_bytes, time_limit_s, verify=False)
    before = autockpt.get_plan(trainer.model)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(cap_bytes / total_bytes, device)
    outcomes, told = [], []
    for _ in range(steps):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                trainer.step()
                outcomes.append("trained")
            except torch.OutOfMemoryError as error:
                outcomes.append(" ".join(["out of memory:", *getattr(error, "__notes__", [])]))
                torch.cuda.empty_cache()
        told += [str(each.message) for each in caught if "autockpt" in str(each.message)]
    after = autockpt.get_plan(trainer.model)
    assert before is not None
    assert after is not None
    return {
        "outcome": outcomes[-1],
        "outcomes": outcomes,
        "warnings": told,
        "predicted_before_bytes": before.predicted_peak_bytes,
        "predicted_after_bytes": after.predicted_peak_bytes,
        "max_memory_reserved_bytes": torch.cuda.max_memory_reserved(device),
        "ok": outcomes[-1] == "trained" and bool(told),
    }
