"""Plans on disk, for the next process that trains the same model: one JSON file a plan.

Files contain values, no code, so reading them executes nothing. If a file is damaged or another
program's, its plan is made again; if the folder cannot be read or written, autockpt warns and plans
without it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from autockpt.checkpoint.runtime import CheckpointedCalls
from autockpt.errors import InternalError, internal_errors
from autockpt.ladder.ladder import leads_down
from autockpt.profile.cache import cache_folder
from autockpt.report.files.plan_file import write_whole
from autockpt.report.plan import Plan
from autockpt.request import Request
from autockpt.rewrite.regions import PlannedRegions
from autockpt.user_warnings import warn_user
from autockpt_solvers import SolveStatus

T = TypeVar("T")
_VERSION = 3
_MOST_FILES = 1000  # the oldest are deleted beyond that
_VARIABLE = "AUTOCKPT_PLAN_CACHE"
_IS_OFF = ("0", "off", "false", "no")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeptPlan:
    """A plan that was accepted earlier, with what it takes to follow it.

    Attributes:
        plan: The plan.
        program: What follows it; None if the model runs as it is.
        is_verified: Whether bits and peak were verified.
        time_limit_s: How long the search for it was allowed to take; 0 for the default, which ends
            once the search has stalled.
        reason: Why it is not on the highest rung; empty if it is.
        given_up: The rungs that the model failed on, with the reasons.
        date: When it was made.
    """

    plan: Plan
    program: PlannedRegions | CheckpointedCalls | None
    is_verified: bool
    time_limit_s: float
    reason: str
    given_up: dict[str, str]
    date: str = dataclasses.field(default_factory=lambda: dt.date.today().isoformat())

    def is_searched_enough(self, request: Request) -> bool:
        """Whether a search that the request allows could not find a better plan.

        The default search ends when it has stalled, which a shorter time limit may cut off.
        """
        if self.plan.status is SolveStatus.OPTIMAL:
            return True
        if request.ends_early:
            return self.time_limit_s == 0.0 or self.time_limit_s >= request.time_limit_s
        return self.time_limit_s >= request.time_limit_s

    def note(self, *, is_verified: bool) -> str:
        """What the plan tells of where it comes from."""
        text = f"kept since {self.date}"
        if is_verified:
            text += "; the same versions of autockpt and torch verified its bits and its peak"
        return text


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    """A kept plan as it stands in a file; its plan is text, as `Plan.to_json` writes it."""

    version: int
    identity: str
    date: str
    is_verified: bool
    time_limit_s: float
    reason: str
    given_up: dict[str, str]
    regions: PlannedRegions | None
    calls: CheckpointedCalls | None
    plan: str


def plans_folder() -> Path:
    """Where kept plans are."""
    return cache_folder() / f"plans-v{_VERSION}"


def are_kept() -> bool:
    """Whether plans are kept; the environment variable ``AUTOCKPT_PLAN_CACHE=0`` says no."""
    return os.environ.get(_VARIABLE, "").lower() not in _IS_OFF


@contextlib.contextmanager
def none_kept() -> Iterator[None]:
    """Neither read nor write kept plans."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = "0"
    try:
        yield
    finally:
        del os.environ[_VARIABLE]
        if before is not None:
            os.environ[_VARIABLE] = before


def load(identity: str) -> KeptPlan | None:
    """The plan that is kept for a model and its inputs; None if there is none."""
    path = _path(identity)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _warn("read", error)
        return None
    return _read(data, identity)


def _read(data: bytes, identity: str) -> KeptPlan | None:
    head, _, body = data.partition(b"\n")
    if head != _checksum(body):
        return None
    try:
        entry = msgspec.json.decode(body, type=_Entry)
        plan = Plan.from_json(entry.plan)
    except (ValueError, RecursionError):
        return None
    if (entry.version, entry.identity) != (_VERSION, identity):
        return None
    return KeptPlan(
        plan=plan,
        program=entry.regions or entry.calls,
        is_verified=entry.is_verified,
        time_limit_s=entry.time_limit_s,
        reason=entry.reason,
        given_up=entry.given_up,
        date=entry.date,
    )


def keep(identity: str, kept: KeptPlan) -> Path | None:
    """Write a plan to disk; return the file, or None if it cannot be written."""
    program = kept.program
    entry = _Entry(
        version=_VERSION,
        identity=identity,
        date=kept.date,
        is_verified=kept.is_verified,
        time_limit_s=kept.time_limit_s,
        reason=kept.reason,
        given_up=kept.given_up,
        regions=program if isinstance(program, PlannedRegions) else None,
        calls=program if isinstance(program, CheckpointedCalls) else None,
        plan=kept.plan.to_json(),
    )
    body = msgspec.json.encode(entry)
    path = _path(identity)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (_checksum(body) + b"\n" + body).decode())
        _delete_oldest(path.parent)
    except OSError as error:
        _warn("write", error)
        return None
    return path


def forget(identity: str) -> None:
    """Delete a plan that no longer serves."""
    with contextlib.suppress(OSError):
        _path(identity).unlink(missing_ok=True)


def _path(identity: str) -> Path:
    return plans_folder() / f"{identity}.json"


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _delete_oldest(folder: Path) -> None:
    files = list(folder.glob("*.json"))
    if len(files) <= _MOST_FILES:
        return
    for file in sorted(files, key=_date)[: len(files) - _MOST_FILES]:
        file.unlink(missing_ok=True)


def _date(file: Path) -> float:
    with contextlib.suppress(FileNotFoundError):  # another process deleted it
        return file.stat().st_mtime
    return 0.0


def _warn(action: str, error: OSError) -> None:
    warn_user(
        f"cannot {action} the kept plans in {plans_folder()} ({error}); planning without them. Set "
        "AUTOCKPT_CACHE_DIR to another folder, or AUTOCKPT_PLAN_CACHE=0."
    )


def unless_a_bug(attempt: Callable[[], T]) -> T | None:
    """The result; None after a bug in autockpt: then a plan is not kept, but serves.

    Raises:
        InternalError: A bug, if that was asked for.
    """
    try:
        with internal_errors("keep"):
            return attempt()
    except InternalError as error:
        if not leads_down(error):
            raise
        return None
