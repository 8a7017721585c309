"""The forward of an optimized module: plans at the first training call, then follows the plan."""

from __future__ import annotations

import collections
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

from autockpt.budget import Budget
from autockpt.dispatch.buckets import Bucket, Buckets
from autockpt.dispatch.layout import Layout, layout_of, resized
from autockpt.dispatch.ranks import Parallel, parallel_around, refuse_spread
from autockpt.dispatch.trial import Followed, Trial
from autockpt.errors import BudgetError, CaptureError, VerificationError
from autockpt.ladder.calls import CallPlanner
from autockpt.ladder.eager import eager_plan
from autockpt.ladder.graphs import Planner
from autockpt.ladder.ladder import Ladder, planned_rungs
from autockpt.ladder.planned import Planned
from autockpt.report.plan import Plan
from autockpt.request import Request
from autockpt.torch_private.fakes import FakeTensor
from autockpt.torch_private.modules import has_global_hooks
from autockpt.torch_private.pytree import tree_leaves
from autockpt.verify.peak import is_profiling
from autockpt.verify.step import run_on_copies

_MAX_REPLANS, _MANY_PLANS = 4, 12
# What has been decided and goes with a copy.
_KEPT = ("_planned", "_buckets", "_budget_bytes", "_ladder", "latest_plan")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """What a plan is made for: whether gradients are added to standing ones, and the inputs.

    ``is_view`` says that gradients live in the buckets that data parallelism reduces, ``trained``
    which parameters take gradients, and their types; hooks on all modules of the process
    (``has_global_hooks``) are in no graph.
    """

    accumulates: bool
    is_parallel: bool
    is_view: bool
    trained: tuple[tuple[bool, torch.dtype], ...]
    has_global_hooks: bool
    layout: Layout

    @property
    def apart_from_sizes(self) -> tuple[Any, ...]:
        """What inputs that share plans have in common."""
        return self.accumulates, self.trained, self.has_global_hooks


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
        self._planned: dict[_Key, Planned | None] = {}
        self._steps: dict[_Key, Callable[..., Any]] = {}
        self._num_stale = 0
        self._ladder = Ladder()
        # Which of the plans serve which sizes.
        self._buckets: dict[Any, Buckets] = collections.defaultdict(Buckets)
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
        return _restored, (self._module, self._request, self._verify, self._kept())

    def _moved_to(self, module: torch.nn.Module, original: Callable[..., Any]) -> OptimizedForward:
        moved = OptimizedForward(module, original, self._request, verify=self._verify)
        moved._take_over(self._kept())
        return moved

    def _kept(self) -> dict[str, Any]:
        """What has been decided so far, to go with a copy."""
        kept = {name: copy.copy(getattr(self, name)) for name in _KEPT}
        for key, buckets in self._buckets.items():
            kept["_buckets"][key] = buckets.copy()
        return kept

    def _take_over(self, kept: dict[str, Any]) -> None:
        for name, value in kept.items():
            setattr(self, name, value)

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
        # A user's profiler is no reason to end a training: the plan that there is goes on.
        if getattr(step, "is_stale", False) and (self._parallel is not None or not is_profiling()):
            self._forget(key)
            step = self._steps.get(key)
        if step is None:
            if any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs))):
                return self.original(*args, **kwargs)
            if self._planned and not any(p.requires_grad for p in self._module.parameters()):
                warnings.warn(
                    f"no parameter of {type(self._module).__name__} requires grad now: its own "
                    "forward runs, outside of the budget",
                    stacklevel=3,
                )
                return self.original(*args, **kwargs)
            try:
                step = self.prepare(args, kwargs)
            except Exception as error:
                if isinstance(error, CaptureError):
                    # An input that the model itself refuses is no reason to give its plans up.
                    run_on_copies(self._module, self.original, args, kwargs)
                # Whoever catches this trains on with the model as it was.
                self.uninstall()
                raise
        return step(*args, **kwargs)

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

    def _forget(self, key: _Key) -> None:
        """Plan anew at the next call, a few times: the model's code has taken another path."""
        with self._lock:
            step = self._steps.get(key)
            same = [other for other, its_step in self._steps.items() if its_step is step]
            if any(self._buckets[other.apart_from_sizes].forget(other) for other in same):
                # Sizes were left open, and a graph depends on them: these are planned exactly.
                forgotten = same
            else:
                self._num_stale += 1
                if self._num_stale == _MAX_REPLANS:
                    for rung in ("whole", "blocks"):
                        self._ladder.give_up(rung, "its code takes another path from call to call")
                forgotten = [key] if self._num_stale <= _MAX_REPLANS else []
            for other in forgotten:
                self._steps.pop(other, None)
                self._planned.pop(other, None)

    def prepare(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[..., Any]:
        """Plan, compile and verify for inputs of this layout, unless that was done before.

        Raises:
            AutockptError: See ``optimize``; the module is as it was.
        """
        refuse_spread(self._module)
        with self._lock:
            key = self._key(args, kwargs)
            if key not in self._steps:
                self._steps[key] = (
                    self._served(key) or self._prepared(key, args, kwargs)
                    if self._parallel is None
                    else self._agreed(self._parallel, key, args, kwargs)
                )
            return self._steps[key]

    def _key(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Key:
        self._parallel = parallel = parallel_around(self._module, self._parallel)
        is_view = parallel is not None and parallel.buckets_are_gradients
        parameters = list(self._module.parameters())
        return _Key(
            accumulates=is_view or any(p.grad is not None for p in parameters),
            is_parallel=parallel is not None,
            is_view=is_view,
            trained=tuple((p.requires_grad, p.dtype) for p in parameters),
            has_global_hooks=has_global_hooks(),
            layout=layout_of(args, kwargs),
        )

    def _step(self, planned: Planned | None) -> Callable[..., Any]:
        if planned is None:
            return self.original
        return planned.follow(self._module, self.original, in_order=self._reduces_on_the_way)

    @property
    def _reduces_on_the_way(self) -> bool:
        """Whether gradients are sent off while the backward still runs."""
        return self._parallel is not None and self._parallel.reduces_on_the_way

    def _agreed(
        self, parallel: Parallel, key: _Key, args: tuple[Any, ...], kwargs: Mapping[str, Any]
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

    def _served(self, key: _Key) -> Callable[..., Any] | None:
        """What runs by a plan that is there already."""
        if key not in self._planned:
            serving = self._buckets[key.apart_from_sizes].serving(key.layout)
            if serving is None:
                return None
            key = serving
        if key not in self._steps:
            self._steps[key] = self._step(self._planned[key])
        return self._steps[key]

    def _prepared(
        self, key: _Key, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Callable[..., Any]:
        buckets = self._buckets[key.apart_from_sizes]
        followed, sizes = None, key.layout.sizes
        for bucket in self._candidates(key):
            try:
                followed = self._ladder.descend(self._attempts(key, args, kwargs, bucket))
            except (BudgetError, CaptureError, VerificationError):
                buckets.fail(key.layout, bucket)
                continue
            sizes = bucket.sizes
            buckets.add(key.layout, key, bucket)
            break
        if followed is None:
            try:
                followed = self._exactly(key, args, kwargs)
            except BudgetError as error:
                alone = dataclasses.replace(key, accumulates=False)
                if not key.accumulates or alone not in self._steps:
                    raise
                warnings.warn(
                    f"gradients of an earlier backward stand beside this step's: {error} The plan "
                    "for a step without them is followed, and the budget is exceeded by their "
                    "size.",
                    stacklevel=4,
                )
                self._planned[key] = self._planned.get(alone)
                return self._steps[alone]
        self.latest_plan = followed.plan
        self._planned[key] = followed.planned
        if len(self._planned) == _MANY_PLANS:
            warnings.warn(
                f"{type(self._module).__name__} was planned for {_MANY_PLANS} kinds of input: each "
                "value of an argument that is no tensor is another. Pass what changes as a tensor.",
                stacklevel=4,
            )
        if followed.planned is None:
            buckets.add_untouched(key.layout, key, sizes)
        if not key.accumulates:
            self._budget_bytes = max(self._budget_bytes or 0, followed.plan.budget_bytes)
        return followed.step

    def _candidates(self, key: _Key) -> list[Bucket]:
        """Sizes to plan for with some of them left open; none where there is no capture.

        Ranks agree about layouts: theirs are planned exactly.
        """
        # A percentage is of what a step peaks at that really comes.
        rounds_up = self._request.budget.percent is None
        found = self._buckets[key.apart_from_sizes].candidates(key.layout, rounds_up=rounds_up)
        return [] if key.is_parallel or self._ladder.has_given_up("whole") else found

    def _exactly(self, key: _Key, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Followed:
        """A step planned for inputs of exactly this layout."""
        fell_before = self._ladder.reason
        followed = self._ladder.descend(self._attempts(key, args, kwargs))
        reason = self._ladder.reason
        plan = self._ladder.explained(followed.plan)
        if reason and not fell_before:
            warnings.warn(
                f"{type(self._module).__name__} runs on a lower rung of the ladder of fallbacks, "
                f'"{plan.rung}", because the ones above failed. {reason}',
                stacklevel=5,
            )
        return dataclasses.replace(followed, plan=plan)

    def _attempts(
        self,
        key: _Key,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        bucket: Bucket | None = None,
    ) -> Iterator[tuple[str, Callable[[], Followed]]]:
        """Ways to run a step within the budget, from the best down."""
        memory = self._request.optimizer.scaled_to(self._module.parameters())
        request = dataclasses.replace(self._request, optimizer=memory)
        alone = self._buckets[dataclasses.replace(key, accumulates=False).apart_from_sizes]
        is_known = key.accumulates or alone.is_within_known(key.layout)
        if is_known and self._budget_bytes is not None:
            # A percentage is of the eager peak of the largest step, alone.
            request = dataclasses.replace(request, budget=Budget(bytes=self._budget_bytes))
        beside: dict[str, Any] = {
            "accumulates": key.accumulates,
            "buckets_bytes": 0 if self._parallel is None else self._parallel.buckets_bytes,
        }
        sized, varying = (args, kwargs), {}
        if bucket is not None:
            sized = resized(args, kwargs, key.layout, bucket.sizes)
            varying = {"varying": bucket.varying}
        trial = Trial(
            module=self._module,
            forward=self.original,
            args=args,
            kwargs=kwargs,
            loss_fn=request.loss_fn,
            is_exact=bucket is None,
            verify=self._verify,
            follow_plan=self._step,
        )

        def make(kind: Any, **how: Any) -> Planner | CallPlanner:
            planner: Planner | CallPlanner = kind(
                self._module, self.original, *sized, request, **beside, **varying, **how
            )
            return planner

        def as_it_is() -> Followed:
            inputs = (args, dict(kwargs))
            plan = eager_plan(self._module, self.original, inputs, request, **beside)
            return Followed(plan=plan, planned=None, step=self.original)

        return planned_rungs(
            make,
            trial.follow,
            in_pieces=key.accumulates or self._reduces_on_the_way,
            whole_alone=bucket is not None,
            captures=not key.has_global_hooks,
            last=as_it_is if self._verify else None,
        )


def optimized_forward(module: torch.nn.Module) -> OptimizedForward | None:
    """The optimized forward of a module, also under wrappers that others put around it."""
    forward = module.__dict__.get("forward")
    if forward is None:
        return None
    inner = inspect.unwrap(forward, stop=lambda f: isinstance(f, OptimizedForward))
    return inner if isinstance(inner, OptimizedForward) and inner.is_installed else None


def _restored(
    module: torch.nn.Module, request: Request, verify: bool, kept: dict[str, Any]
) -> OptimizedForward:
    original = type(module).forward.__get__(module)
    forward = OptimizedForward(module, original, request, verify=verify)
    forward._take_over(kept)
    return forward
