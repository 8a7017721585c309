"""What an optimizer keeps and allocates, measured on fake tensors and beside real steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import autockpt
from autockpt.errors import InternalError
from autockpt.profile import fake_step
from autockpt.profile.optimizer import optimizer_memory
from autockpt.verify.bits import same_bits
from autockpt.verify.live_bytes import distinct_bytes
from autockpt.verify.peak import measure_peak_bytes

_NAMES = (
    "Adagrad",
    "Adadelta",
    "Adamax",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ASGD",
    "Adafactor",
)


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 80), nn.Linear(80, 3))


def _stepped(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for item in value for t in _tensors(item)] if isinstance(value, list) else []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("SGD", o) for o in ({}, {"weight_decay": 0.1, "momentum": 0.9, "nesterov": True})),
        *(("SGD", {"momentum": 0.9, path: True}) for path in ("foreach", "fused")),
        *(("Adam", o) for o in ({}, {"weight_decay": 0.1}, {"amsgrad": True}, {"maximize": True})),
        *(("AdamW", o) for o in ({}, {"foreach": True}, {"fused": True}, {"amsgrad": True})),
        *((name, {}) for name in _NAMES),
        *((name, {"foreach": True}) for name in _NAMES),
        ("RMSprop", {"momentum": 0.9, "centered": True}),
    ],
)
def test_a_measured_optimizer_is_as_large_as_a_real_one(name: str, options: dict[str, Any]) -> None:
    optimizer = getattr(torch.optim, name)(_model().parameters(), lr=0.1, **options)
    parameters = optimizer.param_groups[0]["params"]
    kept = _tensors(list(optimizer.state.values()))  # Adagrad's is there from the beginning
    before = optimizer_memory(optimizer, parameters)
    assert list(map(id, kept)) == list(map(id, _tensors(list(optimizer.state.values()))))
    _stepped(optimizer)
    state = _tensors(list(optimizer.state.values()))
    assert before.state_bytes == distinct_bytes(state)
    assert optimizer_memory(optimizer, parameters) == before
    measured_bytes = measure_peak_bytes(optimizer.step)
    assert 0 <= before.step_bytes - measured_bytes <= 64
    assert before.most_step_bytes >= before.step_bytes
    assert before.notes == ()


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "sgd_momentum"])
def test_a_name_is_a_class_of_torch(name: str) -> None:
    parameters = list(_model().parameters())
    if name == "sgd_momentum":
        optimizer: Any = torch.optim.SGD(parameters, momentum=0.9, weight_decay=0.1)
    else:
        kinds = {kind.lower(): getattr(torch.optim, kind) for kind in ("Adam", "AdamW", "RMSprop")}
        optimizer = kinds[name](parameters)
    named, given = (optimizer_memory(o, parameters) for o in (name, optimizer))
    assert named.name == name
    assert given.name == type(optimizer).__name__
    assert (named.state_bytes, named.step_bytes) == (given.state_bytes, given.step_bytes)
    assert named.trained_bytes == given.trained_bytes == distinct_bytes(parameters)


def test_gradients_that_are_missing() -> None:
    """Between two large parameters stand small ones: without their gradients more is kept."""
    model = nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 2), nn.Linear(2, 64), nn.Linear(64, 96))
    optimizer = torch.optim.AdamW(model.parameters())
    memory = optimizer_memory(optimizer, model.parameters())
    _stepped(optimizer)
    for parameter in (*model[1].parameters(), *model[2].parameters(), model[0].bias):
        parameter.grad = None
    measured_bytes = measure_peak_bytes(optimizer.step)
    assert memory.step_bytes < measured_bytes <= memory.most_step_bytes
    assert memory.with_unused().step_bytes == memory.most_step_bytes


class Odd(torch.optim.Optimizer):
    """Keeps state wherever it likes: nested, factored, shared, in a list, lazily, in a closure."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self.averages: list[torch.Tensor] = []
        self.num_steps = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        self.num_steps += 1
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                both = torch.zeros(2, *parameter.shape)
                state["moments"] = {"first": both[0], "second": [both[1], "text", None]}
                rows = torch.zeros(len(parameter))
                state["rows"] = lambda rows=rows: rows
                self.averages.append(torch.zeros_like(parameter, dtype=torch.float64))
            state["moments"]["first"].add_(parameter.grad)
            state["rows"]().add_(parameter.grad.flatten(1).sum(1))
            if self.num_steps > 1 and "late" not in state:
                state["late"] = torch.zeros_like(parameter)
            parameter.sub_(state["moments"]["first"] * torch.randn_like(parameter))


