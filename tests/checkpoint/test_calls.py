"""Calls of modules, and which of them may run a second time."""

from __future__ import annotations

import collections
import copy

import pytest
import torch
from ladder_models import WIDTH, Block, Stack, built, optimized
from torch import nn
from training import assert_same_training, peak_bytes

import autockpt
from autockpt.checkpoint.calls import observe
from autockpt.loop import PLAIN
from autockpt.verify.step import Step


class _Counting(Block):
    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x) * (1 if self.calls % 2 else -1)


class _Overwriting(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.mul_(0.5))


class _Remembering(Block):
    def __init__(self) -> None:
        super().__init__()
        self.seen = collections.deque(maxlen=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        self.seen.append(y)
        return y


@pytest.mark.parametrize(
    ("block", "obstacle"),
    [
        (_Counting, "it changes attributes of its modules"),
        (_Overwriting, "one of its inputs is overwritten"),
        (_Remembering, "it changes attributes of its modules"),
    ],
)
def test_a_call_that_leaves_a_trace_does_not_run_twice(
    block: type[nn.Module], obstacle: str
) -> None:
    """Only what such a block is made of runs again."""

    class Tracing(Stack):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x * 1.0)

    Tracing.block = block
    model, x = built(Tracing)
    eager = copy.deepcopy(model)
    step = Step(
        module=model,
        forward=model.forward,
        args=(x,),
        kwargs={},
        loss_fn=None,
        device=x.device,
        loop=PLAIN,
    )
    assert f"blocks.0: {obstacle}" in observe(step).obstacles
    optimized(model, "70%", x)
    rows = autockpt.get_plan(model).rows
    again = {row.module.partition(".")[2].partition(".")[2] for row in rows if row.recompute_ns}
    assert again
    assert all(name.startswith("mlp") for name in again)
    assert_same_training(eager, model, (x,))


class _Log:
    """An object that a call may change as it likes."""

    def __init__(self) -> None:
        self.count = 0


class _Logging(nn.Module):
    """All in one, so that it is this module's calls that run again."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(WIDTH, 4 * WIDTH) / WIDTH)
        self.down = nn.Parameter(torch.randn(4 * WIDTH, WIDTH) / WIDTH)

    def forward(self, x: torch.Tensor, log: _Log | None = None) -> torch.Tensor:
        if log is not None:
            log.count += 1
        y = nn.functional.gelu(x @ self.up)
        return x + nn.functional.dropout(y, 0.1) @ self.down


class LoggedNow(Stack):
    """Calls of one block, of which some are handed what running twice would change twice."""

    logged: tuple[bool, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([_Logging()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.__dict__["log"] = log = _Log()
        for is_logged in self.logged:
            x = self.blocks[0](x, log) if is_logged else self.blocks[0](x)
            assert x.abs().mean().item() < 1e6
        return self.head(x).square().mean()


@pytest.mark.parametrize("logged", [(False, False, True), (True, False, True)])
def test_calls_of_one_module_are_told_apart(
    logged: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only calls that could be chosen had numbers: one that may not run twice was taken for the
    last of those that may, or those that were to run again were taken for ones that were not."""
    monkeypatch.setattr(LoggedNow, "logged", logged)
    model, x = built(LoggedNow)
    eager = copy.deepcopy(model)
    optimized(model, "95%", x, verify=False)
    plan = autockpt.get_plan(model)
    assert plan.rung == "checkpoint"
    model(x).backward()
    assert model.log.count == sum(logged)
    assert peak_bytes(model, (x,)) <= plan.budget_bytes < plan.baseline_peak_bytes
    model.load_state_dict(eager.state_dict())
    model.zero_grad(set_to_none=True)
    assert_same_training(eager, model, (x,))
