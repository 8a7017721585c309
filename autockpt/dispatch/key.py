"""What a plan is made for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from autockpt.dispatch.layout import Layout, layout_of
from autockpt.dispatch.ranks import Parallel
from autockpt.torch_private.modules import has_global_hooks


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanKey:
    """What a plan depends on; calls with equal keys follow one plan.

    Attributes:
        accumulates: Whether the backward adds to gradients that are there already.
        is_parallel: Whether several ranks train the module together.
        is_view: Whether gradients live in the buckets that data parallelism reduces.
        trained: For each parameter, whether it takes a gradient, and its type.
        has_global_hooks: Whether there are hooks on all modules of the process, which no graph
            contains.
        layout: The inputs.
    """

    accumulates: bool
    is_parallel: bool
    is_view: bool
    trained: tuple[tuple[bool, torch.dtype], ...]
    has_global_hooks: bool
    layout: Layout

    @property
    def without_layout(self) -> tuple[Any, ...]:
        """What calls with inputs of other sizes must have in common to share plans."""
        return self.accumulates, self.trained, self.has_global_hooks

    @property
    def alone(self) -> PlanKey:
        """The key of the same step without gradients of an earlier backward."""
        return dataclasses.replace(self, accumulates=False)


def plan_key(
    module: torch.nn.Module,
    parallel: Parallel | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> PlanKey:
    """The key of a call.

    Args:
        module: The module that is called.
        parallel: What makes several ranks train it together, if anything does.
        args: Positional inputs.
        kwargs: Keyword inputs.
    """
    is_view = parallel is not None and parallel.buckets_are_gradients
    parameters = list(module.parameters())
    return PlanKey(
        accumulates=is_view or any(p.grad is not None for p in parameters),
        is_parallel=parallel is not None,
        is_view=is_view,
        trained=tuple((p.requires_grad, p.dtype) for p in parameters),
        has_global_hooks=has_global_hooks(),
        layout=layout_of(args, kwargs),
    )
