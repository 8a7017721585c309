"""Rows of programs: what goes in and comes out, which parts train, how often and in what order."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from typing import Any

import pytest
import torch
from both import Body, check
from tiny_models import build
from torch import nn
from training import (
    assert_same_gradients,
    assert_same_training,
    least_budget,
)

import autockpt

X = torch.randn(128, 64, generator=torch.Generator().manual_seed(0))


@dataclasses.dataclass
class Result:
    loss: torch.Tensor
    hidden: torch.Tensor
    extra: torch.Tensor | None = None


class Returns(Body):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(
        self, x: torch.Tensor, *, scale: float = 1.0, mode: str = "mean", flag: bool = True
    ):
        hidden = self.body(x) * scale
        loss = hidden.square().mean() if mode == "mean" else hidden.square().sum()
        if self.kind == "dataclass":
            return Result(loss=loss, hidden=hidden)
        if self.kind == "tuple":
            return loss, (hidden, None), mode
        if self.kind == "dict":
            return {"loss": loss, "hidden": [hidden, None], "number": 3 if flag else 4}
        return loss


@pytest.mark.row("several, dict, dataclass and None outputs", "MLP with keyword-only inputs")
@pytest.mark.parametrize("kind", ["dataclass", "dict", "tuple"])
def test_outputs(kind: str) -> None:
    check(Returns(kind), X, loss_fn=(lambda y: y[0]) if kind == "tuple" else None)


@pytest.mark.row("keyword-only and non-tensor inputs", "a float, a text and a bool")
def test_inputs() -> None:
    check(Returns("loss"), X, scale=0.5, mode="sum", flag=False)


@pytest.mark.row("inputs that require grad", "MLP; the gradient of the input is compared as well")
def test_inputs_that_require_grad() -> None:
    check(Returns("dict"), X.clone().requires_grad_())


class Tied(Body):
    """One weight at two places, one frozen, one that no step uses."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 64)
        self.head = nn.Linear(64, 50, bias=False)
        self.head.weight = self.embed.weight
        self.layers[1].requires_grad_(False)
        self.unused = nn.Linear(3, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embed(ids))).logsumexp(-1).mean()


@pytest.mark.row("tied, frozen and unused parameters", "an embedding that is the head")
def test_tied_frozen_unused() -> None:
    check(Tied(), torch.randint(0, 50, (32, 8), generator=torch.Generator().manual_seed(0)))


