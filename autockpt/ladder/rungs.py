"""The rungs of the ladder for one training step, each with the planner that serves it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from autockpt.capture.pieces import Pieces
from autockpt.errors import BudgetError, PlanMismatchError
from autockpt.ladder.calls import CallPlanner
from autockpt.ladder.graphs import GraphPlanner
from autockpt.ladder.ladder import Rung
from autockpt.ladder.planner import StepPlanner
from autockpt.ladder.step import StepToPlan

T = TypeVar("T")
_WORDS = {"lean": "pieces that need the least memory", "equal": "equal pieces"}


def rungs_of(
    step: StepToPlan,
    use: Callable[[StepPlanner], T],
    *,
    pieces: Pieces = "",
    whole_alone: bool = False,
    captures: bool = True,
    run_as_it_is: Callable[[], T] | None = None,
    known: dict[str, StepPlanner] | None = None,
) -> Iterator[Rung[T]]:
    """The rungs for a step, from the top.

    If one graph contains the whole step and no schedule of it fits, no lower rung would. But one
    graph gives all gradients back at its end: beside older ones it may not fit where pieces, or
    calls whose gradients are added one by one, do.

    Args:
        step: The step to plan.
        use: What to do with the planner of a rung.
        pieces: Try graphs cut like this first. Cuts forbid some recomputation, and are impossible
            if gradients then add up in another order than eager's.
        whole_alone: Try nothing but the highest rung.
        captures: Whether to try the rungs that capture graphs.
        run_as_it_is: What to do on the lowest rung.
        known: Planners of an earlier descent for the same step, by rung and way; new ones are
            added.
    """
    known = {} if known is None else known
    too_small: list[StepPlanner] = []  # planners whose plans do not fit

    def rung(name: str, prepare: Callable[[], StepPlanner], way: str = "") -> Rung[T]:
        def attempt() -> T:
            planner = known.get(name + way)
            if planner is None:
                planner = known[name + way] = prepare()
            else:
                budget_bytes = step.request.budget.resolve(planner.baseline_peak_bytes)
                planner = planner.with_budget(budget_bytes)
            try:
                return use(planner)
            except BudgetError as error:
                # Parts that nobody asked for cost memory.
                error.split = planner.split
                too_small.append(planner)
                raise

        return Rung(name=name, way=way, attempt=attempt)

    if captures:
        if pieces:
            way = f"cut into {_WORDS[pieces]}"
            yield rung("whole", lambda: GraphPlanner.capture(step, pieces=pieces), way)
        in_pieces = too_small[-1] if too_small else None
        if not (isinstance(in_pieces, GraphPlanner) and in_pieces.is_hopeless_as_one_graph):
            yield rung("whole", lambda: GraphPlanner.capture(step))
        if whole_alone or any(planner.is_complete for planner in too_small):
            return
        if in_pieces is None:
            yield rung("blocks", lambda: GraphPlanner.capture(step, in_blocks=True))
    if step.request.device is not None:
        return  # the others watch a step that runs
    yield rung("checkpoint", lambda: CallPlanner.observe(step))
    if run_as_it_is is not None:
        yield Rung(name="eager", attempt=run_as_it_is)


def only_rung(rungs: Iterable[Rung[T]], name: str) -> Iterator[Rung[T]]:
    """The ways of one rung.

    Raises:
        PlanMismatchError: There is none.
    """
    is_there = False
    for rung in rungs:
        if rung.name == name:
            is_there = True
            yield rung
    if not is_there:
        raise PlanMismatchError(f'it is for the rung "{name}", which this step cannot take')
