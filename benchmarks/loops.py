"""How a budget holds in training loops of different orders: plans, time, memory and bits.

Each row trains one small GPT-2 eagerly and optimized, in one process, and compares both.

    python benchmarks/loops.py --output docs/benchmarks/loops.md
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import datetime as dt
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("AUTOCKPT_PLAN_CACHE", "0")

import torch
import transformers
from torch import nn

import autockpt
from autockpt.dispatch.lookup import optimized_forward
from autockpt.verify.live_bytes import distinct_bytes
from autockpt.verify.peak import measure_peak_bytes

NUM_STEPS = 6
HEAD = """# Loops

A small GPT-2 (4 layers, width 128) trained for {steps} steps by [loops of different
kinds](../loops.md). The budget is {budget} of what eager's step needs beside parameters and inputs,
plus the older gradients if the loop has them.

- *plans*: the number of plans in the whole run.
- *seconds*: the time that the optimized run took beyond eager's, nearly all of it planning.
- *recomputed*: the added time of the last plan, as a share of a step.
- *peak / budget*: the measured peak of two steps.
- *bits*: whether all losses, gradients and parameters at the end are equal.
- *warned*: whether a warning named a first step that was not planned for.

{date}, torch {torch}, {threads} thread on a CPU. Written by `python benchmarks/loops.py`.

| loop | plans | seconds | rung | recomputed | peak / budget | bits | warned |
|---|---|---|---|---|---|---|---|
"""

Batch = list[torch.Tensor]
Run = Callable[[nn.Module, torch.optim.Optimizer, Batch, int], torch.Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
    """One way to train."""

    name: str
    step: Run
    calls: int = 1
    has_older: bool = False
    measured: Run | None = None
    prepare: Callable[[nn.Module], Any] = lambda model: None


def _loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = model(input_ids=ids, labels=ids).loss
    return loss


def _ordered(order: str) -> Run:
    def step(
        model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, number: int
    ) -> torch.Tensor:
        def closure() -> torch.Tensor:
            if order in ("before", "closure") or (order == "accumulated" and number % 2 == 0):
                optimizer.zero_grad()
            loss = _loss(model, batch[0])
            if order == "between":
                optimizer.zero_grad()
            if order == "set to zero":
                optimizer.zero_grad(set_to_none=False)
            loss.backward()
            return loss

        if order == "closure":
            return torch.as_tensor(optimizer.step(closure))
        loss = closure()
        if order != "never" and not (order == "accumulated" and number % 2 == 0):
            optimizer.step()
        if order == "after":
            optimizer.zero_grad()
        return loss

    return step


def _several(num_calls: int) -> Run:
    def step(
        model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, _: int
    ) -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.stack([_loss(model, ids) for ids in batch[:num_calls]]).logsumexp(0)
        loss.backward()
        optimizer.step()
        return loss

    return step


def _keeping(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, _: int
) -> torch.Tensor:
    optimizer.zero_grad()
    output = model(input_ids=batch[0], labels=batch[0])
    output.loss.backward()
    optimizer.step()
    loss: torch.Tensor = output.loss + 0 * output.logits.detach().max()
    return loss


def _evaluating(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, number: int
) -> torch.Tensor:
    model.eval()
    _loss(model, batch[1])
    model.train()
    return _ordered("before")(model, optimizer, batch, number)


LOOPS = [
    Loop(name="zero_grad before the forward", step=_ordered("before")),
    Loop(
        name="zero_grad between forward and backward (Lightning)",
        step=_ordered("between"),
        has_older=True,
    ),
    Loop(name="zero_grad after the step", step=_ordered("after")),
    Loop(name="zero_grad(set_to_none=False)", step=_ordered("set to zero"), has_older=True),
    Loop(name="a closure for the optimizer", step=_ordered("closure")),
    Loop(name="two backwards for each step", step=_ordered("accumulated"), has_older=True),
    Loop(name="no zero_grad, no step", step=_ordered("never"), has_older=True),
    Loop(name="outputs that are kept", step=_keeping),
    Loop(name="eval mode", step=_ordered("before"), prepare=lambda model: model.eval()),
    Loop(
        name="evaluating with gradients on, between steps",
        step=_evaluating,
        measured=_ordered("before"),
    ),
    Loop(name="two calls before one backward", step=_several(2), calls=2),
    Loop(name="four calls before one backward", step=_several(4), calls=4),
]


def main() -> None:
    """Train by every loop and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=0.75)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    head = HEAD.format(
        steps=NUM_STEPS,
        budget=f"{options.budget:.0%}",
        date=dt.datetime.now(dt.UTC).date().isoformat(),
        torch=torch.__version__,
        threads=1,
    )
    lines = [head]
    for row in rows(options.budget):
        print(row, flush=True)
        lines.append(row + "\n")
        if options.output is not None:
            options.output.write_text("".join(lines))


