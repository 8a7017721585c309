"""What a training loop does around a call is seen, and planned for once."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import pytest
import torch
import transformers
from loops import Blocks, batches, peak_bytes, train
from torch import nn

import autockpt
from autockpt.dispatch.lookup import optimized_forward

(X,) = batches(1)


def _square(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def _step_of(order: str):
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> torch.Tensor:
        def closure() -> torch.Tensor:
            if order in ("before", "closure") or (order == "every second" and number % 2 == 0):
                optimizer.zero_grad()
            loss = _square(model(X))
            if order == "between":
                optimizer.zero_grad()
            if order == "set to zero":
                optimizer.zero_grad(set_to_none=False)
            loss.backward()
            return loss

        if order == "closure":
            return optimizer.step(closure)
        loss = closure()
        if order != "never" and not (order == "every second" and number % 2 == 0):
            optimizer.step()
        if order == "after":
            optimizer.zero_grad()
        return loss

    return step


@pytest.mark.row("orders of the loop", "zero_grad before, between, after, in a closure, never")
@pytest.mark.parametrize(
    ("order", "most_plans"),
    [
        ("before", 2),
        ("after", 2),
        ("closure", 2),
        ("between", 2),
        ("set to zero", 2),
        ("every second", 3),  # two kinds of step, of which one is planned again
        ("never", 2),
    ],
)
def test_every_order_gets_its_plan_after_one_more(order: str, most_plans: int) -> None:
    """Lightning frees gradients between forward and backward. Its second step was planned anew as
    one that accumulates, and got a worse plan."""
    model = Blocks()
    may_exceed = "has gradients of an earlier backward in memory when the next one begins"
    with pytest.warns(UserWarning, match=may_exceed) if order == "set to zero" else nullcontext():
        done = train(model, _step_of(order), budget="78%", loss_fn=_square)
    assert done.is_same
    assert done.num_plans[-1] <= most_plans
    assert done.num_plans[2] == done.num_plans[-1]
    plan = autockpt.get_plan(model)
    assert plan.rung == "whole"
    assert plan.measured_peak_bytes <= plan.budget_bytes


def test_gradients_that_are_cleared_late_count_until_the_backward() -> None:
    model, x = Blocks(), X
    autockpt.optimize(model, "78%", optimizer="sgd", method="greedy", loss_fn=_square)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)

    def step() -> None:
        loss = _square(model(x))
        optimizer.zero_grad()
        loss.backward()

    for _ in range(3):
        step()
        optimizer.step()
    # What the gradients of before take is freed within the step, which no measurement sees.
    older_bytes = sum(p.grad.nbytes for p in model.parameters())
    plan = autockpt.get_plan(model)
    assert peak_bytes(model, [x], step) - older_bytes <= plan.predicted_peak_bytes
    assert plan.predicted_peak_bytes <= plan.budget_bytes


def _language_model() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    config = transformers.GPT2Config(
        vocab_size=1000, n_embd=32, n_layer=3, n_head=2, n_positions=64, use_cache=False
    )
    torch.manual_seed(0)
    ids = torch.randint(0, 1000, (4, 64))
    return transformers.GPT2LMHeadModel(config).train(), {"input_ids": ids, "labels": ids}


@pytest.mark.row("outputs that nobody keeps", "a language model whose loop keeps the loss only")
def test_outputs_that_nobody_keeps_take_no_room() -> None:
    """The trial kept the logits through the backward: predictions were up to 13% too high."""
    model, inputs = _language_model()
    autockpt.optimize(model, "70%", optimizer="sgd")

    def step() -> None:
        loss = model(**inputs).loss
        loss.backward()

    step()
    kept = autockpt.get_plan(model)
    model.zero_grad()
    step()
    freed = autockpt.get_plan(model)
    assert kept.budget_bytes == freed.budget_bytes
    assert kept.outputs_bytes > freed.outputs_bytes == 4
    # Both plans use their room; what no plan can free is less.
    assert freed.minimum_peak_bytes < kept.minimum_peak_bytes
    assert freed.measured_peak_bytes == freed.predicted_peak_bytes
    model.zero_grad()
    assert peak_bytes(model, list(inputs.values())[:1], step) <= freed.predicted_peak_bytes
    assert kept.ledger["outputs"] == kept.outputs_bytes

    model.zero_grad()
    output = model(**inputs)
    output.loss.backward()
    model.zero_grad()
    with pytest.warns(UserWarning, match="keeps since the last step"):
        output = model(**inputs)
    assert optimized_forward(model).num_plans == 2


def test_larger_inputs_of_a_loop_that_frees_outputs_are_refused_as_in_any_other() -> None:
    """A loop that needs less than a plain one was taken for one that needs more: its step went on
    over the budget, with a warning about gradients that were not there."""
    model, inputs = _language_model()
    peak_of = autockpt.plan(
        model, "1TB", sample_kwargs=inputs, optimizer="sgd"
    ).predicted_peak_bytes
    autockpt.optimize(model, int(0.7 * peak_of), optimizer="sgd", method="greedy")
    for _ in range(2):
        model.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
    assert autockpt.get_plan(model).outputs_bytes == 4
    model.zero_grad()
    larger = {name: ids.repeat(8, 1) for name, ids in inputs.items()}
    with pytest.raises(autockpt.BudgetError):
        model(**larger)


def test_you_can_say_beforehand_what_becomes_of_outputs() -> None:
    model, inputs = _language_model()
    plans = []
    for keeps in (True, False):
        model.zero_grad()
        autockpt.optimize(
            model,
            "85%",
            optimizer="sgd",
            method="greedy",
            keeps_outputs=keeps,
            sample_kwargs=inputs,
        )
        for _ in range(2):
            model.zero_grad()
            loss = model(**inputs).loss
            loss.backward()
        assert optimized_forward(model).num_plans == 1
        plans.append(autockpt.get_plan(model))
    assert plans[1].outputs_bytes < plans[0].outputs_bytes
    with pytest.raises(TypeError, match="keeps_outputs is 1; it must be True or False"):
        autockpt.optimize(model, "85%", keeps_outputs=1)


@dataclasses.dataclass
class Result:
    """What autockpt cannot free in a trial: it keeps the whole object."""

    loss: torch.Tensor
    hidden: torch.Tensor


class InAnObject(Blocks):
    def forward(self, x: torch.Tensor) -> Result:
        hidden = super().forward(x)
        return Result(hidden.square().mean(), hidden)


def test_outputs_in_an_object_are_kept_and_compared_in_a_trial() -> None:
    """The trial let the object go before the backward, so its peak was below that of a loop that
    keeps it."""
    model = InAnObject()
    autockpt.optimize(model, "75%", optimizer="sgd", method="greedy", sample_args=(X,))
    kept = []

    def step() -> None:
        kept.append(model(X))
        kept[-1].loss.backward()

    step()
    model.zero_grad()
    kept.clear()
    plan = autockpt.get_plan(model)
    assert peak_bytes(model, [X], step) <= plan.measured_peak_bytes <= plan.budget_bytes


@pytest.mark.row("eval mode", "planned once a backward has come")
def test_eval_mode_is_planned_once_it_trains() -> None:
    """`from_pretrained` leaves a model in eval mode; it was never planned, without a word."""
    model, inputs = _language_model()
    model.eval()
    autockpt.optimize(model, "80%", optimizer="sgd", method="greedy")
    for _ in range(2):
        model(**inputs)  # evaluating, with gradients on and no backward
    assert autockpt.get_plan(model) is None
    model(**inputs).loss.backward()
    model.zero_grad()
    with pytest.warns(UserWarning, match="trains in eval mode"):
        loss = model(**inputs).loss
    loss.backward()
    plan = autockpt.get_plan(model)
    assert plan.rung == "whole"
    assert plan.recompute_ns > 0


def test_an_error_stays_an_error() -> None:
    """A loop that skips what fails trained on eagerly, over the budget, without a word."""
    model = Blocks()
    autockpt.optimize(model, "50KB", optimizer="sgd")
    for _ in range(2):
        with pytest.raises(autockpt.BudgetError, match=r"budget 48\.83 KiB is too small"):
            model(X)
    autockpt.optimize(model, "1GB", optimizer="sgd")
    model(X).sum().backward()
    autockpt.optimize(model, "50KB", optimizer="sgd")
    with pytest.raises(autockpt.BudgetError):
        model(X)
    autockpt.restore(model)
    model(X).sum().backward()
