"""The time of operators: measured in turns, since a repeated one finds all in the caches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.fx as fx
from torch.fx.experimental.proxy_tensor import make_fx

from autockpt.profile import operators, turns
from autockpt.profile.cache import NodeCost, ProfileCache
from autockpt.profile.roofline import device_of, roofline

_measured_ns = operators._runtimes_ns  # in tests, others stand in for it


def _nodes() -> list[fx.Node]:
    def many(x: torch.Tensor) -> torch.Tensor:
        for function in (torch.sin, torch.exp, torch.tanh):
            x = function(x)
        return x

    graph = make_fx(many, tracing_mode="fake")(torch.randn(64, 64)).graph
    return [node for node in graph.nodes if node.op == "call_function"]


def _spied(ran: list[str]) -> Any:
    def call_of(node: fx.Node) -> Any:
        return lambda: ran.append(node.name)

    return call_of


def test_operators_run_one_after_another() -> None:
    ran: list[str] = []
    nodes = _nodes()
    times = turns.times_ns(nodes, _spied(ran))
    assert len(times) == 3
    assert all(time_ns > 0 for time_ns in times)
    names = [node.name for node in nodes]
    assert ran[:6] == names * 2
    assert len(ran) == 3 * 16  # the first run is not timed


def test_large_operators_share_no_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_TURN_BYTES", 2**15)  # two inputs of 16 KiB
    ran: list[str] = []
    turns.times_ns(_nodes(), _spied(ran))
    assert "tanh" not in ran[:32]
    assert ran[32:] == ["tanh"] * 16


def test_a_slow_operator_does_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_ns = [0]
    monkeypatch.setattr("time.perf_counter_ns", lambda: clock_ns[0])

    def slow() -> None:
        runs.append("slow")
        clock_ns[0] += 10**9

    def quick() -> None:
        runs.append("quick")
        clock_ns[0] += 10**3

    runs: list[str] = []
    assert turns._in_turns([slow, quick]) == [10**9, 10**3]
    assert runs.count("slow") == 2
    assert runs.count("quick") == 16


def test_known_operators_run_beside_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One new operator, measured alone, would look a third quicker than the others."""
    nodes = _nodes()
    cache = ProfileCache(tmp_path / "costs.sqlite", "here")
    known = NodeCost(runtime_ns=7, workspace_bytes=0, output_bytes=(64 * 64 * 4,))
    cache.store({operators.signature(node): known for node in nodes[:2]})
    seen: list[list[str]] = []

    def times_ns(timed: list[fx.Node], call_of: Any) -> list[int]:
        seen.append([node.name for node in timed])
        return turns.times_ns(timed, call_of)

    monkeypatch.setattr(operators, "_runtimes_ns", _measured_ns)
    monkeypatch.setattr(operators, "times_ns", times_ns)
    costs = operators.profile(nodes, torch.device("cpu"), measure=True, cache=cache)
    assert seen == [["tanh", "sin", "exp"]]
    assert [costs[node].runtime_ns for node in nodes[:2]] == [7, 7]
    assert costs[nodes[2]].runtime_ns > 0


def test_an_operator_that_cannot_run_is_estimated_and_runs_beside_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was run beside new operators, as known ones are, and its error was a bug of ours."""
    node, new = _nodes()[:2]
    node.args = ("no tensor",)
    monkeypatch.setattr(operators, "_runtimes_ns", _measured_ns)
    costs = operators.profile(
        [node, new],
        torch.device("cpu"),
        measure=True,
        cache=ProfileCache(tmp_path / "costs.sqlite", "here"),
    )
    assert costs[node] == roofline(node, device_of(torch.device("cpu")))
    assert costs[new].runtime_ns > 0
