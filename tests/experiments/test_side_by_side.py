from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch

from autockpt import zoo
from autockpt.experiments import side_by_side
from autockpt.experiments.side_by_side import Trainer, compare, time_in_turns


def _pair() -> tuple[Trainer, Trainer]:
    example = zoo.build("control-flow")
    other = dataclasses.replace(example, model=copy.deepcopy(example.model))
    return Trainer(example), Trainer(other)


def test_the_same_training_is_bit_equal_and_another_is_not() -> None:
    first, second = _pair()
    left = first.train(2, seed=1)
    comparison = compare(left, second.train(2, seed=1))
    assert comparison.bit_equal
    assert comparison.num_tensors == len(left) > 100
    assert not compare(left, second.train(2, seed=1)).bit_equal


def test_a_difference_in_one_bit_is_named() -> None:
    a = {"x": torch.tensor([1.0, float("nan")]), "y": torch.tensor([0.0])}
    same = {name: tensor.clone() for name, tensor in a.items()}
    assert compare(a, same).bit_equal
    nudged = {**same, "x": torch.tensor([1.0 + 2**-23, 0.0])}
    assert compare({"x": a["x"][:1]}, {"x": nudged["x"][:1]}).max_difference == 2**-23
    assert compare(a, nudged).differing == ("x",)
    assert compare(a, {**same, "y": torch.tensor([-0.0])}).differing == ("y",)
    assert compare(a, {**same, "y": torch.tensor([0.0], dtype=torch.float64)}).differing == ("y",)
    assert compare(a, {"x": same["x"], "z": same["y"]}).differing == ("y", "z")


def test_the_peak_counts_what_rests_and_what_the_step_adds() -> None:
    trainer, _ = _pair()
    trainer.step()
    parameters_bytes = sum(p.numel() * 4 for p in trainer.model.parameters())
    batch_bytes = trainer.example.args[0].numel() * 4
    # AdamW keeps two tensors and a count for each parameter that has had a gradient.
    trained = [p for p in trainer.model.parameters() if p in trainer.optimizer.state]
    state_bytes = sum(2 * 4 * p.numel() + 4 for p in trained)
    resting_bytes = trainer.resting_bytes()
    assert resting_bytes == parameters_bytes + batch_bytes + state_bytes
    gradients_bytes = sum(4 * p.numel() for p in trained)
    assert trainer.peak_bytes() > resting_bytes + gradients_bytes


def test_times_are_taken_in_turns() -> None:
    first, second = _pair()
    times = time_in_turns(first, second, num_pairs=3)
    assert times.num_pairs == 3
    assert min(times.first_ns, times.second_ns) > 0
    assert 0 < times.least_ratio <= times.ratio <= times.most_ratio


def test_one_slow_step_changes_the_spread_and_not_the_ratio(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A busy machine showed a step of three and a half times the eager one's."""
    first, second = _pair()
    order: list[str] = []

    def clock(name: str, values: list[int]) -> Callable[[], int]:
        def read() -> int:
            order.append(name)
            return values[order.count(name) - 1]

        return read

    monkeypatch.setattr(first, "time_ns", clock("first", [100, 100, 100, 50, 100]))
    monkeypatch.setattr(second, "time_ns", clock("second", [110, 365, 110, 55, 110]))
    times = time_in_turns(first, second, num_pairs=5)
    assert times.ratio == pytest.approx(1.1)
    assert (times.least_ratio, times.most_ratio) == pytest.approx((1.1, 3.65))
    assert (times.first_ns, times.second_ns) == (100, 110)
    assert order[:4] == ["first", "second", "second", "first"]


def test_the_time_on_a_cpu_is_that_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = _pair()
    ticks = iter((1000, 1700))
    monkeypatch.setattr(side_by_side.time, "process_time_ns", lambda: next(ticks))
    assert first.time_ns() == 700
