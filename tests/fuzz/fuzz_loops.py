"""How a random program trains: the order of its loop, several calls, planning in the middle."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from fuzz_programs import Program, batch, loss_of
from torch import nn
from training import CPU, Record, copied, gradient_bytes, resting_bytes, state_of

from autockpt.verify.inputs import input_leaves
from autockpt.verify.peak import measure_peak_bytes
from autockpt.verify.random_state import seed_generators

# A loop shows what it does within two steps; the third follows the plan that was made for it.
_MEASURED_STEPS = 3
_WITH_OLDER = ("between", "set to zero", "accumulated", "never")
# What autockpt says about the first step of a loop that it could not know, about a plan that costs
# much, and about a number that each call gets anew.
EXPECTED = (
    "Larger budgets cost less",
    "Raise the budget if you can",
    "gradients for other outputs",
    "changes at every call",
    "trains in eval mode",
    "before one backward",
    "has gradients of an earlier backward in memory",
    "outputs that this loop freed before the backward until now",
)
MAY_EXCEED = "autockpt follows the leanest plan"
MAY_DIFFER = "may differ from eager's in their last bits"

Context = Callable[[], contextlib.AbstractContextManager[Any]]
MakeOptimizer = Callable[..., torch.optim.Optimizer]


def is_plain(program: Program) -> bool:
    """Whether a program calls its model once a step, with no older gradients."""
    is_known = program.order == "before" and program.num_calls == 1
    return is_known and not program.eval_mode and not program.waits


def train_by_loop(
    model: nn.Module,
    program: Program,
    make: MakeOptimizer,
    context: Context,
    plan: Callable[[], object],
) -> Record:
    """Train as the program does, and record everything.

    Args:
        model: Trained in place.
        program: How.
        make: Makes the optimizer.
        context: Entered around each forward.
        plan: Called once: before the first forward, or between it and its backward.
    """
    seed_generators(7, CPU)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = make(trained, lr=1e-3)
    record: Record = {}
    if not program.waits:
        plan()
    for step in range(program.num_steps):
        waiting = plan if program.waits and not step else None
        outputs, inputs = _step(model, optimizer, program, step, context, waiting)
        for index, leaf in enumerate(tensors_in(outputs)):
            record[f"step {step} output {index}"] = leaf.detach().clone()
        for index, leaf in enumerate(tensors_in(inputs)):
            record[f"step {step} gradient of input {index}"] = copied(leaf.grad)
        for name, parameter in model.named_parameters():
            record[f"step {step} gradient of {name}"] = copied(parameter.grad)
    return record | state_of(model, optimizer)


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    program: Program,
    step: int,
    context: Context,
    plan: Callable[[], object] | None = None,
) -> tuple[list[Any], list[Any]]:
    """One step; the outputs of its calls with its losses, and its inputs."""
    order = program.order
    if order == "before" or (order == "accumulated" and step % 2 == 0):
        optimizer.zero_grad()
    outputs, losses, inputs = [], [], []
    for call in range(program.num_calls):
        args, kwargs = batch(program, step * program.num_calls + call)
        inputs.append((args, kwargs))
        with context():
            outputs.append(model(*args, **kwargs))
            losses.append(loss_of(outputs[-1]))
        if plan is not None:
            plan()
            plan = None
    if order in ("between", "set to zero"):
        optimizer.zero_grad(set_to_none=order == "between")
    # With one call there is nothing to join, and no byte beside what a plan knows of.
    if program.is_joined and len(losses) > 1:
        losses = [torch.stack([loss.float().sum() for loss in losses]).logsumexp(0)]
    for loss in reversed(losses):
        loss.backward(torch.ones_like(loss))
    if order != "never" and not (order == "accumulated" and step % 2 == 0):
        optimizer.step()
    # Gradients after the step are recorded, so this order clears all but those of the last.
    if order == "after" and step + 1 < program.num_steps:
        optimizer.zero_grad()
    return [*outputs, *losses], inputs


def loop_peak_bytes(
    model: nn.Module, program: Program, make: MakeOptimizer, context: Context
) -> int:
    """Measured peak of steps of the loop, all in all; leaves no gradients."""
    model.zero_grad(set_to_none=True)
    optimizer = make([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def steps() -> None:
        for step in range(_MEASURED_STEPS):
            _step(model, optimizer, program, step, context)

    steps()  # makes the optimizer's state, and plans that are missing
    model.zero_grad(set_to_none=True)
    peak_bytes = measure_peak_bytes(steps)
    model.zero_grad(set_to_none=True)
    # Batches are made inside of the steps, so they are part of what was measured.
    return resting_bytes(model, optimizer=program.optimizer) + peak_bytes


def older_bytes(model: nn.Module, program: Program) -> int:
    """Bytes of the gradients of an earlier backward that the loop has beside a step's own."""
    if program.order not in _WITH_OLDER:
        return 0
    return gradient_bytes(model)


def tensors_in(inputs: Any) -> list[torch.Tensor]:
    """All tensors of a batch, also in objects."""
    return [leaf for leaf in input_leaves(inputs) if isinstance(leaf, torch.Tensor)]
