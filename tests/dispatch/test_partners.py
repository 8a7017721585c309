"""Several optimized models in one training step: the budget of each counts the others."""

from __future__ import annotations

import copy
import dataclasses
import gc
import itertools
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from loops import Blocks, batches
from torch import nn
from training import least_budget

import autockpt
from autockpt.budget import Budget, parse_budget
from autockpt.dispatch.lookup import optimized_forward
from autockpt.verify.live_bytes import distinct_bytes
from autockpt.verify.peak import measure_peak_bytes

X, Y = batches(2)
Step = Callable[[nn.Module, nn.Module], None]


class Encoder(Blocks):
    pass


class Decoder(Blocks):
    pass


def _chain(encoder: nn.Module, decoder: nn.Module) -> None:
    decoder(encoder(X)).square().mean().backward()


def _towers(left: nn.Module, right: nn.Module) -> None:
    (left(X) - right(X)).square().mean().backward()


def _in_calling_order(first: nn.Module, second: nn.Module) -> None:
    losses = [first(X).square().mean(), second(X).square().mean()]
    for loss in losses:
        loss.backward()


def _in_turns(first: nn.Module, second: nn.Module) -> None:
    first(X).square().mean().backward()
    second(X).square().mean().backward()


def _resting(*models: nn.Module) -> int:
    return distinct_bytes([*(p for model in models for p in model.parameters()), X])


def _peak_bytes(step: Step, *models: nn.Module) -> int:
    for model in models:
        model.zero_grad()
    return _resting(*models) + measure_peak_bytes(lambda: step(*models))


def _budget(step: Step, models: tuple[nn.Module, ...], share: float) -> int:
    """What rests in memory, and a share of what eager needs beside it."""
    eager = copy.deepcopy(models)
    resting_bytes = _resting(*models)
    return resting_bytes + int(share * (_peak_bytes(step, *eager) - resting_bytes))


def _optimize(models: tuple[nn.Module, ...], budget: int | str, **how: object) -> None:
    for model in models:
        autockpt.optimize(model, budget, **{"optimizer": "sgd", "method": "greedy"} | how)


@dataclasses.dataclass(frozen=True)
class Trained:
    is_same: bool
    num_plans: list[tuple[int, ...]]
    told: list[str]


def _train(step: Step, models: tuple[nn.Module, ...], *, num_steps: int = 4) -> Trained:
    """Train copies that are as eager, and optimized models."""
    eager = copy.deepcopy(models)
    for model in eager:
        autockpt.restore(model)
    told, num_plans = [], []
    for trained in (eager, models):
        optimizers = [torch.optim.SGD(model.parameters(), lr=1e-2) for model in trained]
        for number in range(num_steps):
            torch.manual_seed(number)
            for optimizer in optimizers:
                optimizer.zero_grad()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                step(*trained)
            told += [str(each.message) for each in caught]
            for optimizer in optimizers:
                optimizer.step()
            num_plans.append(tuple(_num_plans(model) for model in trained))
    pairs = [
        pair
        for one, other in zip(eager, models, strict=True)
        for pair in zip(one.parameters(), other.parameters(), strict=True)
    ]
    return Trained(
        is_same=all(torch.equal(a, b) and torch.equal(a.grad, b.grad) for a, b in pairs),
        num_plans=num_plans[num_steps:],
        told=told,
    )


def _num_plans(model: nn.Module) -> int:
    forward = optimized_forward(model)
    return 0 if forward is None else forward.num_plans


@pytest.mark.row("several optimized models in one step", "chains, towers, one after the other")
@pytest.mark.parametrize(
    ("step", "share"), [(_chain, 0.7), (_towers, 0.7), (_in_calling_order, 0.7), (_in_turns, 0.7)]
)
def test_models_that_train_together_stay_within_the_budget(step: Step, share: float) -> None:
    """Each was planned as if it were alone: a chain took 1.67 times its budget, without a word."""
    torch.manual_seed(0)
    models = Encoder(num_blocks=4), Decoder(num_blocks=6)
    budget_bytes = _budget(step, models, share)
    _optimize(models, budget_bytes)
    done = _train(step, models)
    assert done.is_same
    assert done.num_plans[2] == done.num_plans[-1]
    (told,) = done.told
    assert "trains together with" in told
    assert "may have exceeded the budget" in told
    assert _peak_bytes(step, *models) <= budget_bytes
    plan = autockpt.get_plan(models[1])
    assert plan.predicted_peak_bytes <= budget_bytes
    assert plan.ledger["other models"] == plan.fixed.other_models_bytes > 0
    assert "optimized and train in the same step" in str(plan)
    assert autockpt.Plan.from_json(plan.to_json()) == plan


def test_a_chain_of_three_shares_its_budget() -> None:
    class Middle(Blocks):
        pass

    def step(first: nn.Module, second: nn.Module, third: nn.Module) -> None:
        third(second(first(X))).square().mean().backward()

    torch.manual_seed(0)
    models = Encoder(num_blocks=3), Middle(num_blocks=3), Decoder(num_blocks=3)
    budget_bytes = _budget(step, models, 0.6)
    _optimize(models, budget_bytes)
    done = _train(step, models, num_steps=5)
    assert done.is_same
    assert done.num_plans[-2] == done.num_plans[-1]
    assert _peak_bytes(step, *models) <= budget_bytes


