"""The ladder of fallbacks: what cannot run as one captured program runs in a plainer way.

Rungs, from the top: the whole forward as captured graphs, compared with eager; its blocks captured
one by one; calls of modules checkpointed, nothing captured; the model as it is, where that was
measured within the budget.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from autockpt.errors import AutockptError, BudgetError, CaptureError, VerificationError
from autockpt.ladder.calls import CallPlanner
from autockpt.ladder.graphs import Planner
from autockpt.report.plan import Plan
from autockpt.verify.peak import old_objects_set_aside

_T = TypeVar("_T")
_MAX_REASON = 240  # letters


class Ladder:
    """Where one model stands.

    Attributes:
        reason: Why it does not stand on the highest rung; empty where it does.
    """

    def __init__(self) -> None:
        self.reason = ""
        # What failed for the model itself is not tried again for other inputs.
        self._given_up: dict[str, str] = {}

    def give_up(self, rung: str, reason: str) -> None:
        """Not to try a rung again."""
        self._given_up[rung] = reason

    def has_given_up(self, rung: str) -> bool:
        """Whether a rung is not tried any more."""
        return rung in self._given_up

    def explained(self, plan: Plan) -> Plan:
        """The plan with the reason among its notes."""
        if not self.reason:
            return plan
        note = f"fell back because of {self.reason}"
        return dataclasses.replace(plan, notes=(*plan.notes, note))

    def descend(self, attempts: Iterable[tuple[str, Callable[[], _T]]]) -> _T:
        """The result of the first attempt that succeeds.

        Args:
            attempts: Rungs with what to try there, from the top; a rung may have several.

        Raises:
            AutockptError: None did. Where several were tried the message says what each failed of.
        """
        failures: list[tuple[str, AutockptError]] = []
        for rung, attempt in attempts:
            if rung in self._given_up:
                continue
            try:
                with old_objects_set_aside():
                    result = attempt()
            except (BudgetError, CaptureError, VerificationError) as error:
                failures.append((rung, error))
                continue
            reasons = dict(self._given_up)
            for failed, failure in failures:
                if failed != rung:
                    reasons[failed] = _short(failure)
                    if not isinstance(failure, BudgetError):
                        self.give_up(failed, reasons[failed])
            self.reason = "; ".join(f"{failed}: {reason}" for failed, reason in reasons.items())
            return result
        raise _combined(failures)


def planned_rungs(
    make: Callable[..., Planner | CallPlanner],
    use: Callable[[Planner | CallPlanner], _T],
    *,
    in_pieces: bool = False,
    whole_alone: bool = False,
    captures: bool = True,
    last: Callable[[], _T] | None = None,
) -> Iterator[tuple[str, Callable[[], _T]]]:
    """The rungs, those that have a planner with what to do with it.

    Where one graph holds the whole step and no schedule of it fits, no lower rung would.

    Args:
        make: Takes the class of a planner, and options of that class, to a planner of the step.
        use: What to do with a planner.
        in_pieces: Try graphs cut into pieces first. Cuts forbid some recomputation, and may not be
            where gradients add up as in eager.
        whole_alone: Try nothing but the highest rung.
        captures: Whether to try rungs on which graphs are captured.
        last: What to do on the lowest rung, with the model as it is.
    """
    is_hopeless = False

    def attempt(kind: type[Planner | CallPlanner], **how: Any) -> _T:
        nonlocal is_hopeless
        planner = make(kind, **how)
        try:
            return use(planner)
        except BudgetError:
            is_hopeless = planner.is_complete
            raise

    if captures:
        if in_pieces:
            yield "whole", lambda: attempt(Planner, in_pieces=True)
        yield "whole", lambda: attempt(Planner)
        if is_hopeless or whole_alone:
            return
        yield "blocks", lambda: attempt(Planner, in_blocks=True)
    yield "checkpoint", lambda: attempt(CallPlanner)
    if last is not None:
        yield "eager", last


def _combined(failures: list[tuple[str, AutockptError]]) -> AutockptError:
    """The error that says the most, with what failed on the other rungs."""
    by_rung = dict(failures)
    # Eager's own peak is no news; why nothing could lower it is.
    budget_errors = [
        e for rung, e in by_rung.items() if isinstance(e, BudgetError) and rung != "eager"
    ]
    worst = min(
        budget_errors,
        key=lambda error: error.minimum_peak_bytes,
        default=next(iter(by_rung.values())),
    )
    others = [(rung, error) for rung, error in by_rung.items() if error is not worst]
    if others:
        text = "; ".join(f"{rung}: {_short(error)}" for rung, error in others)
        worst.args = (f"{worst} Other ways were tried: {text}",)
    return worst


def _short(error: AutockptError) -> str:
    text = str(error)
    return text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 3] + "..."
