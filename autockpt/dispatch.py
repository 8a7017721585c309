"""The forward of an optimized module: plans at the first training call, then follows the plan."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_flatten, tree_leaves

from autockpt.budget import Budget, format_bytes
from autockpt.call_planner import CallPlanner, eager_plan
from autockpt.distributed import Parallel, parallel_around, refuse_spread
from autockpt.errors import BudgetError, CaptureError, VerificationError
from autockpt.ladder import Ladder, planned_rungs
from autockpt.plan import Plan
from autockpt.planner import Planned, Planner, Request
from autockpt.verify import Step, acts_on_parameters, available_bytes, differences

# A plan, what it takes to follow it again (None for the original forward), and the forward.
_Followed = tuple[Plan, Planned | None, Callable[..., Any]]
_MAX_CORRECTIONS = 3
_MAX_REPLANS = 4


class OptimizedForward:
    """Takes the place of ``module.forward``; one plan for every layout of inputs."""

    def __init__(
        self,
        module: torch.nn.Module,
        forward: Callable[..., Any],
        request: Request,
        *,
        verify: bool,
    ) -> None:
        functools.update_wrapper(self, forward)
        self._module = module
        self.original = forward
        self._request = request
        self._verify = verify
        # By layout of inputs: the plan, None where the original forward runs; and what runs.
        self._planned: dict[Any, Planned | None] = {}
        self._steps: dict[Any, Callable[..., Any]] = {}
        self._num_stale = 0
        self._ladder = Ladder()
        self._budget_bytes: int | None = None
        self._lock = threading.RLock()
        self.latest_plan: Plan | None = None
        self._is_installed = True
        self._parallel: Parallel | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        module = copy.deepcopy(self._module, memo)
        original = getattr(self.original, "__func__", None)
        if original is None or getattr(self.original, "__self__", None) is not self._module:
            return self._moved_to(module, copy.deepcopy(self.original, memo))
        return self._moved_to(module, original.__get__(module))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the plans; without them where the request holds what cannot be pickled."""
        own = getattr(self.original, "__func__", None) is type(self._module).forward
        try:
            pickle.dumps(self._request)
        except Exception:  # noqa: BLE001 - whatever pickling a user's loss function raises
            own = False
        if not own:
            return getattr, (self._module, "forward")
        state = (self._request, self._verify, self._planned, self.latest_plan)
        return _restored, (self._module, *state)

    def _moved_to(self, module: torch.nn.Module, original: Callable[..., Any]) -> OptimizedForward:
        moved = OptimizedForward(module, original, self._request, verify=self._verify)
        moved._planned = dict(self._planned)
        moved.latest_plan = self.latest_plan
        return moved

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward: by its plan when training, as it was otherwise."""
        if (
            not self._is_installed
            or torch.compiler.is_compiling()
            or not self._module.training
            or not torch.is_grad_enabled()
        ):
            return self.original(*args, **kwargs)
        key = self._key(args, kwargs)
        step = self._steps.get(key)
        if step is None:
            if any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs))):
                return self.original(*args, **kwargs)
            try:
                step = self.prepare(args, kwargs)
            except Exception:
                # Whoever catches this trains on with the model as it was.
                self.uninstall()
                raise
        output = step(*args, **kwargs)
        if getattr(step, "is_stale", False):
            self._forget(key)
        return output

    @property
    def is_installed(self) -> bool:
        """Whether the module runs this forward, by itself or under wrappers of others."""
        return self._is_installed

    def install(self) -> None:
        """Become the module's forward."""
        self._is_installed = True
        self._module.__dict__["forward"] = self

    def uninstall(self) -> None:
        """Give the module its own forward back; a wrapper that others put around runs that too."""
        self._is_installed = False
        if self._module.__dict__.get("forward") is self:
            del self._module.__dict__["forward"]
            if self._module.forward != self.original:
                self._module.__dict__["forward"] = self.original

    def _forget(self, key: Any) -> None:
        """Plan anew at the next call, a few times: the model's code has taken another path."""
        self._num_stale += 1
        if self._num_stale == _MAX_REPLANS:
            for rung in ("whole", "blocks"):
                self._ladder.give_up(rung, "its code takes another path from call to call")
        if self._num_stale <= _MAX_REPLANS:
            with self._lock:
                self._steps.pop(key, None)
                self._planned.pop(key, None)

    def prepare(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[..., Any]:
        """Plan, compile and verify for inputs of this layout, unless that was done before.

        Raises:
            AutockptError: See ``optimize``; the module is as it was.
        """
        refuse_spread(self._module)
        with self._lock:
            key = self._key(args, kwargs)
            if key not in self._steps:
                if self._parallel is not None:
                    self._steps[key] = self._agreed(self._parallel, key, args, kwargs)
                elif key not in self._planned:
                    self._steps[key] = self._prepared(key, args, kwargs)
                else:
                    self._steps[key] = self._step(self._planned[key])
            return self._steps[key]

    def _key(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What a plan is made for: whether gradients are added to standing ones, and the inputs."""
        self._parallel = parallel = parallel_around(self._module, self._parallel)
        is_view = parallel is not None and parallel.buckets_are_gradients
        accumulates = is_view or any(p.grad is not None for p in self._module.parameters())
        trained = tuple(p.requires_grad for p in self._module.parameters())
        return accumulates, (_layout(args, kwargs), trained, parallel is not None, is_view)

    def _step(self, planned: Planned | None) -> Callable[..., Any]:
        if planned is None:
            return self.original
        return planned.follow(self._module, self.original, in_order=self._reduces_on_the_way)

    @property
    def _reduces_on_the_way(self) -> bool:
        """Whether gradients are sent off while the backward still runs."""
        return self._parallel is not None and self._parallel.reduces_on_the_way

    def _agreed(
        self, parallel: Parallel, key: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Callable[..., Any]:
        """Follow the plan that one rank makes for all that have these inputs."""
        made: list[Callable[..., Any]] = []

        def plan() -> tuple[Planned | None, Plan | None]:
            if key not in self._planned:
                with parallel.out_of_the_way(self._module):
                    made.append(self._prepared(key, args, kwargs))
            return self._planned[key], self.latest_plan

        question = (key, str(self._request.budget), self._num_stale)
        self._planned[key], self.latest_plan = parallel.ranks.agree(question, plan)
        return made[0] if made else self._step(self._planned[key])

    def _prepared(
        self, key: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Callable[..., Any]:
        accumulates, layout = key
        fell_before = self._ladder.reason
        try:
            followed = self._ladder.descend(self._attempts(args, kwargs, accumulates=accumulates))
        except BudgetError as error:
            if not accumulates or (False, layout) not in self._steps:
                raise
            warnings.warn(
                f"gradients of an earlier backward stand beside this step's: {error} The plan for "
                "a step without them is followed, and the budget is exceeded by their size.",
                stacklevel=4,
            )
            self._planned[key] = self._planned[False, layout]
            return self._steps[False, layout]
        plan, planned, step = followed
        if self._ladder.reason and not fell_before:
            warnings.warn(
                f"{type(self._module).__name__} runs on a lower rung of the ladder of fallbacks, "
                f'"{plan.rung}", because the ones above failed. {self._ladder.reason}',
                stacklevel=4,
            )
        self.latest_plan = self._ladder.explained(plan)
        self._planned[key] = planned
        return step

    def _attempts(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, accumulates: bool
    ) -> Iterator[tuple[str, Callable[[], _Followed]]]:
        """Ways to run a step within the budget, from the best down."""
        request = self._request
        if accumulates and self._budget_bytes is not None:
            # A percentage is of the eager peak of a step alone.
            request = dataclasses.replace(request, budget=Budget(bytes=self._budget_bytes))

        beside: dict[str, Any] = {
            "accumulates": accumulates,
            "buckets_bytes": 0 if self._parallel is None else self._parallel.buckets_bytes,
        }

        def make(kind: Any, **how: Any) -> Planner | CallPlanner:
            planner: Planner | CallPlanner = kind(
                self._module, self.original, args, kwargs, request, **beside, **how
            )
            return planner

        def as_it_is() -> _Followed:
            inputs = (args, dict(kwargs))
            plan = eager_plan(self._module, self.original, inputs, request, **beside)
            return plan, None, self.original

        return planned_rungs(
            make,
            lambda planner: self._followed(planner, args, kwargs),
            in_pieces=accumulates or self._reduces_on_the_way,
            last=as_it_is if self._verify else None,
        )

    def _followed(
        self, planner: Planner | CallPlanner, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> _Followed:
        """Plan a step and make it follow the plan; verify it where that was asked for."""
        if not planner.accumulates:
            self._budget_bytes = planner.budget_bytes
        if planner.is_fake:
            raise CaptureError(
                where=type(self._module).__name__,
                reason="its parameters or inputs are fake or meta tensors, which cannot train",
                advice="Use autockpt.plan, which needs no data.",
            )
        planned = planner.plan()
        plan = planned.plan
        moves_parameters = acts_on_parameters(self._module)
        fits = plan.recompute_ns == 0 and plan.budget_bytes >= plan.baseline_peak_bytes
        if fits and (moves_parameters or not self._verify):
            return dataclasses.replace(plan, rung="eager"), None, self.original
        note = ""
        if not self._verify:
            note = "not compared with eager: verify=False"
        elif moves_parameters:
            note = "not verified: a step changes parameters by itself (hooks, max_norm)"
        if note:
            plan = dataclasses.replace(plan, notes=(*plan.notes, note))
            return plan, planned, self._step(planned)
        return self._verified(planner, planned, args, kwargs)

    def _verified(
        self,
        planner: Planner | CallPlanner,
        planned: Planned,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> _Followed:
        """Hold the plan against real steps; tighten it where more was measured than predicted."""
        plan = planned.plan
        device = torch.device(plan.device)
        eager = Step(
            module=self._module,
            forward=self.original,
            args=args,
            kwargs=kwargs,
            loss_fn=self._request.loss_fn,
            device=device,
            accumulates=planner.accumulates,
        )
        expected = None
        standing_bytes = plan.fixed.total_bytes + planner.older_gradients_bytes
        notes = plan.notes
        if plan.baseline_peak_bytes < available_bytes(device):
            try:
                expected = eager.record(warm_up=False)
            except Exception as error:
                raise CaptureError(
                    where=type(self._module).__name__,
                    reason=f"its own forward fails on these inputs: {error}",
                ) from error
            eager_peak_bytes = standing_bytes + expected.peak_bytes
            if eager_peak_bytes <= plan.budget_bytes:
                note = "eager PyTorch was measured within the budget: nothing to do"
                untouched = dataclasses.replace(
                    planner.untouched(),
                    rung="eager",
                    measured_peak_bytes=eager_peak_bytes,
                    notes=(*notes, note),
                )
                return untouched, None, self.original
        else:
            notes = (*notes, "not compared with eager, which does not fit in the free memory")
        held_back_bytes = 0
        for number in range(_MAX_CORRECTIONS + 1):
            if number:
                planned = planner.plan(held_back_bytes=held_back_bytes)
            step = self._step(planned)
            got = dataclasses.replace(eager, forward=step).record(warm_up=True)
            differing = () if expected is None else differences(expected, got)
            if differing:
                raise VerificationError("a step is not bit-equal to eager's", differing=differing)
            measured_bytes = standing_bytes + got.peak_bytes
            excess_bytes = measured_bytes - plan.budget_bytes
            if excess_bytes <= 0:
                measured = dataclasses.replace(
                    planned.plan, measured_peak_bytes=measured_bytes, notes=notes
                )
                return measured, planned, step
            # A plan that differs from its prediction by as much must fit as well.
            error_bytes = measured_bytes - planned.plan.predicted_peak_bytes
            held_back_bytes = max(held_back_bytes + excess_bytes, error_bytes)
        raise VerificationError(
            f"after {_MAX_CORRECTIONS} corrections a step is measured at "
            f"{format_bytes(measured_bytes)}, over the budget of {format_bytes(plan.budget_bytes)}"
        )


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
    planned: dict[Any, Planned | None],
    latest_plan: Plan | None,
) -> OptimizedForward:
    original = type(module).forward.__get__(module)
    forward = OptimizedForward(module, original, request, verify=verify)
    forward._planned = planned
    forward.latest_plan = latest_plan
    return forward


def _layout(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a plan depends on in the inputs: layouts of tensors, values of everything else."""
    leaves, structure = tree_flatten((args, dict(kwargs)))
    described: list[Any] = []
    first: dict[int, int] = {}
    for number, leaf in enumerate(leaves):
        if isinstance(leaf, torch.Tensor) and first.setdefault(id(leaf), number) != number:
            # One tensor passed twice is one input of the graph.
            described.append(first[id(leaf)])
        elif isinstance(leaf, torch.Tensor):
            described.append(
                (leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad)
                if leaf.layout is torch.strided
                else (leaf.shape, leaf.layout, leaf.dtype, leaf.device, leaf.requires_grad)
            )
        else:
            # A float changes no shape; the plan is followed whatever its value.
            described.append(leaf if _is_plain(leaf) else type(leaf))
    autocast = tuple(
        (kind, torch.get_autocast_dtype(kind), torch.is_autocast_cache_enabled())
        for kind in ("cpu", "cuda")
        if torch.is_autocast_enabled(kind)
    )
    return (tuple(described), str(structure), autocast)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, str))
