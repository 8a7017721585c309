"""The windows of a chain, each kind's options and integer program, and plans made from them."""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import TYPE_CHECKING

from autockpt_solvers.methods.ilp.compose import Plan, compose, leanest
from autockpt_solvers.methods.ilp.generate import generate
from autockpt_solvers.methods.ilp.model import WindowModel
from autockpt_solvers.methods.ilp.option import Option, pareto
from autockpt_solvers.methods.ilp.segments import Chain
from autockpt_solvers.methods.ilp.window import Window, WindowKind, make_window

if TYPE_CHECKING:
    from autockpt_solvers.orders.facts import Orders

_MAX_WIDTH = 3
_MAX_WIDTH_OF_SMALL = 6
_MAX_OPS = 120
_SMALL_OPS = 40
_OVERASK = 0.06
_ASKS = 3
_EFFORT = 1_500_000  # steps replayed to find options, all kinds together: two to three seconds
_MAX_MODEL_VARIABLES = 20_000


class Pool:
    """Windows and options; grows while a solve runs.

    Attributes:
        chain: The chain.
        windows: All windows that plans may use.
        options: Per kind, its options.
    """

    def __init__(self, orders: Orders, deadline: float) -> None:
        self.chain = Chain(orders)
        self.deadline = deadline
        count = self.chain.num_segments
        self.windows: list[Window] = []
        self.kinds: dict[WindowKind, WindowKind] = {}
        for width in range(1, _MAX_WIDTH_OF_SMALL + 1):
            for start in range(count - width + 1):
                self._add_window(start, start + width)
        effort = _EFFORT // max(1, len(self.kinds))
        # A third of the time at most: the clock decides only when it must.
        until = time.monotonic() + max(0.0, deadline - time.monotonic()) / 3
        self.options = {kind: generate(kind, effort=effort, deadline=until) for kind in self.kinds}
        self.models: dict[WindowKind, WindowModel | None] = {}

    def copy(self, deadline: float) -> Pool:
        """A pool that grows by itself; the integer programs, which do not change, are shared."""
        other = copy.copy(self)
        other.deadline = deadline
        other.windows = list(self.windows)
        other.options = dict(self.options)
        return other

    def _add_window(self, start: int, end: int) -> None:
        chain = self.chain
        regions = chain.region_of_segment
        num_ops = chain.starts[end] - chain.starts[start]
        most = _MAX_OPS if end - start <= _MAX_WIDTH else _SMALL_OPS
        if regions[start] != regions[end - 1] or (end - start > 1 and num_ops > most):
            return
        window = make_window(chain, start, end)
        # Equal kinds are one object: they are looked up often, and comparing them takes time.
        kind = self.kinds.setdefault(window.kind, window.kind)
        self.windows.append(dataclasses.replace(window, kind=kind))

    def model(self, kind: WindowKind) -> WindowModel | None:
        """The integer program of a kind, or None when it would be too large to be of use."""
        if kind not in self.models:
            model = WindowModel(kind) if kind.stages else None
            if model is not None and model.num_variables > _MAX_MODEL_VARIABLES:
                model = None
            self.models[kind] = model
        return self.models[kind]

    def add(self, kind: WindowKind, option: Option) -> bool:
        """Adds an option; False when it is no better than what is there."""
        front = pareto([*self.options[kind], option])
        if option not in front or option in self.options[kind]:
            return False
        self.options[kind] = front
        return True

    def plan(self, room: int) -> Plan | None:
        """The cheapest plan that truly fits, using room that the composition counts too carefully.

        The composition takes what a window reads of earlier ones to stand to the end of its turn.
        So it is asked for a little more than there is, as long as the replay fits.
        """
        best = self._compose(room)
        over = 0.0 if best is None else room / max(1, self.replay(best)[0]) - 1
        low, high = 0.0, _OVERASK
        asked = min(max(over, _OVERASK / 4), _OVERASK / 2)
        for _ in range(_ASKS):
            plan = self._compose(int(room * (1 + asked)))
            if plan is not None and self.replay(plan)[0] > room:
                high = asked
            else:
                low = asked
                if plan is not None and (best is None or plan.cost_ns < best.cost_ns):
                    best = plan
            asked = (low + high) / 2
        return best

    def _compose(self, room: int) -> Plan | None:
        return compose(self.windows, self.options, room, self.chain.num_segments)

    def leanest(self, limit: int) -> Plan | None:
        """The plan with the least peak, if one keeps `limit` bytes or less."""
        return leanest(self.windows, self.options, self.chain.num_segments, limit=limit)

    def replay(self, plan: Plan) -> tuple[int, int]:
        """Peak and recompute time of a plan on the whole graph."""
        return self.chain.orders.evaluate(plan.order(self.chain))
