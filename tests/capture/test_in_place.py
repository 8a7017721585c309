"""Backward operators that write over an input nobody else reads: the same bits in less memory."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn
from training import assert_same_gradients, differing, train

import autockpt
from autockpt.capture.in_place import _FORMS, over_first
from autockpt.verify.bits import same_bits

_ARGUMENTS = {
    "threshold_backward": (0.1,),
    "leaky_relu_backward": (0.1, False),
    "hardtanh_backward": (-0.5, 0.5),
    "elu_backward": (1.0, 1.0, 1.0, False),
}


_SHAPES = ((3, 5, 7, 11), (3, 1, 7, 5), (1, 5, 1, 1), (2, 3, 1, 4))
_DTYPES = (torch.float32, torch.bfloat16, torch.float64)


_LAYOUTS = ("contiguous", "channels_last", "transposed", "scalar beside")
_CASES = [
    pytest.param(op, layout, id=f"{op._opname}-{layout}")
    for op, layout in itertools.product(_FORMS, _LAYOUTS)
    if not (layout == "scalar beside" and op._opname.endswith("_backward"))
]


@pytest.mark.parametrize(("op", "layout"), _CASES)
def test_same_bits_and_strides(op, layout: str) -> None:
    """Dimensions of size 1 may have any stride: results have others, by which kernels choose."""
    torch.manual_seed(0)
    name = op._opname
    for shape, dtype in itertools.product(_SHAPES, _DTYPES):
        first, second = torch.randn(2, *shape).to(dtype)
        if layout == "channels_last":
            first = first.contiguous(memory_format=torch.channels_last)
            second = second.contiguous(memory_format=torch.channels_last)
        elif layout == "transposed":
            first = first.transpose(1, 3)
            second = second.transpose(1, 3).contiguous()
        elif layout == "scalar beside":
            first, second = first.transpose(1, 3), second.flatten()[0]
        others = [(second,)] if name not in ("neg", "elu_backward") else [()]
        if name in ("mul", "div"):
            others.append((0.7,))
        last = (second,) if name == "elu_backward" else ()
        for other in others:
            arguments = (*other, *_ARGUMENTS.get(name, ()), *last)
            expected = op(first, *arguments)
            written = torch.empty_strided(first.shape, first.stride(), dtype=dtype).copy_(first)
            got = over_first(op, written, *arguments)
            if layout == "contiguous" or (layout == "channels_last" and 1 not in shape):
                assert got.data_ptr() == written.data_ptr()
            assert got.stride() == expected.stride()
            assert same_bits(got, expected)


def test_gradients_that_come_in_transposed_with_dimensions_of_size_1() -> None:
    """A gradient written over kept an odd stride of a dimension of size 1, for which eager's has
    another, and BatchNorm's backward took another kernel."""

    class OneChannel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.weight = nn.BatchNorm2d(1), nn.Parameter(torch.randn(8, 1, 7, 5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh((-self.norm(x * self.weight)).permute(2, 0, 3, 1))

    torch.manual_seed(0)
    model, x, factors = OneChannel(), torch.randn(8, 1, 7, 5), torch.randn(8, 7, 5, 2)
    eager = copy.deepcopy(model)

    def loss_of(y: torch.Tensor) -> torch.Tensor:
        return (torch.cat([y.transpose(0, 1), torch.ones(8, 7, 5, 1)], -1) * factors).sum()

    settings = {"sample_args": (x,), "loss_fn": loss_of, "method": "greedy"}
    with pytest.raises(autockpt.BudgetError) as caught:
        autockpt.plan(model, 1, **settings)
    autockpt.optimize(model, caught.value.minimum_peak_bytes, verify=False, **settings)
    for module in (model, eager):
        loss_of(module(x)).backward()
    assert_same_gradients(eager, model)


class Recurrence(nn.Module):
    """A state that goes from step to step: the gradients of its uses are added one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.decay, self.enter = nn.Linear(16, 16 * 32), nn.Linear(16, 16 * 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        decay, entering = torch.sigmoid(self.decay(x)), torch.tanh(self.enter(x))
        state = torch.zeros(x.shape[0], 16 * 32)
        outputs = []
        for token in range(x.shape[1]):
            state = decay[:, token] * state + entering[:, token]
            outputs.append(state.square().mean())
        return torch.stack(outputs).mean()


def test_a_step_takes_less_than_its_gradients_beside_each_other() -> None:
    torch.manual_seed(0)
    model, x = Recurrence(), torch.randn(32, 12, 16)
    expected = train(copy.deepcopy(model), (x,))
    with pytest.raises(autockpt.BudgetError) as caught:
        autockpt.plan(model, 1, sample_args=(x,), optimizer="adamw", method="greedy")
    least = caught.value.minimum_peak_bytes
    plan = autockpt.plan(model, least, sample_args=(x,), optimizer="adamw", method="greedy")
    overwriting = [op for op in plan.graph.ops if op.overwrites]
    assert {op.name.partition("_")[0] for op in overwriting} >= {"add"}
    autockpt.optimize(model, least, sample_args=(x,), optimizer="adamw", method="greedy")
    plan = autockpt.get_plan(model)
    assert plan.measured_peak_bytes <= least
    got = train(model, (x,))
    assert differing(expected, got) == []


def test_what_others_read_is_left_alone() -> None:
    """The gradient of each sum goes to two values, and that of an output is the caller's."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                y = layer(x)
                x = torch.relu(-y) + torch.tanh(y) * (x * 2)
            return x

    torch.manual_seed(0)
    model, x = Shared(), torch.randn(64, 32, requires_grad=True)
    eager, x_eager = copy.deepcopy(model), x.detach().clone().requires_grad_()
    autockpt.optimize(model, "90%", sample_args=(x,), method="greedy", verify=False)
    gradient = torch.randn(64, 32)
    kept = gradient.clone()
    for module, value in ((model, x), (eager, x_eager)):
        output = module(value)
        output.backward(gradient, retain_graph=True)
        output.backward(gradient)
        assert torch.equal(gradient, kept)
    assert same_bits(x.grad, x_eager.grad)
    assert_same_gradients(eager, model)
