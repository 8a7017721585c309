"""What other batch sizes would take, from captures of two of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from autockpt.batch.affine import AffineStep, SizedProblem
from autockpt.batch.predicted import (
    MOST_SAMPLES,
    largest_eager,
    largest_of_schedules,
    largest_planned,
)
from autockpt.fitting.step import SizedStep

_SEARCH_S = 2.0
_ROUNDS = 2
_BETTER = 1.01  # a batch must be faster by this factor to be preferred to a smaller one


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """A step as a function of its batch size."""

    affine: AffineStep
    known: SizedStep
    size: int

    @classmethod
    def around(
        cls, size: int, step: SizedStep, captured: Callable[[int], SizedStep]
    ) -> Batches | None:
        """The step through its own size and another one; None if their graphs differ.

        Tracers and kernels may treat a batch of one apart; that one is predicted from others then.
        """
        other = size // 2 if size > 3 else 2 * size
        beside = captured(other)
        found = cls._through(size, step, other, beside)
        if found is None and size == 1:
            found = cls._through(2, beside, 4, captured(4))
        return found if found is not None and found.affine.grows else None

    @classmethod
    def _through(cls, size: int, step: SizedStep, other: int, beside: SizedStep) -> Batches | None:
        """The step through two sizes; None if their graphs differ."""
        pair = sorted(
            (
                SizedProblem(size=size, problem=step.problem),
                SizedProblem(size=other, problem=beside.problem),
            ),
            key=lambda sized: sized.size,
        )
        affine = AffineStep.through(pair[0], pair[1])
        return None if affine is None else cls(affine=affine, known=step, size=size)

    def step(self, size: int) -> SizedStep:
        """The step of a size."""
        inputs_bytes = self.known.problem.fixed.inputs_bytes * size // self.size
        return self.known.changed(
            graph=self.affine.graph(size),
            fixed=dataclasses.replace(self.known.problem.fixed, inputs_bytes=inputs_bytes),
            share=size / self.size,
        )

    def largest_as_it_is(self, budget_bytes: int) -> int:
        """The largest batch that fits with nothing recomputed; 0 if none does."""
        return largest_eager(
            self.affine, (self.affine.first, self.affine.second), budget_bytes, MOST_SAMPLES
        )

    def largest_layered(self, budget_bytes: int) -> int | None:
        """The largest batch that fits with every layer checkpointed; None without layers."""
        schedule = self.known.layered()
        if schedule is None:
            return None
        return largest_of_schedules(self.affine, budget_bytes, (schedule,), most=MOST_SAMPLES)

    def largest_planned(self, budget_bytes: int) -> int:
        """The largest batch that a plan is found for; 0 if none is.

        Checkpointing every layer is a plan too.
        """
        found = largest_planned(
            self.affine,
            budget_bytes,
            most=MOST_SAMPLES,
            method="auto",
            time_limit_s=_SEARCH_S,
            most_rounds=_ROUNDS,
        )
        return max(found, self.largest_layered(budget_bytes) or 0)

    def best(self, budget_bytes: int, *, most: int) -> tuple[int, int] | None:
        """The batch with the highest predicted throughput, and the time of its step.

        Only a clearly faster batch is preferred to a smaller one.

        Args:
            budget_bytes: The budget.
            most: The largest batch that a plan was found for.
        """
        as_it_is = self.largest_as_it_is(budget_bytes)
        sizes = {as_it_is, (as_it_is + most) // 2}
        sizes |= {2**power for power in range(as_it_is.bit_length())}
        best: tuple[float, int, int] | None = None
        for size in sorted(size for size in sizes if 0 < size <= most):
            step_ns = self.affine.runtime_ns(size) + self.known.optimizer_ns
            if size > as_it_is:
                cost = self.step(size).planned(budget_bytes)
                if cost is None:
                    continue
                step_ns += cost.recompute_ns
            throughput = size / step_ns
            if best is None or throughput > _BETTER * best[0]:
                best = throughput, size, step_ns
        return None if best is None else best[1:]
