"""What a change would bring, computed on the graph of the step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from autockpt.devices.device import Device
from autockpt.devices.table import DEVICES
from autockpt.fitting.step import SizedStep
from autockpt.lower.problem import StepProblem

_ADAMS = ("adam", "adamw", "nadam", "radam")
_QUANTIZED_BLOCK = 256  # values that share a scale, in bitsandbytes
_CHUNKS = 8


def of_optimizer(step: SizedStep) -> Iterator[tuple[str, SizedStep]]:
    """Optimizers that keep or allocate less."""
    problem = step.problem
    name = problem.optimizer.name.lower()
    if name in _ADAMS and problem.optimizer.step_bytes > problem.fixed.parameters_bytes // 8:
        fused = _with_optimizer(problem, problem.fixed.optimizer_bytes, 0)
        yield f"{name} with fused=True", step.with_problem(fused)
    if name in _ADAMS:
        count = step.num_trained
        state_bytes = 2 * count + 8 * -(-count // _QUANTIZED_BLOCK)
        yield "8-bit Adam", step.with_problem(_with_optimizer(problem, state_bytes, 0))
    if problem.fixed.optimizer_bytes:
        yield "SGD without momentum", step.with_problem(_with_optimizer(problem, 0, 0))


def _with_optimizer(problem: StepProblem, state_bytes: int, step_bytes: int) -> StepProblem:
    *ops, last = problem.graph.ops
    graph = dataclasses.replace(
        problem.graph, ops=(*ops, dataclasses.replace(last, workspace_bytes=step_bytes))
    )
    fixed = dataclasses.replace(problem.fixed, optimizer_bytes=state_bytes)
    saved_bytes = problem.fixed.total_bytes - fixed.total_bytes
    return dataclasses.replace(
        problem,
        graph=graph,
        fixed=fixed,
        baseline_peak_bytes=problem.baseline_peak_bytes - saved_bytes,
    )


def of_loss(step: SizedStep, *, vocabulary: int) -> Iterator[tuple[str, SizedStep]]:
    """A loss that is computed in chunks, if logits are a tenth of the peak or more.

    Args:
        step: The step.
        vocabulary: Number of classes of the logits; 0 if there are none.
    """
    graph = step.problem.graph
    logits = [
        at
        for at, storage in enumerate(graph.storages)
        if vocabulary and storage.size_bytes >= 2 * vocabulary * step.num_tokens
    ]
    logits_bytes = sum(graph.storages[at].size_bytes for at in logits)
    if not step.num_tokens or logits_bytes < step.problem.baseline_peak_bytes // 10:
        return
    storages = list(graph.storages)
    for at in logits:
        size_bytes = -(-storages[at].size_bytes // _CHUNKS)
        storages[at] = dataclasses.replace(storages[at], size_bytes=size_bytes)
    changed = dataclasses.replace(graph, storages=tuple(storages))
    saved_bytes = step.peak_bytes_of(graph) - step.peak_bytes_of(changed)
    problem = dataclasses.replace(
        step.problem,
        graph=changed,
        baseline_peak_bytes=step.problem.baseline_peak_bytes - saved_bytes,
    )
    yield f"a loss in {_CHUNKS} chunks", step.with_problem(problem)


def larger_device(device: Device, needed_bytes: int) -> Device | None:
    """The smallest device of the table whose memory holds a step as it is."""
    larger = [d for d in DEVICES.values() if d.usable_bytes >= needed_bytes]
    larger = [d for d in larger if d.memory_bytes > device.memory_bytes]
    return min(larger, key=lambda d: d.memory_bytes, default=None)
