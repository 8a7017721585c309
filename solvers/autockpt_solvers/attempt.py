"""What a method returns to `solve`, and the signature of a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autockpt_solvers.problem import Problem
    from autockpt_solvers.schedule import Schedule

EVERY_PLAN = "all plans"  # the class of a bound that holds without exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The plans that a method offers, as compute orders; `with_frees` turns one into a schedule.

    Attributes:
        orders: The plans. `solve` takes the cheapest one that fits.
        fixed: Further plans, which do not depend on the budget.
        others: Attempts of other methods that this method asked. `solve` treats each as if it had
            asked that method itself, so the answer is never worse than theirs.
        improve: Returns a cheaper plan for a problem with a larger budget, given one of `orders`,
            or that plan unchanged. The result depends on its arguments only.
        method: Name of the method that made the plans, if not the one that was asked.
        lower_bound_ns: No plan of `bound_class` that fits recomputes less.
        lower_bound_bytes: No plan of `bound_class` has a lower peak, fixed bytes not included.
        bound_class: The plans that both bounds hold for, in words: "all plans" if there is no
            exception, empty if the method proves nothing. `solve` does not check it.
    """

    orders: tuple[Sequence[int], ...]
    fixed: tuple[Sequence[int], ...] = ()
    others: tuple[Attempt, ...] = ()
    improve: Callable[[Problem, Sequence[int]], Sequence[int]] | None = None
    method: str = ""
    lower_bound_ns: int = 0
    lower_bound_bytes: int = 0
    bound_class: str = ""

    @property
    def offered(self) -> tuple[Sequence[int], ...]:
        """All plans, those of `others` included."""
        others = (order for other in self.others for order in other.offered)
        return (*self.fixed, *self.orders, *others)


class Method(Protocol):
    """A method: a callable that gets the problem, a time limit in seconds and a seed."""

    def __call__(
        self, problem: Problem, *, time_limit_s: float, seed: int
    ) -> Attempt | Schedule | None:
        """Return a schedule for `problem`, several as an `Attempt`, or None if it finds none."""
