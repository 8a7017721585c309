"""What the calls of a model need by their plan, apart from other optimized models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from autockpt.loop import OtherModels
from autockpt.lower.others import forward_peak_bytes, with_others, without_others
from autockpt.report.plan import Plan
from autockpt_solvers import baseline_schedule, simulate
from autockpt_solvers.bounds.peak import lower_bound_bytes

_T = TypeVar("_T")
_MOST_KNOWN = 64  # results


class Remembered:
    """Results that depend on a plan, each found once: a simulation takes long for every call."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Plan, Any]] = {}

    def __call__(self, find: Callable[..., _T], plan: Plan, *args: Any) -> _T:
        """Return what a function finds for a plan."""
        key = find, id(plan), *args
        if key not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = plan, find(plan, *args)
        found: _T = self._known[key][1]
        return found


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the calls of one step need by a plan, beside what is in memory all the time.

    Attributes:
        peak_bytes: The most.
        held_bytes: What they hold between the forward and the backward, with the gradients that
            the backward starts from: those may come while another one runs.
        eager_peak_bytes: The most in eager PyTorch.
        eager_held_bytes: The same there.
        least_bytes: What every plan needs.
    """

    peak_bytes: int
    held_bytes: int
    eager_peak_bytes: int
    eager_held_bytes: int
    least_bytes: int


def resting_bytes_of(plan: Plan) -> int:
    """What a model itself has in memory all the time."""
    others_bytes = plan.fixed.other_calls_bytes + plan.fixed.other_models_bytes
    return plan.fixed.total_bytes - others_bytes + plan.older_gradients_bytes


def needs_of(plan: Plan) -> Needs:
    """What a plan needs, whatever other models it was made beside."""
    other_calls_bytes = plan.fixed.other_calls_bytes
    if plan.graph is None or plan.schedule is None:
        step_bytes = plan.peak_bytes - resting_bytes_of(plan) - plan.fixed.other_models_bytes
        return Needs(
            peak_bytes=step_bytes,
            held_bytes=step_bytes,
            eager_peak_bytes=step_bytes,
            eager_held_bytes=step_bytes,
            least_bytes=step_bytes,
        )
    graph = without_others(plan.graph)
    incoming = graph.ops[graph.num_forward].writes

    def held_bytes(saved: Iterable[int]) -> int:
        return sum(graph.size(storage) for storage in {*saved, *incoming})

    planned, eager = (simulate(graph, s) for s in (plan.schedule, baseline_schedule(graph)))
    return Needs(
        peak_bytes=planned.peak_bytes + other_calls_bytes,
        held_bytes=held_bytes(planned.saved),
        eager_peak_bytes=eager.peak_bytes + other_calls_bytes,
        eager_held_bytes=held_bytes(eager.saved),
        least_bytes=lower_bound_bytes(graph),
    )


def needed_bytes(plan: Plan, others: OtherModels) -> int:
    """What a step needs by a plan that was made without others, with them."""
    if plan.graph is None or plan.schedule is None:
        return plan.peak_bytes + others.beside_bytes + others.between_bytes
    alone_bytes = simulate(plan.graph, plan.schedule).peak_bytes
    graph = with_others(plan.graph, others)
    more_bytes = simulate(graph, plan.schedule).peak_bytes - alone_bytes
    return plan.peak_bytes + others.beside_bytes + more_bytes


def forward_alone_bytes(plan: Plan) -> int:
    """What the forward of a call needs without gradients, beside what is in memory all the time."""
    if plan.graph is None:
        return needs_of(plan).peak_bytes
    return forward_peak_bytes(plan.graph)
