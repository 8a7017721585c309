"""Four published ways in which checkpointing changes the training, each beside autockpt.

    python examples/checkpointing_lies.py

Every row trains the same small model eagerly, with the checkpointing that the report is about, and
with autockpt. It prints what differs from eager. See docs/checkpointing_lies.md.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.checkpoint import checkpoint

import autockpt
from autockpt.verify.peak import measure_peak_bytes

_BUDGETS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)


@dataclass(frozen=True)
class Row:
    """One report: what it says, and what came out here."""

    report: str
    source: str
    theirs: str
    ours: str


class Blocks(nn.Module):
    """Blocks that may be checkpointed one by one."""

    def __init__(self, make: Callable[[], nn.Module], num_blocks: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(make() for _ in range(num_blocks))
        self.run: Callable[[nn.Module, torch.Tensor], Any] = lambda block, x: block(x)

    def forward(self, x: torch.Tensor) -> Any:
        for block in self.blocks:
            x = self.run(block, x)
        return x.square().mean()


class Embedded(nn.Module):
    """Frozen embeddings below blocks that train, as adapters have it."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(64, 64).requires_grad_(requires_grad=False)
        self.body = Blocks(lambda: nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)))
        self.head = nn.Linear(64, 64)

    def forward(self, tokens: torch.Tensor) -> Any:
        x = self.embeddings(tokens)
        for block in self.body.blocks:
            x = self.body.run(block, x)
        return self.head(x).square().mean()


def main() -> None:
    """Run all rows and print them."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    table = Table("reported", "source", "with that checkpointing", "with autockpt", show_lines=True)
    for row in (redrawn_dropout(), batch_norm_twice(), frozen_embeddings(), peaks_by_budget()):
        table.add_row(row.report, row.source, row.theirs, row.ours)
    Console().print(table)


def redrawn_dropout() -> Row:
    """Dropout draws another mask when the block runs again."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Dropout(0.2), nn.Linear(256, 64))

    def again(block: nn.Module, x: torch.Tensor) -> Any:
        return checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)

    theirs, ours = _differing(Blocks(make), torch.randn(2048, 64), again)
    return Row(
        report="dropout is drawn again (preserve_rng_state=False)",
        source="github.com/ankanbhunia/PIDM/pull/66",
        theirs=theirs,
        ours=ours,
    )


def batch_norm_twice() -> Row:
    """BatchNorm updates its statistics in the forward and again in the recomputation."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 64))

    def again(block: nn.Module, x: torch.Tensor) -> Any:
        return checkpoint(block, x, use_reentrant=False)

    theirs, ours = _differing(Blocks(make), torch.randn(2048, 64), again)
    return Row(
        report="BatchNorm counts every batch twice",
        source="github.com/pytorch/pytorch/issues/96136",
        theirs=theirs,
        ours=ours,
    )


def frozen_embeddings() -> Row:
    """A reentrant checkpoint whose inputs need no gradient returns none for its parameters."""
    model = Embedded()

    def again(block: nn.Module, x: torch.Tensor) -> Any:
        return checkpoint(block, x, use_reentrant=True)

    theirs, ours = _differing(model, torch.randint(0, 64, (64, 32)), again)
    return Row(
        report="blocks above frozen embeddings get no gradients (use_reentrant=True)",
        source="github.com/huggingface/transformers/issues/23170",
        theirs=theirs,
        ours=ours,
    )


def peaks_by_budget() -> Row:
    """A smaller activation_memory_budget of torch.compile may need more memory."""
    import torch._functorch.config as functorch_config

    model = Blocks(lambda: nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)), 6)
    x = torch.randn(2048, 64)
    theirs = []
    for budget in _BUDGETS:
        torch._dynamo.reset()
        with functorch_config.patch(activation_memory_budget=budget):
            compiled = torch.compile(copy.deepcopy(model), backend="aot_eager")
            theirs.append(_peak_bytes(compiled, x))
    torch._dynamo.reset()
    ours = []
    for share in _BUDGETS[:-1]:
        planned = copy.deepcopy(model)
        try:
            autockpt.optimize(planned, f"{share:.0%}", sample_args=(x,), optimizer="sgd")
        except autockpt.BudgetError:
            ours.append("then an error: the budget is too small")
            break
        ours.append(autockpt.format_bytes(_peak_bytes(planned, x)))
    rises = [
        f"{before:g} -> {after:g}: +{autockpt.format_bytes(theirs[i + 1] - theirs[i])}"
        for i, (before, after) in enumerate(pairwise(_BUDGETS))
        if theirs[i + 1] > theirs[i]
    ]
    return Row(
        report="a smaller activation_memory_budget needs more memory",
        source="github.com/pytorch/pytorch/issues/197838",
        theirs="peaks "
        + ", ".join(autockpt.format_bytes(peak) for peak in theirs)
        + (f"; rises at {'; '.join(rises)}" if rises else "; none rises here"),
        ours="peaks " + ", ".join(ours),
    )


def _differing(
    model: nn.Module, batch: torch.Tensor, run: Callable[[nn.Module, torch.Tensor], Any]
) -> tuple[str, str]:
    """What differs from eager after three steps: with `run` for every block, and with autockpt."""
    torch.manual_seed(0)
    eager, theirs, ours = (copy.deepcopy(model) for _ in range(3))
    for part in theirs.modules():
        if isinstance(part, Blocks):
            part.run = run
    autockpt.optimize(ours, "60%", optimizer="sgd")
    expected = _trained(eager, batch)
    return _compared(expected, _trained(theirs, batch)), _compared(expected, _trained(ours, batch))


def _trained(model: nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor | None]:
    torch.manual_seed(1)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(batch).backward()
        optimizer.step()
    left: dict[str, torch.Tensor | None] = {}
    for name, parameter in model.named_parameters():
        left[f"parameter {name}"] = parameter.detach()
        left[f"gradient {name}"] = parameter.grad
    left |= {f"buffer {name}": buffer for name, buffer in model.named_buffers()}
    return left


def _compared(expected: dict[str, torch.Tensor | None], got: dict[str, torch.Tensor | None]) -> str:
    counts: dict[str, int] = {}
    for name, value in expected.items():
        other = got[name]
        same = value is other if value is None or other is None else torch.equal(value, other)
        if not same:
            kind = "missing gradients" if other is None else f"{name.split()[0]}s differ"
            counts[kind] = counts.get(kind, 0) + 1
    if not counts:
        return "every bit as in eager"
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _peak_bytes(model: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor) -> int:
    model(batch).backward()
    for parameter in model.parameters():  # type: ignore[attr-defined]
        parameter.grad = None
    return measure_peak_bytes(lambda: model(batch).backward())


if __name__ == "__main__":
    main()
