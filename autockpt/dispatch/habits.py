"""What the training loop does around the calls of one model, learned when their backwards begin.

Nothing of it can be known when a call begins: whether its outputs are kept, whether gradients of an
earlier backward are still there when its own begins, how many calls share a backward. So each call
is watched until its backward begins, and the next call of its kind is planned for what was seen.
"""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from autockpt.budget import format_bytes
from autockpt.dispatch.layout import Layout, round_up
from autockpt.dispatch.partners import Partners, PartnersCall
from autockpt.dispatch.used_outputs import Arrivals, UsedOutputs, positions_by_node
from autockpt.dispatch.without_gradients import CallsWithoutGradients
from autockpt.loop import Loop
from autockpt.lower.orders import forward_peak_bytes
from autockpt.report.plan import Plan
from autockpt.torch_private.aot import compiled_node, saved_by_graphs
from autockpt.torch_private.pytree import tree_leaves
from autockpt.torch_private.tensors import StorageWatch, is_held_by_code, storage_key, write_count
from autockpt.verify.inputs import input_leaves

_MOST_BACKWARDS = 8  # that are remembered while one call waits
_MUCH_FOR_GRAPHS = 3  # of eager's peak: in that, gradients of gradients have room
_WORTH_A_PLAN = 0.01  # of the budget: freed outputs of fewer bytes change no plan


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, weakref_slot=True)
class _Call:
    """A call whose backward has not begun; it is alive for as long as its graph is.

    Attributes:
        kind: What calls of its kind have in common.
        plan: The plan that it follows, if it follows one.
        sums_uses: Whether its graphs add up the gradients of several uses of a parameter.
        has_older: Whether gradients of an earlier backward were there when it began, and if so,
            whether an optimizer had stepped since that backward.
        is_training: Whether the module was in training mode.
        outputs: By position among the output's leaves: the tensor, and its storage.
        arrivals: The outputs for which gradients have come.
        of_partners: The call as other optimized models see it.
        has_begun: Whether its backward has begun.
        runs_beside: Whether the model was called without gradients while it waited.
        together: The backwards of other calls that began while it waited.
    """

    kind: Any
    plan: Plan | None
    sums_uses: bool
    has_older: bool | None
    is_training: bool
    outputs: dict[int, tuple[weakref.ref[torch.Tensor], StorageWatch]]
    arrivals: Arrivals
    of_partners: PartnersCall | None
    has_begun: bool = False
    runs_beside: bool = False
    together: list[list[_Call]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Together:
    """What to tell of several calls that were planned one by one."""

    num_calls: int
    budget_bytes: int
    excess_bytes: int
    sums_uses: bool

    @property
    def text(self) -> str:
        effects = []
        if self.excess_bytes > 0:
            effects.append(
                f"together they may have exceeded the budget of {format_bytes(self.budget_bytes)} "
                f"by up to {format_bytes(self.excess_bytes)}"
            )
        if self.sums_uses:
            effects.append(
                "gradients of parameters with several uses in one call may differ from eager's in "
                "their last bits"
            )
        return (
            f"is called {self.num_calls} times before one backward. The calls of the step in which "
            f"that was first seen were planned one by one: {', and '.join(effects)}. autockpt "
            "plans them together from this call on"
        )


class Habits:
    """What is known of the loop around one module.

    Attributes:
        trains_in_eval: Whether a backward has ever come for a call in eval mode.
        without_gradients: Calls without gradients while another one waits for its backward.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        partners: Partners,
        *,
        keeps_outputs: bool | None = None,
        has_loss_fn: bool = False,
        on_backward: Callable[[], None] = lambda: None,
    ) -> None:
        """Know nothing but what is said.

        Args:
            module: The module.
            partners: Other optimized models.
            keeps_outputs: Whether outputs are kept until the backward ends; None to find out.
            has_loss_fn: Whether it is said which loss the loop makes of the output.
            on_backward: Called when the backward of a call begins.
        """
        self._on_backward = on_backward
        self._keeps_outputs = keeps_outputs
        self._module = module
        self._partners = partners
        self._waiting: weakref.WeakSet[_Call] = weakref.WeakSet()
        self._num_calls = 1
        self._together: _Together | None = None
        # By whether an optimizer has stepped since the older gradients came: whether they are still
        # there when the backward begins.
        self._stays: dict[bool, bool] = {}
        # Whether gradients that are cleared after the forward took a step over its budget.
        self._late_matters = False
        self._has_told_of_graphs = False
        self._freed: dict[Any, frozenset[int]] = {}
        self._used_outputs = UsedOutputs(has_loss_fn=has_loss_fn)
        self._writes_at_backward: int | None = None
        self._to_tell: dict[str, None] = {}
        # Of several calls, only the first backward sees gradients that are older than this step.
        self._is_first_backward = True
        self.trains_in_eval = False
        self.without_gradients = CallsWithoutGradients()

    def loop_now(self, layout: Layout) -> Loop:
        """What to expect of a call that begins now.

        Args:
            layout: Its inputs.
        """
        accumulates = clears_late = False
        freed = self._freed_of(layout)
        has_stepped = self._has_stepped()
        if has_stepped is None:
            # A step without older gradients, such as the first of an epoch, is no kind of its own.
            clears_late = self._late_matters and not self._stays.get(True, True)
        else:
            is_learning = has_stepped and has_stepped not in self._stays
            if is_learning and self._keeps_outputs is None:
                # This step will tell what to plan for; until then the plan that exists serves.
                freed = frozenset()
            # Until it was seen: what an optimizer has used is cleared, and all else is added to.
            stays = self._stays.get(has_stepped, not has_stepped)
            accumulates = stays
            clears_late = not stays and self._late_matters
        return Loop(
            accumulates=accumulates,
            clears_late=clears_late,
            num_calls=self._num_calls,
            freed_outputs=freed,
            used_outputs=self._used_outputs.of(layout.kind),
            keeps_graph=self._used_outputs.keeps_graph(layout.kind),
        )

    def _freed_of(self, layout: Layout) -> frozenset[int] | None:
        if self._keeps_outputs is not None:
            return frozenset() if self._keeps_outputs else None
        return self._freed.get(layout.kind, frozenset())

    def watch(
        self,
        output: Any,
        layout: Layout,
        plan: Plan | None,
        inputs: Any = (),
        *,
        sums_uses: bool = False,
        num_other: Callable[[], int] = lambda: 0,
    ) -> bool:
        """Learn from a call once its backward begins.

        Args:
            output: What it returned.
            layout: Its inputs.
            plan: The plan that it followed; None if it ran as it is.
            inputs: Its inputs, if it followed a plan.
            sums_uses: Whether its graphs add up the gradients of several uses of a parameter.
            num_other: How often its forward has had gradients for other outputs than planned.

        Returns:
            Whether its backward will be seen.
        """
        self._is_first_backward = True
        leaves = [leaf for leaf in input_leaves(output) if isinstance(leaf, torch.Tensor)]
        nodes = {leaf.grad_fn for leaf in leaves if leaf.grad_fn is not None}
        if not nodes:
            return False
        outputs = {
            at: (weakref.ref(leaf), StorageWatch(leaf))
            for at, leaf in enumerate(tree_leaves(output))
            if isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided and leaf.numel() > 1
        }
        call = _Call(
            kind=layout.kind,
            plan=plan,
            sums_uses=sums_uses,
            has_older=self._has_stepped(),
            is_training=self._module.training,
            outputs=outputs if plan is not None else {},
            arrivals=self._used_outputs.watched(output, layout.kind, plan, num_other),
            of_partners=self._partners.begin(plan, inputs),
        )
        self._waiting.add(call)
        positions = positions_by_node(output)
        given = (leaf for leaf in input_leaves(inputs) if isinstance(leaf, torch.Tensor))
        before = frozenset(leaf.grad_fn for leaf in given if leaf.grad_fn is not None)
        for node in nodes:
            hook = _hook(self, call, compiled_node(node), before, positions.get(node, {}))
            node.register_prehook(hook)
        return True

    @property
    def is_waiting(self) -> bool:
        """Whether a call waits for its backward."""
        return any(not call.has_begun for call in self._waiting)

    def note_without_gradients(self) -> bool:
        """Note that the model runs without gradients; returns whether a plan is yet to count it."""
        waiting = [call for call in self._waiting if not call.has_begun]
        for call in waiting:
            call.runs_beside = True
        return any(call.kind not in self.without_gradients for call in waiting)

    def learned(self) -> dict[str, Any]:
        """What a copy of the module takes along."""
        return {
            "_num_calls": self._num_calls,
            "_stays": dict(self._stays),
            "_late_matters": self._late_matters,
            "_freed": dict(self._freed),
            "_used_outputs": self._used_outputs.learned(),
            "trains_in_eval": self.trains_in_eval,
            "without_gradients": self.without_gradients.copy(),
        }

    def know(self, learned: Mapping[str, Any]) -> None:
        """Take over what was learned of the module that this one is a copy of."""
        for name, value in learned.items():
            setattr(self, name, copy.copy(value))

    def told(self) -> list[str]:
        """Warnings about the steps so far; they are returned once."""
        self._tell(self._used_outputs.news())
        if self._together is not None:
            self._tell(self._together.text)
            self._together = None
        told = list(self._to_tell)
        self._to_tell.clear()
        return told

    def left_to_eager_graphs(self) -> list[Any]:
        """Kinds of calls whose backwards no plan of graphs serves; they are returned once."""
        return self._used_outputs.left_to_eager_graphs()

    def note_backward(self) -> None:
        """Note that gradients come now; what is written to parameters later is a step."""
        self._writes_at_backward = self._writes()

    def begin_backward(self, call: _Call, saved: Callable[[], Iterable[torch.Tensor]]) -> None:
        """Learn what is the case when the backward of a call begins.

        Args:
            call: The call.
            saved: Returns what its graphs have saved.
        """
        if call.has_begun:
            return
        self._on_backward()
        call.has_begun = True
        is_first, self._is_first_backward = self._is_first_backward, False
        for calls in call.together:
            calls.append(call)
            self._learn_calls(calls)
        call.together.clear()
        calls = [call]
        for other in self._waiting:
            if not other.has_begun and len(other.together) < _MOST_BACKWARDS:
                other.together.append(calls)
        self.note_backward()
        if call.of_partners is not None:
            self._tell(self._partners.begin_backward(call.of_partners, call.kind))
        if not call.is_training and not self.trains_in_eval:
            self.trains_in_eval = True
            self._tell(
                "trains in eval mode. Its first step ran as it is, without regard to the budget; "
                "autockpt plans it from this call on. If that is not what you want, call train()"
            )
        if call.plan is None:
            return
        if call.runs_beside:
            self._tell(self.without_gradients.learn(call.kind, call.plan))
        if torch.is_grad_enabled():  # by the engine, exactly when create_graph=True
            self._tell_of_graphs(call.plan)
        if call.has_older is not None and is_first:
            self._learn_older(call, call.plan)
        if self._keeps_outputs is None:
            self._learn_freed(call, call.plan, saved)

    def _tell_of_graphs(self, plan: Plan) -> None:
        """Tell that a backward is to be differentiated again, which takes memory too."""
        has_room = plan.budget_bytes >= _MUCH_FOR_GRAPHS * plan.baseline_peak_bytes
        if has_room or self._has_told_of_graphs:
            return
        self._has_told_of_graphs = True
        self._tell(
            "has a backward that is to be differentiated again (create_graph=True). No plan counts "
            "what that needs, so such a step may exceed the budget of "
            f"{format_bytes(plan.budget_bytes)}. Choose a smaller budget or a smaller batch for it"
        )

    def _learn_calls(self, calls: list[_Call]) -> None:
        """Learn how many calls waited for their backwards at once.

        Args:
            calls: Calls of which each has waited until the backward of the first began.
        """
        plans = [call.plan for call in calls if call.plan is not None]
        num_calls = len(plans)
        if num_calls <= self._num_calls:
            return
        budget_bytes = plans[0].budget_bytes
        beside = [
            max(
                plan.predicted_peak_bytes - plan.fixed.resting_bytes + plan.fixed.inputs_bytes,
                plan.gradients_bytes,
            )
            for plan in plans
        ]
        # Several calls may fit without being planned together.
        peak_bytes = max(
            plan.predicted_peak_bytes + sum(beside) - own_bytes
            for plan, own_bytes in zip(plans, beside, strict=True)
        )
        excess_bytes = peak_bytes - budget_bytes
        sums_uses = any(call.sums_uses for call in calls)
        if excess_bytes <= 0 and not sums_uses:
            return
        # A number that grows from step to step is not planned for each time.
        self._num_calls = num_calls if self._num_calls == 1 else round_up(num_calls)
        self._together = _Together(
            num_calls=num_calls,
            budget_bytes=budget_bytes,
            excess_bytes=excess_bytes,
            sums_uses=sums_uses,
        )

    def _learn_older(self, call: _Call, plan: Plan) -> None:
        assert call.has_older is not None
        stays = any(p.grad is not None for p in self._module.parameters())
        known = self._stays.get(call.has_older, False)
        is_news = stays and not known
        self._stays[call.has_older] = stays or known
        if not stays:
            self._late_matters |= _forward_peak_bytes(plan) + plan.gradients_bytes > (
                plan.budget_bytes
            )
            return
        excess_bytes = plan.predicted_peak_bytes + plan.gradients_bytes - plan.budget_bytes
        if is_news and call.has_older and excess_bytes > 0:
            self._tell(
                "has gradients of an earlier backward in memory when the next one begins, though "
                "an optimizer has stepped in between. The step in which that was first seen may "
                f"have exceeded the budget of {format_bytes(plan.budget_bytes)} by up to "
                f"{format_bytes(excess_bytes)}; autockpt plans for it from this call on. "
                "zero_grad(set_to_none=True) frees the old gradients"
            )

    def _learn_freed(
        self, call: _Call, plan: Plan, saved: Callable[[], Iterable[torch.Tensor]]
    ) -> None:
        known = self._freed.get(call.kind)
        if (known is not None and not known) or (known is None and not plan.recompute_ns):
            return
        owned = Counter(map(storage_key, saved()))
        freed = frozenset(
            at
            for at, (tensor, storage) in call.outputs.items()
            if not is_held_by_code(tensor)
            # What the plan itself has saved does not count, and eager saves what it likes.
            and (plan.leaves_the_model or storage.num_owners <= owned[storage.key])
        )
        if known is None:
            num_bytes = sum(call.outputs[at][1].num_bytes for at in freed)
            is_worth_it = num_bytes >= _WORTH_A_PLAN * plan.budget_bytes
            self._freed[call.kind] = freed if is_worth_it else frozenset()
        elif not known <= freed:
            self._freed[call.kind] = frozenset()
            self._tell(
                "returns outputs that this loop freed before the backward until now, and keeps "
                "since the last step, which may have exceeded the budget of "
                f"{format_bytes(plan.budget_bytes)}. autockpt plans for outputs that are kept "
                "from this call on"
            )

    def _has_stepped(self) -> bool | None:
        """Whether an optimizer stepped since gradients came; None if there are no gradients."""
        if all(p.grad is None for p in self._module.parameters()):
            return None
        known = self._writes_at_backward
        return known is not None and self._writes() != known

    def _writes(self) -> int:
        return sum(
            write_count(parameter)
            for parameter in self._module.parameters()
            if not parameter.is_inference()
        )

    def _tell(self, what: str) -> None:
        if what:
            self._to_tell[f"{type(self._module).__name__} {what}."] = None


def _hook(
    habits: Habits, call: _Call, node: Any, before: frozenset[Any], positions: Mapping[int, int]
) -> Callable[[Any], None]:
    """What runs when a backward of the call begins; it keeps the call alive with its graph."""
    its_habits = weakref.ref(habits)
    its_node = None if node is None else weakref.ref(node)

    def begin(gradients: Any) -> None:
        call.arrivals.note(positions, gradients)
        known = its_habits()
        if known is None:
            return

        def saved() -> Iterable[torch.Tensor]:
            compiled = None if its_node is None else its_node()
            return () if compiled is None else saved_by_graphs(compiled, before)

        known.begin_backward(call, saved)

    return begin


def _forward_peak_bytes(plan: Plan) -> int:
    if plan.graph is None or plan.schedule is None:
        return plan.predicted_peak_bytes
    return plan.fixed.total_bytes + forward_peak_bytes(plan.graph, plan.schedule)
