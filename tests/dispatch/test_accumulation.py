"""Gradients added up over several backwards, and the pieces that let them go on the way."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_models import build
from torch import nn
from training import assert_same_gradients

import autockpt
from autockpt.capture.pieces import find_cuts
from autockpt.torch_private.dynamo import compile_forward
from autockpt.verify.bits import same_bits
from autockpt.verify.loss import backward_roots, find_loss
from autockpt.verify.peak import measure_peak_bytes

CPU = torch.device("cpu")


def backward(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    torch.autograd.backward(*backward_roots(find_loss(model(*args, **kwargs), None)))


@pytest.mark.row(
    "gradient accumulation", "GPT-2, T5, ConvNeXt, ResNet; no more memory than eager's"
)
@pytest.mark.parametrize(
    "name",
    ["convnext", *(pytest.param(n, marks=pytest.mark.full) for n in ("gpt2", "t5", "resnet"))],
)
def test_an_accumulating_step_is_equal_and_takes_no_more_than_eager(name: str) -> None:
    """One graph's backward gives its gradients back at its end: beside the older ones, a second
    set. ConvNeXt's were off in the last bits when cut: AOTAutograd copied the gradients that
    passed a cut to other strides, and sums over them rounded differently."""
    tiny = build(name)
    eager = copy.deepcopy(tiny.model)
    peaks = []
    autockpt.optimize(
        tiny.model, "85%", method="greedy", sample_args=tiny.args, sample_kwargs=tiny.kwargs
    )
    for model in (eager, tiny.model):
        torch.manual_seed(3)
        for _ in range(2):
            backward(model, tiny.args, tiny.kwargs)
        peaks.append(measure_peak_bytes(lambda m=model: backward(m, tiny.args, tiny.kwargs), CPU))
    assert_same_gradients(eager, tiny.model)
    assert peaks[1] < peaks[0]
    plan = autockpt.get_plan(tiny.model)
    assert plan is not None
    assert plan.num_graphs > 1
    assert plan.measured_peak_bytes == plan.predicted_peak_bytes <= plan.budget_bytes


def test_what_was_accumulated_is_as_it_was_when_a_step_was_tried() -> None:
    """Verification runs steps that add to the real gradients, and must take that back."""
    tiny = build("control_flow")
    autockpt.optimize(
        tiny.model, "85%", method="greedy", sample_args=tiny.args, sample_kwargs=tiny.kwargs
    )
    backward(tiny.model, tiny.args, tiny.kwargs)
    before = [p.grad.clone() for p in tiny.model.parameters() if p.grad is not None]
    held = [p.grad for p in tiny.model.parameters()]
    tiny.model(*tiny.args, **tiny.kwargs)
    after = [p.grad for p in tiny.model.parameters()]
    assert all(ours is theirs for ours, theirs in zip(held, after, strict=True))
    assert all(same_bits(b, a) for b, a in zip(before, after, strict=True))


class Chain(nn.Module):
    """Linear layers, with a hook for what stands between the third and the fourth."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number == 2:
                x = self.between(x)
        return x.sum()


def cuts_of(model: nn.Module) -> tuple[list[int], list[str]]:
    found: list[Any] = []

    def backend(graph_module: torch.fx.GraphModule, _: Any) -> Any:
        found.append((find_cuts(graph_module.graph), [n.name for n in graph_module.graph.nodes]))
        return graph_module.forward

    compile_forward(model, backend)(torch.randn(4, 8))
    assert len(found) == 1
    cuts, names = found[0]
    return cuts, names


def test_a_chain_is_cut_between_its_layers() -> None:
    cuts, _ = cuts_of(Chain())
    assert len(cuts) == 5


def test_no_cut_between_a_value_and_what_overwrites_it() -> None:
    class Overwrites(Chain):
        def between(self, x: torch.Tensor) -> torch.Tensor:
            kept = x
            for layer in self.layers[:2]:
                kept = kept + layer(x)
            x.mul_(2.0)
            return kept + x

    cuts, names = cuts_of(Overwrites())
    made, overwritten = names.index("x_2"), next(i for i, n in enumerate(names) if "mul_" in n)
    assert overwritten > made
    assert not [cut for cut in cuts if made < cut <= overwritten]


def test_no_cut_where_a_sum_of_gradients_would_change_its_order() -> None:
    """A value with two readers before a cut and one behind it: eager adds all three in turn."""

    class ReadThrice(Chain):
        def between(self, x: torch.Tensor) -> torch.Tensor:
            early = x.sin() + x.cos()
            for layer in self.layers[:2]:
                early = layer(early)
            return early + x

    cuts, names = cuts_of(ReadThrice())
    readers = [names.index("sin"), names.index("cos")]
    assert not [cut for cut in cuts if max(readers) < cut < len(names) - 12]


def test_no_cut_inside_a_region_of_autocast() -> None:
    class Cast(Chain):
        def between(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                for layer in self.layers[:4]:
                    x = layer(x)
            return x.float()

    cuts, names = cuts_of(Cast())
    enter = next(i for i, n in enumerate(names) if "enter_autocast" in n)
    leave = next(i for i, n in enumerate(names) if "exit_autocast" in n)
    assert not [cut for cut in cuts if enter < cut <= leave]
