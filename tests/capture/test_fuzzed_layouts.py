"""What the fuzzer found about strides, each with its story."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from training import at_the_minimum, differing, peak_bytes, train

import autockpt
from autockpt.torch_private.kernels import exact_layouts


@pytest.mark.parametrize(
    ("shape", "order"),
    [((2, 16, 8), (0, 2, 1)), ((2, 4, 4, 8), (0, 3, 1, 2)), ((2, 8, 4, 4), (0, 1, 2, 3))],
)
def test_fakes_of_batch_norm_have_its_strides(
    shape: tuple[int, ...], order: tuple[int, ...]
) -> None:
    """Over a transposed sequence they had others: plans missed a copy, and of a model in blocks
    the next block's graph was not the one that had been planned."""

    def strides(x: torch.Tensor, gradient: torch.Tensor) -> list[tuple[int, ...]]:
        norm = nn.BatchNorm1d(8) if x.dim() == 3 else nn.BatchNorm2d(8)
        y = norm(x)
        aten = torch.ops.aten
        ones = torch.ones(8)
        back = aten.native_batch_norm_backward(
            gradient, x, ones, ones, ones, ones, ones, True, 1e-5, [True, True, True]
        )
        return [y.stride(), back[0].stride()]

    x = torch.randn(shape).permute(order)
    for gradient in (torch.ones_like(x), torch.ones(x.shape)):
        expected = strides(x, gradient)
        with exact_layouts(), FakeTensorMode() as mode:
            assert strides(mode.from_tensor(x), mode.from_tensor(gradient)) == expected


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2), (0, 2, 1, 3)])
@pytest.mark.parametrize("size", [1, 6])
def test_fakes_of_a_roll_have_its_strides(order: tuple[int, ...], size: int) -> None:
    """Torch's fakes are always contiguous: the pool's backward behind a roll in channels last was
    not known to copy its gradient, and a step took 19% more than was predicted."""
    x = torch.randn(size, 6, 6, 6).permute(order)
    for shifts, dims in [((2,), (1,)), ((0,), (2,)), ((-1, 2), (3, 1)), ((5,), ())]:
        expected = torch.roll(x, shifts, dims)
        with FakeTensorMode() as mode:  # of before, which torch must not remember
            torch.roll(mode.from_tensor(x), shifts, dims)
        with exact_layouts(), FakeTensorMode() as mode:
            fake = torch.roll(mode.from_tensor(x), shifts, dims)
        assert fake.stride() == expected.stride()
        assert fake.shape == expected.shape


@pytest.mark.parametrize("has_parameters", [True, False])
def test_fakes_of_norms_have_their_types(has_parameters: bool) -> None:
    """Statistics of an input in bf16 have the parameters' type on the CPU, and the input's by
    torch's fakes: their bytes were mispredicted, and the norm's backward could not be profiled."""
    aten = torch.ops.aten
    x = torch.randn(2, 8, 4, 4, dtype=torch.bfloat16)

    def norms(x: torch.Tensor, weight: torch.Tensor | None) -> list[torch.dtype]:
        rows = x.flatten(1).unflatten(1, (16, 8))
        of_rows = aten.native_layer_norm(rows, [8], weight, weight, 1e-5)
        of_groups = aten.native_group_norm(x, weight, weight, 2, 8, 16, 2, 1e-5)
        return [each.dtype for each in (*of_rows, *of_groups)]

    weight = torch.ones(8) if has_parameters else None
    expected = norms(x, weight)
    with exact_layouts(), FakeTensorMode() as mode:
        fake = None if weight is None else mode.from_tensor(weight)
        assert norms(mode.from_tensor(x), fake) == expected


