"""Hooks, parametrized weights and torch.func, each program with and without the one line."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from programs import OPTIONS, Blocks, Program, batch, blocks, compare, record, train
from torch import nn
from torch.nn.utils import parametrizations
from training import assert_same_program

import autockpt


@pytest.fixture(params=["middle", pytest.param("small", marks=pytest.mark.full)])
def budget(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.row("parametrized weights, clip_grad_norm_", "MLP with BatchNorm and dropout")
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrized_weights(kind: str, budget: str) -> None:
    model = blocks()
    for layer in model.layers[:3]:
        getattr(parametrizations, kind)(layer)
    compare(model, batch(), budget=budget)


@pytest.mark.row(
    "hooks on modules", "MLP; forward, forward-pre and full backward, outside and inside"
)
def test_forward_hooks() -> None:
    """Hooks that look, hooks that change the output, on the module and inside of it."""

    def program(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
        seen: list[torch.Tensor] = []
        handles = [
            model.register_forward_pre_hook(lambda _, args: (args[0] * 1.1,)),
            model.register_forward_hook(lambda _, args, output: output * 0.7),
            model.layers[1].register_forward_hook(lambda _, args, output: output * 1.3),
            model.layers[2].register_forward_hook(lambda _, args, o: seen.append(o.detach())),
        ]
        result = train(model, x)
        # Planning runs steps of its own; the last call's is the program's.
        result["seen"] = seen[-1].clone()
        for handle in handles:
            handle.remove()
        return result

    compare(blocks(), batch(), program)


def _with_backward_hooks(where: str) -> Program:
    def program(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
        seen: list[torch.Tensor] = []

        def hook(_: nn.Module, incoming: Any, outgoing: Any) -> Any:
            seen.append(outgoing[0].clone())
            return tuple(None if g is None else g * 0.5 for g in incoming)

        module = model if where == "module" else model.layers[2]
        handle = module.register_full_backward_hook(hook)
        x = x.clone().requires_grad_()
        result = train(model, x) | {"gradient of x": x.grad, "seen": seen[-1]}
        handle.remove()
        return result

    return program


@pytest.mark.row(
    "hooks on modules", "MLP; forward, forward-pre and full backward, outside and inside"
)
def test_full_backward_hooks_on_the_module(budget: str) -> None:
    compare(blocks(), batch(), _with_backward_hooks("module"), budget)


@pytest.mark.row(
    "hooks on modules", "MLP; forward, forward-pre and full backward, outside and inside"
)
def test_full_backward_hooks_inside_of_the_module() -> None:
    """They cannot be traced: calls of modules are checkpointed instead, or it is said."""
    program = _with_backward_hooks("submodule")
    model = blocks()
    optimized = autockpt.optimize(copy.deepcopy(model), "97%", **OPTIONS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            assert_same_program(model, optimized, lambda m: program(m, batch()))
    except autockpt.AutockptError as error:
        assert "cannot capture" in str(error)  # noqa: PT017 - not the only good end


@pytest.mark.row("hooks on parameters and values", "MLP; one runs the optimizer in the backward")
def test_hooks_on_parameters_and_on_values(budget: str) -> None:
    class Hooked(Blocks):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(self.layers[0](x))
            x.register_hook(lambda gradient: gradient * 0.5)
            return super().forward(x)

    torch.manual_seed(0)
    model = Hooked()

    def program(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
        handle = model.layers[1].weight.register_hook(lambda gradient: gradient * 2)
        result = train(model, x)
        handle.remove()
        return result

    compare(model, batch(), program, budget)


@pytest.mark.row("hooks on parameters and values", "MLP; one runs the optimizer in the backward")
def test_optimizer_steps_in_the_backward(budget: str) -> None:
    def program(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
        optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

        def step(parameter: torch.Tensor) -> None:
            optimizers[parameter].step()
            parameter.grad = None

        handles = [p.register_post_accumulate_grad_hook(step) for p in model.parameters()]
        losses = []
        for _ in range(3):
            losses.append(model(x))
            losses[-1].backward()
        for handle in handles:
            handle.remove()
        return record(model, losses)

    compare(blocks(), batch(), program, budget)


@pytest.mark.row("torch.func", "vmap, grad and jacrev beside it; functional_call of it")
def test_torch_func_on_another_model(budget: str) -> None:
    def program(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
        torch.manual_seed(9)
        other = nn.Sequential(nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 1))
        parameters = {k: v.detach() for k, v in other.named_parameters()}

        def loss(parameters: dict[str, torch.Tensor], sample: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(other, parameters, (sample,)).square().sum()

        per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses, gradients = [], {}
        for step in range(3):
            optimizer.zero_grad()
            losses.append(model(x))
            gradients |= {f"{step} {k}": v for k, v in per_sample(parameters, x).items()}
            losses[-1].backward()
            jacobians = torch.func.jacrev(torch.func.grad(loss))(parameters, x[0])
            gradients[f"hessian {step}"] = jacobians["0.bias"]["0.bias"]
            optimizer.step()
        return record(model, losses) | gradients

    compare(blocks(), batch(), program, budget)


@pytest.mark.row("torch.func", "vmap, grad and jacrev beside it; functional_call of it")
def test_functional_call_of_the_model_itself(budget: str) -> None:
    def program(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
        result = train(model, x)
        values = {k: (v.detach() * 1.5).requires_grad_() for k, v in model.named_parameters()}
        loss = torch.func.functional_call(model, values, (x,))
        loss.backward()
        found = {f"functional {name}": value.grad for name, value in values.items()}
        return result | found | {"functional loss": loss.detach()}

    compare(blocks(), batch(), program, budget)
