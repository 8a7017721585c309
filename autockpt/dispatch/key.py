"""What a plan is made for."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from autockpt.dispatch.buckets import Bucket
from autockpt.dispatch.layout import Layout
from autockpt.dispatch.ranks import Parallel
from autockpt.loop import Loop
from autockpt.torch_private.modules import has_global_hooks


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanKey:
    """What a plan depends on; calls with equal keys follow one plan.

    Attributes:
        loop: What the training loop does around the call.
        is_training: Whether the module is in training mode.
        is_parallel: Whether several ranks train the module together.
        is_view: Whether gradients live in the buckets that data parallelism reduces.
        trained: For each parameter, whether it takes a gradient, and its type.
        has_global_hooks: Whether there are hooks on all modules of the process, which no graph
            contains.
        layout: The inputs.
    """

    loop: Loop
    is_training: bool
    is_parallel: bool
    is_view: bool
    trained: tuple[tuple[bool, torch.dtype], ...]
    has_global_hooks: bool
    layout: Layout

    @property
    def without_layout(self) -> tuple[Any, ...]:
        """What calls with inputs of other sizes must have in common to share plans."""
        return self.loop, self.is_training, self.trained, self.has_global_hooks

    @property
    def plain(self) -> PlanKey:
        """The key of the same step with no older gradients and all outputs kept."""
        return dataclasses.replace(self, loop=self.loop.plain)

    def for_bucket(self, bucket: Bucket) -> PlanKey:
        """The key that a plan for a bucket is kept by, whichever of its sizes came first."""
        exact = sorted(bucket.varying), bucket.rounded
        return dataclasses.replace(
            self, layout=dataclasses.replace(self.layout, sizes=bucket.sizes, exact=exact)
        )


def plan_key(
    module: torch.nn.Module,
    parallel: Parallel | None,
    layout: Layout,
    loop: Loop,
) -> PlanKey:
    """The key of a call.

    Args:
        module: The module that is called.
        parallel: What makes several ranks train it together, if anything does.
        layout: The layout of its inputs.
        loop: What the training loop does around it.
    """
    is_view = parallel is not None and parallel.buckets_are_gradients
    parameters = list(module.parameters())
    return PlanKey(
        loop=loop,
        is_training=module.training,
        is_parallel=parallel is not None,
        is_view=is_view,
        trained=tuple((p.requires_grad, p.dtype) for p in parameters),
        has_global_hooks=has_global_hooks(),
        layout=layout,
    )
