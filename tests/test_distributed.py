"""Several ranks train one model: the same bits, one plan, and nobody waits forever."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from training import differing

import autockpt

OPTIONS: dict[str, Any] = {"optimizer": "adamw", "time_limit_s": 2.0}
WIDTH = 64


class Blocks(nn.Module):
    """Residual blocks with dropout and a BatchNorm; the loss is outside."""

    def __init__(self, num_blocks: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(WIDTH),
                nn.Linear(WIDTH, 2 * WIDTH),
                nn.GELU(),
                nn.Dropout(0.1),
                nn.Linear(2 * WIDTH, WIDTH),
            )
            for _ in range(num_blocks)
        )
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.norm(x)


def blocks() -> nn.Module:
    torch.manual_seed(0)
    return Blocks()


def batch(rank: int, step: int, size: int = 512, *, requires_grad: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * rank + step)
    return torch.randn(size, WIDTH, generator=generator).requires_grad_(requires_grad)


def train(
    model: nn.Module, rank: int, *, num_steps: int = 3, accumulate: int = 1, size: int = 512
) -> dict[str, torch.Tensor | None]:
    """Train and say what came of it: losses, gradients, parameters, buffers, optimizer state."""
    torch.manual_seed(rank)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    record: dict[str, torch.Tensor | None] = {}
    for step in range(num_steps):
        optimizer.zero_grad()
        for micro in range(accumulate):
            waits = micro + 1 < accumulate and isinstance(model, DistributedDataParallel)
            with model.no_sync() if waits else contextlib.nullcontext():
                loss = model(batch(rank, 10 * step + micro, size)).square().mean()
                loss.backward()
            record[f"loss {step} {micro}"] = loss.detach().clone()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        record[f"norm {step}"] = whole(norm)
        for name, parameter in model.named_parameters():
            record[f"gradient {name} {step}"] = whole(parameter.grad)
        optimizer.step()
    for name, parameter in model.named_parameters():
        record[f"parameter {name}"] = whole(parameter)
        for key, value in optimizer.state[parameter].items():
            record[f"{key} of {name}"] = whole(value)
    for name, buffer in model.named_buffers():
        record[f"buffer {name}"] = buffer.clone()
    record["random state"] = torch.get_rng_state()
    return record


def whole(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """A copy of what this rank holds of a tensor."""
    if tensor is None:
        return None
    return getattr(tensor, "to_local", tensor.detach)().detach().clone()


def _data_parallel(
    rank: int, order: str, as_view: bool, accumulate: int
) -> tuple[list[str], str, int]:
    def wrapped(model: nn.Module) -> DistributedDataParallel:
        # Several buckets, so that their order matters.
        return DistributedDataParallel(model, gradient_as_bucket_view=as_view, bucket_cap_mb=0.05)

    expected = train(wrapped(blocks()), rank, accumulate=accumulate)
    model = blocks()
    if order == "wrap an optimized model":
        model = wrapped(autockpt.optimize(model, "75%", **OPTIONS))
    elif order == "optimize a wrapped model":
        model = autockpt.optimize(wrapped(model), "75%", **OPTIONS)
    else:
        samples = (batch(rank, 0),)
        model = autockpt.optimize(
            wrapped(model), "75%", sample_args=samples,
            loss_fn=_mean_of_squares, **OPTIONS,
        )  # fmt: skip
    got = train(model, rank, accumulate=accumulate)
    plan = autockpt.get_plan(model)
    return differing(expected, got), plan.to_json(), plan.recompute_ns


def _mean_of_squares(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


CASES = [
    ("wrap an optimized model", False, 2),
    ("optimize a wrapped model", True, 1),
    ("optimize a wrapped model, with samples", True, 2),
]


@pytest.mark.parametrize(("order", "as_view", "accumulate"), CASES)
def test_data_parallel(order: str, as_view: bool, accumulate: int, tmp_path: Path) -> None:
    results = run_ranks(2, tmp_path, _data_parallel, order, as_view, accumulate)
    for names, _, recompute_ns in results:
        assert names == []
        assert recompute_ns > 0
    assert results[0][1] == results[1][1]
