"""The ladder of fallbacks: a model that one rung fails on runs by the next rung below.

The rungs, from the top: the whole forward as captured graphs; its blocks, captured one by one;
calls of modules checkpointed, with nothing captured; the model as it is, if its step is measured
within the budget.

Only failures that are the model's own lead down: it cannot be captured, does not match eager, or
does not fit. A bug in autockpt leads down as well, with a warning that asks you to report it, so
that you can train meanwhile; with the environment variable ``AUTOCKPT_RAISE=1`` it is raised.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from autockpt import progress
from autockpt.capture.blame import unexpected_keyword
from autockpt.errors import (
    AutockptError,
    BudgetError,
    CaptureError,
    InternalError,
    PlanMismatchError,
    VerificationError,
    drop_frames,
)
from autockpt.report.plan import Plan
from autockpt.user_warnings import warn_user
from autockpt.verify.peak import old_objects_set_aside

T = TypeVar("T")
_MAX_REASON = 320  # letters


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rung(Generic[T]):
    """A way to run a step: the rung's name, and what tries it.

    ``way`` tells apart several ways of one rung.
    """

    name: str
    attempt: Callable[[], T]
    way: str = ""


class Ladder:
    """Which rungs one model has failed on.

    Attributes:
        reason: Why the latest step is not on the highest rung; empty if it is.
        met_bug: Whether a bug in autockpt has ever ruled out a rung. Another process may not meet
            it, so no plan below that rung is kept.
    """

    def __init__(self) -> None:
        self.reason = ""
        self.met_bug = False
        # A rung that failed because of the model itself is not tried again for other inputs.
        self._given_up: dict[str, str] = {}

    def copy(self) -> Ladder:
        """The same knowledge, for a copy of the model."""
        copied = Ladder()
        copied.reason = self.reason
        copied.met_bug = self.met_bug
        copied._given_up = dict(self._given_up)
        return copied

    @property
    def main_reason(self) -> str:
        """Why the highest rung that failed did so: the others mostly fail for the same."""
        for rung, reason in self._given_up.items():
            if self.reason.startswith(f"{rung}: "):
                return f"{rung}: {reason}"
        return self.reason

    @property
    def given_up(self) -> dict[str, str]:
        """The rungs that are no longer tried, with the reasons."""
        return dict(self._given_up)

    def know(self, reason: str, given_up: Mapping[str, str], *, forgets: bool = False) -> None:
        """Take over what was found out about the model elsewhere, or before.

        Args:
            reason: Why the latest step is not on the highest rung.
            given_up: The rungs that are no longer tried.
            forgets: Whether to try all others again.
        """
        self.reason = reason
        self._given_up = dict(given_up) if forgets else self._given_up | dict(given_up)

    def give_up(self, rung: str, reason: str) -> None:
        """Never try a rung again."""
        self._given_up[rung] = reason

    def has_given_up(self, rung: str) -> bool:
        """Whether a rung is no longer tried."""
        return rung in self._given_up

    def explained(self, plan: Plan) -> Plan:
        """The plan with the reason for falling back among its notes."""
        if not self.reason:
            return plan
        note = f"fell back because of {self.reason}"
        return dataclasses.replace(plan, notes=(*plan.notes, note))

    def descend(self, rungs: Iterable[Rung[T]]) -> T:
        """Return the result of the first rung that works.

        Args:
            rungs: What to try, from the top.

        Raises:
            AutockptError: No rung works. The error is the one that helps most, with the failures of
                the other rungs as notes.
            InternalError: A bug in autockpt, if ``AUTOCKPT_RAISE`` is set.
        """
        failures: list[tuple[Rung[T], AutockptError]] = []
        for rung in rungs:
            if rung.name in self._given_up:
                continue
            try:
                with old_objects_set_aside():
                    result = rung.attempt()
            except AutockptError as error:
                # A lower rung would begin a search that you have already ended.
                if not leads_down(error) or progress.is_stopping():
                    raise
                if isinstance(error, InternalError):
                    self.met_bug = True
                    warn_user(
                        f"{error} Meanwhile autockpt falls back from the rung {rung.name!r}. Set "
                        "AUTOCKPT_RAISE=1 to raise this error instead."
                    )
                failures.append((rung, error))
                continue
            self._settle_on(rung.name, failures)
            _drop_frames(failures)
            return result
        main = _with_others_as_notes(failures)
        _drop_frames(failures, but=main)
        raise main

    def _settle_on(self, rung: str, failures: list[tuple[Rung[T], AutockptError]]) -> None:
        reasons = dict(self._given_up)
        for failed, failure in failures:
            if failed.name != rung:
                reasons[failed.name] = _short(failure)
                if not isinstance(failure, BudgetError):
                    self.give_up(failed.name, reasons[failed.name])
        self.reason = "; ".join(f"{failed}: {reason}" for failed, reason in reasons.items())


def leads_down(error: AutockptError) -> bool:
    """Whether the next rung is tried after this error."""
    if isinstance(error, InternalError):
        return os.environ.get("AUTOCKPT_RAISE", "") in ("", "0")
    if unexpected_keyword(error) is not None:
        return False  # inputs that no rung can make good
    if isinstance(error, CaptureError) and error.fails_alone:
        return False  # nor can any rung make your own code run
    return isinstance(error, (BudgetError, CaptureError, PlanMismatchError, VerificationError))


def _with_others_as_notes(failures: list[tuple[Rung[T], AutockptError]]) -> AutockptError:
    """The error that helps most, with what failed on the other rungs."""
    # That eager exceeds the budget is no news; why nothing could lower its peak is.
    budget_errors = [
        e for rung, e in failures if isinstance(e, BudgetError) and rung.name != "eager"
    ]
    main = min(budget_errors, key=lambda error: error.minimum_peak_bytes, default=failures[0][1])
    told = {str(main)}
    for rung, error in failures:
        if str(error) not in told:
            told.add(str(error))
            way = f", {rung.way}," if rung.way else ""
            main.add_note(f"The rung {rung.name!r}{way} was tried as well: {error}")
    return main


def _drop_frames(
    failures: list[tuple[Rung[T], AutockptError]], but: AutockptError | None = None
) -> None:
    for _, failure in failures:
        if failure is not but:
            drop_frames(failure)
    failures.clear()


def _short(error: AutockptError) -> str:
    split = error.split if isinstance(error, BudgetError) else ""
    start = f"Dynamo splits the forward at {split}; in parts, " if split else ""
    text = start + " ".join(str(error).replace(" The model is unchanged.", "").split())
    return text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 3] + "..."
