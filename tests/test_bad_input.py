"""What a user gets for bad input: a clear error, and the model as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autockpt


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Sequential(nn.Linear(32, 32), nn.Tanh()) for _ in range(8)])


X = torch.randn(512, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def untouched(model: nn.Module):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = set(model.__dict__)
    state = torch.get_rng_state()
    yield
    assert set(model.__dict__) == attributes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    assert autockpt.get_plan(model) is None


@pytest.mark.usefixtures("untouched")
class TestTheModelIsAsItWas:
    def test_budget_below_the_minimum(self, model: nn.Module) -> None:
        with pytest.raises(autockpt.BudgetError, match="least any schedule can reach") as caught:
            autockpt.optimize(model, "200kB", sample_args=(X,))
        error = caught.value
        assert error.budget_bytes == 200_000
        assert f"{error.minimum_peak_bytes / 2**10:.2f} KiB" in str(error)
        assert error.peak_node
        assert error.composition["parameters"] == sum(4 * p.numel() for p in model.parameters())
        # What it is made of is all of it.
        assert sum(error.composition.values()) == error.minimum_peak_bytes

    def test_the_minimum_that_it_names_can_be_met(self, model: nn.Module) -> None:
        with pytest.raises(autockpt.BudgetError) as caught:
            autockpt.plan(model, "200kB", sample_args=(X,))
        minimum = caught.value.minimum_peak_bytes
        plan = autockpt.plan(model, minimum, sample_args=(X,))
        assert plan.predicted_peak_bytes <= minimum

    @pytest.mark.parametrize("budget", ["8 potatoes", -5, 0, "0%", "nan", ""])
    def test_nonsense_budget(self, model: nn.Module, budget: object) -> None:
        with pytest.raises(ValueError, match="budget"):
            autockpt.optimize(model, budget, sample_args=(X,))

    @pytest.mark.parametrize("budget", [1.5, True, None, [8]])
    def test_budget_of_another_type(self, model: nn.Module, budget: object) -> None:
        with pytest.raises(TypeError, match="budget must be an int or a str"):
            autockpt.optimize(model, budget, sample_args=(X,))

    def test_unknown_method(self, model: nn.Module) -> None:
        with pytest.raises(ValueError, match=r"unknown method 'magic'.*'ilp'"):
            autockpt.optimize(model, "80%", sample_args=(X,), method="magic")

    def test_unknown_optimizer(self, model: nn.Module) -> None:
        with pytest.raises(ValueError, match=r"unknown optimizer 'adamx'.*adamw"):
            autockpt.optimize(model, "80%", sample_args=(X,), optimizer="adamx")

    def test_inputs_that_the_signature_does_not_take(self, model: nn.Module) -> None:
        with pytest.raises(TypeError, match="do not fit the model's forward"):
            autockpt.optimize(model, "80%", sample_args=(X, X))

    def test_inputs_of_the_wrong_shape(self, model: nn.Module) -> None:
        with pytest.raises(autockpt.CaptureError, match="its forward fails on these inputs") as e:
            autockpt.optimize(model, "80%", sample_args=(X[:, :31],))
        assert e.value.__cause__ is not None

    def test_sample_args_that_are_no_tuple(self, model: nn.Module) -> None:
        with pytest.raises(TypeError, match="must be a tuple"):
            autockpt.optimize(model, "80%", sample_args=X)

    def test_nothing_requires_grad(self, model: nn.Module) -> None:
        model.requires_grad_(False)
        with pytest.raises(autockpt.NotTrainableError, match="no parameter requires grad"):
            autockpt.optimize(model, "80%", sample_args=(X,))

    def test_plan_without_inputs(self, model: nn.Module) -> None:
        with pytest.raises(TypeError, match="do not fit the model's forward"):
            autockpt.plan(model, "80%")


def test_no_module() -> None:
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        autockpt.optimize(lambda x: x, "8GB")


def test_output_that_does_not_depend_on_a_parameter() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x).detach()

    with pytest.raises(autockpt.NotTrainableError, match="no output"):
        autockpt.optimize(Detached(), "80%", sample_args=(torch.randn(2, 4),))


def test_a_model_that_cannot_be_captured_says_where_and_why() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) * float(x.sum())

    model = Counting()
    with pytest.raises(autockpt.CaptureError, match="cannot capture Counting") as caught:
        autockpt.optimize(model, "80%", sample_args=(torch.randn(2, 4),))
    assert caught.value.__cause__ is not None
    assert "forward" not in model.__dict__


@pytest.mark.row("gradients of gradients are refused", "MLP; DoubleBackwardError")
def test_double_backward_is_a_clear_error(model: nn.Module) -> None:
    autockpt.optimize(model, "80%", sample_args=(X,))
    loss = model(X).square().mean()
    parameters = list(model.parameters())
    with pytest.raises(autockpt.DoubleBackwardError, match="cannot be differentiated twice"):
        torch.autograd.grad(loss, parameters, create_graph=True)