class BehindANorm(nn.Module):
    """Blocks around a norm over a sequence's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.BatchNorm1d(16), nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return self.down(self.up(y).tanh()).square().mean()


def test_a_norm_over_a_transposed_sequence_is_predicted() -> None:
    torch.manual_seed(0)
    model, x = BehindANorm(), torch.randn(64, 32, 16)
    expected = train(copy.deepcopy(model), (x,))
    at_the_minimum(model, x)
    assert differing(expected, train(model, (x,))) == []
    assert peak_bytes(model, (x,)) <= autockpt.get_plan(model).predicted_peak_bytes


def test_a_kernel_that_reads_its_gradient_as_contiguous_gets_it_so() -> None:
    """Eager's formula calls it with ``gradient.contiguous()``, of which a graph says nothing where
    the gradient was a sum, contiguous already. Its other part did not arrive, and what was left was
    transposed: gradients were wrong, not in the last bits, in a plan that was not verified."""

    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.GroupNorm(4, 16), nn.Linear(16, 5)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            hidden = self.norm(x.transpose(1, 2)).transpose(1, 2)
            return {"logits": self.head(hidden), "hidden": hidden}

    def loss_fn(output: dict[str, torch.Tensor]) -> torch.Tensor:
        return output["logits"].square().mean()

    torch.manual_seed(0)
    model, x = Grouped(), torch.randn(4, 16, 16)
    expected = train(copy.deepcopy(model), (x,), loss_fn=loss_fn)
    autockpt.optimize(
        model, "95%", sample_args=(x,), loss_fn=loss_fn, verify=False, method="greedy"
    )
    assert autockpt.get_plan(model).rung == "whole"
    assert differing(expected, train(model, (x,), loss_fn=loss_fn)) == []


@pytest.mark.filterwarnings("error")
def test_what_is_made_for_a_kernel_that_reads_contiguous_mixes_with_the_rest() -> None:
    """The copy was a fake of the mode that was on: what read it was not traced again, and kept the
    strides of another layout. So the graph that ran was not the one in the plan, and ran without
    it."""

    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            wide = (nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 16))
            self.first, self.norm = nn.Sequential(*wide), nn.GroupNorm(4, 16)
            self.head = nn.Linear(16, 5)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            y = self.first(x).transpose(1, 2)
            hidden = (self.norm(y) + y).transpose(1, 2)
            return {"logits": self.head(hidden), "hidden": hidden}

    def loss_fn(output: dict[str, torch.Tensor]) -> torch.Tensor:
        return output["logits"].square().mean()

    torch.manual_seed(0)
    model, x = Grouped(), torch.randn(64, 16, 16)
    expected = train(copy.deepcopy(model), (x,), loss_fn=loss_fn)
    autockpt.optimize(model, "90%", sample_args=(x,), loss_fn=loss_fn, method="greedy")
    assert autockpt.get_plan(model).rung == "whole"
    assert differing(expected, train(model, (x,), loss_fn=loss_fn)) == []


@pytest.mark.parametrize("loss_fn", [torch.sum, lambda y: (y.mT.contiguous() ** 2).sum()])
def test_a_gradient_that_comes_with_other_strides_than_were_traced(loss_fn) -> None:
    """A loss outside of the model gave one that was expanded, or transposed. The kernel read it as
    if it were contiguous, past its end: an unverified plan gave gradients that were not numbers."""

    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.norm = nn.Linear(16, 16), nn.GroupNorm(4, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.head(x).transpose(1, 2).contiguous())

    torch.manual_seed(0)
    model, x = Grouped(), torch.randn(4, 16, 16)
    expected = train(copy.deepcopy(model), (x,), loss_fn=loss_fn)
    autockpt.optimize(model, "1GB", sample_args=(x,), loss_fn=loss_fn, verify=False)
    eager_bytes = autockpt.get_plan(model).baseline_peak_bytes
    autockpt.optimize(
        model, eager_bytes - 1, sample_args=(x,), loss_fn=loss_fn, verify=False, method="greedy"
    )
    assert autockpt.get_plan(model).rung == "whole"
    assert differing(expected, train(model, (x,), loss_fn=loss_fn)) == []


@pytest.mark.parametrize("affine", [True, False])
def test_workspace_of_batch_norm_under_autocast_is_measured(affine: bool) -> None:
    """Fakes had statistics of the input's type and kernels of the parameters': on such inputs the
    backward could not be run to be measured, and a plan that was not verified left it out."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16, affine=affine), nn.ReLU()
    ).to(memory_format=torch.channels_last)
    x = torch.randn(8, 16, 8, 8).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        plan = autockpt.plan(
            model,
            "95%",
            sample_args=(x,),
            loss_fn=lambda y: y.float().square().mean(),
            method="greedy",
        )
    assert plan.graph is not None
    backward = [op for op in plan.graph.ops if op.name.startswith("native_batch_norm_backward")]
    assert [op.workspace_bytes >= x.numel() * 2 for op in backward] == [True]
