"""A training call of a module, as plans are made for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from autockpt.dispatch.key import PlanKey
from autockpt.dispatch.ranks import Parallel
from autockpt.lower.solving_time import SolvingTime


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A training call of a module.

    Attributes:
        key: What its plan depends on.
        parallel: What makes several ranks train the module together, if anything does.
        args: Positional inputs.
        kwargs: Keyword inputs.
        solving: How long the solver has taken to plan it.
    """

    key: PlanKey
    parallel: Parallel | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    solving: SolvingTime = dataclasses.field(default_factory=SolvingTime)
