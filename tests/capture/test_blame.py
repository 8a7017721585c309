"""Failures of a capture are the model's, a `CaptureError`, or bugs, an `InternalError`."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autockpt.budget import parse_budget
from autockpt.capture import compiled
from autockpt.capture.blame import models_code, own_code
from autockpt.capture.step import capture
from autockpt.errors import CaptureError, InternalError
from autockpt.ladder.graphs import GraphPlanner
from autockpt.ladder.step import StepToPlan
from autockpt.lower import builder
from autockpt.profile.optimizer import optimizer_memory
from autockpt.request import Request
from autockpt.rewrite import runtime
from autockpt.torch_private import aot
from autockpt.verify import live_bytes

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def blocks() -> nn.Module:
    torch.manual_seed(0)
    parts = (nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2))
    return nn.Sequential(*parts, nn.Linear(8, 1))


def fails_with(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("place", "name"),
    [(compiled, "analyze"), (compiled, "default_partition"), (compiled, "boxed"),
     (aot, "_autocast_blocks")],
    ids=["analysis", "partition", "compiler", "backend"],
)  # fmt: skip
@pytest.mark.parametrize("error", [KeyError("x"), AssertionError("x")], ids=["KeyError", "assert"])
def test_a_bug_in_the_capture_is_reported_as_one(
    monkeypatch: pytest.MonkeyPatch, place: Any, name: str, error: Exception
) -> None:
    model = blocks()
    before = {name: p.clone() for name, p in model.named_parameters()}
    monkeypatch.setattr(place, name, fails_with(error))
    with pytest.raises(InternalError, match="a bug in autockpt: the capture stage") as caught:
        capture(model, model.forward, (X,), {})
    assert caught.value.__cause__ is error or type(error).__name__ in caught.value.reason
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_a_bug_under_the_models_own_operators_is_reported_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A mode of autockpt's runs at each operator of the forward, whose failures are the model's."""
    model = blocks()
    # Called with 0 it raises, and the innermost frame of Python is autockpt's.
    monkeypatch.setattr(live_bytes, "max", math.log, raising=False)
    with pytest.raises(InternalError, match="capture stage failed with ValueError: "):
        capture(model, model.forward, (X,), {})


def test_a_bug_while_a_block_is_captured_is_no_failed_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = blocks()
    monkeypatch.setattr(compiled, "default_partition", fails_with(KeyError("x")))
    with pytest.raises(InternalError, match="KeyError"):
        capture(model, model.forward, (X,), {}, blocks=("0", "1"))


def test_a_name_of_torch_that_is_gone_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    model = blocks()
    monkeypatch.delattr("torch._functorch._aot_autograd.runtime_wrappers.AOTDispatchAutograd")
    with pytest.raises(InternalError, match=r"ImportError.*AOTDispatchAutograd"):
        capture(model, model.forward, (X,), {})


def planner(model: nn.Module) -> GraphPlanner:
    request = Request(
        budget=parse_budget("200%"), optimizer=optimizer_memory("sgd", model.parameters()),
        loss_fn=None, method="none", time_limit_s=1.0,
    )  # fmt: skip
    return GraphPlanner.capture(
        StepToPlan(module=model, forward=model.forward, args=(X,), kwargs={}, request=request)
    )


def test_a_bug_in_the_lowering_is_reported_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "may_move", fails_with(KeyError("x")))
    with pytest.raises(InternalError, match="lower stage failed with KeyError"):
        planner(blocks())


@pytest.mark.parametrize(
    ("place", "name"), [(runtime, "rewrite"), (compiled, "analyze")], ids=["rewrite", "analysis"]
)
def test_a_bug_in_the_rewrite_is_reported_as_one(
    monkeypatch: pytest.MonkeyPatch, place: Any, name: str
) -> None:
    """Dynamo calls the rewrite, and wraps what it raises."""
    model = blocks()
    program = planner(model).plan().program
    monkeypatch.setattr(place, name, fails_with(KeyError("x")))
    with pytest.raises(InternalError, match="rewrite stage failed with KeyError"):
        runtime.PlannedForward(model, model.forward, program)(X)


