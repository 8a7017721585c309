"""Train a few steps and say what came of them, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

import autockpt
from autockpt.verify.bits import same_bits
from autockpt.verify.loss import find_loss
from autockpt.verify.peak import measure_peak_bytes


def train(
    model: torch.nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    num_steps: int = 3,
    loss_fn: Callable[[Any], torch.Tensor] | None = None,
) -> dict[str, torch.Tensor | None]:
    """Outputs, gradients, parameters, buffers, optimizer state and random state after training."""
    torch.manual_seed(7)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    record: dict[str, torch.Tensor | None] = {}
    for number in range(num_steps):
        optimizer.zero_grad()
        output = model(*args, **(kwargs or {}))
        loss = find_loss(output, loss_fn)
        torch.autograd.backward(loss, [torch.ones_like(t) for t in loss])
        for index, leaf in enumerate(tree_leaves((output, loss))):
            if isinstance(leaf, torch.Tensor):
                record[f"step {number} output {index}"] = leaf.detach().clone()
        optimizer.step()
    for name, parameter in model.named_parameters():
        record[f"parameter {name}"] = parameter.detach().clone()
        record[f"gradient {name}"] = parameter.grad
        for key, value in optimizer.state[parameter].items():
            record[f"{key} of {name}"] = value.clone()
    for name, buffer in model.named_buffers():
        record[f"buffer {name}"] = buffer.clone()
    record["random state"] = torch.get_rng_state()
    return record


def differing(
    expected: dict[str, torch.Tensor | None], got: dict[str, torch.Tensor | None]
) -> list[str]:
    """Names of what two runs do not have in common, to the bit."""
    names = [*expected, *(name for name in got if name not in expected)]
    return [
        name
        for name in names
        if name not in got or name not in expected or not same_bits(expected[name], got[name])
    ]


def at_the_minimum(model: torch.nn.Module, *args: torch.Tensor, **options: Any) -> torch.nn.Module:
    """The model optimized for the least budget that can be met, and not verified."""
    with pytest.raises(autockpt.BudgetError) as caught:
        autockpt.plan(model, 1, sample_args=args, **options)
    budget = caught.value.minimum_peak_bytes
    return autockpt.optimize(model, budget, sample_args=args, verify=False, **options)


def measured_bytes(
    model: torch.nn.Module,
    *args: torch.Tensor,
    loss_fn: Callable[[Any], torch.Tensor] | None = None,
) -> int:
    """Peak of a step of an optimized model, with what stands through it."""
    plan = autockpt.get_plan(model)

    def step() -> None:
        output = model(*args)
        (output if loss_fn is None else loss_fn(output)).backward()

    step()
    model.zero_grad(set_to_none=True)
    return plan.fixed.total_bytes + measure_peak_bytes(step)
