"""The rungs of the ladder for one training step, each with the planner that serves it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from autockpt.errors import BudgetError
from autockpt.ladder.calls import CallPlanner
from autockpt.ladder.graphs import GraphPlanner
from autockpt.ladder.ladder import Rung
from autockpt.ladder.planner import StepPlanner
from autockpt.ladder.step import StepToPlan

T = TypeVar("T")


def rungs_of(
    step: StepToPlan,
    use: Callable[[StepPlanner], T],
    *,
    in_pieces: bool = False,
    whole_alone: bool = False,
    captures: bool = True,
    run_as_it_is: Callable[[], T] | None = None,
) -> Iterator[Rung[T]]:
    """The rungs for a step, from the top.

    If one graph contains the whole step and no schedule of it fits, no lower rung would.

    Args:
        step: The step to plan.
        use: What to do with the planner of a rung.
        in_pieces: Try graphs cut into pieces first. Cuts forbid some recomputation, and are
            impossible if gradients then add up in another order than eager's.
        whole_alone: Try nothing but the highest rung.
        captures: Whether to try the rungs that capture graphs.
        run_as_it_is: What to do on the lowest rung.
    """
    is_hopeless = False

    def rung(name: str, prepare: Callable[[], StepPlanner]) -> Rung[T]:
        def attempt() -> T:
            nonlocal is_hopeless
            planner = prepare()
            try:
                return use(planner)
            except BudgetError:
                is_hopeless = planner.is_complete
                raise

        return Rung(name=name, attempt=attempt)

    if captures:
        if in_pieces:
            yield rung("whole", lambda: GraphPlanner.capture(step, in_pieces=True))
        yield rung("whole", lambda: GraphPlanner.capture(step))
        if is_hopeless or whole_alone:
            return
        yield rung("blocks", lambda: GraphPlanner.capture(step, in_blocks=True))
    yield rung("checkpoint", lambda: CallPlanner.observe(step))
    if run_as_it_is is not None:
        yield Rung(name="eager", attempt=run_as_it_is)