class Failing(nn.Module):
    """Its forward calls a function on its activations."""

    def __init__(self, act: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        self.act(y)
        return y.sum()


def raises_key_error(_: torch.Tensor) -> None:
    raise KeyError("missing")


def raises_the_second_time() -> Callable[[torch.Tensor], None]:
    """Works in the eager step, and fails in the one that is traced."""
    calls: list[int] = []

    def act(_: torch.Tensor) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise AssertionError("not twice")

    return act


def reads_a_value(y: torch.Tensor) -> bool:
    return bool(y.sum() > 0)


def has_wrong_shapes(y: torch.Tensor) -> torch.Tensor:
    return y @ torch.ones(3, 3)


@torch.library.custom_op("blame_tests::no_fake", mutates_args=())
def without_a_fake(y: torch.Tensor) -> torch.Tensor:
    return y.clone()


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (raises_key_error, "its forward fails on these inputs: KeyError: 'missing'"),
        (raises_the_second_time(), "its forward cannot be traced: AssertionError: not twice"),
        (reads_a_value, "its forward fails on these inputs: DataDependentOutputException"),
        (has_wrong_shapes, "its forward fails on these inputs: RuntimeError"),
        (without_a_fake, "its forward fails on these inputs: .*no_fake"),
    ],
)
def test_a_failure_of_the_model_is_not_a_bug(act: Callable[..., Any], reason: str) -> None:
    model = Failing(act)
    named = rf"cannot capture Failing \(\S+test_blame.py:\d+\): {reason}"
    with pytest.raises(CaptureError, match=named) as caught:
        capture(model, model.forward, (X,), {})
    assert caught.value.__cause__ is not None


class DropsLayers(nn.Module):
    """Skips layers by a draw that Python reads."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            if np.random.random() < 0.9:
                x = layer(x).relu()
        return x


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cells(x)[0]


@pytest.mark.parametrize("kind", [DropsLayers, Recurrent])
def test_a_forward_that_is_left_to_python_is_told_with_its_line(kind: type[nn.Module]) -> None:
    """Only the autograd nodes of eager were named, and the advice was to change "that code"."""
    model = kind()
    named = r"Dynamo leaves its forward to Python at \S+test_blame.py:\d+: Unsupported"
    with pytest.raises(CaptureError, match=named):
        capture(model, model.forward, (torch.ones(2, 4),), {})


def test_a_loss_that_cannot_be_traced_is_not_a_bug() -> None:
    act = raises_the_second_time()

    def loss(output: torch.Tensor) -> torch.Tensor:
        act(output)
        return output.sum()

    model = blocks()
    named = r"cannot capture loss_fn \(\S+test_blame.py:\d+\): it cannot be traced"
    with pytest.raises(CaptureError, match=named):
        capture(model, model.forward, (X,), {}, loss_fn=loss)


def test_a_gradient_without_a_storage_is_not_a_bug() -> None:
    model = nn.Sequential(nn.Embedding(4, 8, sparse=True), nn.Linear(8, 1))
    with pytest.raises(CaptureError, match="SparseTensor"):
        capture(model, model.forward, (torch.tensor([0, 1]),), {})


def expire_wrapped() -> None:
    try:
        signal.raise_signal(signal.SIGALRM)
    except TimeoutError as error:
        raise RuntimeError("wrapped") from error


def test_what_a_signal_handler_raises_is_nobodys_failure() -> None:
    """torch wraps it if it comes while a model is traced."""

    class Deadline:
        def expired(self, *_: object) -> None:
            raise TimeoutError("mine")

    before = signal.signal(signal.SIGALRM, Deadline().expired)
    try:
        with pytest.raises(TimeoutError, match="mine"), models_code("Net", "cannot be traced"):
            expire_wrapped()
        with pytest.raises(TimeoutError, match="mine"), own_code("capture"):
            signal.raise_signal(signal.SIGALRM)
    finally:
        signal.signal(signal.SIGALRM, before)
