"""Transformer blocks: checkpointing by hand, `checkpoint_sequential`, and autockpt at their peaks.

python examples/blocks_by_hand.py

Prints peaks and processor times of a step, and whether the gradients are eager's bit for bit.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import autockpt
from autockpt.verify.peak import measure_peak_bytes


class Encoder(nn.Module):
    """Blocks, and how they run."""

    def __init__(self, num_blocks: int, width: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True, norm_first=True)
                for _ in range(num_blocks)
            )
        )
        self.run: Callable[[nn.Sequential, torch.Tensor], Any] = lambda blocks, x: blocks(x)

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self.blocks, x).square().mean()


def every_block(blocks: nn.Sequential, x: torch.Tensor) -> Any:
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False)
    return x


def segments(blocks: nn.Sequential, x: torch.Tensor) -> Any:
    return checkpoint_sequential(blocks, 2, x, use_reentrant=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed")
    options = parser.parse_args()
    torch.manual_seed(0)
    eager = Encoder(options.blocks, options.width)
    x = torch.randn(8, 64, options.width)
    expected = gradients(eager, x)

    table = Table("way", "peak", "time / eager", "gradients")
    ways: list[tuple[str, Encoder]] = [("eager", eager)]
    for name, run in (("checkpoint every block", every_block), ("2 segments", segments)):
        by_hand = copy.deepcopy(eager)
        by_hand.run = run
        ways.append((name, by_hand))
        planned = copy.deepcopy(eager)
        total_bytes = peak_bytes(by_hand, x) + resting_bytes(by_hand, x)
        autockpt.optimize(planned, total_bytes, optimizer="sgd", sample_args=(x,))
        ways.append(("  autockpt at that peak", planned))
    times = {name + str(i): median_ns(way, x, options.steps) for i, (name, way) in enumerate(ways)}
    eager_ns = times["eager0"]
    for i, (name, way) in enumerate(ways):
        same = all(map(torch.equal, expected, gradients(way, x)))
        table.add_row(
            name,
            autockpt.format_bytes(peak_bytes(way, x)),
            f"{times[name + str(i)] / eager_ns:.2f}",
            "as in eager" if same else "differ",
        )
    Console().print(table)


def step(model: nn.Module, x: torch.Tensor) -> None:
    torch.manual_seed(1)  # dropout draws the same masks
    model.zero_grad(set_to_none=True)
    model(x).backward()


def gradients(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    step(model, x)
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def peak_bytes(model: nn.Module, x: torch.Tensor) -> int:
    """What a forward and backward allocate."""
    model.zero_grad(set_to_none=True)
    return measure_peak_bytes(lambda: step(model, x))


def resting_bytes(model: nn.Module, x: torch.Tensor) -> int:
    return sum(t.nbytes for t in (*model.parameters(), *model.buffers(), x))


def median_ns(model: nn.Module, x: torch.Tensor, num_steps: int) -> float:
    times = []
    for _ in range(num_steps):
        started_ns = time.process_time_ns()
        step(model, x)
        times.append(time.process_time_ns() - started_ns)
    return statistics.median(times)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    main()
