"""What a user gets for bad input: a clear error, and the model as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

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
        with pytest.raises(autockpt.BudgetError, match="smallest workable budget") as caught:
            autockpt.optimize(model, "200kB", sample_args=(X,), method="greedy")
        error = caught.value
        assert error.budget_bytes == 200_000
        assert f"{error.minimum_peak_bytes / 2**10:.2f} KiB" in str(error)
        assert error.peak_node
        assert error.composition["parameters"] == sum(4 * p.numel() for p in model.parameters())
        # What it is made of is all of it.
        assert sum(error.composition.values()) == error.minimum_peak_bytes

    def test_the_minimum_that_it_names_can_be_met(self, model: nn.Module) -> None:
        with pytest.raises(autockpt.BudgetError) as caught:
            autockpt.plan(model, "200kB", sample_args=(X,), method="greedy")
        minimum = caught.value.minimum_peak_bytes
        plan = autockpt.plan(model, minimum, sample_args=(X,), method="greedy")
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

    def test_a_misspelt_input(self, model: nn.Module) -> None:
        """It was told as a capture that failed, after all rungs were tried."""

        class Takes(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = model

            def forward(self, pixels: torch.Tensor, *, labels: Any = None) -> torch.Tensor:
                return self.inner(pixels)

        class Passes(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.takes = Takes()

            def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
                return self.takes(*args, **kwargs)

        named = "'lables', which .* does not take. Did you mean 'labels'. It takes pixels, labels"
        for wrong in (Takes(), Passes()):
            kwargs = {"pixels": X, "lables": None}
            with pytest.raises(TypeError, match=named):
                autockpt.optimize(wrong, "80%", sample_kwargs=kwargs)
            with pytest.raises(TypeError, match=named):
                autockpt.plan(wrong, "80%", sample_kwargs=kwargs)
            with pytest.raises(TypeError, match="unexpected keyword argument 'lables'"):
                autockpt.optimize(wrong, "80%")(**kwargs)

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

    @pytest.mark.parametrize("budget", ["0.0001%", "1e-3%"])
    def test_a_share_that_is_less_than_a_byte(self, model: nn.Module, budget: str) -> None:
        with pytest.raises(ValueError, match="budget") as caught:
            autockpt.optimize(model, budget, sample_args=(X,))
        assert budget in str(caught.value)

    @pytest.mark.parametrize("time_limit_s", ["5", True, 1j])
    def test_a_time_limit_that_is_no_number(self, model: nn.Module, time_limit_s: object) -> None:
        with pytest.raises(TypeError, match=r"time_limit_s is .*; it must be a number of seconds"):
            autockpt.optimize(model, "80%", sample_args=(X,), time_limit_s=time_limit_s)

    @pytest.mark.parametrize("time_limit_s", [0, -1.0, float("nan"), float("inf")])
    def test_a_time_limit_that_is_none(self, model: nn.Module, time_limit_s: float) -> None:
        with pytest.raises(ValueError, match=r"time_limit_s is .*; it must be above 0"):
            autockpt.optimize(model, "80%", sample_args=(X,), time_limit_s=time_limit_s)

    @pytest.mark.parametrize("method", [3, None, ("ilp",)])
    @pytest.mark.parametrize("budget", ["80%", "8GB"])
    def test_a_method_that_is_none(self, model: nn.Module, budget: str, method: object) -> None:
        with pytest.raises(TypeError, match=r"method is .*; it must be a method's name or a call"):
            autockpt.optimize(model, budget, sample_args=(X,), method=method)

    @pytest.mark.parametrize("verify", ["no", None, 0])
    def test_verify_that_is_no_bool(self, model: nn.Module, verify: object) -> None:
        with pytest.raises(TypeError, match=r"verify is .*; it must be True or False"):
            autockpt.optimize(model, "80%", sample_args=(X,), verify=verify)

    def test_an_optimizer_of_another_model(self, model: nn.Module) -> None:
        optimizer = torch.optim.AdamW(copy.deepcopy(model).parameters())
        with pytest.raises(ValueError, match=r"optimizer \(AdamW\) has none of the model's"):
            autockpt.optimize(model, "80%", sample_args=(X,), optimizer=optimizer)

    def test_loss_fn_that_takes_more_than_the_output(self, model: nn.Module) -> None:
        loss_fn = nn.functional.mse_loss
        with pytest.raises(TypeError, match=r"loss_fn cannot be called .* alone: .*'target'"):
            autockpt.optimize(model, "80%", sample_args=(X,), loss_fn=loss_fn)

    def test_loss_fn_that_raises(self, model: nn.Module) -> None:
        message = r"cannot capture loss_fn \(.*bad_input.py:\d+\): it fails on .*ZeroDivision"
        with pytest.raises(autockpt.CaptureError, match=message) as caught:
            autockpt.optimize(model, "80%", sample_args=(X,), loss_fn=lambda y: y / (1 // 0))
        assert isinstance(caught.value.__cause__, ZeroDivisionError)

    @pytest.mark.parametrize(
        ("loss_fn", "what"),
        [
            (lambda y: y, r"loss_fn returned a tensor of shape \(512, 32\)"),
            (lambda _: None, "loss_fn returned NoneType"),
            (lambda y: y.detach().mean(), "what loss_fn returned does not require grad"),
        ],
    )
    def test_loss_fn_that_makes_no_loss(
        self, model: nn.Module, loss_fn: Callable[[torch.Tensor], Any], what: str
    ) -> None:
        with pytest.raises(
            autockpt.NotTrainableError, match=f"{what}.* It must return a scalar tensor"
        ) as caught:
            autockpt.optimize(model, "80%", sample_args=(X,), loss_fn=loss_fn)
        assert "at least one parameter" not in str(caught.value)

    def test_plan_without_inputs(self, model: nn.Module) -> None:
        with pytest.raises(TypeError, match="do not fit the model's forward"):
            autockpt.plan(model, "80%")


@pytest.mark.parametrize(
    "call",
    [
        lambda model: autockpt.optimize(model, "8GB"),
        lambda model: autockpt.plan(model, "8GB"),
        autockpt.get_plan,
        autockpt.restore,
    ],
)
@pytest.mark.parametrize("model", [5, "x", nn.Linear, lambda x: x])
def test_no_module(call: Callable[[Any], Any], model: object) -> None:
    with pytest.raises(TypeError, match=r"model is a .*; it must be a torch\.nn\.Module"):
        call(model)


class Inner(nn.Module):
    """Of this file alone: Dynamo remembers by code which forwards it skips."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.linear(x))


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).square().mean()


