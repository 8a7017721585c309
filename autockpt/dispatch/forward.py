"""The forward of an optimized module, or another method: each training call follows a plan.

Which plans exist is up to :mod:`autockpt.dispatch.store`, how one is made to
:mod:`autockpt.dispatch.maker`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import pickle
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch

from autockpt.dispatch.call import Call
from autockpt.dispatch.casts import SharedCasts
from autockpt.dispatch.guard import Guard
from autockpt.dispatch.habits import Habits
from autockpt.dispatch.key import PlanKey, plan_key
from autockpt.dispatch.layout import Layout, layout_of
from autockpt.dispatch.maker import PlanMaker
from autockpt.dispatch.methods import (
    Counters,
    install_quiet_logs,
    is_running,
    remove_quiet_logs,
    running,
)
from autockpt.dispatch.partners import Partners
from autockpt.dispatch.passed_by import (
    FirstGradient,
    how_passed,
    note_compilation,
    num_compilations,
)
from autockpt.dispatch.ranks import Parallel, parallel_around, refuse_spread
from autockpt.dispatch.replanning import replan, without_kept
from autockpt.dispatch.store import PlanStore, StoredPlans
from autockpt.errors import AutockptError, BudgetError, CaptureError, drop_frames
from autockpt.ladder.executable import changing, is_stale
from autockpt.ladder.ladder import Ladder
from autockpt.loop import PLAIN, Loop
from autockpt.lower.solving_time import SolvingTime
from autockpt.report.plan import Plan
from autockpt.request import Request
from autockpt.rewrite.runtime import OtherGraphError
from autockpt.torch_private.fakes import FakeTensor
from autockpt.torch_private.modes import in_a_transform
from autockpt.user_warnings import warn_user
from autockpt.verify.inputs import input_leaves
from autockpt.verify.loss import trained_tensors
from autockpt.verify.peak import is_profiling
from autockpt.verify.step import run_on_copies

_moments = itertools.count(1)


class OptimizedForward:
    """Takes the place of ``module.forward``, or of another method that trains.

    Attributes:
        original: The module's own forward.
        name: Its name.
        planned_at: When its latest plan was made, as a number that grows.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        forward: Callable[..., Any],
        request: Request,
        *,
        verify: bool,
        name: str = "forward",
        beside: OptimizedForward | None = None,
        is_asked_for: bool = True,
        stored: StoredPlans | None = None,
        ladder: Ladder | None = None,
    ) -> None:
        """Nothing is planned before the first training call, or `prepare`.

        Args:
            module: The module.
            forward: Its own forward.
            request: What is asked of the plans.
            verify: See ``optimize``.
            name: The name of the method.
            beside: The optimized forward of the same module, if this is another method.
            is_asked_for: Whether to raise errors of plans, rather than to run as it is.
            stored: Plans of a module that this one is a copy of.
            ladder: Which rungs that module has failed on.
        """
        functools.update_wrapper(self, forward)
        self.original = forward
        self.name = name
        self.planned_at = 0
        self._module = module
        self._maker = PlanMaker(
            module=module,
            forward=forward,
            request=request,
            verify=verify,
            store=PlanStore(stored),
            ladder=ladder or Ladder(),
        )
        self._lock = threading.RLock()
        self._casts = SharedCasts()
        self._is_installed = True
        # One for all methods: any of them may have led to a backward.
        self._first_gradient: FirstGradient = (
            FirstGradient(module) if beside is None else beside._first_gradient
        )
        self._counters = Counters(forward) if name != "forward" else None
        self._partners = Partners(module, request)
        self._habits = Habits(
            module,
            self._partners,
            keeps_outputs=request.keeps_outputs,
            has_loss_fn=request.loss_fn is not None,
            on_backward=self._begin_backward,
        )
        self._guard = Guard(self._maker, self._partners)
        self._verify = verify
        # What is optimized instead of this forward, because it is not what the loop calls.
        self._instead: OptimizedForward | None = None
        self._is_asked_for = is_asked_for
        self._num_compilations = num_compilations()
        self._refusals: dict[PlanKey, BudgetError] = {}
        # Ranks that have met once are not to meet again.
        self._parallel: Parallel | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> OptimizedForward:
        module = copy.deepcopy(self._module, memo)
        original = getattr(self.original, "__func__", None)
        if original is None or getattr(self.original, "__self__", None) is not self._module:
            forward = copy.deepcopy(self.original, memo)
        else:
            forward = original.__get__(module)
        return _with_plans(module, forward, self.name, *self._kept())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the plans; without them if the request cannot be pickled."""
        own = getattr(type(self._module), self.name, None)
        is_own = getattr(self.original, "__func__", None) is own
        try:
            pickle.dumps(self._maker.request)
        except Exception:  # noqa: BLE001 - whatever pickling a user's loss function raises
            is_own = False
        if not is_own:
            return getattr, (self._module, self.name)
        return _with_plans, (self._module, None, self.name, *self._kept())

    def _kept(self) -> tuple[Request, bool, StoredPlans, Ladder, dict[str, Any]]:
        """What a copy takes along."""
        maker = self._maker
        stored, ladder = maker.store.stored(), maker.ladder.copy()
        # Yours steps the original alone.
        optimizer = dataclasses.replace(maker.request.optimizer, of=None)
        request = dataclasses.replace(maker.request, optimizer=optimizer)
        return request, maker.verify, stored, ladder, self._habits.learned()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run a training call by its plan, any other by the module's own forward."""
        if torch.compiler.is_compiling():
            note_compilation()
            return self.original(*args, **kwargs)
        is_part = is_running(self._module)
        if is_part or not self._is_installed:
            return self.original(*args, **kwargs)
        if not torch.is_grad_enabled():
            if self._habits.note_without_gradients():
                self._guard.skip_step()
            return self.original(*args, **kwargs)
        with running(self._module):
            return self._trained(args, kwargs)

    def _trained(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a call with gradients."""
        if in_a_transform():
            warn_user(
                f"inside of torch.func's transforms {type(self._module).__name__} runs as it is, "
                "without regard to the budget"
            )
            return self.original(*args, **kwargs)
        for warning in self._habits.told():
            warn_user(warning)
        for kind in self._habits.left_to_eager_graphs():
            self._maker.store.require_eager_graph(kind)
        if not self._module.training and not self._habits.trains_in_eval:
            output = self.original(*args, **kwargs)
            self._disarm_unless(self._habits.watch(output, self._layout(args, kwargs), None))
            return output
        call = self._call(args, kwargs)
        output = self._planned(call, args, kwargs)
        if call.parallel is not None:
            self._first_gradient.disarm()
            return output
        forward = self._maker.store.forward(call.key)
        compiled = getattr(forward, "compiled", None)
        plan = self._maker.store.value(call.key)
        sums_uses = compiled is not None and compiled.sums_uses
        is_watched = self._habits.watch(
            output,
            call.key.layout,
            plan,
            (args, kwargs),
            sums_uses=sums_uses,
            num_other=lambda: getattr(forward, "num_other_backwards", 0),
        )
        self._disarm_unless(is_watched)
        return output

    def _disarm_unless(self, is_watched: bool) -> None:
        if not is_watched:
            # Its backward, if one comes, is not seen.
            self._first_gradient.disarm()

    def _planned(self, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run a training call by its plan."""
        refusal = self._refusals.get(call.key)
        if refusal is not None:
            # A loop that skips what fails must not train over the budget.
            raise refusal.of_budget(refusal.budget_bytes)
        store = self._maker.store
        with self._lock:
            name = type(self._module).__name__
            self._casts.leave_to_autocast(call.key, self._device_type, name, store)
        forward = store.forward(call.key)
        # Planning is impossible under a profiler, so the stale plan stays in use.
        is_outdated = is_stale(forward) or changing(forward)
        if is_outdated and (call.parallel is not None or not is_profiling()):
            with self._lock:
                replan(self._maker, call)
            forward = store.forward(call.key)
        if forward is None and is_profiling():
            # Planning is impossible: a plan for another kind of loop is better than an error.
            forward = store.forward(dataclasses.replace(call.key, loop=PLAIN))
        if forward is None:
            if self._habits.is_waiting:
                # What was compiled for a call that waits must not follow another plan.
                self._maker.memos.clear()
            is_armed = self._first_gradient.is_armed
            self._first_gradient.disarm()  # a step that is tried has gradients as well
            forward = self._first_forward(call, args, kwargs)
            if is_armed and self._is_installed:
                self._first_gradient.arm()
            self._casts.keys_with(call.key, self._device_type)  # planning empties the cache
        with contextlib.suppress(OtherGraphError):
            return self._guard.run(call, forward)
        # Nothing has run: the plan that was kept is for another graph.
        with self._lock:
            forward = without_kept(self._maker, self._call(args, kwargs))
        return forward(*args, **kwargs)

    @property
    def _device_type(self) -> str:
        return next((p.device.type for p in self._module.parameters()), "cpu")

    def _first_forward(
        self, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Callable[..., Any]:
        """The forward for inputs of a new kind."""
        if any(isinstance(leaf, FakeTensor) for leaf in input_leaves((args, kwargs))):
            return self.original
        if len(self._maker.store) and not trained_tensors(self._module, (args, dict(kwargs))):
            warn_user(
                f"no parameter of {type(self._module).__name__} requires grad now, and no input "
                "does: its own forward runs, without regard to the budget"
            )
            return self.original
        try:
            return self.prepare(args, kwargs)
        except AutockptError as error:
            is_refused = isinstance(error, BudgetError) and self.name != "forward"
            if not self._is_asked_for and not is_refused:
                # You did not ask for this forward, or this method, to be optimized.
                self.uninstall()
                warn_user(f"it runs as it is, without regard to the budget: {error}")
                drop_frames(error)
                return self.original
            if not isinstance(error, BudgetError):
                self._give_up(error, args, kwargs)
                raise
            # The traceback of what is raised leads to the loop's tensors: a copy has none.
            self._refusals[call.key] = error.of_budget(error.budget_bytes)
            raise error.with_traceback(None) from error.__cause__
        except Exception:
            self.uninstall()
            raise

    def _give_up(
        self, error: AutockptError, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        if isinstance(error, CaptureError):
            # An input that the model itself refuses is no reason to give up its plans: this raises
            # the model's own error.
            run_on_copies(self._module, self.original, args, kwargs)
        # If you catch the error, you train on with the model as it was.
        self.uninstall()

    def prepare(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[..., Any]:
        """Plan, compile and verify for inputs of this layout, unless that was done before.

        Raises:
            AutockptError: See ``optimize``; the module is as it was.
        """
        refuse_spread(self._module)
        with self._lock, running(self._module):
            forward = self._maker.forward_for(self._call(args, kwargs))
        self.planned_at = next(_moments)
        return forward

    def _layout(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Layout:
        if self._counters is not None:
            args, kwargs = self._counters.hidden(args, kwargs)
        return layout_of(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        self._parallel = parallel = parallel_around(self._module, self._parallel)
        layout = self._layout(args, kwargs)
        key = plan_key(self._module, parallel, layout, self._loop_now(parallel, layout))
        if parallel is None:
            key = self._partners.beside(key, (args, kwargs), self._maker.store)
            key = self._habits.without_gradients.beside(key, self._maker.store)
        solving = SolvingTime(ends_early=self._maker.request.ends_early)
        return Call(key=key, parallel=parallel, args=args, kwargs=kwargs, solving=solving)

    def _loop_now(self, parallel: Parallel | None, layout: Layout) -> Loop:
        if parallel is None:
            return self._habits.loop_now(layout)
        # Ranks must agree before anything is seen.
        has_older = any(p.grad is not None for p in self._module.parameters())
        return Loop(accumulates=parallel.buckets_are_gradients or has_older)

    def _begin_backward(self) -> None:
        self._first_gradient.disarm()
        self._guard.begin_backward()

    def _pass_by(self) -> None:
        """Tell of a backward that no call of this forward has led to; follow what is called."""
        was_compiled = num_compilations() > self._num_compilations
        is_beside = self._habits.is_waiting
        passed = how_passed(self._module, self, was_compiled=was_compiled, is_beside=is_beside)
        if passed.module is not None:
            self._optimize_instead(passed.module, passed.module.forward)
        warn_user(passed.warning)

    def _optimize_instead(self, module: torch.nn.Module, forward: Callable[..., Any]) -> None:
        instead = OptimizedForward(module, forward, self._maker.request, verify=self._verify)
        instead.install()
        instead._first_gradient.disarm()
        instead._habits.note_backward()
        instead._is_asked_for = False
        self._instead = instead

    @property
    def latest_plan(self) -> Plan | None:
        """The latest plan; None before the first."""
        own = self._maker.store.latest
        return own if own is not None or self._instead is None else self._instead.latest_plan

    @property
    def num_plans(self) -> int:
        """For how many kinds of call there are plans."""
        return len(self._maker.store)

    @property
    def is_installed(self) -> bool:
        """Whether the module runs this forward, by itself or under wrappers of others."""
        return self._is_installed

    def install(self) -> None:
        """Become the module's forward."""
        self._is_installed = True
        self._partners.join()
        self._module.__dict__[self.name] = self
        if self.name == "forward":
            self._first_gradient.arm(self._pass_by)
        else:
            install_quiet_logs(self._module)

    def retire(self) -> None:
        """Make way for another optimized forward, which is installed already."""
        self._is_installed = False
        self._partners.leave()
        self._first_gradient.disarm()
        if self._instead is not None:
            self._instead.uninstall()

    def uninstall(self) -> None:
        """Give the module its own forward back; a wrapper that others put around runs that too."""
        self.retire()
        remove_quiet_logs(self._module)
        if self._module.__dict__.get(self.name) is self:
            del self._module.__dict__[self.name]
            if getattr(self._module, self.name, None) != self.original:
                self._module.__dict__[self.name] = self.original


def _with_plans(
    module: torch.nn.Module,
    forward: Callable[..., Any] | None,
    name: str,
    request: Request,
    verify: bool,
    stored: StoredPlans,
    ladder: Ladder,
    learned: Mapping[str, Any],
) -> OptimizedForward:
    """The forward of a copy; without a forward, that of its class."""
    forward = forward or getattr(type(module), name).__get__(module)
    made = OptimizedForward(
        module, forward, request, verify=verify, name=name, stored=stored, ladder=ladder
    )
    made._habits.know(learned)
    return made