def test_each_model_keeps_its_own_budget() -> None:
    """A roomy model held so much that no plan of the other one fitted beside it."""
    torch.manual_seed(0)
    models = Encoder(num_blocks=4), Decoder(num_blocks=4)
    budget_bytes = _budget(_chain, models, 0.6)
    _optimize(models[:1], "1GB")
    _optimize(models[1:], budget_bytes)
    done = _train(_chain, models)
    assert done.is_same
    (told,) = done.told
    assert "trains together with" in told
    assert autockpt.get_plan(models[1]).predicted_peak_bytes <= budget_bytes


def test_copies_count_each_other_too() -> None:
    """A copy did not know the plans of its calls, so nothing was learned from them: copies of a
    chain took 1.24 times its budget."""
    torch.manual_seed(0)
    models = Encoder(num_blocks=4), Decoder(num_blocks=4)
    budget_bytes = _budget(_chain, models, 0.6)
    _optimize(models, budget_bytes)
    _train(_chain, models)
    copies = copy.deepcopy(models)
    done = _train(_chain, copies)
    assert done.is_same
    assert done.num_plans[1] == done.num_plans[-1]
    assert _peak_bytes(_chain, *copies) <= budget_bytes


@pytest.mark.parametrize("budget", ["1GB", "80%"])
def test_budgets_that_are_roomy_or_shares_of_a_model_plan_as_before(budget: str) -> None:
    """A share is one of the model's own step in eager PyTorch."""
    torch.manual_seed(0)
    alone = Encoder(), Decoder()
    _optimize(alone, budget)
    for model in alone:
        assert _train(lambda m: m(X).square().mean().backward(), (model,)).is_same
    together = Encoder(), Decoder()
    _optimize(together, budget)
    done = _train(_in_turns, together)
    assert done.is_same
    assert not done.told
    assert done.num_plans[-1] == tuple(map(_num_plans, alone))
    assert all(not autockpt.get_plan(m).fixed.other_models_bytes for m in together)