def compiled() -> nn.Module:
    return torch.compile(Outer(), backend="eager")


def compiled_in_place() -> nn.Module:
    model = Outer()
    model.compile(backend="eager")
    return model


def with_a_compiled_forward() -> nn.Module:
    model = Outer()
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def with_a_compiled_part() -> nn.Module:
    model = Outer()
    model.inner = torch.compile(model.inner, backend="eager")
    return model


def with_a_part_compiled_in_place() -> nn.Module:
    model = Outer()
    model.inner.compile(backend="eager")
    return model


@pytest.mark.parametrize(
    "make",
    [
        compiled,
        compiled_in_place,
        with_a_compiled_forward,
        with_a_compiled_part,
        with_a_part_compiled_in_place,
    ],
)
def test_a_compiled_model_is_refused_and_others_are_captured(
    make: Callable[[], nn.Module],
) -> None:
    model = make()
    with pytest.raises(autockpt.CaptureError, match=r"it is compiled.*_orig_mod") as caught:
        autockpt.optimize(model, "8GB", sample_args=(X,))
    assert ("inner" in caught.value.where) == ("part" in make.__name__)
    with pytest.raises(autockpt.CaptureError, match="it is compiled"):
        autockpt.plan(model, "8GB", sample_args=(X,))
    assert autockpt.plan(Outer(), "8GB", sample_args=(X,)).rung == "whole"


def test_what_torch_compile_was_given_is_planned() -> None:
    assert autockpt.plan(compiled()._orig_mod, "8GB", sample_args=(X,)).rung == "whole"


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("is_part", [False, True])
@pytest.mark.parametrize("script", [torch.jit.script, lambda m: torch.jit.trace(m, X)])
def test_a_scripted_model_is_refused(script: Callable[[Any], Any], is_part: bool) -> None:
    model = script(Inner())
    if is_part:
        model = nn.Sequential(nn.Linear(32, 32), model)
    with pytest.raises(autockpt.CaptureError, match=r"a ScriptModule.* Give the eager mod") as e:
        autockpt.optimize(model, "8GB", sample_args=(X,))
    assert e.value.where.startswith("1 (") == is_part


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
    autockpt.optimize(model, "80%", sample_args=(X,), method="greedy")
    loss = model(X).square().mean()
    parameters = list(model.parameters())
    with pytest.raises(autockpt.DoubleBackwardError, match="cannot be differentiated twice"):
        torch.autograd.grad(loss, parameters, create_graph=True)
