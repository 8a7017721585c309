"""Turns a budget that depends on a device's memory into bytes, when a step is planned."""

from __future__ import annotations

from typing import Any

import torch

from autockpt.budget import Budget, no_device
from autockpt.request import Request
from autockpt.verify import device_memory
from autockpt.verify.inputs import input_leaves
from autockpt.verify.live_bytes import distinct_bytes
from autockpt.verify.loss import trained_tensors


def budget_on_device(request: Request, module: torch.nn.Module, inputs: tuple[Any, Any]) -> Budget:
    """Returns the budget of a step in a form that does not depend on a device.

    A budget counts the whole step, so what the step holds already is added to what is free:
    parameters, buffers, gradients, inputs and the optimizer's state. What else is allocated, such
    as another model, is not.

    Args:
        request: What is asked of the plan.
        module: The model.
        inputs: Positional and keyword inputs of the step.

    Raises:
        ValueError: The step runs on no device with its own memory, or nothing of it is left.
    """
    budget, target = request.budget, request.device
    if not budget.is_of_device:
        return budget
    if target is not None:
        if not target.is_accelerator:
            raise ValueError(no_device(budget))
        return budget.on_device(total_bytes=target.memory_bytes, usable_bytes=target.usable_bytes)
    device = next((t.device for t in trained_tensors(module, inputs)), torch.device("cpu"))
    if not device_memory.has_own_memory(device):
        raise ValueError(no_device(budget))
    memory = device_memory.device_memory(device)
    parameters = list(module.parameters())
    held = [
        *parameters,
        *(p.grad for p in parameters),
        *module.buffers(),
        *input_leaves(inputs),
    ]
    on_device = [t for t in held if isinstance(t, torch.Tensor) and t.device == device]
    held_bytes = distinct_bytes(on_device) + request.optimizer_held_bytes
    return budget.on_device(
        total_bytes=memory.total_bytes, usable_bytes=memory.usable_bytes(held_bytes)
    )
