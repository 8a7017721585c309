"""Calls of a model without gradients, between its forward and its backward.

A metric runs the model under ``no_grad``, and so does the reference pass of a preference loss, with
adapters off. What a call has saved for its backward and what such a forward needs are in memory
together. That there is one is known when the backward begins, and the next call is planned for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from autockpt.budget import format_bytes
from autockpt.dispatch.key import PlanKey
from autockpt.dispatch.needs import Remembered, forward_alone_bytes, needed_bytes
from autockpt.dispatch.store import PlanStore
from autockpt.loop import OtherModels
from autockpt.report.plan import Plan
from autockpt.verify.live_bytes import rounded_up

_PARTS = 128  # of a budget: what calls need is rounded up to one, so that it seldom changes


class CallsWithoutGradients:
    """What calls of one model without gradients need while another call waits for its backward."""

    def __init__(self, known: Mapping[Any, int] | None = None) -> None:
        """Know of none, or of those of the model that this one is a copy of."""
        self._bytes = dict(known or {})  # by what calls of a kind have in common: the most seen
        self._remembered = Remembered()

    def copy(self) -> CallsWithoutGradients:
        """What a copy of the model takes along."""
        return CallsWithoutGradients(self._bytes)

    def __contains__(self, kind: Any) -> bool:
        """Whether there was one while a call of this kind waited."""
        return kind in self._bytes

    def learn(self, kind: Any, plan: Plan) -> str:
        """Learn that there was one while a call waited, which is taken to have had the same inputs.

        Args:
            kind: What calls of that kind have in common.
            plan: The plan that the waiting call follows.

        Returns:
            What to tell; empty if nothing.
        """
        known_bytes = self._bytes.get(kind, 0)
        num_bytes = self._remembered(forward_alone_bytes, plan)
        if num_bytes > known_bytes:
            self._bytes[kind] = rounded_up(num_bytes, max(1, plan.budget_bytes // _PARTS))
        excess_bytes = self._needed_bytes(plan, self._bytes[kind]) - plan.budget_bytes
        if known_bytes or excess_bytes <= 0:
            return ""
        return (
            "is called without gradients between its forward and its backward. The step in which "
            "that was first seen was planned without that call, and may have exceeded the budget "
            f"of {format_bytes(plan.budget_bytes)} by up to {format_bytes(excess_bytes)}. autockpt "
            "counts it from this call on"
        )

    def beside(self, key: PlanKey, store: PlanStore) -> PlanKey:
        """The key of a call, with what they need; the same if its plan leaves room for that.

        Args:
            key: The key without.
            store: The plans of the model.
        """
        between_bytes = self._bytes.get(key.layout.kind, 0)
        if not between_bytes or store.latest is None:
            return key
        plan = store.value(key)
        if plan is not None:
            room_bytes = plan.budget_bytes - store.held_back_bytes
            if self._needed_bytes(plan, between_bytes) <= room_bytes:
                return key
        # Those of other models may still have activations in memory then.
        others = key.loop.others
        others = dataclasses.replace(others, between_bytes=others.between_bytes + between_bytes)
        return dataclasses.replace(key, loop=dataclasses.replace(key.loop, others=others))

    def _needed_bytes(self, plan: Plan, between_bytes: int) -> int:
        """What a step needs by a plan that was made without them."""
        return self._remembered(needed_bytes, plan, OtherModels(between_bytes=between_bytes))