def rows(share: float) -> Iterator[str]:
    """A row of the table for each loop."""
    for loop in LOOPS:
        yield row(loop, share)


def row(loop: Loop, share: float) -> str:
    """Train by one loop, eagerly and optimized."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=1000, n_embd=128, n_layer=4, n_head=4, n_positions=64, use_cache=False,
        bos_token_id=0, eos_token_id=0, loss_type="ForCausalLM",
    )  # fmt: skip
    eager = transformers.GPT2LMHeadModel(config).train()
    batch = [torch.randint(0, 1000, (4, 64)) for _ in range(4)]
    loop.prepare(eager)
    model = copy.deepcopy(eager)
    eager_bytes = _peak_bytes(copy.deepcopy(eager), batch, _several(loop.calls))
    resting_bytes = distinct_bytes([*model.parameters(), *model.buffers(), *batch])
    gradients_bytes = distinct_bytes(list(model.parameters()))
    # Older gradients, where a loop has them, are beside the share.
    older_bytes = gradients_bytes if loop.has_older else 0
    budget_bytes = resting_bytes + int(share * (eager_bytes - resting_bytes)) + older_bytes
    autockpt.optimize(model, budget_bytes, optimizer="sgd", progress=False)
    found = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for trained in (eager, model):
            torch.manual_seed(1)
            optimizer = torch.optim.SGD(trained.parameters(), lr=1e-3)
            began_s = time.perf_counter()
            losses = [loop.step(trained, optimizer, batch, n).detach() for n in range(NUM_STEPS)]
            seconds = time.perf_counter() - began_s
            tensors = [*losses, *(p.grad for p in trained.parameters()), *trained.parameters()]
            found.append((seconds, [None if t is None else t.clone() for t in tensors]))
    plan, forward = autockpt.get_plan(model), optimized_forward(model)
    assert plan is not None
    assert forward is not None
    is_same = all(
        a is b or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(found[0][1], found[1][1], strict=True)
    )
    peak_bytes = _peak_bytes(model, batch, loop.measured or loop.step)
    is_told = any("autockpt plans" in str(w.message) for w in told)
    return (
        f"| {loop.name} | {forward.num_plans} | {found[1][0] - found[0][0]:.1f} | {plan.rung} "
        f"| {plan.overhead:.1%} | {peak_bytes / budget_bytes:.3f} "
        f"| {'equal' if is_same else 'DIFFERENT'} | {'yes' if is_told else ''} |"
    )


def _peak_bytes(model: nn.Module, batch: Batch, step: Run) -> int:
    """The measured peak of two steps, with what is in memory before them.

    The first step's gradients are made within the measurement, so that it sees them freed.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    optimizer.zero_grad()

    def two_steps() -> None:
        for number in range(2):
            step(model, optimizer, batch, number)

    resting = [*model.parameters(), *model.buffers(), *batch]
    return distinct_bytes(resting) + measure_peak_bytes(two_steps, "cpu")


if __name__ == "__main__":
    main()
