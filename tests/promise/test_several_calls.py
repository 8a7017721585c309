"""Several calls of a model before one backward: the budget is one for all of them."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from loops import Blocks, batches, peak_bytes, train
from torch import nn
from training import least_budget

import autockpt

LEFT, RIGHT = batches(2)


def _pair(model: nn.Module) -> torch.Tensor:
    return (model(LEFT) - model(RIGHT)).square().mean()


def _eager_bytes(model: nn.Module, loss: object) -> int:
    torch.manual_seed(5)
    return peak_bytes(model, [LEFT, RIGHT], lambda: loss(model).backward())


def _square(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


@pytest.mark.row("several calls before one backward", "pairs: the budget holds for the step")
def test_a_pair_is_planned_as_one_step() -> None:
    """Each call was planned alone: the step took 1.61 times its budget, without a word."""
    model = Blocks(num_blocks=6)
    resting = sum(p.nbytes for p in model.parameters()) + LEFT.nbytes + RIGHT.nbytes
    budget = resting + int(0.6 * (_eager_bytes(copy.deepcopy(model), _pair) - resting))

    def step(trained: nn.Module, optimizer: torch.optim.Optimizer, _: int) -> torch.Tensor:
        optimizer.zero_grad()
        loss = _pair(trained)
        loss.backward()
        optimizer.step()
        return loss

    with pytest.warns(UserWarning, match="called 2 times before one backward") as told:
        done = train(model, step, budget=budget)
    assert len(told) == 1
    assert done.is_same
    assert done.num_plans == [1, 2, 2, 2, 2]
    plan = autockpt.get_plan(model)
    assert plan.fixed.other_calls_bytes > 0
    assert plan.recompute_ns > 0
    assert plan.measured_peak_bytes <= plan.predicted_peak_bytes <= budget
    model.zero_grad()
    taken = peak_bytes(model, [LEFT, RIGHT], lambda: _pair(model).backward())
    assert taken <= budget
    assert "other calls" in str(plan)


def test_calls_that_fit_together_are_not_planned_together() -> None:
    def step(trained: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> torch.Tensor:
        optimizer.zero_grad()
        with torch.no_grad():
            trained(LEFT)
        loss = _pair(trained) if number % 2 else trained(LEFT).square().mean()
        loss.backward()
        return loss

    done = train(Blocks(), step, budget="1GB")
    assert done.is_same
    assert done.num_plans == [1] * 5


class Tied(nn.Module):
    """An embedding that is the head as well, as language models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 32)
        self.body = Blocks(num_blocks=3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return (self.body(self.embed(ids)) @ self.embed.weight.t()).logsumexp(-1).mean()


def test_a_weight_at_two_places_gets_the_sum_of_two_calls_in_eagers_order() -> None:
    """A graph added the gradients of its own two uses first, and the sum of both calls differed
    from eager's in the last bits, without a word."""
    ids = torch.randint(0, 100, (2, 16, 16), generator=torch.Generator().manual_seed(1))

    def step(trained: nn.Module, optimizer: torch.optim.Optimizer, _: int) -> torch.Tensor:
        optimizer.zero_grad()
        loss = trained(ids[0]) + 0.5 * trained(ids[1])
        loss.backward()
        return loss

    model = Tied()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*called 2 times before one backward")
        done = train(model, step, budget="75%", num_steps=3)
    assert done.is_same
    assert autockpt.get_plan(model).rung == "whole"


def test_the_number_of_calls_may_change_from_step_to_step() -> None:
    """Truncated time: states go from call to call, and one backward goes through all of them."""

    def step(trained: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> torch.Tensor:
        optimizer.zero_grad()
        state = LEFT
        for _ in range((1, 3, 2, 3, 1)[number]):
            state = trained(state)
        loss = state.square().mean()
        loss.backward()
        return loss

    model = Blocks()
    with pytest.warns(UserWarning, match="called 3 times before one backward"):
        done = train(model, step, budget="70%")
    assert done.is_same
    assert done.num_plans[-1] <= 4  # a state that requires grad is another kind of input
    assert "3 calls share one backward" in str(autockpt.get_plan(model))


def test_calls_of_different_sizes_are_counted_together_and_copies_know_it() -> None:
    """Only the last call's plan was looked at: a large call before a small one was never noticed.
    A copy knew nothing of the loop, and ran over the budget again."""
    model, small = Blocks(), LEFT[:64]
    autockpt.optimize(model, "85%", optimizer="sgd", method="greedy", sample_args=(LEFT,))

    def step(trained: nn.Module) -> None:
        trained.zero_grad()
        (trained(LEFT).square().mean() + trained(small).square().mean()).backward()

    step(model)
    with pytest.warns(UserWarning, match="called 2 times before one backward"):
        step(model)
    twin = copy.deepcopy(model)
    twin.zero_grad()
    step(twin)
    plan = autockpt.get_plan(twin)
    assert plan.fixed.other_calls_bytes > 0


def test_calls_that_get_no_backward_are_not_counted() -> None:
    model = Blocks()
    autockpt.optimize(model, "85%", optimizer="sgd", method="greedy", sample_args=(LEFT,))
    kept = [model.eval()(LEFT) for _ in range(5)]
    model.train()
    for _ in range(2):
        model.zero_grad()
        model(LEFT).square().mean().backward()
    assert len(kept) == 5
    assert autockpt.get_plan(model).fixed.other_calls_bytes == 0


def test_a_budget_for_one_call_only_is_exceeded_with_a_warning() -> None:
    """The search named a least for all calls that it did not meet itself: the second step raised a
    BudgetError in the middle of the run."""
    model = Blocks(num_blocks=3)
    asked = {"optimizer": "sgd", "method": "greedy"}
    budget = least_budget(model, sample_args=(LEFT,), **asked)
    autockpt.optimize(model, budget, verify=False, **asked)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            model.zero_grad()
            torch.stack([_square(model(x)) for x in (LEFT, RIGHT, LEFT)]).sum().backward()
    texts = [str(warning.message) for warning in told]
    assert len(texts) == 2
    assert "called 3 times before one backward" in texts[0]
    assert "autockpt follows the leanest plan" in texts[1]
    plan = autockpt.get_plan(model)
    assert plan.predicted_peak_bytes > budget


class Prototypes(nn.Module):
    """A head of normalized weights; ``F.normalize`` uses its input twice."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.body = Blocks(num_blocks=2)
        self.weight = nn.Parameter(torch.randn(32, 32))
        self.num_heads = num_heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden, loss = self.body(x), torch.zeros(())
        for _ in range(self.num_heads):
            hidden = F.linear(F.normalize(hidden), F.normalize(self.weight))
            loss = loss + hidden.square().logsumexp(-1).mean()
        return loss


@pytest.mark.parametrize(
    ("num_heads", "asked"),
    [(1, {"budget": "95%"}), (3, {"budget": "95%", "verify": False, "sample_args": (LEFT,)})],
)
def test_a_sum_in_one_call_waits_for_no_other_call(num_heads: int, asked: dict[str, Any]) -> None:
    """Gradients of a weight that one operation uses twice were added up within each call, without a
    word, because Dynamo's graph has one use of it. With ``verify=False``, so were three uses, in
    plans for two calls too: the fuzzer's seeds 3106 and 3123."""
    torch.manual_seed(0)
    model = Prototypes(num_heads)
    eager = copy.deepcopy(model)
    autockpt.optimize(model, optimizer="sgd", method="greedy", **asked)

    def gradients(trained: nn.Module) -> list[torch.Tensor | None]:
        torch.manual_seed(1)
        for _ in range(2):  # what the first step shows is planned for in the second
            trained.zero_grad()
            (trained(LEFT) + 0.5 * trained(RIGHT)).backward()
        return [p.grad for p in trained.parameters()]

    expected = gradients(eager)
    differ = "differ from eager's in their last bits"
    with pytest.warns(match=differ), pytest.warns(match="add up the gradients"):
        got = gradients(model)
    assert all(map(torch.equal, expected, got))
    assert autockpt.get_plan(model).rung in ("blocks", "checkpoint")


def test_a_kind_of_loop_that_no_rung_serves_trains_on() -> None:
    """A number that changes at every call, or a sum that no graph may make, ended training with a
    ``CaptureError`` if there are no calls of modules to recompute: seeds 3331 and 3335."""

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(32, 32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(3):
                x = torch.tanh(x @ self.weight)
            return x.square().mean()

    torch.manual_seed(0)
    model = Bare()
    eager = copy.deepcopy(model)
    autockpt.optimize(
        model, "80%", sample_args=(LEFT,), optimizer="sgd", verify=False, method="greedy"
    )

    def step(trained: nn.Module) -> None:
        trained.zero_grad()
        (trained(LEFT) + trained(RIGHT)).backward()

    step(model)
    with pytest.warns(match="follows the leanest plan"), pytest.warns(match="2 times before one"):
        step(model)
    step(eager)
    assert torch.equal(model.weight.grad, eager.weight.grad)
