"""Which plans of a model exist, and which of them serves an input."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from autockpt.budget import Budget
from autockpt.dispatch.buckets import Bucket, Buckets
from autockpt.dispatch.key import PlanKey
from autockpt.dispatch.trial import AcceptedPlan
from autockpt.ladder.executable import ExecutablePlan, has_eager_graph
from autockpt.report.plan import Plan


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredPlans:
    """The plans of a model as they go with a copy of it.

    Attributes:
        plans: By key; None if the model runs as it is.
        buckets: Which of them serve which sizes, by what inputs that share plans have in common.
        budget_bytes: The largest budget of a plain step, by the number of its calls.
        latest: The latest plan.
        in_eager_graph: Inputs, but for their sizes, of calls that need eager's autograd graph.
        values: The plans as values, by key.
    """

    plans: Mapping[PlanKey, ExecutablePlan | None] = dataclasses.field(default_factory=dict)
    buckets: Mapping[Any, Buckets[PlanKey]] = dataclasses.field(default_factory=dict)
    budget_bytes: Mapping[int, int] = dataclasses.field(default_factory=dict)
    latest: Plan | None = None
    in_eager_graph: frozenset[Any] = frozenset()
    values: Mapping[PlanKey, Plan] = dataclasses.field(default_factory=dict)


class PlanStore:
    """The plans of one model, and the forwards that follow them.

    Attributes:
        latest: The latest plan.
        num_stale: How many plans were given up because the model's code took another path.
        device_budget: The budget, if it depends on a device's memory, once that was read.
        held_back_bytes: What new plans leave of the budget, because steps took more than predicted.
    """

    def __init__(self, stored: StoredPlans | None = None) -> None:
        stored = stored or StoredPlans()
        self._plans = dict(stored.plans)
        self._buckets: dict[Any, Buckets[PlanKey]] = collections.defaultdict(Buckets)
        for without_layout, buckets in stored.buckets.items():
            self._buckets[without_layout] = buckets.copy()
        self._budget_bytes = dict(stored.budget_bytes)
        self.latest = stored.latest
        self._in_eager_graph = set(stored.in_eager_graph)
        self._values = dict(stored.values)
        # Forwards belong to one module; copies make their own from the plans.
        self._forwards: dict[PlanKey, Callable[..., Any]] = {}
        self.num_stale = 0
        self.device_budget: Budget | None = None
        self.held_back_bytes = 0

    def stored(self) -> StoredPlans:
        """What there is so far, for a copy of the model."""
        return StoredPlans(
            plans=dict(self._plans),
            buckets={key: buckets.copy() for key, buckets in self._buckets.items()},
            budget_bytes=dict(self._budget_bytes),
            latest=self.latest,
            in_eager_graph=frozenset(self._in_eager_graph),
            values=dict(self._values),
        )

    def __len__(self) -> int:
        """The number of inputs that were planned for."""
        return len(self._plans)

    def keys(self) -> list[PlanKey]:
        """What was planned for, in that order."""
        return list(self._plans)

    def __contains__(self, key: PlanKey) -> bool:
        return key in self._plans

    def plan(self, key: PlanKey) -> ExecutablePlan | None:
        """The plan for a key that is in the store; None if the model runs as it is."""
        return self._plans[key]

    def value(self, key: PlanKey) -> Plan | None:
        """The plan that serves a key, as a value; None if another rank made it."""
        serving = self.serving(key)
        return None if serving is None else self._values.get(serving)

    def forward(self, key: PlanKey) -> Callable[..., Any] | None:
        """The forward that serves a key, its own or that of a bucket, if it was made already."""
        if key in self._forwards:
            return self._forwards[key]
        serving = self.serving(key)
        return None if serving is None else self._forwards.get(serving)

    def set_forward(self, key: PlanKey, forward: Callable[..., Any]) -> None:
        """Remember the forward that serves a key."""
        self._forwards[key] = forward

    def serving(self, key: PlanKey) -> PlanKey | None:
        """The key whose plan serves this one: its own, or that of a bucket; None if none does.

        A step that frees outputs needs no more than one that keeps them, so that a plan that
        recomputes nothing serves it too.
        """
        if key in self._plans:
            return key
        found = self._buckets[key.without_layout].serving(key.layout)
        if found is None and key.loop.frees_any:
            keeping = dataclasses.replace(key.loop, freed_outputs=frozenset())
            kept = self.serving(dataclasses.replace(key, loop=keeping))
            plan = None if kept is None else self._values.get(kept)
            found = kept if plan is not None and not plan.recompute_ns else None
        return found

    def candidates(
        self, key: PlanKey, *, rounds_up: bool, budget_bytes: int | None
    ) -> list[Bucket]:
        """Buckets to plan for instead of exactly this key; see `Buckets.candidates`."""
        return self._buckets[key.without_layout].candidates(
            key.layout, rounds_up=rounds_up, budget_bytes=budget_bytes
        )

    def budget_bytes(self, key: PlanKey) -> int | None:
        """The budget that a step has because of earlier ones; None if it is the largest so far.

        A percentage refers to the eager peak of the largest plain step.
        """
        known = self._buckets[key.plain.without_layout]
        is_known = key != key.plain or known.is_within_known(key.layout)
        return self._budget_bytes.get(key.loop.num_calls) if is_known else None

    def know_budget(self, key: PlanKey, budget_bytes: int) -> None:
        """Remember the budget of a plain step, before a plan for larger inputs serves it."""
        self._buckets[key.without_layout].know_budget(key.layout)
        self._note_budget(key, budget_bytes)

    def _note_budget(self, key: PlanKey, budget_bytes: int) -> None:
        if key == key.plain:
            known_bytes = self._budget_bytes.get(key.loop.num_calls, 0)
            self._budget_bytes[key.loop.num_calls] = max(known_bytes, budget_bytes)

    def add(self, key: PlanKey, accepted: AcceptedPlan, bucket: Bucket | None) -> None:
        """Remember a plan; with a bucket it also serves the smaller inputs of that bucket."""
        buckets = self._buckets[key.without_layout]
        if bucket is not None:
            buckets.add(key.layout, key, bucket)
        if accepted.executable is None:
            sizes = key.layout.sizes if bucket is None else bucket.sizes
            buckets.add_untouched(key.layout, key, sizes)
        self._note_budget(key, accepted.plan.budget_bytes)
        self.latest = self._values[key] = accepted.plan
        self._plans[key] = accepted.executable

    def add_agreed(
        self, key: PlanKey, executable: ExecutablePlan | None, latest: Plan | None
    ) -> None:
        """Remember the plan that all ranks follow."""
        self._plans[key], self.latest = executable, latest

    def fail(self, key: PlanKey, bucket: Bucket, *, budget_bytes: int | None) -> None:
        """Do not plan for a bucket again; with a budget, it was too small for it."""
        self._buckets[key.without_layout].fail(key.layout, bucket, budget_bytes=budget_bytes)

    def needs_eager_graph(self, key: PlanKey) -> bool:
        """Whether autograd must see such a call as in eager: node by node, not as one graph."""
        return key.layout.kind in self._in_eager_graph

    def require_eager_graph(self, kind: Any) -> None:
        """Give up the plans that run as graphs, for calls with this in common; see `Layout`."""
        self._in_eager_graph.add(kind)
        for other in [other for other in self._forwards if self.needs_eager_graph(other)]:
            if not has_eager_graph(self._plans.get(other)):
                self._buckets[other.without_layout].forget(other)
                self.drop(other)

    def drop(self, key: PlanKey) -> None:
        """Remove a plan that never ran.

        Args:
            key: A key that it serves.
        """
        self._remove(self.serving(key) or key)

    def _remove(self, key: PlanKey) -> None:
        self._forwards.pop(key, None)
        self._plans.pop(key, None)
        self._values.pop(key, None)

    def forget(self, key: PlanKey, *, max_stale: int) -> None:
        """Give up a plan whose forward is stale, so that the next call plans again.

        Args:
            key: A key that it serves.
            max_stale: How often, at most. After that the forward stays.
        """
        forward = self.forward(key)
        same = [other for other, serving in self._forwards.items() if serving is forward]
        if any(self._buckets[other.without_layout].forget(other) for other in same):
            # Sizes were left open and a graph depends on them: they are planned exactly from now.
            forgotten = same
        else:
            self.num_stale += 1
            forgotten = [self.serving(key) or key] if self.num_stale <= max_stale else []
        for other in forgotten:
            self._remove(other)

    def plan_of(self, key: PlanKey) -> ExecutablePlan | None:
        """The plan that a key follows now, its own or that of a bucket."""
        serving = self.serving(key)
        return None if serving is None else self._plans.get(serving)

    def replace(self, key: PlanKey, accepted: AcceptedPlan) -> None:
        """Let all keys that share the forward of this one follow another plan."""
        forward = self.forward(key)
        for other in [o for o, serving in self._forwards.items() if serving is forward]:
            self._forwards[other] = accepted.forward
            if other in self._plans:
                self._plans[other] = accepted.executable
                self._values[other] = accepted.plan
        self.latest = accepted.plan

    def forget_all(self) -> dict[PlanKey, Callable[..., Any]]:
        """Give up all plans, so that every kind of call is planned again; return the forwards."""
        for buckets in self._buckets.values():
            buckets.forget_plans()
        forwards, self._forwards = self._forwards, {}
        self._plans.clear()
        self._values.clear()
        return forwards

    def put_back(self, stored: StoredPlans, forwards: dict[PlanKey, Callable[..., Any]]) -> None:
        """Return to plans that were given up, for good: whatever their forwards say."""
        self._plans, self._forwards = dict(stored.plans), forwards
        self._values = dict(stored.values)
        for without_layout, buckets in stored.buckets.items():
            self._buckets[without_layout] = buckets.copy()
        self.latest = stored.latest
        for forward in forwards.values():
            if hasattr(forward, "accept_changes"):
                forward.accept_changes()
