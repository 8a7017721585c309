"""The forward of an optimized module: plans at the first training call, then follows the plan."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_flatten, tree_leaves

from autockpt.errors import BudgetError, VerificationError
from autockpt.plan import Plan
from autockpt.planner import Planned, Planner, Request
from autockpt.runtime import PlannedStep
from autockpt.verify import Step, available_bytes, differences

_MAX_CORRECTIONS = 3


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
        self._steps: dict[Any, Callable[..., Any]] = {}
        self._lock = threading.RLock()
        self.latest_plan: Plan | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward: by its plan when training, as it was otherwise."""
        if (
            torch.compiler.is_compiling()
            or not self._module.training
            or not torch.is_grad_enabled()
        ):
            return self.original(*args, **kwargs)
        key = _layout(args, kwargs)
        step = self._steps.get(key)
        if step is None:
            if any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs))):
                return self.original(*args, **kwargs)
            step = self.prepare(args, kwargs)
        return step(*args, **kwargs)

    def prepare(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[..., Any]:
        """Plan, compile and verify for inputs of this layout, unless that was done before.

        Raises:
            AutockptError: See ``optimize``; the module is as it was.
        """
        key = _layout(args, kwargs)
        with self._lock:
            if key not in self._steps:
                self._steps[key] = self._prepared(args, kwargs)
            return self._steps[key]

    def _prepared(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[..., Any]:
        planner = Planner(self._module, self.original, args, kwargs, self._request)
        planned = planner.plan()
        if _needs_nothing(planned.plan):
            self.latest_plan = planned.plan
            return self.original
        if not self._verify:
            self.latest_plan = planned.plan
            return PlannedStep(self.original, planned.regions)
        return self._verified(planner, planned, args, kwargs)

    def _verified(
        self, planner: Planner, planned: Planned, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Callable[..., Any]:
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
        )
        held_back_bytes = 0
        expected = None
        notes = plan.notes
        if plan.baseline_peak_bytes < available_bytes(device):
            expected = eager.record(warm_up=False)
            eager_peak_bytes = plan.fixed.total_bytes + expected.peak_bytes
            if eager_peak_bytes <= plan.budget_bytes:
                self.latest_plan = dataclasses.replace(
                    planner.untouched(),
                    measured_peak_bytes=eager_peak_bytes,
                    notes=(*notes, "eager PyTorch was measured within the budget: nothing to do"),
                )
                return self.original
        else:
            notes = (*notes, "not compared with eager, which does not fit in the free memory")
        for _ in range(_MAX_CORRECTIONS):
            step = PlannedStep(self.original, planned.regions)
            got = dataclasses.replace(eager, forward=step).record(warm_up=True)
            if expected is not None:
                differing = differences(expected, got)
                if differing:
                    raise VerificationError(
                        "a step is not bit-equal to eager's", differing=differing
                    )
            measured_bytes = planned.plan.fixed.total_bytes + got.peak_bytes
            self.latest_plan = dataclasses.replace(
                planned.plan, measured_peak_bytes=measured_bytes, notes=notes
            )
            excess_bytes = measured_bytes - planned.plan.budget_bytes
            if excess_bytes <= 0:
                return step
            held_back_bytes += excess_bytes
            planned = planner.plan(held_back_bytes=held_back_bytes)
        raise BudgetError(
            budget_bytes=plan.budget_bytes,
            minimum_peak_bytes=measured_bytes,
            peak_node="a measured step, above its prediction",
        )


def _needs_nothing(plan: Plan) -> bool:
    return plan.recompute_ns == 0 and plan.budget_bytes >= plan.baseline_peak_bytes


def _layout(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a plan depends on in the inputs: layouts of tensors, values of everything else."""
    leaves, structure = tree_flatten((args, dict(kwargs)))
    described: list[Any] = []
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            described.append(
                (leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad)
                if leaf.layout is torch.strided
                else (leaf.shape, leaf.layout, leaf.dtype, leaf.device, leaf.requires_grad)
            )
        else:
            described.append(leaf if _is_plain(leaf) else type(leaf))
    autocast = tuple(
        (kind, torch.get_autocast_dtype(kind))
        for kind in ("cpu", "cuda")
        if torch.is_autocast_enabled(kind)
    )
    return (tuple(described), str(structure), autocast)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))
