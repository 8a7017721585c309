"""What a change would bring, computed on the graph of the step."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator

from autockpt.fitting.step import SizedStep, without_optimizer

_ADAMS = ("adam", "adamw", "nadam", "radam")
_QUANTIZED_BLOCK = 256  # values that share a scale, in bitsandbytes
_CHUNKS = 8


def of_optimizer(step: SizedStep) -> Iterator[tuple[str, SizedStep]]:
    """Optimizers that keep or allocate less."""
    problem = step.problem
    name = problem.optimizer.name.lower()
    if name in _ADAMS and problem.optimizer.step_bytes > step.trained_bytes // 8:
        yield f"{name} with fused=True", _with_optimizer(step, problem.fixed.optimizer_bytes)
    if name in _ADAMS:
        count = step.num_trained
        yield "8-bit Adam", _with_optimizer(step, 2 * count + 8 * -(-count // _QUANTIZED_BLOCK))
    if problem.fixed.optimizer_bytes:
        yield "SGD without momentum", _with_optimizer(step, 0)


def _with_optimizer(step: SizedStep, state_bytes: int) -> SizedStep:
    """The step with an optimizer that allocates nothing while it steps."""
    return step.changed(
        graph=without_optimizer(step.problem.graph),
        fixed=dataclasses.replace(step.problem.fixed, optimizer_bytes=state_bytes),
    )


def of_loss(step: SizedStep, logits: Collection[int]) -> Iterator[tuple[str, SizedStep]]:
    """A loss that is computed in chunks, if that takes a tenth off the peak or more.

    Args:
        step: The step.
        logits: The storages of logits and their gradients.
    """
    graph = step.problem.graph
    storages = list(graph.storages)
    for at in logits:
        size_bytes = -(-storages[at].size_bytes // _CHUNKS)
        storages[at] = dataclasses.replace(storages[at], size_bytes=size_bytes)
    changed = step.changed(graph=dataclasses.replace(graph, storages=tuple(storages)))
    if logits and step.peak_bytes - changed.peak_bytes >= step.peak_bytes // 10:
        yield f"a loss in {_CHUNKS} chunks", changed
