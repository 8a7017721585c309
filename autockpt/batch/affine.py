"""The graph of a step for any batch size, from captures at two sizes.

The bytes of every tensor grow with the batch along a straight line, and so do the inputs and what a
kernel needs beside them. If the graphs of two sizes are the same operation by operation, the line
through both gives the graph of every other size without capturing it. A capture at a third size
shows whether that holds.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from autockpt.lower.problem import StepProblem
from autockpt_solvers import ComputeGraph, Op, Schedule, simulate


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedProblem:
    """A step's problem at one batch size."""

    size: int
    problem: StepProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class AffineStep:
    """A training step as a function of the batch size.

    Attributes:
        first: A captured step.
        second: The same at a larger size.
    """

    first: SizedProblem
    second: SizedProblem

    @classmethod
    def through(cls, first: SizedProblem, second: SizedProblem) -> AffineStep | None:
        """The step through two captures; None if their graphs differ, or shrink with the size."""
        assert first.size < second.size
        if _structure(first.problem.graph) != _structure(second.problem.graph):
            return None
        if any(
            a > b for a, b in zip(_tensors(first.problem), _tensors(second.problem), strict=True)
        ):
            return None
        return cls(first=first, second=second)

    @property
    def grows(self) -> bool:
        """Whether anything depends on the size."""
        return _bytes(self.first.problem) != _bytes(self.second.problem)

    def fixed_bytes(self, size: int) -> int:
        """Memory that the whole step needs at a size."""
        return self.at(size, self.first.problem.fixed_bytes, self.second.problem.fixed_bytes)

    def graph(self, size: int) -> ComputeGraph:
        """The graph at a size; its times are estimates along the same lines."""
        one, two = self.first.problem.graph, self.second.problem.graph
        return ComputeGraph(
            ops=tuple(
                dataclasses.replace(
                    a,
                    workspace_bytes=self._workspace_bytes(size, a, b),
                    runtime_ns=self.at(size, a.runtime_ns, b.runtime_ns),
                )
                for a, b in zip(one.ops, two.ops, strict=True)
            ),
            storages=tuple(
                dataclasses.replace(a, size_bytes=self.at(size, a.size_bytes, b.size_bytes))
                for a, b in zip(one.storages, two.storages, strict=True)
            ),
            outputs=one.outputs,
        )

    def runtime_ns(self, size: int) -> int:
        """Time of all operations at a size, along the same lines."""
        one, two = self.first.problem.graph, self.second.problem.graph
        return sum(
            self.at(size, a.runtime_ns, b.runtime_ns) for a, b in zip(one.ops, two.ops, strict=True)
        )

    def peaks_of(self, schedule: Schedule) -> PeakLines:
        """The peak of a schedule at every size."""
        return PeakLines(
            step=self,
            first=simulate(self.graph(self.first.size), schedule).live_bytes,
            second=simulate(self.graph(self.second.size), schedule).live_bytes,
        )

    def agrees_with(self, third: SizedProblem) -> bool:
        """Whether a capture at another size has just the bytes that the lines predict."""
        problem = third.problem
        if _structure(problem.graph) != _structure(self.first.problem.graph):
            return False
        predicted = dataclasses.replace(problem, graph=self.graph(third.size))
        same_fixed = self.fixed_bytes(third.size) == problem.fixed_bytes
        return same_fixed and _bytes(predicted) == _bytes(problem)

    def _workspace_bytes(self, size: int, first: Op, second: Op) -> int:
        """A kernel may need less at a larger size; it is then taken to need as much everywhere."""
        least = min(first.workspace_bytes, second.workspace_bytes)
        return self.at(size, least, second.workspace_bytes)

    def at(self, size: int, first: int, second: int) -> int:
        """The value on the line at a size, rounded up, and never negative."""
        steps = self.second.size - self.first.size
        return max(0, first - (first - second) * (size - self.first.size) // steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakLines:
    """What one schedule needs at every size: at each of its steps, memory grows along a line.

    Attributes:
        step: The training step.
        first: Bytes at each step of the schedule, at the first size.
        second: The same at the second size.
    """

    step: AffineStep
    first: tuple[int, ...]
    second: tuple[int, ...]

    def peak_bytes(self, size: int) -> int:
        """The peak at a size, with what is fixed."""
        highest = max(
            (self.step.at(size, a, b) for a, b in zip(self.first, self.second, strict=True)),
            default=0,
        )
        return self.step.fixed_bytes(size) + highest


def _structure(graph: ComputeGraph) -> object:
    """All of a graph but bytes and times."""
    return (
        tuple(dataclasses.replace(op, runtime_ns=0, workspace_bytes=0) for op in graph.ops),
        len(graph.storages),
        graph.outputs,
    )


def _bytes(problem: StepProblem) -> tuple[int, ...]:
    return (*_tensors(problem), *(op.workspace_bytes for op in problem.graph.ops))


def _tensors(problem: StepProblem) -> tuple[int, ...]:
    return (problem.fixed_bytes, *(storage.size_bytes for storage in problem.graph.storages))
