"""A stage of planning as a value, in words that any display can show."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What planning is doing, and how far it is.

    Attributes:
        name: What it is doing, such as ``"timing operators"``.
        began_s: When the stage began, as `time.monotonic` counts.
        num_done: How many of `num_all` are done.
        num_all: How many there are to do; 0 if nothing is counted.
        detail: What is known so far, in words.
        limit_s: When the stage ends at the latest, in seconds from its start.
        is_search: Whether it is a search that can end early and keep its best plan.
    """

    name: str
    began_s: float
    num_done: int = 0
    num_all: int = 0
    detail: str = ""
    limit_s: float | None = None
    is_search: bool = False

    def text(self, now_s: float) -> str:
        """The stage in one line, with the seconds that it has taken."""
        counted = f", {self.num_done} of {self.num_all}" if self.num_all else ""
        limit = f" of {self.limit_s:.0f}" if self.limit_s is not None else ""
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.name}{counted}, {now_s - self.began_s:.0f}{limit} s{detail}"


def standing(recompute_ns: int, lower_bound_ns: int, step_ns: int) -> str:
    """What a plan costs, and how much better the best one can be, as shares of a step's time."""
    if not recompute_ns or not step_ns:
        return "+0.0% time"
    cost = f"+{recompute_ns / step_ns:.1%} time"
    if recompute_ns <= lower_bound_ns:
        return f"{cost}, the least possible"
    above = (recompute_ns - lower_bound_ns) / step_ns
    return f"{cost}, at most {above:.1%} above the best possible" if lower_bound_ns else cost


def seconds(taken_s: float) -> str:
    """A time in seconds, with a digit after the point if it is short."""
    return f"{taken_s:.1f} s" if taken_s < 10 else f"{taken_s:.0f} s"