def _odd_bytes(parameters: list[torch.Tensor]) -> int:
    return sum(p.nbytes * (2 + 2 + 1) + 4 * len(p) for p in parameters)


def test_an_optimizer_of_another_library() -> None:
    parameters = [nn.Parameter(torch.randn(*shape)) for shape in ((8, 6), (5, 1), (3, 2))]
    optimizer = Odd(parameters)
    memory = optimizer_memory(optimizer, parameters)
    assert memory.notes == ()
    assert memory.state_bytes == _odd_bytes(parameters)
    for _ in range(2):
        _stepped(optimizer)
    # Kernels of random numbers and sums have some bytes of their own.
    assert abs(memory.step_bytes - measure_peak_bytes(optimizer.step)) <= 64


def test_state_that_an_optimizer_has_counts_as_it_is() -> None:
    """It may be more than its class would make, and less."""
    parameters = list(_model().parameters())
    optimizer = torch.optim.AdamW(parameters)
    _stepped(optimizer)
    for state in optimizer.state.values():
        state["more"] = [torch.zeros(7)]
    del optimizer.state[parameters[0]]
    expected_bytes = distinct_bytes(_tensors(list(optimizer.state.values())))
    expected_bytes += 2 * parameters[0].nbytes + 4
    assert optimizer_memory(optimizer, parameters).state_bytes == expected_bytes


def test_the_optimizer_and_what_it_steps_stay_as_they_are() -> None:
    model = _model()
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(
        [{"params": parameters[:2], "lr": torch.tensor(0.1)}, {"params": parameters[2:]}]
    )
    _stepped(optimizer)
    optimizer.zero_grad()
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    everywhere = register_optimizer_step_pre_hook(lambda *_: calls.append("everywhere"))
    parameters[0].register_post_accumulate_grad_hook(lambda _: calls.append("gradient"))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    wrapped_step = optimizer.step
    generator = torch.get_rng_state()
    state = copy.deepcopy(optimizer.state_dict())
    values = [p.detach().clone() for p in parameters]
    versions = [p._version for p in parameters]
    names = set(vars(optimizer))

    assert optimizer_memory(optimizer, parameters).notes == ()

    assert calls == []
    assert optimizer.step is wrapped_step
    assert set(vars(optimizer)) == names
    assert torch.equal(generator, torch.get_rng_state())
    assert [p._version for p in parameters] == versions
    assert all(map(torch.equal, parameters, values))
    assert all(p.grad is None for p in parameters)
    after = optimizer.state_dict()
    assert str(after["param_groups"]) == str(state["param_groups"])
    assert all(map(same_bits, _tensors(after["state"]), _tensors(state["state"])))
    assert [p for group in optimizer.param_groups for p in group["params"]] == parameters
    _stepped(optimizer)
    assert calls == ["everywhere", "pre", "post"]
    everywhere.remove()
    scheduler.step()


class LooksAtData(torch.optim.SGD):
    """Steps only if the gradient is large."""

    def step(self, closure: Any = None) -> None:
        if self.param_groups[0]["params"][0].grad.norm() > 1:
            super().step(closure)


def test_an_optimizer_that_looks_at_data_is_assumed_and_the_plan_says_so() -> None:
    torch.manual_seed(0)
    model, x = _model(), torch.randn(16, 64)
    optimizer = LooksAtData(model.parameters(), lr=0.1, momentum=0.9)
    parameters_bytes = distinct_bytes(list(model.parameters()))
    plan = autockpt.plan(model, "1GB", sample_args=(x,), optimizer=optimizer, loss_fn=_mean)
    assert plan.fixed.optimizer_bytes == 2 * parameters_bytes
    assert any("memory of LooksAtData is assumed" in note for note in plan.notes)
    _stepped(optimizer)
    memory = optimizer_memory(optimizer, model.parameters())
    assert memory.state_bytes == parameters_bytes
    assert "cannot step on tensors without data" in memory.notes[0]