class Tied(Blocks):
    """Blocks after a layer that other models may have too."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.layer(x))


def test_what_models_share_counts_once() -> None:
    torch.manual_seed(0)
    shared = nn.Sequential(nn.Linear(32, 1000), nn.Linear(1000, 32))
    budget_bytes = _budget(_in_turns, (Tied(shared), Tied(copy.deepcopy(shared))), 0.8)
    others_bytes = []
    for second in (shared, copy.deepcopy(shared)):
        models = Tied(shared), Tied(second)
        _optimize(models, budget_bytes)
        _train(_in_turns, models, num_steps=3)
        others_bytes.append(autockpt.get_plan(models[1]).fixed.other_models_bytes)
        shared.zero_grad()
    layer_bytes = sum(p.nbytes for p in shared.parameters())
    rounding_bytes = budget_bytes // 128
    assert abs(others_bytes[1] - others_bytes[0] - 2 * layer_bytes) <= rounding_bytes


def test_the_state_of_one_optimizer_for_two_models_counts_once() -> None:
    torch.manual_seed(0)
    others_bytes = []
    for is_one in (True, False):
        models = Encoder(), Decoder()
        parameters = [p for model in models for p in model.parameters()]
        _optimize(models, 2_500_000, optimizer=torch.optim.AdamW(parameters) if is_one else "adamw")
        _train(_in_turns, models, num_steps=3)
        plan = autockpt.get_plan(models[1])
        others_bytes.append(plan.fixed.other_models_bytes + plan.fixed.optimizer_bytes)
    assert abs(others_bytes[1] - others_bytes[0]) <= 2_500_000 // 128


@pytest.mark.row("several optimized models in one step", "a GAN: a critic and a generator in turns")
def test_alternate_training_settles() -> None:
    torch.manual_seed(0)
    models = Encoder(), Decoder()
    numbers = itertools.count()

    def step(generator: nn.Module, critic: nn.Module) -> None:
        with torch.no_grad():
            fake = generator(Y)
        (critic(X).square().mean() - critic(fake).square().mean()).backward()
        if next(numbers) % 2:
            critic.zero_grad()
            critic(generator(Y)).square().mean().backward()
        else:
            generator(Y).sum().backward()

    _optimize(models, _budget(lambda *m: (step(*m), step(*m)), models, 0.8))
    done = _train(step, models, num_steps=8)
    assert done.is_same
    assert done.num_plans[4] == done.num_plans[-1]


def test_models_that_are_restored_or_gone_count_no_more() -> None:
    torch.manual_seed(0)
    models = Encoder(), Decoder()
    _optimize(models, _budget(_in_turns, models, 0.75))
    _train(_in_turns, models)
    encoder, decoder = models
    assert autockpt.get_plan(decoder).fixed.other_models_bytes
    num_plans = _num_plans(decoder)
    partners = optimized_forward(decoder)._partners
    assert partners.in_memory_bytes > 0
    autockpt.restore(encoder)
    assert partners.in_memory_bytes == 0
    _train(_in_turns, models)
    assert _num_plans(decoder) == num_plans

    third = Encoder()
    _optimize((third,), 2_500_000)
    _train(_in_turns, (third, decoder))
    assert partners.in_memory_bytes > 0
    del third
    gc.collect()
    assert partners.in_memory_bytes == 0


def test_if_no_plan_fits_the_leanest_is_followed_with_a_warning() -> None:
    """The error for the plan that does not fit kept the outputs of the call, so autockpt warned of
    a loop that keeps its outputs, and planned once more."""
    torch.manual_seed(0)
    models = Encoder(num_blocks=4), Decoder(num_blocks=6)
    asked = {"optimizer": "sgd", "method": "greedy", "sample_args": (X,)}
    budget_bytes = 50_000 + max(least_budget(model, **asked) for model in models)
    _optimize(models, budget_bytes)
    done = _train(_towers, models)
    assert done.is_same
    assert done.num_plans[2] == done.num_plans[-1]
    assert not any("keeps since the last step" in told for told in done.told)
    plan = autockpt.get_plan(models[1])
    excess = autockpt.format_bytes(plan.peak_bytes - budget_bytes)
    told = [text for text in done.told if "other optimized models need memory" in text]
    assert any(f"{excess} over the budget" in text for text in told)
    assert _peak_bytes(_towers, *models) <= plan.peak_bytes


def test_a_call_that_is_planned_while_another_waits_leaves_that_one_alone() -> None:
    """The second call of a step took over the graph that the first one had run by its own plan,
    whose backward then found other values saved: "mat2 must be a matrix, got 1-D tensor"."""
    torch.manual_seed(0)
    models = Encoder(), Decoder()
    x = X.clone().requires_grad_()

    def step(encoder: nn.Module, decoder: nn.Module) -> None:
        # An encoder waits at the second call of the decoder, and not at the first.
        (decoder(x) + decoder(encoder(x))).square().mean().backward()

    _optimize(models, _budget(step, models, 0.7))
    assert _train(step, models).is_same


def test_models_that_other_threads_train_do_not_count() -> None:
    """Two models trained in two threads were planned together, and one read gradients of the other
    while zero_grad freed them in its thread, which crashed the process."""
    torch.manual_seed(0)
    models = Encoder(), Decoder()
    _optimize(models, _budget(_in_turns, models, 0.75))
    with ThreadPoolExecutor(1) as thread:

        def step(here: nn.Module, there: nn.Module) -> None:
            loss = thread.submit(lambda: there(X).square().mean()).result()
            here(X).square().mean().backward()
            thread.submit(loss.backward).result()

        done = _train(step, models)
    assert done.is_same
    assert not done.told
    assert not any(autockpt.get_plan(m).fixed.other_models_bytes for m in models)
    assert all(optimized_forward(m)._partners.in_memory_bytes == 0 for m in models)


@pytest.fixture
def _quick_switches() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_quick_switches")
def test_models_may_be_optimized_while_another_thread_trains() -> None:
    """ "Set changed size during iteration": a step looks at all optimized models."""
    models = Encoder(num_blocks=1), Decoder(num_blocks=1)
    _optimize(models, "1GB")
    _train(_in_turns, models, num_steps=1)
    partners = optimized_forward(models[0])._partners
    has_ended = threading.Event()

    def optimize() -> None:
        while not has_ended.is_set():
            _optimize(tuple(nn.Linear(1, 1) for _ in range(20)), "1GB")

    with ThreadPoolExecutor(1) as thread:
        optimizing = thread.submit(optimize)
        try:
            for _ in range(2000):
                assert partners.have_worked
        finally:
            has_ended.set()
        optimizing.result()


def test_a_budget_of_free_memory_does_not_count_other_models() -> None:
    """What others have in memory is not free, and was deducted once more if the budget of another
    model counts this one."""
    torch.manual_seed(0)
    models = Encoder(), Decoder()
    budget_bytes = _budget(_chain, models, 0.6)
    _optimize(models, budget_bytes)
    forward = optimized_forward(models[1])
    forward._partners._budget = parse_budget("80% of free")  # as on a device
    forward._maker.store.device_budget = Budget(bytes=budget_bytes)
    assert _train(_chain, models).is_same
    others_bytes = [autockpt.get_plan(model).fixed.other_models_bytes for model in models]
    assert others_bytes[0] > 0
    assert others_bytes[1] == 0


def test_the_optimizer_of_a_copy_is_another_one() -> None:
    """A copy passed for sharing the optimizer that was passed for the original: the state of its
    own did not count."""
    torch.manual_seed(0)
    model = Encoder()
    _optimize((model,), 2_500_000, optimizer=torch.optim.AdamW(model.parameters()))
    models = model, copy.deepcopy(model)
    _train(_in_turns, models, num_steps=2)
    parameters_bytes = distinct_bytes([*model.parameters()])
    with_state_bytes = 4 * parameters_bytes  # with two moments and gradients
    assert optimized_forward(model)._partners.in_memory_bytes >= with_state_bytes
