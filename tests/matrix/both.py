"""A row's check: a model trained eagerly and optimized, at a small and a middle budget."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from training import (
    Context,
    Loss,
    MakeOptimizer,
    assert_same_training,
    assert_within_budget,
    least_budget,
    peak_bytes,
)

import autockpt

# The budgets of every check; `conftest` leaves out the longer one for `make test`.
BUDGETS = ("small", "middle")


class Body(nn.Module):
    """Layers that are worth recomputing, for models to put something in between."""

    def __init__(self, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def body(self, x: torch.Tensor, between: Callable[..., Any] = lambda x, _: x) -> torch.Tensor:
        for number, layer in enumerate(self.layers):
            x = between(torch.tanh(nn.functional.gelu(layer(x))), number)
        return x


def check(
    model: nn.Module,
    *args: Any,
    loss_fn: Loss | None = None,
    context: Context = contextlib.nullcontext,
    make: MakeOptimizer = torch.optim.AdamW,
    **kwargs: Any,
) -> None:
    """Hold the promise at each of `BUDGETS`: the bits, and the measured peak."""
    optimizer = "adamw" if make is torch.optim.AdamW else "sgd"
    options: dict[str, Any] = {
        "sample_args": args, "sample_kwargs": kwargs, "loss_fn": loss_fn, "optimizer": optimizer,
        # Quick, and the same on a machine of any speed; the search for better plans is not the row.
        "method": "greedy",
    }  # fmt: skip
    settings: dict[str, Any] = {"loss_fn": loss_fn, "context": context}
    with context():
        small = least_budget(model, **options)
    budgets = {"small": small}
    if "middle" in BUDGETS:
        eager_bytes = peak_bytes(
            copy.deepcopy(model), args, kwargs, optimizer=optimizer, **settings
        )
        budgets["middle"] = max(small, (small + eager_bytes) // 2)
    for name in BUDGETS:
        optimized = copy.deepcopy(model)
        with context():
            _optimize(optimized, budgets[name], options)
        eager = copy.deepcopy(model)
        assert_same_training(eager, optimized, args, kwargs, make=make, **settings)
        assert_within_budget(optimized, args, kwargs, optimizer=optimizer, **settings)
        plan = autockpt.get_plan(optimized)
        assert plan is not None
        assert plan.measured_peak_bytes is not None


def _optimize(model: nn.Module, budget: int, options: dict[str, Any]) -> None:
    """Optimize and verify; if a step measured more than predicted, at the least then named."""
    for _ in range(3):
        try:
            autockpt.optimize(model, budget, **options)
        except autockpt.BudgetError as error:
            budget = error.minimum_peak_bytes
        else:
            return
    raise AssertionError("no budget that an error named could be met")
