"""Calls that share the casts of one autocast block."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import nn

import autockpt
from autockpt.dispatch.casts import SharedCasts
from autockpt.dispatch.key import plan_key
from autockpt.dispatch.layout import layout_of
from autockpt.loop import PLAIN


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32)) for _ in range(4))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


@pytest.mark.row("autocast in bf16 on the CPU", "two calls in one block, and in two")
@pytest.mark.filterwarnings("ignore:Blocks is called 2 times:UserWarning")
def test_two_calls_in_one_block_of_autocast() -> None:
    """Eager casts a weight once for both calls and adds their gradients in bf16; graphs cast by
    themselves, and their gradients differed from eager's in the last bits, without a word."""
    torch.manual_seed(0)
    model = Blocks()
    eager = copy.deepcopy(model)
    x, y = torch.randn(256, 32), torch.randn(256, 32)
    cast = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731

    def is_same_step(*, is_shared: bool) -> bool:
        for module in (eager, model):
            module.zero_grad()
            inside = contextlib.nullcontext if is_shared else cast
            with cast() if is_shared else contextlib.nullcontext():
                with inside():
                    first = module(x).float().square().mean()
                with inside():
                    second = module(y).float().square().mean()
            (first + second).backward()
        pairs = zip(eager.parameters(), model.parameters(), strict=True)
        return all(torch.equal(theirs.grad, ours.grad) for theirs, ours in pairs)

    autockpt.optimize(model, "90%", optimizer="sgd", method="greedy")
    assert is_same_step(is_shared=False)
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert plan.rung == "whole"
    with pytest.warns(UserWarning, match="share one block of autocast"):
        is_same_step(is_shared=True)
    assert is_same_step(is_shared=True)
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert plan.rung in ("checkpoint", "eager")


def test_autocast_that_casts_nothing_is_not_taken_for_shared_casts() -> None:
    """CUDA's autocast to float32 casts nothing, and the node that was looked at is the weight's
    own. Here a weight in bfloat16 stands for that, which the CPU does not allow."""
    module = nn.Linear(4, 4)
    key = plan_key(module, None, layout_of((torch.zeros(2, 4),), {}), PLAIN)
    for dtype, keys in ((torch.bfloat16, []), (torch.float32, [key])):
        casts = SharedCasts()
        casts._weight = torch.empty(0, 0, dtype=dtype, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            assert casts.keys_with(key, "cpu") == []
            assert casts.keys_with(key, "cpu") == keys
