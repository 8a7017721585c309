"""From which outputs of a forward the backwards of a loop start, learned from the first of them.

A plan made before that takes the loss to be what :func:`autockpt.verify.loss.find_loss` finds. A
backward that starts elsewhere runs, if what it needs was saved, but follows no plan.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from autockpt.budget import format_bytes
from autockpt.report.plan import Plan
from autockpt.torch_private.pytree import tree_leaves
from autockpt.verify.loss import find_loss


@dataclasses.dataclass(slots=True, kw_only=True)
class Arrivals:
    """The outputs of a call for which gradients have come, by position among the leaves.

    Attributes:
        kind: What calls of its kind have in common.
        plan: The plan that it follows, if it follows one.
        num_other: How often its forward has had gradients for other outputs than planned.
        num_before: The same when the call began.
        planned: The outputs that it was planned for.
        outputs: The positions.
    """

    kind: Any
    plan: Plan | None
    num_other: Callable[[], int]
    num_before: int
    planned: frozenset[int]
    outputs: set[int] = dataclasses.field(default_factory=set)

    def note(
        self, positions: Mapping[int, int], gradients: tuple[torch.Tensor | None, ...]
    ) -> None:
        """Note for which outputs gradients come.

        Args:
            positions: See `positions_by_node`, for one node.
            gradients: What its backward is given.
        """
        self.outputs.update(at for i, at in positions.items() if gradients[i] is not None)


def positions_by_node(output: Any) -> dict[Any, dict[int, int]]:
    """By autograd node: the position of each of its results among the leaves of an output."""
    positions: dict[Any, dict[int, int]] = {}
    for at, leaf in enumerate(tree_leaves(output)):
        if isinstance(leaf, torch.Tensor) and leaf.grad_fn is not None:
            positions.setdefault(leaf.grad_fn, {})[leaf.output_nr] = at
    return positions


class UsedOutputs:
    """What is known of the outputs that the loop around one module uses."""

    def __init__(self, *, has_loss_fn: bool) -> None:
        """Know nothing yet.

        Args:
            has_loss_fn: Whether it is said which loss the loop makes of the output.
        """
        self._has_loss_fn = has_loss_fn
        self._used: dict[Any, frozenset[int]] = {}
        self._seen: dict[Any, frozenset[int]] = {}
        self._told: set[str] = set()
        self._last: Arrivals | None = None

    def of(self, kind: Any) -> frozenset[int] | None:
        """The outputs that calls of a kind are planned for; None for what looks like a loss."""
        return self._used.get(kind)

    def watched(
        self, output: Any, kind: Any, plan: Plan | None, num_other: Callable[[], int]
    ) -> Arrivals:
        """What is to be noted of a call that has just returned; see `Arrivals`."""
        roots = [] if self._has_loss_fn else find_loss(output, None, self.of(kind))
        planned = (
            at for at, leaf in enumerate(tree_leaves(output)) if any(leaf is root for root in roots)
        )
        self._last = Arrivals(
            kind=kind,
            plan=plan,
            num_other=num_other,
            num_before=num_other(),
            planned=frozenset(planned),
        )
        return self._last

    def learned(self) -> UsedOutputs:
        """What a copy of the module takes along."""
        taken = copy.copy(self)
        taken._used, taken._seen, taken._told = dict(self._used), dict(self._seen), set(self._told)
        taken._last = None
        return taken

    def news(self) -> str:
        """What the last backward has taught; empty if it was planned.

        A plan for fewer outputs cannot serve a backward from all of them, so it is made only for a
        loop that used the same few twice in a row.
        """
        last = self._last
        if last is None or not last.outputs:
            return ""
        self._last = None
        if last.plan is None or last.num_other() == last.num_before:
            return ""
        budget = format_bytes(last.plan.budget_bytes)
        if self._has_loss_fn:
            return self._once(
                "gets gradients for other outputs than loss_fn uses. Such a backward follows no "
                f"plan, and may exceed the budget of {budget}. Pass the loss_fn that the loop uses"
            )
        used, seen = frozenset(last.outputs), self._seen.get(last.kind)
        self._seen[last.kind] = used
        known = self._used.get(last.kind)
        if not used <= last.planned:
            self._used[last.kind] = used | last.planned
        elif known is None and used == seen:
            self._used[last.kind] = used
            return ""
        elif seen is not None:
            return self._once(
                "gets gradients for other outputs from backward to backward. Those that are not "
                f"for all of them follow no plan, and may exceed the budget of {budget}. Pass "
                "loss_fn=... with the loss that needs the most"
            )
        return self._once(
            "got gradients for other outputs than planned. That backward followed no plan, and may "
            f"have exceeded the budget of {budget}; autockpt plans for what the loop uses. With "
            "loss_fn=... the first plan is for that"
        )

    def _once(self, text: str) -> str:
        if text in self._told:
            return ""
        self._told.add(text)
        return text
