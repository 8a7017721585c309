"""The budget of a call's plan: what earlier steps had, and what is held back of it."""

from __future__ import annotations

import dataclasses

import torch

from autockpt.budget import Budget, format_bytes
from autockpt.dispatch.call import Call
from autockpt.dispatch.device_budget import budget_on_device
from autockpt.dispatch.store import PlanStore
from autockpt.dispatch.trial import AcceptedPlan
from autockpt.request import Request


def request_for(call: Call, request: Request, module: torch.nn.Module, store: PlanStore) -> Request:
    """What is asked of the plan for one call.

    Args:
        call: The call.
        request: What is asked of all plans.
        module: The module.
        store: The plans so far.
    """
    memory = request.optimizer.scaled_to(module.parameters())
    if memory.of is not None and store.latest is not None:
        # It keeps the state of parameters that were frozen since.
        kept_bytes = max(memory.state_bytes, store.latest.fixed.optimizer_bytes)
        memory = dataclasses.replace(memory, state_bytes=kept_bytes)
    # A plan that was given is for the first kind of call.
    given = request.given if store.latest is None else None
    request = dataclasses.replace(request, optimizer=memory, given=given)
    if request.budget.is_of_device:
        # Read once: later, activations of the step in progress are in the device's memory.
        if store.device_budget is None:
            inputs = call.args, dict(call.kwargs)
            store.device_budget = budget_on_device(request, module, inputs)
        request = dataclasses.replace(request, budget=store.device_budget)
    budget_bytes = store.budget_bytes(call.key)
    budget = request.budget if budget_bytes is None else Budget(bytes=budget_bytes)
    budget = dataclasses.replace(budget, less_bytes=store.held_back_bytes)
    return dataclasses.replace(request, budget=budget)


def with_held_back(accepted: AcceptedPlan, less_bytes: int) -> AcceptedPlan:
    """A plan with the whole budget, of which a part was held back while it was made.

    Args:
        accepted: The plan.
        less_bytes: What was held back.
    """
    if not less_bytes:
        return accepted
    plan = accepted.plan
    note = f"planned with {format_bytes(less_bytes)} less, because earlier steps took more"
    plan = dataclasses.replace(
        plan,
        budget_bytes=plan.budget_bytes + less_bytes,
        minimum_peak_bytes=plan.minimum_peak_bytes + less_bytes,
        notes=(*plan.notes, note),
    )
    return dataclasses.replace(accepted, plan=plan)
