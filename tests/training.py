"""The one harness: train a model eagerly and optimized, and compare every bit and the peak."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

import autockpt
from autockpt.verify.bits import same_bits
from autockpt.verify.live_bytes import distinct_bytes
from autockpt.verify.peak import measure_peak_bytes
from autockpt.verify.random_state import random_states, same_states, seed_generators

CPU = torch.device("cpu")
# How far a plan's prediction may be from the measured peak.
TOLERANCE_SHARE, TOLERANCE_BYTES = 0.005, 512 * 1024

Record = dict[str, Any]
Loss = Callable[[Any], torch.Tensor]
Program = Callable[[nn.Module], Record]
MakeOptimizer = Callable[..., torch.optim.Optimizer]
Context = Callable[[], contextlib.AbstractContextManager[Any]]


def train(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    num_steps: int = 3,
    **settings: Any,
) -> Record:
    """Train several steps on one batch; see `train_on`."""
    return train_on(model, [(args, kwargs or {})] * num_steps, **settings)


def train_on(
    model: nn.Module,
    batches: Iterable[tuple[tuple[Any, ...], dict[str, Any]]],
    *,
    loss_fn: Loss | None = None,
    make: MakeOptimizer = torch.optim.AdamW,
    context: Context = contextlib.nullcontext,
    clip_norm: float | None = None,
) -> Record:
    """Train a step on each batch.

    Args:
        model: Trained in place.
        batches: Positional and keyword arguments of each step; the model gets copies, as a forward
            may write into its inputs.
        loss_fn: Computes the loss from the output; by default it is the output or its ``loss``.
        make: Makes the optimizer from the parameters and a learning rate.
        context: Entered around the forward and the loss, not around the backward.
        clip_norm: Clips gradients to this norm.

    Returns:
        Every output, loss and gradient of every step, and `state_of` after the last one.
    """
    seed_generators(7, CPU)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = make(trained, lr=1e-3)
    record: Record = {}
    for number, batch in enumerate(batches):
        optimizer.zero_grad()
        args, kwargs = own_copies(batch)
        with context():
            output = model(*args, **kwargs)
            loss = loss_of(output) if loss_fn is None else loss_fn(output)
        loss.backward(torch.ones_like(loss))
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(trained, clip_norm)
        for index, leaf in enumerate([*tensors_of(output), loss]):
            record[f"step {number} output {index}"] = leaf.detach().clone()
        for index, leaf in enumerate(tensors_of((args, kwargs))):
            record[f"step {number} input {index}"] = leaf.detach().clone()
            record[f"step {number} gradient of input {index}"] = leaf.grad
        for name, parameter in model.named_parameters():
            record[f"step {number} gradient of {name}"] = copied(parameter.grad)
        optimizer.step()
    return record | state_of(model, optimizer)


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Record:
    """Parameters, gradients, buffers, the optimizer's state, and every random generator's."""
    record: Record = {}
    for name, parameter in model.named_parameters():
        record[f"parameter {name}"] = copied(parameter)
        record[f"gradient {name}"] = copied(parameter.grad)
    for name, buffer in model.named_buffers():
        record[f"buffer {name}"] = copied(buffer)
    for index, state in enumerate(optimizer.state.values() if optimizer is not None else ()):
        for key, value in state.items():
            record[f"{key} of parameter {index}"] = copied(torch.as_tensor(value))
    record["random states"] = random_states(CPU)
    return record


def copied(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """A copy of a tensor; of one spread over ranks, the part that this rank has."""
    if tensor is None:
        return None
    local: torch.Tensor = getattr(tensor, "to_local", tensor.detach)()
    return local.detach().clone()


def own_copies(inputs: Any) -> Any:
    """Copies of the inputs of one step; a tensor that is passed twice stays one tensor."""
    made: dict[int, torch.Tensor] = {}

    def copy_of(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in made:
            made[id(value)] = value.detach().clone().requires_grad_(value.requires_grad)
        return made[id(value)]

    return tree_map(copy_of, inputs)


def tensors_of(value: Any) -> list[torch.Tensor]:
    """Tensors in an output or in inputs; pytrees do not look into dataclasses."""
    fields = vars(value) if dataclasses.is_dataclass(value) else value
    return [leaf for leaf in tree_leaves(fields) if isinstance(leaf, torch.Tensor)]


def loss_of(output: Any) -> torch.Tensor:
    """The output itself, or its ``loss``."""
    if isinstance(output, torch.Tensor):
        return output
    loss: torch.Tensor = output["loss"] if isinstance(output, dict) else output.loss
    return loss


def differing(expected: Record, got: Record) -> list[str]:
    """Names under which two records are not equal to the bit."""
    names = [*expected, *(name for name in got if name not in expected)]
    return [
        name
        for name in names
        if name not in got or name not in expected or not _same(expected[name], got[name])
    ]


def _same(left: Any, right: Any) -> bool:
    return same_states(left, right) if isinstance(left, tuple) else same_bits(left, right)


def assert_same_training(
    eager: nn.Module,
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    **settings: Any,
) -> None:
    """Both models give the same, to the bit, when `train` trains them."""
    assert_same_program(eager, model, lambda m: train(m, args, kwargs, **settings))


def assert_same_program(eager: nn.Module, model: nn.Module, program: Program) -> None:
    """Both models give the same, to the bit, when a program runs with them."""
    records = []
    for each in (eager, model):
        seed_generators(3, CPU)
        records.append(program(each))
    assert differing(*records) == []


def assert_same_gradients(eager: nn.Module, model: nn.Module) -> None:
    """Gradients, parameters and buffers of both are the same, to the bit, as they are now."""
    expected, got = state_of(eager), state_of(model)
    assert [name for name in differing(expected, got) if name != "random states"] == []
    assert any(p.grad is not None for p in model.parameters())


def least_budget(model: nn.Module, **options: Any) -> int:
    """The smallest budget that autockpt can meet, from the error for one that it cannot."""
    with pytest.raises(autockpt.BudgetError) as caught:
        autockpt.plan(model, 1, **options)
    return caught.value.minimum_peak_bytes


def at_the_minimum(model: nn.Module, *args: torch.Tensor, **options: Any) -> nn.Module:
    """Optimize a model for its smallest budget, without verification."""
    options = {"method": "greedy", **options, "sample_args": args}
    return autockpt.optimize(model, least_budget(model, **options), verify=False, **options)


def resting_bytes(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    optimizer: str = "adamw",
) -> int:
    """Bytes of parameters, buffers, inputs and the optimizer's state."""
    state_bytes = 0
    if optimizer == "adamw":
        # Two tensors like the parameter, and a count in float32.
        trained = [p for p in model.parameters() if p.requires_grad]
        state_bytes = sum(2 * p.nbytes + 4 for p in trained)
    inputs = tensors_of((args, kwargs))
    return distinct_bytes([*model.parameters(), *model.buffers(), *inputs]) + state_bytes