def _mean(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def test_lbfgs_counts_the_history_that_it_will_have() -> None:
    model, x = nn.Linear(8, 8), torch.randn(32, 8)
    optimizer = torch.optim.LBFGS(model.parameters(), history_size=3, lr=0.1)
    before = optimizer_memory(optimizer, model.parameters())
    assert "is assumed" in before.notes[0]

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(x).sin().square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    kept = [t for t in _tensors(list(optimizer.state.values())) if t.numel() > 1]
    assert len(kept) > 2 * 3
    assert before.state_bytes >= distinct_bytes(kept)
    assert optimizer_memory(optimizer, model.parameters()) == before


@pytest.mark.parametrize("name", ["SparseAdam", "Muon"])
def test_names_of_optimizers_that_cannot_step_these_parameters(name: str) -> None:
    memory = optimizer_memory(name, _model().parameters())
    assert memory.state_bytes == 2 * memory.trained_bytes
    assert f"The memory of {name.lower()} is assumed" in memory.notes[0]


class NeedsAClosure(torch.optim.SGD):
    def step(self, closure: Callable[[], Any]) -> None:
        with torch.enable_grad():
            closure()
        super().step()


def test_a_closure_is_given_to_those_who_need_one() -> None:
    model = _model()
    memory = optimizer_memory(
        NeedsAClosure(model.parameters(), lr=0.1, momentum=0.9), model.parameters()
    )
    assert memory.notes == ()
    assert memory.state_bytes == memory.trained_bytes


class Wrapper(torch.optim.Optimizer):
    """As accelerate's: it passes everything on."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    state = property(lambda self: self.optimizer.state)
    param_groups = property(lambda self: self.optimizer.param_groups)
    defaults = property(lambda self: self.optimizer.defaults)


def test_a_wrapper_is_what_it_wraps() -> None:
    model = _model()
    inner = torch.optim.AdamW(model.parameters())
    expected = optimizer_memory(inner, model.parameters())
    assert optimizer_memory(Wrapper(inner), model.parameters()) == expected


def test_meta_and_fake_parameters() -> None:
    expected = optimizer_memory("adamw", _model().parameters())
    with torch.device("meta"):
        assert optimizer_memory("adamw", _model().parameters()) == expected
        model = _model()
        given = optimizer_memory(torch.optim.AdamW(model.parameters()), model.parameters())
    assert given.state_bytes == expected.state_bytes
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert optimizer_memory("adamw", _model().parameters()) == expected


def test_parameters_that_are_frozen_later() -> None:
    model = _model()
    memory = optimizer_memory("adamw", model.parameters())
    model[0].requires_grad_(False)
    scaled = memory.scaled_to(model.parameters())
    exact = optimizer_memory("adamw", model.parameters())
    assert scaled.trained_bytes == exact.trained_bytes
    assert scaled.state_bytes == pytest.approx(exact.state_bytes, rel=0.01)
    assert memory.scaled_to(_model().parameters()) is memory


class AsksForAllGradients(torch.optim.Optimizer):
    """Keeps four tensors for each parameter, and does not expect one without a gradient."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                for number in range(4):
                    moment = state.setdefault(number, torch.zeros_like(parameter))
                    moment.lerp_(parameter.grad, 0.1)


def test_an_optimizer_that_asks_for_all_gradients_is_measured() -> None:
    """A last step without most gradients failed, and half of the state was assumed instead."""
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 8), nn.Linear(8, 4))
    memory = optimizer_memory(AsksForAllGradients(model.parameters()), model.parameters())
    assert memory.state_bytes == 4 * sum(p.nbytes for p in model.parameters())
    assert memory.notes == ()


def test_a_bug_in_the_measurement_is_not_the_optimizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was noted in the plan as an optimizer that cannot step on tensors without data."""

    def broken(*_: Any) -> None:
        raise NameError("undefined")

    broken.__code__ = broken.__code__.replace(co_filename=fake_step.__file__)
    monkeypatch.setattr(fake_step, "_around_the_largest", broken)
    with pytest.raises(InternalError, match="the profile stage failed with NameError"):
        optimizer_memory("adamw", nn.Linear(4, 4).parameters())
