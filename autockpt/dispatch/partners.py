"""What other optimized models of the process need in the training step of one model.

An encoder and a decoder may be optimized one by one, but their step is one, and both are in memory
in it. Which models train together is learned when a backward begins: they have waited for their
backwards at once, or have taken turns. From then on, the calls of each are planned beside what the
others have in memory at that time. A model also leaves room for those that are called between its
forward and its backward, as much as their share of what eager PyTorch would hold.

Models that other threads train are no part of the step, and what they do at a time is chance. To
read their gradients while their thread frees them is not safe either.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
import weakref
from typing import Any

import torch

from autockpt.budget import format_bytes
from autockpt.dispatch.key import PlanKey
from autockpt.dispatch.needs import Needs, Remembered, needed_bytes, needs_of, resting_bytes_of
from autockpt.dispatch.resting import Resting, beyond, has_storage, sizes_of
from autockpt.dispatch.store import PlanStore
from autockpt.loop import NO_OTHERS, OtherModels
from autockpt.report.plan import Plan
from autockpt.request import Request
from autockpt.torch_private.pytree import tree_leaves
from autockpt.torch_private.tensors import StorageWatch
from autockpt.verify.live_bytes import rounded_up

_PARTS = 128  # of a budget: what others need is rounded up to one, so that it seldom changes
_everyone: weakref.WeakSet[Partners] = weakref.WeakSet()
_lock = threading.RLock()  # around what adds to sets, and what goes through them
_moments = itertools.count(1)


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, weakref_slot=True)
class PartnersCall:
    """A call as other models see it; it is alive for as long as its graph is.

    Attributes:
        began_at: When, as a number that grows.
        plan: The plan that it follows.
        thread: The thread of its forward: its backward may run in one of autograd's own.
        others_bytes: What other models had in memory beside it, if any was waiting.
        has_begun: Whether its backward has begun.
    """

    began_at: int
    plan: Plan
    thread: int
    others_bytes: int = 0
    has_begun: bool = False


@dataclasses.dataclass(slots=True, kw_only=True)
class _Seen:
    """The most that was seen of one kind of call, and of others around it, at its backward.

    Attributes:
        held_bytes: What it holds in eager PyTorch between its forward and its backward.
        peak_bytes: The most that it needs there.
        at_rest_bytes: What they had in memory beside their activations, with gradients.
        need_bytes: What those need in eager PyTorch that were called after it.
        least_bytes: What those need by any plan.
        waiting_bytes: What those that still waited hold in eager PyTorch.
        runs_backward: Whether the backward of an earlier call ran while it waited.
        budget_bytes: The smallest budget of those that were called after it, if any counts others.
    """

    held_bytes: int = 0
    peak_bytes: int = 0
    at_rest_bytes: int = 0
    need_bytes: int = 0
    least_bytes: int = 0
    waiting_bytes: int = 0
    runs_backward: bool = False
    budget_bytes: int | None = None


class Partners:
    """The other optimized models around one module."""

    def __init__(self, module: torch.nn.Module, request: Request) -> None:
        """Know of none.

        Args:
            module: The module.
            request: What is asked of its plans.
        """
        self._module = module
        self._optimizer = request.optimizer
        self._budget = request.budget
        self._calls: weakref.WeakSet[PartnersCall] = weakref.WeakSet()
        self._plan: Plan | None = None
        self._inputs: list[tuple[StorageWatch, bool]] = []
        self._called_at = self._backward_at = self._backward_of = 0
        self._thread: int | None = None  # of the latest call
        self._others: weakref.WeakSet[Partners] = weakref.WeakSet()
        self._num_others = 0
        self._seen: dict[Any, _Seen] = {}
        self._has_told = False
        self._remembered = Remembered()
        self.join()

    def join(self) -> None:
        """Be counted by others."""
        with _lock:
            _everyone.add(self)

    def leave(self) -> None:
        """Be counted no more."""
        with _lock:
            _everyone.discard(self)

    @property
    def have_worked(self) -> bool:
        """Whether another model was called, or its backward ran, since the latest call ended."""
        return any(
            max(other._called_at, other._backward_at) > self._called_at
            for other in self._neighbours(self._thread)
        )

    def begin(self, plan: Plan | None, inputs: Any) -> PartnersCall | None:
        """Note a call that follows a plan; returns what is to live as long as its graph.

        Args:
            plan: The plan; None if it follows none.
            inputs: Its inputs.
        """
        if plan is None or len(_everyone) < 2:
            return None
        self._plan, self._called_at, self._thread = plan, next(_moments), threading.get_ident()
        self._inputs = [
            (StorageWatch(leaf), leaf.requires_grad)
            for leaf in tree_leaves(inputs)
            if has_storage(leaf)
        ]
        call = PartnersCall(began_at=self._called_at, plan=plan, thread=self._thread)
        if self._may_tell(plan):
            waiting = [other for other in self._neighbours(call.thread) if other._held_bytes()]
            call.others_bytes = self._in_memory(waiting)
        with _lock:
            self._calls.add(call)
        return call

    def begin_backward(self, call: PartnersCall, kind: Any) -> str:
        """Learn what others did around a call whose backward begins.

        Args:
            call: The call.
            kind: What calls of its kind have in common.

        Returns:
            What to tell; empty if nothing.
        """
        call.has_begun = True
        if not self._budget.counts_other_models:
            self._backward_at, self._backward_of = next(_moments), call.began_at
            return ""
        before, self._backward_at = self._backward_at, next(_moments)
        self._backward_of = call.began_at
        met = [
            other
            for other in self._neighbours(call.thread)
            if other._held_bytes()
            or max(other._called_at, other._backward_at) > call.began_at
            or 0 < before < other._backward_at
        ]
        if not met:
            return ""
        for other in met:
            self._others.add(other)
            other._others.add(self)
        seen = self._seen.setdefault(kind, _Seen())
        later = [other for other in met if other._called_at > call.began_at]
        needs = [other._needs(other._plan) for other in later if other._plan is not None]
        waiting = [
            other._needs(each.plan).eager_held_bytes
            for other in later
            for each in other._waiting()
            if each.began_at > call.began_at
        ]
        budgets = [
            other._plan.budget_bytes
            for other in later
            if other._plan is not None and other._budget.counts_other_models
        ]
        budgets += [] if seen.budget_bytes is None else [seen.budget_bytes]
        seen.budget_bytes = min(budgets, default=None)
        own = self._needs(call.plan)
        seen.held_bytes = max(seen.held_bytes, own.eager_held_bytes)
        seen.peak_bytes = max(seen.peak_bytes, own.eager_peak_bytes)
        seen.at_rest_bytes = max(seen.at_rest_bytes, self._at_rest(met)[0])
        seen.need_bytes = max(seen.need_bytes, sum(each.eager_peak_bytes for each in needs))
        seen.least_bytes = max(seen.least_bytes, sum(each.least_bytes for each in needs))
        seen.waiting_bytes = max(seen.waiting_bytes, sum(waiting))
        seen.runs_backward |= any(
            other._backward_of < call.began_at < other._backward_at for other in met
        )
        return self._text(call, met)

    def _text(self, call: PartnersCall, met: list[Partners]) -> str:
        """What to tell of a step in which calls were planned without the others."""
        plan = call.plan
        if not self._may_tell(plan):
            return ""
        others_bytes = max(call.others_bytes, self._in_memory(met))
        excess_bytes = plan.predicted_peak_bytes + others_bytes - plan.budget_bytes
        if excess_bytes <= 0:
            return ""
        names = sorted({type(other._module).__name__ for other in met})
        for each in (self, *met):
            each._has_told = True
        return (
            f"trains together with {' and '.join(names)}, optimized as well. The step in which "
            "that was first seen was planned for each of them alone, and may have exceeded the "
            f"budget of {format_bytes(plan.budget_bytes)} by up to {format_bytes(excess_bytes)}. "
            "autockpt counts them together from this call on"
        )

    def _may_tell(self, plan: Plan) -> bool:
        """Whether to look for a step that exceeds the budget because of others."""
        is_counted = self._has_told or plan.fixed.other_models_bytes
        return self._budget.counts_other_models and not is_counted

    def beside(self, key: PlanKey, inputs: Any, store: PlanStore) -> PlanKey:
        """The key of a call, with what others need around it.

        Args:
            key: The key without.
            inputs: The inputs of the call.
            store: The plans of the module.
        """
        budget_bytes = (store.device_budget or self._budget).bytes
        is_alone = not self._others and not self._num_others
        counts_others = self._budget.counts_other_models
        if is_alone or not counts_others or store.latest is None or budget_bytes is None:
            return key
        plan = store.value(key)
        others = self._around(
            key.layout.kind,
            inputs,
            plan,
            resting_bytes_of(plan or store.latest),
            budget_bytes - store.held_back_bytes,
        )
        if others == NO_OTHERS:
            return key
        return dataclasses.replace(key, loop=dataclasses.replace(key.loop, others=others))

    def _around(
        self, kind: Any, inputs: Any, plan: Plan | None, resting_bytes: int, budget_bytes: int
    ) -> OtherModels:
        """What others need around a call that begins now; nothing if its plan leaves room for it.

        Args:
            kind: What calls of its kind have in common.
            inputs: Its inputs.
            plan: The plan for such a call without others, if there is one.
            resting_bytes: What the model has in memory all the time.
            budget_bytes: The budget.
        """
        others = self._known_others(threading.get_ident())
        if len(others) < self._num_others:  # one is no longer there, or optimized
            self._seen.clear()
        self._num_others = len(others)
        if not others:
            return NO_OTHERS
        seen = self._seen.get(kind, _Seen())
        held_bytes = sum(other._held_bytes() for other in others)
        at_rest_bytes, at_end_bytes = self._at_rest(others, inputs)
        now_bytes = held_bytes + at_rest_bytes
        room_bytes = max(0, budget_bytes - resting_bytes - now_bytes)
        # Those that have a smaller budget cannot use the rest.
        least_budget_bytes = min(budget_bytes, seen.budget_bytes or budget_bytes)
        beyond_bytes = budget_bytes - least_budget_bytes
        share_bytes = _share(max(0, room_bytes - beyond_bytes), seen) + beyond_bytes
        beside_bytes = held_bytes + max(at_rest_bytes, seen.at_rest_bytes)
        if seen.waiting_bytes:
            both_bytes = seen.waiting_bytes + seen.peak_bytes
            beside_bytes += seen.waiting_bytes * min(room_bytes, both_bytes) // both_bytes
        backward_bytes = 0
        if seen.runs_backward:
            waiting = [each for each in others if each._held_bytes()]
            backward_bytes = sum(each._backward_bytes() for each in waiting)
        between_bytes = now_bytes + max(share_bytes, backward_bytes) - beside_bytes
        after_bytes = at_end_bytes - beside_bytes
        found = OtherModels(
            **{
                name: rounded_up(max(0, num_bytes), max(1, least_budget_bytes // _PARTS))
                for name, num_bytes in (
                    ("beside_bytes", beside_bytes),
                    ("between_bytes", between_bytes),
                    ("after_bytes", after_bytes),
                )
            }
        )
        if plan is None:
            eager_bytes = max(seen.peak_bytes, seen.held_bytes + found.between_bytes)
            most_bytes = resting_bytes + found.beside_bytes + eager_bytes + found.after_bytes
        else:
            most_bytes = self._remembered(needed_bytes, plan, found)
        return NO_OTHERS if most_bytes <= budget_bytes else found

    def _neighbours(self, thread: int | None) -> list[Partners]:
        """The other optimized models on the same device that were last called in a thread."""
        if len(_everyone) < 2 or thread is None:
            return []
        with _lock:
            everyone = list(_everyone)
        device = _device(self._module)
        return [
            other
            for other in everyone
            if other._thread == thread
            and other._module is not self._module
            and _device(other._module) == device
        ]

    def _known_others(self, thread: int | None) -> list[Partners]:
        return [other for other in self._neighbours(thread) if other in self._others]

    def _waiting(self) -> list[PartnersCall]:
        """The calls whose backwards have not begun."""
        with _lock:
            return [call for call in self._calls if not call.has_begun]

    @property
    def in_memory_bytes(self) -> int:
        """What those that train together with this model have in memory now."""
        return self._in_memory(self._known_others(self._thread))

    def _held_bytes(self) -> int:
        """What calls that wait for their backwards hold."""
        return sum(self._needs(call.plan).held_bytes for call in self._waiting())

    def _backward_bytes(self) -> int:
        """What the backward of a call that waits needs beyond what that holds."""
        needs = [self._needs(call.plan) for call in self._waiting()]
        return max((each.peak_bytes - each.held_bytes for each in needs), default=0)

    def _in_memory(self, others: list[Partners]) -> int:
        """What others have in memory now."""
        at_rest_bytes, _ = self._at_rest(others)
        return at_rest_bytes + sum(other._held_bytes() for other in others)

    def _at_rest(self, others: list[Partners], inputs: Any = ()) -> tuple[int, int]:
        """What others have in memory beside activations, less what is this model's own.

        Args:
            others: The others.
            inputs: Inputs of this model's call.

        Returns:
            What they have now, and with all gradients.
        """
        own, theirs = self._resting(), [other._resting() for other in others]
        own.storages |= sizes_of(tree_leaves(inputs))
        counted, known = {self._optimizer.of} - {None}, dict(own.trained)
        num_bytes = beyond(own.storages, [each.storages for each in theirs])
        for other, each in zip(others, theirs, strict=True):
            if other._plan is not None and other._optimizer.of not in counted:
                state_bytes = other._plan.fixed.optimizer_bytes
                trained_bytes = max(1, sum(each.trained.values()))
                num_bytes += state_bytes * beyond(known, [each.trained]) // trained_bytes
                counted |= {other._optimizer.of} - {None}
                known |= each.trained
        return (
            num_bytes + beyond(own.gradients, [each.gradients for each in theirs]),
            num_bytes + beyond(own.trained, [each.trained for each in theirs]),
        )

    def _resting(self) -> Resting:
        """What the model has in memory now."""
        # An input that requires grad is an activation of what has made it, which may free it.
        is_waiting = bool(self._waiting())
        inputs = {
            storage.key: storage.num_bytes
            for storage, requires_grad in self._inputs
            if storage.num_owners > 0 and (is_waiting or not requires_grad)
        }
        return Resting.of(self._module, inputs)

    def _needs(self, plan: Plan) -> Needs:
        return self._remembered(needs_of, plan)


def _device(module: torch.nn.Module) -> torch.device | None:
    return next((p.device for p in module.parameters()), None)


def _share(room_bytes: int, seen: _Seen) -> int:
    """What those get that are called later, while a call holds what it has saved.

    Args:
        room_bytes: What there is for both.
        seen: What both need.
    """
    if seen.need_bytes + seen.held_bytes <= room_bytes:
        return seen.need_bytes
    # Below the least that the others need, there is nothing to share.
    more_bytes = max(0, seen.need_bytes - seen.least_bytes)
    spare_bytes = max(0, room_bytes - seen.least_bytes)
    more_bytes = spare_bytes * more_bytes // max(1, more_bytes + seen.held_bytes)
    return min(seen.need_bytes, seen.least_bytes + more_bytes)
