"""From which outputs of a forward the backwards of a loop start, learned from the first of them.

A plan made before that takes the loss to be what :func:`autockpt.verify.loss.find_loss` finds. A
backward that starts elsewhere runs, if what it needs was saved, but follows no plan. If no choice
of outputs serves a loop, its calls are left to plans that eager's own autograd follows.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from autockpt.budget import format_bytes
from autockpt.report.plan import Plan
from autockpt.torch_private.autograd import running_backward
from autockpt.torch_private.pytree import tree_leaves
from autockpt.verify.loss import find_loss


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Reason:
    """Why no plan of graphs serves the backwards of a loop, in words.

    Attributes:
        seen: What was seen, of the model.
        way_out: How to train it by graphs.
    """

    seen: str
    way_out: str


_IN_PARTS = _Reason(
    seen="has backwards in several parts: gradients for its outputs come in more than one backward",
    way_out="One backward of the sum of the losses lets it train by graphs",
)
_OTHER_VALUES = _Reason(
    seen="gets gradients for values that its forward does not return, such as those that an "
    "attribute or a hook keeps",
    way_out="If the forward returns these values as well, it trains by graphs",
)
_NOT_FROM_OUTPUTS = _Reason(
    seen="has backwards that start from other values than planned: not from outputs alone, or from "
    "other outputs of each call",
    way_out="A loss made of the same outputs of every call lets it train by graphs",
)
_ALTERNATES = _Reason(
    seen="gets gradients for other outputs from backward to backward",
    way_out="A loss of the same outputs in every step lets it train by graphs",
)
_NOT_LOSS_FN = _Reason(
    seen="gets gradients for other outputs than loss_fn uses",
    way_out="If loss_fn uses just the outputs that the loop uses, it trains by graphs",
)


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
        has_others: Whether gradients have come for values beside them that are no outputs.
        backwards: The numbers of the backwards that they have come from.
    """

    kind: Any
    plan: Plan | None
    num_other: Callable[[], int]
    num_before: int
    planned: frozenset[int]
    outputs: set[int] = dataclasses.field(default_factory=set)
    has_others: bool = False
    backwards: set[int] = dataclasses.field(default_factory=set)

    def note(
        self, positions: Mapping[int, int], gradients: tuple[torch.Tensor | None, ...]
    ) -> None:
        """Note for which outputs gradients come.

        Args:
            positions: See `positions_by_node`, for one node.
            gradients: What its backward is given.
        """
        arrived = {i for i, gradient in enumerate(gradients) if gradient is not None}
        self.outputs.update(at for i, at in positions.items() if i in arrived)
        self.has_others |= not arrived <= positions.keys()
        self.backwards.add(running_backward())


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
        self._reasons: set[tuple[Any, _Reason]] = set()
        self._in_parts: set[Any] = set()
        self._given_up: list[Any] = []
        self._last: Arrivals | None = None

    def of(self, kind: Any) -> frozenset[int] | None:
        """The outputs that calls of a kind are planned for; None for what looks like a loss."""
        return self._used.get(kind)

    def keeps_graph(self, kind: Any) -> bool:
        """Whether the backwards of a kind of calls come in parts that no graph serves."""
        return kind in self._in_parts

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
        taken._reasons, taken._in_parts = set(self._reasons), set(self._in_parts)
        taken._given_up = list(self._given_up)
        taken._last = None
        return taken

    def left_to_eager_graphs(self) -> list[Any]:
        """Kinds of calls whose backwards no plan of graphs serves; they are returned once."""
        kinds, self._given_up = self._given_up, []
        return kinds

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
        used, seen = frozenset(last.outputs), self._seen.get(last.kind)
        self._seen[last.kind] = used
        if (reason := self._lasting_reason(last, used, seen)) is not None:
            if not self._is_lasting(last.kind, reason):
                return ""
            return self._give_up_graphs(last, last.plan, used | (seen or used), reason)
        if not used <= last.planned:
            self._used[last.kind] = used | last.planned
        elif used == seen:
            self._used[last.kind] = used
            return ""
        return self._once(
            "got gradients for other outputs than planned. That backward followed no plan, and may "
            f"have exceeded the budget of {format_bytes(last.plan.budget_bytes)}; autockpt plans "
            "for what the loop uses. With loss_fn=... the first plan is for that"
        )

    def _lasting_reason(
        self, last: Arrivals, used: frozenset[int], seen: frozenset[int] | None
    ) -> _Reason | None:
        """Why no other choice of outputs to plan for would serve; None if one may."""
        if len(last.backwards) > 1:
            return _IN_PARTS
        if self._has_loss_fn:
            if last.has_others:
                return _OTHER_VALUES
            return _ALTERNATES if seen not in (None, used) else _NOT_LOSS_FN
        if used == last.planned:
            return _OTHER_VALUES if last.has_others else _NOT_FROM_OUTPUTS
        if used <= last.planned and (last.kind in self._used or seen not in (None, used)):
            return _ALTERNATES
        return None

    def _is_lasting(self, kind: Any, reason: _Reason) -> bool:
        """Whether it is the second time for this reason."""
        is_known = (kind, reason) in self._reasons
        self._reasons.add((kind, reason))
        return is_known

    def _give_up_graphs(
        self, last: Arrivals, plan: Plan, used: frozenset[int], reason: _Reason
    ) -> str:
        self._given_up.append(last.kind)
        if reason is _IN_PARTS:
            self._in_parts.add(last.kind)
        if not self._has_loss_fn and not used <= last.planned:
            self._used[last.kind] = used | last.planned
        return self._once(
            f"{reason.seen}. Such a step follows no plan, and may have exceeded the budget of "
            f"{format_bytes(plan.budget_bytes)}. autockpt checkpoints calls of modules from this "
            f"call on. {reason.way_out}"
        )

    def _once(self, text: str) -> str:
        if text in self._told:
            return ""
        self._told.add(text)
        return text
