"""The forward of an optimized module: each training call follows a plan.

Which plans exist is up to :mod:`autockpt.dispatch.store`, how one is made to
:mod:`autockpt.dispatch.maker`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import pickle
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from autockpt.dispatch.call import Call
from autockpt.dispatch.casts import SharedCasts
from autockpt.dispatch.habits import Habits
from autockpt.dispatch.key import PlanKey, plan_key
from autockpt.dispatch.layout import Layout, layout_of
from autockpt.dispatch.maker import PlanMaker
from autockpt.dispatch.passed_by import (
    FirstGradient,
    note_compilation,
    num_compilations,
    part_that_trains,
    pass_by_warning,
)
from autockpt.dispatch.ranks import Parallel, parallel_around, refuse_spread
from autockpt.dispatch.store import PlanStore, StoredPlans
from autockpt.errors import AutockptError, BudgetError, CaptureError
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


class OptimizedForward:
    """Takes the place of ``module.forward``.

    Attributes:
        original: The module's own forward.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        forward: Callable[..., Any],
        request: Request,
        *,
        verify: bool,
        stored: StoredPlans | None = None,
        ladder: Ladder | None = None,
    ) -> None:
        """Nothing is planned before the first training call, or `prepare`.

        Args:
            module: The module.
            forward: Its own forward.
            request: What is asked of the plans.
            verify: See ``optimize``.
            stored: Plans of a module that this one is a copy of.
            ladder: Which rungs that module has failed on.
        """
        functools.update_wrapper(self, forward)
        self.original = forward
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
        self._first_gradient = FirstGradient(module)
        self._habits = Habits(
            module,
            keeps_outputs=request.keeps_outputs,
            on_backward=self._first_gradient.disarm,
        )
        self._verify = verify
        # What is optimized instead of this forward, because it is not what the loop calls.
        self._instead: OptimizedForward | None = None
        self._is_instead = False
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
        return _with_plans(module, forward, *self._kept())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the plans; without them if the request cannot be pickled."""
        is_own = getattr(self.original, "__func__", None) is type(self._module).forward
        try:
            pickle.dumps(self._maker.request)
        except Exception:  # noqa: BLE001 - whatever pickling a user's loss function raises
            is_own = False
        if not is_own:
            return getattr, (self._module, "forward")
        return _restored, (self._module, *self._kept())

    def _kept(self) -> tuple[Request, bool, StoredPlans, Ladder, dict[str, Any]]:
        """What a copy takes along."""
        maker = self._maker
        stored, ladder = maker.store.stored(), maker.ladder.copy()
        return maker.request, maker.verify, stored, ladder, self._habits.learned()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run a training call by its plan, any other by the module's own forward."""
        if torch.compiler.is_compiling():
            note_compilation()
            return self.original(*args, **kwargs)
        if not self._is_installed or not torch.is_grad_enabled():
            return self.original(*args, **kwargs)
        if in_a_transform():
            warn_user(
                f"inside of torch.func's transforms {type(self._module).__name__} runs as it is, "
                "without regard to the budget"
            )
            return self.original(*args, **kwargs)
        for warning in self._habits.told():
            warn_user(warning)
        if not self._module.training and not self._habits.trains_in_eval:
            output = self.original(*args, **kwargs)
            self._watch(output, layout_of(args, kwargs), None)
            return output
        call = self._call(args, kwargs)
        output = self._planned(call, args, kwargs)
        if call.parallel is not None:
            self._first_gradient.disarm()
            return output
        compiled = getattr(self._maker.store.forward(call.key), "compiled", None)
        plan = self._maker.store.value(call.key)
        sums_uses = compiled is not None and compiled.sums_uses
        self._watch(output, call.key.layout, plan, sums_uses=sums_uses)
        return output

    def _watch(
        self, output: Any, layout: Layout, plan: Plan | None, *, sums_uses: bool = False
    ) -> None:
        if not self._habits.watch(output, layout, plan, sums_uses=sums_uses):
            # Its backward, if one comes, is not seen.
            self._first_gradient.disarm()

    def _planned(self, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run a training call by its plan."""
        refusal = self._refusals.get(call.key)
        if refusal is not None:
            # A loop that skips what fails must not train over the budget.
            raise refusal.of_budget(refusal.budget_bytes)
        store = self._maker.store
        self._keep_shared_casts(call)
        forward = store.forward(call.key)
        # Planning is impossible under a profiler, so the stale plan stays in use.
        is_outdated = is_stale(forward) or changing(forward)
        if is_outdated and (call.parallel is not None or not is_profiling()):
            with self._lock:
                self._maker.replan(call)
            forward = store.forward(call.key)
        if forward is None and is_profiling():
            # Planning is impossible: a plan for another kind of loop is better than an error.
            forward = store.forward(dataclasses.replace(call.key, loop=PLAIN))
        if forward is None:
            is_armed = self._first_gradient.is_armed
            self._first_gradient.disarm()  # a step that is tried has gradients as well
            forward = self._first_forward(call, args, kwargs)
            if is_armed and self._is_installed:
                self._first_gradient.arm(self._pass_by)
            self._casts.keys_with(call.key, self._device_type)  # planning empties the cache
        with contextlib.suppress(OtherGraphError):
            return forward(*args, **kwargs)
        # Nothing has run: the plan that was kept is for another graph.
        with self._lock:
            forward = self._maker.without_kept(self._call(args, kwargs))
        return forward(*args, **kwargs)

    @property
    def _device_type(self) -> str:
        return next((p.device.type for p in self._module.parameters()), "cpu")

    def _keep_shared_casts(self, call: Call) -> None:
        """Run calls that share casts of autocast's by plans that leave these to autocast."""
        keys = self._casts.keys_with(call.key, self._device_type)
        store = self._maker.store
        planned = [key for key in keys if not store.needs_eager_graph(key)]
        if not planned:
            return
        warn_user(
            f"calls of {type(self._module).__name__} share one block of autocast, which casts each "
            "parameter once for all of them. From now on such calls checkpoint modules, because "
            "captured graphs cast by themselves: gradients of this step may differ from eager's "
            "in their last bits. To train by graphs, give each call a block of its own."
        )
        with self._lock:
            for key in planned:
                store.require_eager_graph(key)

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
            if self._is_instead:
                # You did not ask for this forward to be optimized.
                self.uninstall()
                warn_user(f"it runs as it is, without regard to the budget: {error}")
                return self.original
            if not isinstance(error, BudgetError):
                self._give_up(error, args, kwargs)
                raise
            self._refusals[call.key] = error
            raise
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
        with self._lock:
            return self._maker.forward_for(self._call(args, kwargs))

    def _call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        self._parallel = parallel = parallel_around(self._module, self._parallel)
        layout = layout_of(args, kwargs)
        key = plan_key(self._module, parallel, layout, self._loop_now(parallel, layout))
        solving = SolvingTime(ends_early=self._maker.request.ends_early)
        return Call(key=key, parallel=parallel, args=args, kwargs=kwargs, solving=solving)

    def _loop_now(self, parallel: Parallel | None, layout: Layout) -> Loop:
        if parallel is None:
            return self._habits.loop_now(layout)
        # Ranks must agree before anything is seen.
        has_older = any(p.grad is not None for p in self._module.parameters())
        return Loop(accumulates=parallel.buckets_are_gradients or has_older)

    def _pass_by(self) -> None:
        """Tell of a backward that no call of this forward has led to; follow what is called."""
        present = self._module.__dict__.get("forward")
        path, part = part_that_trains(self._module)
        how: Literal["replaced", "compiled", "part", "method"] = "method"
        if present is not None and present is not self:
            how = "replaced"
            self._optimize_instead(self._module, present)
        elif num_compilations() > self._num_compilations:
            how = "compiled"
        elif part is not None and "forward" not in part.__dict__:
            how = "part"
            self._optimize_instead(part, part.forward)
        warn_user(pass_by_warning(type(self._module).__name__, how, path, type(part).__name__))

    def _optimize_instead(self, module: torch.nn.Module, forward: Callable[..., Any]) -> None:
        instead = OptimizedForward(module, forward, self._maker.request, verify=self._verify)
        instead.install()
        instead._first_gradient.disarm()
        instead._habits.note_backward()
        instead._is_instead = True
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
        self._module.__dict__["forward"] = self
        self._first_gradient.arm(self._pass_by)

    def retire(self) -> None:
        """Make way for another optimized forward, which is installed already."""
        self._is_installed = False
        self._first_gradient.disarm()
        if self._instead is not None:
            self._instead.uninstall()

    def uninstall(self) -> None:
        """Give the module its own forward back; a wrapper that others put around runs that too."""
        self.retire()
        if self._module.__dict__.get("forward") is self:
            del self._module.__dict__["forward"]
            if self._module.forward != self.original:
                self._module.__dict__["forward"] = self.original


def optimized_forward(module: torch.nn.Module) -> OptimizedForward | None:
    """The optimized forward of a module, also under wrappers that others put around it."""
    forward = module.__dict__.get("forward")
    if forward is None:
        return None
    inner = inspect.unwrap(forward, stop=lambda f: isinstance(f, OptimizedForward))
    return inner if isinstance(inner, OptimizedForward) and inner.is_installed else None


def _restored(
    module: torch.nn.Module,
    request: Request,
    verify: bool,
    stored: StoredPlans,
    ladder: Ladder,
    learned: Mapping[str, Any],
) -> OptimizedForward:
    """The forward of an unpickled module."""
    forward = type(module).forward.__get__(module)
    return _with_plans(module, forward, request, verify, stored, ladder, learned)


def _with_plans(
    module: torch.nn.Module,
    forward: Callable[..., Any],
    request: Request,
    verify: bool,
    stored: StoredPlans,
    ladder: Ladder,
    learned: Mapping[str, Any],
) -> OptimizedForward:
    made = OptimizedForward(module, forward, request, verify=verify, stored=stored, ladder=ladder)
    made._habits.know(learned)
    return made
