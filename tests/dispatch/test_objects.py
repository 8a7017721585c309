"""Inputs in objects: their sizes are seen like those of arguments.

Batches of graphs in a dataclass, whose sizes changed from step to step, followed the first batch's
plan: a step was measured at 1.33 times its budget.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import random
from typing import Any

import pytest
import torch
from torch import nn
from training import peak_bytes

import autockpt
from autockpt.dispatch.layout import layout_of, resized
from autockpt.verify.copies import own_copies
from autockpt.verify.inputs import input_leaves
from autockpt.verify.live_bytes import distinct_bytes

WIDTH = 16


@dataclasses.dataclass(frozen=True)
class Graphs:
    x: torch.Tensor
    edges: torch.Tensor
    num_nodes: int = 0


class Store(dict):
    """A dict of tensors with attributes, as batches of graph libraries have."""

    def __init__(self, parent: Any, **items: Any) -> None:
        super().__init__(items)
        self.parent = parent


class Batch:
    """A plain object with a dict of tensors that leads back to it."""

    def __init__(self, **items: Any) -> None:
        self.store = Store(self, **items)

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("store", {}):
            return self.__dict__["store"][name]
        raise AttributeError(name)

    def to(self, device: str) -> Batch:
        return Batch(**{name: value.to(device) for name, value in self.store.items()})


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x


Named = collections.namedtuple("Named", "x edges")  # noqa: PYI024


def tensors(num_nodes: int, num_edges: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_nodes)
    x = torch.randn(num_nodes, WIDTH, generator=generator)
    return x, torch.randint(0, num_nodes, (2, num_edges), generator=generator)


def of(kind: str, num_nodes: int, num_edges: int = 80) -> Any:
    x, edges = tensors(num_nodes, num_edges)
    made = {
        "dataclass": lambda: Graphs(x, edges, num_nodes),
        "named": lambda: Named(x, edges),
        "object": lambda: Batch(x=x, edges=edges),
        "slots": lambda: [{"a": Slotted(x)}, Slotted(edges)],
        "nested": lambda: {"batches": [Graphs(x, edges)]},
    }
    return made[kind]()


KINDS = ("dataclass", "named", "object", "slots", "nested")


@pytest.mark.parametrize("kind", KINDS)
def test_a_layout_sees_into_objects(kind: str) -> None:
    small, large = of(kind, 10), of(kind, 20)
    one, other = layout_of((small,), {}), layout_of((large,), {})
    assert one != other
    assert one.family == other.family
    assert one.fits_in(other.sizes)
    assert one == layout_of((of(kind, 10),), {})
    assert one.sizes[:2] == ((10, WIDTH), (2, 80))
    (made,), _ = resized((small,), {}, one, other.sizes)
    assert layout_of((made,), {}).sizes == other.sizes
    assert layout_of((small,), {}) == one  # what was given did not change
    copied = own_copies(small)
    assert type(copied) is type(small)
    pairs = list(zip(input_leaves(small), input_leaves(copied), strict=True))
    assert all(a is not b and torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor))
    if kind == "object":
        assert copied.store.parent is copied


def test_objects_without_tensors_and_of_other_kinds_are_told_apart() -> None:
    x, edges = tensors(4, 4)
    assert layout_of((Graphs(x, edges),), {}) != layout_of((Batch(x=x, edges=edges),), {})
    assert layout_of((Batch(x=x),), {}) != layout_of((Batch(y=x),), {})
    closed = collections.Counter(a=1), random.Random(0), object()
    assert input_leaves(closed) == list(closed)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
            for _ in range(4)
        )

    def zeros(self, batch: Graphs) -> torch.Tensor:
        return torch.zeros_like(batch.x)

    def forward(self, batch: Graphs) -> torch.Tensor:
        x = batch.x
        for layer in self.layers:
            messages = self.zeros(batch).index_add(0, batch.edges[1], x[batch.edges[0]])
            x = x + layer(messages)
        return x.square().mean()


class Counting(Network):
    """Makes tensors of a size that is an integer of the batch."""

    def zeros(self, batch: Graphs) -> torch.Tensor:
        return torch.zeros(batch.num_nodes, WIDTH)


def peak_of(model: nn.Module, batch: Graphs) -> int:
    inputs_bytes = distinct_bytes(input_leaves(batch))
    return peak_bytes(model, (batch,), optimizer="sgd") + inputs_bytes


@pytest.mark.parametrize("kind", [Network, Counting])
def test_batches_of_many_sizes_keep_their_budget(kind: type[nn.Module]) -> None:
    """Integers that are sizes are left open, once it is seen that they change at every call."""
    model = kind().train()
    eager, sizes = copy.deepcopy(model), random.Random(0)
    largest = of("dataclass", 400, 1200)
    budget = int(0.75 * peak_of(eager, largest))
    autockpt.optimize(model, budget, optimizer="sgd", method="greedy")
    plans: dict[int, autockpt.Plan] = {}
    for number in range(24):
        nodes = sizes.randint(200, 400) if number else 400
        batch = of("dataclass", nodes, 3 * nodes)
        for network in (eager, model):
            network.zero_grad()
            network(batch).backward()
        pairs = zip(eager.parameters(), model.parameters(), strict=True)
        assert all(torch.equal(a.grad, b.grad) for a, b in pairs)
        plan = autockpt.get_plan(model)
        plans[id(plan)] = plan
    assert len(plans) <= 8
    assert any(plan.rung == "whole" and plan.recompute_ns for plan in plans.values())
    for batch in (of("dataclass", 300, 900), largest):
        assert peak_of(model, batch) <= budget
