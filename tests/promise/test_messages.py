"""What a forward prints, warns and logs: it costs no rung, and happens as in eager.

A layer that called `warnings.warn` or `print` took its model from the highest rung to checkpointed
calls, with twice the extra time. Calls of loggers were dropped.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import autockpt
from autockpt.verify.silence import silenced

LOGGER = logging.getLogger("tests.messages")
ADAPTED = logging.LoggerAdapter(LOGGER, {"rank": 0})
WIDTH = 32


class Quiet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linears = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.linears(x)


class Noisy(Quiet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        warnings.warn("deprecated", DeprecationWarning)  # noqa: B028
        warnings.warn(f"shape {tuple(x.shape)}", stacklevel=2)
        warnings.warn(UserWarning("by torch"), stacklevel=3)
        print("out", x.shape, sep=": ", end="!\n")  # noqa: T201
        print("err", file=sys.stderr)  # noqa: T201
        sys.stdout.write("written\n")
        LOGGER.info("at level %d", logging.INFO)
        LOGGER.debug("not shown %s", x)
        logging.getLogger("tests.messages.other").error("an error")
        logging.warning("of the root")
        if LOGGER.isEnabledFor(logging.INFO):
            ADAPTED.info("adapted")
        with torch.profiler.record_function("a block"):
            return super().forward(x)


class Reading(Noisy):
    """Reads a value, so that its calls are checkpointed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.sum().item() < 1e9 else x


@contextlib.contextmanager
def heard() -> Iterator[list[Any]]:
    """Everything that is printed, warned and logged, with the lines that it comes from."""
    out, err = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logging.Formatter("%(name)s %(pathname)s:%(lineno)d %(message)s"))
    logging.getLogger().addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    found: list[Any] = []
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            yield found
    finally:
        logging.getLogger().removeHandler(handler)
    found += [out.getvalue(), err.getvalue()]
    found += [(str(w.message), w.category, w.filename, w.lineno) for w in caught]


def trained(model: nn.Module, x: torch.Tensor) -> list[Any]:
    with heard() as found:
        model(x).square().mean().backward()
    model.zero_grad()
    return found


def stack(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*[kind() for _ in range(4)]).train()


def optimized(model: nn.Module, budget: str = "70%") -> nn.Module:
    return autockpt.optimize(
        model, budget, optimizer="sgd", loss_fn=lambda y: y.square().mean(), method="greedy"
    )


def test_messages_cost_no_rung_and_happen_as_in_eager() -> None:
    """In their order, from the same lines, once a call, and not while a plan is made."""
    model, x = stack(Noisy), torch.randn(256, WIDTH)
    expected = trained(copy.deepcopy(model), x)
    assert expected[0].count("out: torch.Size([256, 32])!") == 4
    assert expected[0].count("adapted") == 4
    assert trained(optimized(model), x) == expected
    assert trained(model, x) == expected
    plan, quiet = autockpt.get_plan(model), stack(Quiet)
    optimized(quiet)
    for _ in range(2):
        trained(quiet, x)
    assert plan.rung == "whole"
    assert plan.recompute_ns > 0
    assert plan.predicted_peak_bytes == autockpt.get_plan(quiet).predicted_peak_bytes
    # Levels are looked at when the forward runs.
    LOGGER.setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()) as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(x)
    assert "adapted" not in out.getvalue()
    # Filters too: one that turns a warning into an error, and the default, once for a line.
    with heard():
        warnings.simplefilter("error", DeprecationWarning)
        with pytest.raises(DeprecationWarning, match="deprecated"):
            model(x)
    with heard() as found:
        warnings.simplefilter("default")
        for _ in range(3):
            model(x).sum().backward()
            model.zero_grad()
    assert [message for message, *_ in found[2:]].count("deprecated") == 1


def test_what_is_recomputed_says_nothing_again() -> None:
    model, x = stack(Reading), torch.randn(256, WIDTH)
    expected = trained(copy.deepcopy(model), x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with heard() as planning:
            optimized(model)(x)
    assert autockpt.get_plan(model).rung == "checkpoint"
    assert planning[:2] == expected[:2]
    assert trained(model, x) == expected


def test_a_message_that_needs_a_value_names_its_line() -> None:
    class Showing(Quiet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            print("mean", x.mean())  # noqa: T201
            return super().forward(x)

    model, x = stack(Showing), torch.randn(256, WIDTH)
    with heard() as found:
        optimized(model)(x)
    (warning,) = found[2:]
    assert "test_messages.py:" in warning[0]
    assert "print gets an argument" in warning[0]
    assert len(warning[0].splitlines()) == 3


def test_silence_is_of_one_thread_and_ends() -> None:
    """Two threads that plan at the same time must not undo each other's replacements."""
    began, may_end = threading.Event(), threading.Event()
    before = (print, logging.Logger.info, sys.stdout)

    def other() -> None:
        with silenced():
            print("dropped in the other")  # noqa: T201
            began.set()
            may_end.wait(10)
            print("dropped as well")  # noqa: T201

    with contextlib.redirect_stdout(io.StringIO()) as out:
        thread = threading.Thread(target=other)
        with silenced():
            thread.start()
            assert began.wait(10)
            print("dropped here")  # noqa: T201
        print("heard", flush=True)  # noqa: T201
        sys.stdout.write("written\n")
        may_end.set()
        thread.join()
        print("heard at the end")  # noqa: T201
    assert out.getvalue() == "heard\nwritten\nheard at the end\n"
    assert (print, logging.Logger.info, sys.stdout) == before


def test_filters_set_inside_of_a_forward_cost_a_rung_and_are_named() -> None:
    class Filtering(Quiet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.warn("hidden", stacklevel=1)
            return super().forward(x)

    model, x = stack(Filtering), torch.randn(256, WIDTH)
    with heard() as found:
        optimized(model)(x)
    (warning,) = found[2:]
    assert "Dynamo splits the forward at " in warning[0]
    assert "test_messages.py:" in warning[0]
    assert len(warning[0].splitlines()) == 3
