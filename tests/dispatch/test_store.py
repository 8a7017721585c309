"""Which plans there are and which serves an input, without any model being planned."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import torch
from plans import PLAN
from torch import nn

from autockpt.dispatch.key import PlanKey, plan_key
from autockpt.dispatch.layout import layout_of
from autockpt.dispatch.store import PlanStore, StoredPlans
from autockpt.dispatch.trial import AcceptedPlan
from autockpt.loop import PLAIN, Loop


def key_of(module: nn.Module, *sizes: int, loop: Loop = PLAIN) -> PlanKey:
    return plan_key(module, None, layout_of((torch.zeros(sizes),), {}), loop)


def accepted(budget_bytes: int = 100) -> AcceptedPlan:
    plan = dataclasses.replace(PLAN, budget_bytes=budget_bytes)
    return AcceptedPlan(plan=plan, executable=None, forward=lambda x: x)


def added(store: PlanStore, key: PlanKey, budget_bytes: int = 100) -> None:
    assert store.candidates(key, rounds_up=True, budget_bytes=None) == []
    made = accepted(budget_bytes)
    store.add(key, made, None)
    store.set_forward(key, made.forward)


def test_a_key_is_of_the_call_alone() -> None:
    module = nn.Linear(8, 8)
    key = key_of(module, 4, 8)
    assert key == key_of(module, 4, 8)
    assert key != key_of(module, 5, 8)
    assert key.without_layout == key_of(module, 5, 8).without_layout
    later = key_of(module, 4, 8, loop=Loop(accumulates=True, freed_outputs=None))
    assert later != key
    assert later.plain == key
    assert key_of(module, 4, 8, loop=Loop(num_calls=2, clears_late=True)).plain != key
    module.weight.requires_grad_(False)
    assert key_of(module, 4, 8) != key
    module.weight.requires_grad_(True)
    assert key_of(module.eval(), 4, 8) != key


def test_a_plan_that_recomputes_nothing_serves_a_step_that_frees_its_outputs() -> None:
    """Each size was planned again once it was seen that a loop frees them."""
    module, store = nn.Linear(8, 8), PlanStore()
    kept, freed = (
        key_of(module, 4, 8, loop=Loop(freed_outputs=outputs)) for outputs in (frozenset(), None)
    )
    added(store, kept)
    assert (store.serving(freed) == kept) == (PLAN.recompute_ns == 0)
    plan = dataclasses.replace(PLAN, recompute_ns=0)
    store.add(kept, dataclasses.replace(accepted(), plan=plan), None)
    assert store.serving(freed) == kept
    assert store.serving(key_of(module, 5, 8, loop=freed.loop)) is None
    accumulating = dataclasses.replace(freed.loop, accumulates=True)
    assert store.serving(key_of(module, 4, 8, loop=accumulating)) is None


def test_a_model_that_fits_as_it_is_does_so_for_smaller_inputs() -> None:
    module, store = nn.Linear(8, 8), PlanStore()
    large, small = key_of(module, 6, 8), key_of(module, 4, 8)
    assert store.serving(large) is None
    added(store, large)
    assert store.serving(small) == large
    assert store.plan(large) is None
    assert store.serving(key_of(module, 7, 8)) is None


def test_the_budget_is_the_largest_steps() -> None:
    module, store = nn.Linear(8, 8), PlanStore()
    large = key_of(module, 6, 8)
    assert store.budget_bytes(large) is None
    added(store, large, budget_bytes=100)
    assert store.budget_bytes(key_of(module, 4, 8)) == 100
    assert store.budget_bytes(key_of(module, 7, 8)) is None
    assert store.budget_bytes(key_of(module, 7, 8, loop=Loop(accumulates=True))) == 100
    # A share is one of eager's peak with all calls.
    assert store.budget_bytes(key_of(module, 4, 8, loop=Loop(num_calls=2))) is None


def test_what_is_stored_is_independent_of_the_store() -> None:
    module, store = nn.Linear(8, 8), PlanStore()
    large = key_of(module, 6, 8)
    added(store, large)
    stored = pickle.loads(pickle.dumps(store.stored()))
    assert isinstance(stored, StoredPlans)
    other = PlanStore(stored)
    added(store, key_of(nn.Linear(8, 8).double(), 6, 8), budget_bytes=500)
    for twin in (other, PlanStore(copy.deepcopy(stored))):
        assert twin.serving(key_of(module, 4, 8)) == large
        assert twin.latest == PLAN
        assert len(twin) == 1
        assert twin.forward(large) is None  # it belongs to the other module


def test_a_stale_plan_is_given_up_a_few_times() -> None:
    module, store = nn.Linear(8, 8), PlanStore()
    key = key_of(module, 6, 8)
    for number in (1, 2):
        added(store, key)
        store.forget(key, max_stale=2)
        assert store.num_stale == number
        assert key not in store
        assert store.forward(key) is None
    added(store, key)
    store.forget(key, max_stale=2)
    assert key in store
    assert store.forward(key) is not None
