"""What every method hands to `solve`, and the shape of a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autockpt_solvers.problem import Problem
    from autockpt_solvers.schedule import Schedule

EVERY_PLAN = "all plans"  # a bound's class, where it holds without exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The plans a method offers, as compute orders; `with_frees` makes schedules of them.

    Attributes:
        orders: Candidates; `solve` keeps the one that fits and recomputes least.
        fixed: Candidates too: those that the method offers whatever the room.
        others: What methods offered that were asked on the way. Each counts as if it had been asked
            alone, so that the answer is never worse than its.
        improve: Makes one of `orders` cheaper in the room of a problem, or gives it back; for a
            search that has more room for it. What it gives depends on nothing else.
        method: Who made them, where that is not the method that was asked for.
        lower_bound_ns: No plan of `bound_class` that fits recomputes less.
        lower_bound_bytes: No plan of `bound_class` has a lower peak, fixed bytes not included.
        bound_class: The plans that these two bounds hold for, in words, "all plans" where there is
            no exception; empty when the method proves nothing. It is taken at its word.
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
        """All orders that are offered for this room."""
        return (*self.orders, *(order for other in self.others for order in other.offered))


class Method(Protocol):
    """A method: a callable that is given the problem, the seconds it may take, and a seed."""

    def __call__(
        self, problem: Problem, *, time_limit_s: float, seed: int
    ) -> Attempt | Schedule | None:
        """Offers schedules for `problem`: one, several as an attempt, or None where it has none."""
