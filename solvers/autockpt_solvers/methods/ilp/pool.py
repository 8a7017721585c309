"""The windows of a graph, the options of each kind of window, and plans made from them."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

from autockpt_solvers.methods.ilp.compose import WindowPlan, compose, leanest
from autockpt_solvers.methods.ilp.generate import generate
from autockpt_solvers.methods.ilp.model import WindowModel
from autockpt_solvers.methods.ilp.option import Option, pareto
from autockpt_solvers.methods.ilp.segments import Segments
from autockpt_solvers.methods.ilp.window import Window, WindowKind, make_window

if TYPE_CHECKING:
    from autockpt_solvers.clock import Clock
    from autockpt_solvers.orders.facts import GraphFacts

# Windows have up to 3 segments, and up to 6 if they have few ops; nesting makes longer ones. Zoo
# graphs have 6 to 11 ops per segment.
_MAX_WIDTH, _MAX_OPS = 3, 120
_MAX_WIDTH_OF_SMALL, _MAX_OPS_OF_SMALL = 6, 40
# The composition counts what a window reads of earlier ones until its backward ends, which is too
# long. So it is asked for up to this share more than the budget, as long as the plan truly fits.
_OVERASK = 0.06
_ASKS = 3  # shares to try; each halves the range for the next
# Ops that are replayed to find options, for all kinds together: two to three seconds.
_MAX_OPS_REPLAYED = 1_500_000
_SHARE_OF_TIME = 3  # the search for options takes at most a third of the time left
_MAX_MODEL_VARIABLES = 20_000  # larger integer programs find nothing within their limit


class OptionPool:
    """Windows and their options; grows while a solve runs.

    Attributes:
        segments: The segments of the graph.
        windows: All windows that plans may use.
        options: Per kind of window, its options.
    """

    def __init__(self, facts: GraphFacts, clock: Clock, deadline: float) -> None:
        self.segments = Segments(facts)
        self.clock = clock
        self.deadline = deadline
        count = self.segments.num_segments
        self.windows: list[Window] = []
        self.kinds: dict[WindowKind, WindowKind] = {}
        for width in range(1, _MAX_WIDTH_OF_SMALL + 1):
            for start in range(count - width + 1):
                if clock.now() > deadline:
                    break
                self._add_window(start, start + width)
        effort = _MAX_OPS_REPLAYED // max(1, len(self.kinds))
        # The clock decides only if it must: it makes plans differ from run to run.
        until = clock.until(max(0.0, deadline - clock.now()) / _SHARE_OF_TIME)
        self.options = {
            kind: generate(kind, effort=effort, clock=clock, deadline=until)
            if clock.now() <= deadline
            else []
            for kind in self.kinds
        }
        # A composition cannot count with a window that nothing is known about.
        self.windows = [window for window in self.windows if self.options[window.kind]]
        self.models: dict[WindowKind, WindowModel | None] = {}

    def copy(self, deadline: float) -> OptionPool:
        """A pool that grows by itself; the integer programs, which do not change, are shared."""
        other = copy.copy(self)
        other.deadline = deadline
        other.windows = list(self.windows)
        other.options = dict(self.options)
        return other

    def _add_window(self, start: int, end: int) -> None:
        segments = self.segments
        regions = segments.region_of_segment
        num_ops = segments.starts[end] - segments.starts[start]
        most = _MAX_OPS if end - start <= _MAX_WIDTH else _MAX_OPS_OF_SMALL
        if regions[start] != regions[end - 1] or (end - start > 1 and num_ops > most):
            return
        window = make_window(segments, start, end)
        # Equal kinds are one object: they are looked up often, and comparing them takes time.
        kind = self.kinds.setdefault(window.kind, window.kind)
        self.windows.append(dataclasses.replace(window, kind=kind))

    def model(self, kind: WindowKind) -> WindowModel | None:
        """The integer program of a kind of window, or None if it is too large to be of use."""
        if kind not in self.models:
            model = WindowModel(kind) if kind.backward else None
            if model is not None and model.num_variables > _MAX_MODEL_VARIABLES:
                model = None
            self.models[kind] = model
        return self.models[kind]

    def add(self, kind: WindowKind, option: Option) -> None:
        """Add an option, unless another one equals or beats it."""
        self.options[kind] = pareto([*self.options[kind], option])

    def plan(self, budget: int) -> WindowPlan | None:
        """The cheapest plan found that fits the budget, if any."""
        best = self._compose(budget)
        over = 0.0 if best is None else budget / max(1, self.evaluate(best)[0]) - 1
        low, high = 0.0, _OVERASK
        asked = min(max(over, _OVERASK / 4), _OVERASK / 2)
        for _ in range(_ASKS):
            plan = self._compose(int(budget * (1 + asked)))
            if plan is not None and self.evaluate(plan)[0] > budget:
                high = asked
            else:
                low = asked
                if plan is not None and (best is None or plan.cost_ns < best.cost_ns):
                    best = plan
            asked = (low + high) / 2
        return best

    def _compose(self, budget: int) -> WindowPlan | None:
        return compose(
            self.windows, self.options, budget, self.segments.num_segments, clock=self.clock
        )

    def leanest(self, limit: int) -> WindowPlan | None:
        """The plan with the lowest peak, if one keeps `limit` bytes or less."""
        return leanest(
            self.windows, self.options, self.segments.num_segments, limit=limit, clock=self.clock
        )

    def evaluate(self, plan: WindowPlan) -> tuple[int, int]:
        """Peak and recompute time of a plan on the whole graph."""
        return self.segments.facts.evaluate(plan.order(self.segments))
