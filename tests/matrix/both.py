"""A row's check: a model trained eagerly and optimized, at a small and a middle budget."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

import autockpt
from autockpt.profile.optimizer import optimizer_memory
from autockpt.verify.bits import same_bits
from autockpt.verify.live_bytes import distinct_bytes
from autockpt.verify.peak import measure_peak_bytes
from autockpt.verify.random_state import random_states, same_states

Loss = Callable[[Any], torch.Tensor]
Record = dict[str, Any]
# What a check is held to, see `conftest`.
BUDGETS = ("small", "middle")


class Body(nn.Module):
    """Layers that are worth recomputing, for models to put something in between."""

    def __init__(self, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def body(self, x: torch.Tensor, between: Callable[..., Any] = lambda x, _: x) -> torch.Tensor:
        for number, layer in enumerate(self.layers):
            x = between(torch.tanh(nn.functional.gelu(layer(x))), number)
        return x


def own(inputs: Any) -> Any:
    """Inputs of one step: copies, as forwards may write into them; of a tensor passed twice one."""
    made: dict[int, torch.Tensor] = {}

    def copied(value: Any) -> Any:
        if not _is_tensor(value):
            return value
        if id(value) not in made:
            made[id(value)] = value.detach().clone().requires_grad_(value.requires_grad)
        return made[id(value)]

    return tree_map(copied, inputs)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _leaves(output: Any) -> list[torch.Tensor]:
    fields = vars(output) if hasattr(output, "__dataclass_fields__") else output
    return [leaf for leaf in tree_leaves(fields) if _is_tensor(leaf)]


def steps(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    loss_of: Loss,
    *,
    num_steps: int = 3,
    make: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    context: Callable[[], Any] | None = None,
) -> Record:
    """Everything that a few training steps give."""
    torch.manual_seed(7)
    optimizer = make(model.parameters(), lr=1e-3)
    record: Record = {}
    for number in range(num_steps):
        optimizer.zero_grad()
        inputs = own((args, kwargs))
        if context is None:
            output = model(*inputs[0], **inputs[1])
            loss = loss_of(output)
        else:
            with context():
                output = model(*inputs[0], **inputs[1])
                loss = loss_of(output)
        loss.backward()
        for index, leaf in enumerate(_leaves(output)):
            record[f"step {number} output {index}"] = leaf.detach().clone()
        record[f"step {number} loss"] = loss.detach().clone()
        for index, leaf in enumerate(_leaves(inputs)):
            record[f"step {number} gradient of input {index}"] = leaf.grad
        for name, parameter in model.named_parameters():
            gradient = parameter.grad
            record[f"step {number} gradient of {name}"] = (
                None if gradient is None else gradient.clone()
            )
        optimizer.step()
    for name, tensor in model.state_dict().items():
        record[name] = tensor.clone()
    for index, state in enumerate(optimizer.state.values()):
        for key, value in state.items():
            record[f"{key} of parameter {index}"] = value.clone()
    record["random states"] = random_states(torch.device("cpu"))
    return record


def differing(expected: Record, got: Record) -> list[str]:
    """Names of what two runs do not have in common, to the bit."""
    return [
        name
        for name in expected.keys() | got.keys()
        if name not in expected or name not in got or not _same(expected[name], got[name])
    ]


def _same(left: Any, right: Any) -> bool:
    return same_states(left, right) if isinstance(left, tuple) else same_bits(left, right)


def loss_by_default(output: Any) -> torch.Tensor:
    """The output itself, or its ``loss``."""
    if _is_tensor(output):
        return output
    return output["loss"] if isinstance(output, dict) else output.loss


def least_budget(model: nn.Module, **options: Any) -> int:
    """The least budget that can be met, as the error of one that cannot says."""
    with pytest.raises(autockpt.BudgetError) as caught:
        autockpt.plan(model, 1, **options)
    return caught.value.minimum_peak_bytes


def check(
    model: nn.Module,
    *args: Any,
    loss_fn: Loss | None = None,
    context: Callable[[], Any] | None = None,
    make: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    **kwargs: Any,
) -> None:
    """Hold the promise at each of `BUDGETS`: the bits, and the measured peak."""
    loss_of = loss_fn or loss_by_default
    expected = steps(copy.deepcopy(model), args, kwargs, loss_of, context=context, make=make)
    options: dict[str, Any] = {
        "sample_args": args, "sample_kwargs": kwargs, "loss_fn": loss_fn,
        "optimizer": "adamw" if make is torch.optim.AdamW else "sgd", "time_limit_s": 0.5,
        # Quick, and the same on a machine of any speed; the search for better plans is not the row.
        "method": "greedy",
    }  # fmt: skip
    own_context = context or _nothing
    with own_context():
        small = least_budget(model, **options)
    state_bytes = optimizer_memory(options["optimizer"], model.parameters()).state_bytes
    eager = _peak_bytes(copy.deepcopy(model), args, kwargs, loss_of, own_context, state_bytes)
    budgets = {"small": small, "middle": max(small, (small + eager) // 2)}
    for budget in [budgets[name] for name in BUDGETS]:
        optimized = copy.deepcopy(model)
        with own_context():
            budget = _optimize(optimized, budget, options)
        got = steps(optimized, args, kwargs, loss_of, context=context, make=make)
        assert differing(expected, got) == []
        plan = autockpt.get_plan(optimized)
        assert plan is not None
        assert plan.measured_peak_bytes is not None
        assert plan.measured_peak_bytes <= budget
        peak_bytes = _peak_bytes(optimized, args, kwargs, loss_of, own_context, state_bytes)
        assert peak_bytes <= budget


def _optimize(model: nn.Module, budget: int, options: dict[str, Any]) -> int:
    """Optimize and verify; where a step measured more than predicted, at the least then named."""
    for _ in range(3):
        try:
            autockpt.optimize(model, budget, **options)
        except autockpt.BudgetError as error:
            budget = error.minimum_peak_bytes
        else:
            return budget
    raise AssertionError("no budget that an error named could be met")


def _peak_bytes(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    loss_of: Loss,
    context: Callable[[], Any],
    state_bytes: int,
) -> int:
    """Our own measurement of one more step, everything counted."""
    model.zero_grad(set_to_none=True)
    inputs = own((args, kwargs))
    kept: list[Any] = []

    def step() -> None:
        with context():
            output = model(*inputs[0], **inputs[1])
            loss = loss_of(output)
        loss.backward()
        kept.extend([output, loss])

    resting = distinct_bytes([*model.parameters(), *model.buffers(), *tree_leaves(inputs)])
    return resting + state_bytes + measure_peak_bytes(step)


class _nothing:  # noqa: N801 - a context manager
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...
