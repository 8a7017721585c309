"""One plan for several calls of a model before one backward."""

from __future__ import annotations

from collections.abc import Callable

from autockpt.errors import BudgetError
from autockpt.report.plan import Plan

_MOST_SOLVES = 7
_CLOSE = 0.01  # of the budget: a search ends when this little is left unused


def plan_for_calls(
    plan_beside: Callable[[int], Plan],
    *,
    num_calls: int,
    room_bytes: int,
    is_over: Callable[[], bool],
) -> Plan:
    """Find the plan that costs least among those with which all calls fit together.

    The more memory one call may use, the more it saves, and the more the others hold beside it.
    The search looks for the point at which what is set aside for the others is what they hold.

    Args:
        plan_beside: Makes a plan for one call, with this many bytes set aside for the others.
        num_calls: How many calls share the backward.
        room_bytes: The budget, less what is in memory all the time.
        is_over: Whether the time is over; the search then ends with what it has.

    Raises:
        BudgetError: There is none. What it names is for one call.
    """
    low_bytes, high_bytes = 0, room_bytes
    best: Plan | None = None
    refused: BudgetError | None = None
    aside_bytes = room_bytes * (num_calls - 1) // num_calls
    for _ in range(_MOST_SOLVES):
        if is_over() and best is not None:
            break
        try:
            plan = plan_beside(aside_bytes)
        except BudgetError as error:
            refused = error
            high_bytes = min(high_bytes, aside_bytes)
        else:
            held_bytes = plan.fixed.other_calls_bytes
            if held_bytes <= aside_bytes:
                if best is None or plan.recompute_ns < best.recompute_ns:
                    best = plan
                if not plan.recompute_ns or aside_bytes - held_bytes <= _CLOSE * room_bytes:
                    break
                low_bytes, high_bytes = max(low_bytes, held_bytes), aside_bytes
            else:
                low_bytes, high_bytes = aside_bytes, min(high_bytes, held_bytes)
        if high_bytes - low_bytes <= _CLOSE * room_bytes:
            break
        aside_bytes = (low_bytes + high_bytes) // 2
    if best is not None:
        return best
    raise refused or BudgetError(budget_bytes=room_bytes, minimum_peak_bytes=room_bytes)