def gradient_bytes(model: nn.Module) -> int:
    """Bytes of the gradients of all trained parameters."""
    return distinct_bytes([p for p in model.parameters() if p.requires_grad])


def peak_bytes(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    loss_fn: Loss | None = None,
    context: Context = contextlib.nullcontext,
    optimizer: str = "adamw",
    make: MakeOptimizer | None = None,
) -> int:
    """Measured peak of a step, including `resting_bytes`; leaves no gradients, and state as it was.

    The outputs are kept through the backward, as a training loop keeps them. With ``make`` the step
    of such an optimizer is measured too, and moves the parameters.
    """
    model.zero_grad(set_to_none=True)
    inputs = own_copies((args, kwargs or {}))
    stepping = None if make is None else make(model.parameters(), lr=1e-3)
    kept: list[Any] = []

    def step() -> None:
        with context():
            output = model(*inputs[0], **inputs[1])
            loss = loss_of(output) if loss_fn is None else loss_fn(output)
        loss.backward(torch.ones_like(loss))
        kept.extend([output, loss])
        if stepping is not None:
            stepping.step()

    buffers = [copied(buffer) for buffer in model.buffers()]
    random_state = torch.get_rng_state()
    step()  # the first one may compile, and make the optimizer's state
    kept.clear()
    model.zero_grad(set_to_none=True)
    measured_bytes = measure_peak_bytes(step)
    torch.set_rng_state(random_state)
    with torch.no_grad():
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)
    model.zero_grad(set_to_none=True)
    return resting_bytes(model, args, kwargs, optimizer=optimizer) + measured_bytes


def assert_within_budget(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    **settings: Any,
) -> None:
    """The plan's peaks and a measured one fit the budget, and agree."""
    plan = autockpt.get_plan(model)
    assert plan is not None
    # A step that moves parameters by itself cannot be tried, and is not measured.
    assert plan.measured_peak_bytes is None or plan.measured_peak_bytes <= plan.budget_bytes
    measured_bytes = peak_bytes(model, args, kwargs, **settings)
    assert measured_bytes <= plan.budget_bytes
    tolerance_bytes = max(TOLERANCE_SHARE * measured_bytes, TOLERANCE_BYTES)
    assert abs(measured_bytes - plan.predicted_peak_bytes) <= tolerance_bytes
