"""A training call of a module, as plans are made for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from autockpt.capture.pieces import Pieces
from autockpt.dispatch.key import PlanKey
from autockpt.dispatch.ranks import Parallel
from autockpt.ladder.planner import StepPlanner
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
        planners: What has been captured and measured to plan it.
    """

    key: PlanKey
    parallel: Parallel | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    solving: SolvingTime
    planners: dict[str, StepPlanner] = dataclasses.field(default_factory=dict)

    @property
    def reduces_on_the_way(self) -> bool:
        """Whether gradients are reduced while the backward still runs."""
        return self.parallel is not None and self.parallel.reduces_on_the_way

    @property
    def pieces(self) -> Pieces:
        """How graphs are cut, so that gradients arrive during the backward."""
        if self.reduces_on_the_way:
            return "equal"
        return "lean" if self.key.loop.accumulates else ""
