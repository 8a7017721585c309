"""The search for the largest batch: a prediction from two captures, then real captures around it.

What decides is always a capture of the size itself: the answer is planned, and the next size is
shown not to plan. If the prediction is right, these are the only captures beside the first two.
If it is not (a kernel that changes with the size, a mask that grows with its square), the search
goes on with captures, and takes the sizes to try from the smallest budgets of those it knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autockpt import progress
from autockpt.batch.affine import AffineStep, SizedProblem
from autockpt.batch.predicted import largest_checkpointed, largest_eager, largest_planned
from autockpt.errors import BudgetError
from autockpt.ladder.graphs import GraphPlanner
from autockpt.ladder.ladder import Ladder
from autockpt.ladder.planner import StepPlanner
from autockpt.ladder.rungs import rungs_of
from autockpt.ladder.step import StepToPlan
from autockpt.report.plan import Plan
from autockpt_solvers import Method

# Not 1: tracers and kernels treat a batch of one apart.
_FIRST_SIZES = (2, 4)
_MINIMUM_S = 20.0  # for each search of a leanest plan
_MOST_GUESSES = 6  # sizes that are tried before the search halves what is left


class BatchSearch:
    """The sizes that are known.

    Attributes:
        plans: The plans of the sizes that fit.
        errors: Why others do not.
    """

    def __init__(
        self,
        budget_bytes: int,
        step_of: Callable[[int], Any],
        *,
        method: str | Method,
        at_most: int,
        time_limit_s: float | None = None,
        first_sizes: tuple[int, ...] = _FIRST_SIZES,
    ) -> None:
        """Begin a search.

        Args:
            budget_bytes: The budget.
            step_of: Returns a context manager that yields the step of a size.
            method: The solver's method.
            at_most: The largest size to consider.
            time_limit_s: When to end each search of a leanest plan, if before 20 seconds.
            first_sizes: The sizes to predict from.
        """
        self.budget_bytes = budget_bytes
        self.plans: dict[int, Plan] = {}
        self.errors: dict[int, BudgetError] = {}
        self.at_most = at_most
        self._step_of = step_of
        self._method = method
        self._minimum_s = min(_MINIMUM_S, time_limit_s or _MINIMUM_S)
        self._first_sizes = tuple(size for size in first_sizes if size <= at_most)
        self._ladder = Ladder()
        self._planners: dict[int, dict[str, StepPlanner]] = {}  # of the first sizes
        self._problems: dict[int, SizedProblem] = {}
        self._affine: AffineStep | None = None
        self._line: AffineStep | None = None  # the one to predict from
        self._agreements: list[bool] = []
        self._sizes: set[int] = set()

    @property
    def is_affine(self) -> bool:
        """Whether all later captures had the bytes that the first two predict."""
        return bool(self._agreements) and all(self._agreements)

    @property
    def num_captures(self) -> int:
        """How many sizes were captured."""
        return len(self._sizes)

    def largest(self) -> int:
        """Find the largest size that plans, and the plan; 0 if not even 1 does.

        Raises:
            ValueError: Nothing depends on the size.
        """
        for size in self._first_sizes:
            self._capture(size)
        self._first_line()
        low, high = 0, self.at_most + 1
        probe = max(1, min(self._predicted(), self.at_most))
        while True:
            if self.is_planned(probe):
                low = probe
            else:
                high = probe
            if high - low <= 1:
                return low
            guess = self._guess(low, high, probe)
            probe = min(max(guess, low + 1), high - 1)

    def _first_line(self) -> None:
        """Put a line through the first captures, if their graphs are the same."""
        known = [self._problems[size] for size in self._first_sizes if size in self._problems]
        self._affine = AffineStep.through(*known) if len(known) == 2 else None
        if self._affine is not None and not self._affine.grows:
            raise ValueError(
                "the memory of a step is the same for every batch size; make_inputs must return "
                "inputs of the size it is called with"
            )
        self._line = self._affine

    def _predicted(self) -> int:
        """The largest size that plans, as the latest line predicts it; 0 if there is no line."""
        if self._line is None:
            return 0
        progress.stage("predicting the largest batch")
        return largest_planned(
            self._line,
            self.budget_bytes,
            most=self.at_most,
            method=self._method,
            time_limit_s=self._minimum_s,
        )

    def _guess(self, low: int, high: int, probe: int) -> int:
        """The size to try between one that plans and one that does not.

        Args:
            low: The largest size that is known to plan.
            high: The smallest that is known not to.
            probe: The size that was tried last.
        """
        num_tried = len(self.plans) + len(self.errors)
        if num_tried <= 1 and self.is_affine:
            return low + 1 if low else high - 1  # the prediction is right
        if num_tried >= _MOST_GUESSES:
            return 2 * low if high > self.at_most else (low + high) // 2
        # A new line, through the two captures that are nearest.
        nearest = sorted(self._problems, key=lambda size: (abs(size - probe), size))[:2]
        if len(nearest) == 2:
            one, two = sorted(nearest)
            self._line = AffineStep.through(self._problems[one], self._problems[two]) or self._line
        predicted = self._predicted()
        if not predicted:
            return self._on_line(low, high)
        if predicted <= low:
            return low + 1
        return high - 1 if predicted >= high else predicted

    def _on_line(self, low: int, high: int) -> int:
        """The size at which the smallest budgets of the sizes that were tried reach the budget."""
        tried = sorted(
            [(size, plan.minimum_peak_bytes) for size, plan in self.plans.items()]
            + [(size, error.minimum_peak_bytes) for size, error in self.errors.items()]
        )
        if len(tried) > 1:
            (one, one_bytes), (two, two_bytes) = tried[-2:]
            if two_bytes > one_bytes:
                room = self.budget_bytes - one_bytes
                return one + (two - one) * room // (two_bytes - one_bytes)
        return 2 * low if high > self.at_most else (low + high) // 2

    def _capture(self, size: int) -> None:
        """Capture a size without planning it."""
        known = self._planners[size] = {}
        with self._step_of(size) as step:
            rungs = rungs_of(step, lambda planner: planner, known=known)
            self._know(size, self._ladder.descend(rungs))

    def exceeded(self, size: int, error: BudgetError) -> None:
        """Take back a plan whose real step exceeded the budget."""
        del self.plans[size]
        self.errors[size] = error

    def is_planned(self, size: int) -> bool:
        """Whether a size plans; it is captured if that is not known yet."""
        if size in self.plans or size in self.errors:
            return size in self.plans
        known = self._planners.pop(size, {})

        def planned(planner: StepPlanner) -> Plan:
            self._know(size, planner)
            return planner.plan().plan

        try:
            with self._step_of(size) as step:
                made = self._planned(step, planned, known)
        except BudgetError as error:
            self.errors[size] = error
            return False
        self.plans[size] = made
        return True

    def _planned(
        self,
        step: StepToPlan,
        planned: Callable[[StepPlanner], Plan],
        known: dict[str, StepPlanner],
    ) -> Plan:
        made = self._ladder.descend(rungs_of(step, planned, known=known))
        return self._ladder.explained(made.as_it_is() if made.leaves_the_model else made)

    def _know(self, size: int, planner: StepPlanner) -> None:
        self._sizes.add(size)
        if isinstance(planner, GraphPlanner):
            sized = SizedProblem(size=size, problem=planner.problem)
            self._problems[size] = sized
            if self._affine is not None and size not in self._first_sizes:
                self._agreements.append(self._affine.agrees_with(sized))

    @property
    def eager_size(self) -> int | None:
        """The largest size that fits as it is, as far as the captures tell; None if they do not."""
        if self._affine is None or not self.is_affine:
            return None
        return largest_eager(self._affine, self._problems.values(), self.budget_bytes, self.at_most)

    @property
    def checkpointed_size(self) -> int | None:
        """The largest size with checkpoints at regular cuts; None if it cannot be predicted."""
        if self._affine is None or not self.is_affine:
            return None
        return largest_checkpointed(self._affine, self.budget_bytes, most=self.at_most)
