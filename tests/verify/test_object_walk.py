"""What planning puts back and what a checkpoint must not run twice are seen by one walk."""

from __future__ import annotations

import collections
import copy
import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autockpt.checkpoint.obstacles import CallWatch
from autockpt.verify.held_state import unchanged_attributes
from autockpt.verify.object_walk import AttributeWatch, reached


@dataclasses.dataclass
class Record:
    """A plain object."""

    counts: dict[str, Any]
    inner: Any = None


class Holder(nn.Module):
    """A submodule that holds state many levels deep."""

    def __init__(self) -> None:
        super().__init__()
        deep: Any = Record({"n": 0, "mean": torch.zeros(3)})
        for _ in range(20):
            deep = Record({}, inner=[(deep,)])
        self.records = [Record({"seen": [1]}), deep]
        self.by_key = {frozenset([Key()]): 1}
        self.hidden = [nn.BatchNorm1d(3)]
        self.generators = {
            "torch": torch.Generator(),
            "python": random.Random(0),
            "numpy": np.random.default_rng(0),
            "old numpy": np.random.RandomState(0),
        }
        self.queue = collections.deque([1, 2])

    @property
    def deepest(self) -> Record:
        record = self.records[1]
        while record.inner is not None:
            record = record.inner[0][0]
        return record

    @property
    def key(self) -> Key:
        return next(iter(next(iter(self.by_key))))


class Key:
    """An object that is reached through the key of a dict."""

    def __init__(self) -> None:
        self.note = ""


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(Holder(), nn.Linear(3, 3))


CHANGES: dict[str, Callable[[Holder], Any]] = {
    "a dict in an object in a list": lambda h: h.records[0].counts.update(seen=2),
    "a list in a dict in an object": lambda h: h.records[0].counts["seen"].append(2),
    "an attribute of an object": lambda h: setattr(h.records[0], "more", 1),
    "a number twenty objects deep": lambda h: h.deepest.counts.update(n=1),
    "a tensor twenty objects deep": lambda h: h.deepest.counts["mean"].add_(1),
    "another tensor twenty objects deep": lambda h: h.deepest.counts.update(mean=torch.ones(3)),
    "the key of a dict": lambda h: setattr(h.key, "note", "changed"),
    "a buffer of a hidden module": lambda h: h.hidden[0].running_mean.add_(1),
    "another buffer of a hidden module": lambda h: setattr(h.hidden[0], "running_var", None),
    "a mode of a hidden module": lambda h: h.hidden[0].eval(),
    "a generator of torch": lambda h: torch.rand(1, generator=h.generators["torch"]),
    "a generator of Python": lambda h: h.generators["python"].random(),
    "a generator of numpy": lambda h: h.generators["numpy"].random(),
    "an old generator of numpy": lambda h: h.generators["old numpy"].rand(),
    "a queue": lambda h: h.queue.popleft(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_put_back_is_seen(change: Callable[[Holder], Any]) -> None:
    model = Model()
    holder = model.part[0]
    assert isinstance(holder, Holder)
    watches = AttributeWatch(model), AttributeWatch(holder)
    call = CallWatch(model.part, (torch.ones(2, 3),))
    with unchanged_attributes(model):
        change(holder)
        assert all(watch.has_changed() for watch in watches)
        assert call.obstacle() == "it changes attributes of its modules"
    # All is as it was; of a tensor that is written back the version has moved on.
    values = [copy.deepcopy(_state(h)) for h in (Model().part[0], holder)]
    assert str(values[0]) == str(values[1])


def _state(holder: nn.Module) -> list[Any]:
    assert isinstance(holder, Holder)
    record = holder.records[0]
    return [
        vars(record),
        holder.deepest.counts,
        holder.key.note,
        dict(holder.hidden[0].named_buffers()),
        holder.hidden[0].training,
        holder.generators["torch"].get_state().sum(),
        holder.generators["python"].getstate(),
        holder.generators["numpy"].bit_generator.state,
        holder.generators["old numpy"].get_state(),
        holder.queue,
    ]


def test_nothing_changes_by_itself() -> None:
    model = Model()
    watch = AttributeWatch(model)
    model.part[1](torch.ones(2, 3)).sum().backward()
    assert not watch.has_changed()
    assert CallWatch(model.part, (torch.ones(2, 3),)).obstacle() == ""


def test_objects_of_libraries_are_watched_and_not_put_back() -> None:
    """They may be in use meanwhile: a trainer, a logger."""
    model = Model()
    model.library = np.lib.NumpyVersion("1.0.0")  # type: ignore[assignment]
    watch = AttributeWatch(model)
    with unchanged_attributes(model):
        model.library.version = "2.0.0"
        assert watch.has_changed()
    assert model.library.version == "2.0.0"
    found = reached(model)
    assert any(value is model.library for value in found.foreign)
    assert not any(value is model.library for value in found.own)


def test_cycles_end() -> None:
    model = Model()
    holder = model.part[0]
    assert isinstance(holder, Holder)
    holder.records.append(Record({"model": [model]}, inner=holder.records))
    with unchanged_attributes(model):
        holder.deepest.counts["n"] = 5
    assert holder.deepest.counts["n"] == 0