class Adapted(Body):
    """Frozen layers with low-rank adapters beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers.requires_grad_(False)
        self.down = nn.ModuleList(nn.Linear(64, 4, bias=False) for _ in self.layers)
        self.up = nn.ModuleList(nn.Linear(4, 64, bias=False) for _ in self.layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, down, up in zip(self.layers, self.down, self.up, strict=True):
            x = torch.tanh(nn.functional.gelu(layer(x) + up(down(x))))
        return x.square().mean()


@pytest.mark.row("LoRA-like adapters", "frozen layers with low-rank adapters")
def test_adapters() -> None:
    check(Adapted(), X)


class Head(Body):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


@pytest.mark.row("loss outside of the model, several losses", "two losses added in loss_fn")
def test_losses_outside() -> None:
    check(Head(), X, loss_fn=lambda y: y.square().mean() + 0.1 * y.abs().sum(-1).mean())


def _pair(model: nn.Module, budget: str = "") -> tuple[nn.Module, nn.Module]:
    """A model and its optimized twin, by itself near the least budget."""
    twin = copy.deepcopy(model)
    options = {"sample_args": (X,), "optimizer": "adamw", "method": "greedy"}
    autockpt.optimize(twin, budget or int(1.02 * least_budget(model, **options)), **options)
    assert autockpt.get_plan(twin).recompute_ns > 0
    return model, twin


@pytest.mark.row("loss outside of the model, several losses", "two backwards through one graph")
def test_several_losses() -> None:
    """The second backward has gradients of outputs that the plan did not expect."""
    eager, model = _pair(Returns("dict"))
    for each in (eager, model):
        outputs = each(X)
        outputs["loss"].backward(retain_graph=True)
        outputs["hidden"][0].abs().mean().backward()
    assert_same_gradients(eager, model)


class Branches(Body):
    """Loops, a branch on an argument, a graph break in the middle, a comprehension."""

    def __init__(self, layer_behind: int) -> None:
        super().__init__()
        self.behind = self.layers[layer_behind] if layer_behind else nn.Linear(64, 64)

    def forward(self, x: torch.Tensor, *, times: int, names: list[str]) -> torch.Tensor:
        for _ in range(times):
            x = self.body(x)
        torch._dynamo.graph_break()
        kept = {name: torch.tanh(x * (1 + number)) for number, name in enumerate(names)}
        if "second" in kept:
            x = x + kept["second"]
        return torch.tanh(self.behind(x)).square().mean()


@pytest.mark.row("graph breaks and Python control flow", "MLP; loops, branches, a break")
def test_control_flow() -> None:
    check(Branches(0), X, times=2, names=["first", "second"])


@pytest.mark.row(
    "a layer used often, before and behind a graph break",
    "a limitation: VerificationError, and eager trains on",
)
def test_a_layer_on_both_sides_of_a_break() -> None:
    """Eager adds its four gradients one by one; two graphs add the sum of three to the fourth. The
    sum of two uses is left to autograd, so those are equal."""
    kwargs: dict[str, Any] = {"times": 2, "names": ["first", "second"]}
    model = Branches(1)
    eager = copy.deepcopy(model)
    autockpt.optimize(model, "90%", sample_args=(X,), sample_kwargs=kwargs, method="greedy")
    assert_same_training(eager, model, (X,), kwargs)
    assert autockpt.get_plan(model).rung == "whole"
    model, kwargs = Branches(1), {"times": 3, "names": ["first", "second"]}
    eager = copy.deepcopy(model)
    options = {"sample_args": (X,), "sample_kwargs": kwargs, "method": "greedy"}
    # No rung serves them within this budget; the first error is why none of the graphs does.
    with pytest.raises(autockpt.CaptureError, match="add up the gradients of a tensor's several"):
        autockpt.optimize(model, "80%", optimizer="adamw", **options)
    assert_same_training(eager, model, (X,), kwargs)


@pytest.mark.row("two forwards before one backward", "MLP")
@pytest.mark.row("the model called twice in a step", "siamese, and a GAN's two players")
def test_siamese() -> None:
    eager, model = _pair(Head(), "96%")
    for each in (eager, model):
        for is_second in (False, True):
            each.zero_grad()
            with (
                pytest.warns(UserWarning, match="called 2 times")
                if is_second and each is model
                else (contextlib.nullcontext())
            ):
                (each(X) - each(X.flip(0))).square().mean().backward()
    assert_same_gradients(eager, model)


@pytest.mark.row("the model called twice in a step", "siamese, and a GAN's two players")
@pytest.mark.filterwarnings("ignore:.*called 2 times before one backward")
def test_gan() -> None:
    torch.manual_seed(0)
    # A player may step beside gradients that the other's backward left: room for them too.
    generators, judges = _pair(Head(depth=4), "96%"), _pair(Head(depth=4), "96%")
    for maker, judge in zip(generators, judges, strict=True):
        torch.manual_seed(1)
        optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-3) for m in (maker, judge)]
        for _ in range(2):
            made = maker(X)
            optimizers[1].zero_grad()
            (judge(made.detach()).mean() - judge(X).mean()).backward()
            optimizers[1].step()
            optimizers[0].zero_grad()
            (-judge(made).mean()).backward()
            optimizers[0].step()
    assert_same_gradients(*generators)
    assert_same_gradients(*judges)


@pytest.mark.row("two optimized models with different budgets", "one class, one process")
def test_two_models_in_one_step() -> None:
    first, second = _pair(Head(), "90%"), _pair(Head())
    for one, other in zip(first, second, strict=True):
        other(one(X)).square().mean().backward()
    assert_same_gradients(*first)
    assert_same_gradients(*second)


@pytest.mark.row("a model optimized twice", "the second plan replaces the first")
def test_optimized_twice() -> None:
    model = Returns("loss")
    eager = copy.deepcopy(model)
    autockpt.optimize(model, "90%", sample_args=(X,), optimizer="adamw", method="greedy")
    autockpt.optimize(model, "80%", sample_args=(X,), optimizer="adamw", method="greedy")
    assert_same_training(eager, model, (X,))


@pytest.mark.row("eval, no_grad, inference_mode, and training again", "MLP, CNN with BatchNorm")
def test_modes() -> None:
    eager, model = _pair(Head())
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(eager(X), model(X))
    eager.eval(), model.eval()
    assert torch.equal(eager(X), model(X))
    eager.train(), model.train()
    for each in (eager, model):
        each(X).square().mean().backward()
    assert_same_gradients(eager, model)


@pytest.mark.row("Hugging Face generate, and training again", "GPT-2")
def test_generate() -> None:
    tiny = build("gpt2")
    eager = copy.deepcopy(tiny.model)
    autockpt.optimize(tiny.model, "85%", sample_kwargs=tiny.kwargs, method="greedy")
    tokens = []
    for model in (eager, tiny.model):
        torch.manual_seed(1)
        model(**tiny.kwargs).loss.backward()
        model.eval()
        prompt = tiny.kwargs["input_ids"][:, :4]
        options = {
            "max_new_tokens": 4,
            "do_sample": True,
            "attention_mask": torch.ones_like(prompt),
        }
        tokens.append(model.generate(prompt, **options))
        model.train().zero_grad()
        model(**tiny.kwargs).loss.backward()
    assert torch.equal(*tokens)
    assert_same_gradients(eager, tiny.model)
