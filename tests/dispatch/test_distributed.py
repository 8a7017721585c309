"""Several ranks train one model: the same bits, one plan, and nobody waits forever."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from training import Record, copied, differing, state_of

import autockpt
from autockpt.ladder import graphs

OPTIONS: dict[str, Any] = {"optimizer": "adamw", "method": "greedy"}
WIDTH = 64


class Blocks(nn.Module):
    """Residual blocks with dropout and a BatchNorm; the loss is outside."""

    def __init__(self, num_blocks: int = 3) -> None:
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
) -> Record:
    """Train and say what came of it: losses, gradients, parameters, buffers, optimizer state."""
    torch.manual_seed(rank)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    record: Record = {}
    for step in range(num_steps):
        optimizer.zero_grad()
        for micro in range(accumulate):
            waits = micro + 1 < accumulate and isinstance(model, DistributedDataParallel)
            with model.no_sync() if waits else contextlib.nullcontext():
                loss = model(batch(rank, 10 * step + micro, size)).square().mean()
                loss.backward()
            record[f"loss {step} {micro}"] = loss.detach().clone()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        record[f"norm {step}"] = copied(norm)
        for name, parameter in model.named_parameters():
            record[f"gradient {name} {step}"] = copied(parameter.grad)
        optimizer.step()
    return record | state_of(model, optimizer)


def _data_parallel(
    rank: int, order: str, as_view: bool, accumulate: int
) -> tuple[list[str], str, int]:
    def wrapped(model: nn.Module) -> DistributedDataParallel:
        # Several buckets, so that their order matters.
        return DistributedDataParallel(model, gradient_as_bucket_view=as_view, bucket_cap_mb=0.05)

    expected = train(wrapped(blocks()), rank, accumulate=accumulate)
    model = blocks()
    if order == "wrap an optimized model":
        model = wrapped(autockpt.optimize(model, "85%", **OPTIONS))
    elif order == "optimize a wrapped model":
        model = autockpt.optimize(wrapped(model), "85%", **OPTIONS)
    else:
        samples = (batch(rank, 0),)
        model = autockpt.optimize(
            wrapped(model), "85%", sample_args=samples,
            loss_fn=_mean_of_squares, **OPTIONS,
        )  # fmt: skip
    got = train(model, rank, accumulate=accumulate)
    plan = autockpt.get_plan(model)
    assert plan.measured_peak_bytes <= plan.budget_bytes
    return differing(expected, got), plan.to_json(), plan.recompute_ns


def _mean_of_squares(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


CASES = [
    ("wrap an optimized model", False, 2),
    ("optimize a wrapped model", True, 1),
    pytest.param("optimize a wrapped model, with samples", True, 2, marks=pytest.mark.full),
]


@pytest.mark.row("DistributedDataParallel, two ranks", "gloo; buckets in two orders, accumulation")
@pytest.mark.parametrize(("order", "as_view", "accumulate"), CASES)
def test_data_parallel(order: str, as_view: bool, accumulate: int, tmp_path: Path) -> None:
    results = run_ranks(2, tmp_path, _data_parallel, order, as_view, accumulate)
    for names, _, recompute_ns in results:
        assert names == []
        assert recompute_ns > 0
    assert results[0][1] == results[1][1]


def _lengths(rank: int) -> list[str]:
    """Batches whose sizes differ between the ranks, and turn up at different times."""

    def run(model: nn.Module) -> Record:
        torch.manual_seed(rank)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        record: Record = {}
        for step, size in enumerate([(512, 512), (256, 512), (512, 256), (128, 128)]):
            optimizer.zero_grad()
            loss = model(batch(rank, step, size[rank])).square().mean()
            loss.backward()
            optimizer.step()
            record[f"loss {step}"] = loss.detach()
            for name, parameter in model.named_parameters():
                record[f"gradient {name} {step}"] = copied(parameter.grad)
        return record

    expected = run(DistributedDataParallel(blocks()))
    model = autockpt.optimize(blocks(), "85%", **OPTIONS)
    return differing(expected, run(DistributedDataParallel(model)))


@pytest.mark.row("DistributedDataParallel, two ranks", "ranks whose inputs differ")
def test_ranks_whose_inputs_differ_do_not_wait_for_each_other(tmp_path: Path) -> None:
    assert run_ranks(2, tmp_path, _lengths) == [[], []]


def _failing(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    lowered = graphs.region_orders

    def attempt(name: str, budget: str | int, size: int) -> None:
        model = DistributedDataParallel(autockpt.optimize(blocks(), budget, **OPTIONS))
        try:
            model(batch(rank, 0, size))
        except Exception as error:  # noqa: BLE001 - which errors come is what is looked at
            found[name] = error
        # Whoever goes on trains with the model as it was, after a budget error once it is restored.
        autockpt.restore(model)
        model(batch(rank, 0, size)).sum().backward()
        found[f"{name} plan"] = autockpt.get_plan(model)

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("the planner divides by nothing")

    # Rank 0 could train so, rank 1 with its larger batch could not.
    attempt("budget", 3_000_000, (64, 4096)[rank])
    for who in range(2):
        graphs.region_orders = broken if rank == who else lowered
        attempt(f"bug on rank {who}", "85%", (256, 512)[rank])
    graphs.region_orders = broken if rank == 0 else lowered
    attempt("bug on the rank that plans", "85%", 512)
    return found


@pytest.mark.row("a rank that fails", "a budget and bugs of one rank, raised on all")
def test_a_rank_that_cannot_plan_brings_all_down_with_one_error(tmp_path: Path) -> None:
    """The others waited for its gradients, which never came."""
    first, second = run_ranks(2, tmp_path, _failing)
    assert type(first["budget"]) is type(second["budget"]) is autockpt.BudgetError
    assert str(first["budget"]) == str(second["budget"])
    for name, broken, other in (
        ("bug on rank 0", first, second),
        ("bug on rank 1", second, first),
        ("bug on the rank that plans", first, second),
    ):
        assert isinstance(broken[name], autockpt.InternalError)
        assert isinstance(other[name], autockpt.PeerError)
        assert other[name].rank == (0 if broken is first else 1)
        assert "the planner divides by nothing" in str(other[name])
    for found in (first, second):
        assert [v for k, v in found.items() if k.endswith("plan")] == [None] * 4


def _overlapping(rank: int) -> list[list[str]]:
    return [_events(rank, optimized=optimized) for optimized in (False, True)]


def _events(rank: int, *, optimized: bool) -> list[str]:
    model: nn.Module = blocks()
    if optimized:
        model = autockpt.optimize(model, "85%", **OPTIONS)
    model = DistributedDataParallel(model, bucket_cap_mb=0.05, gradient_as_bucket_view=True)
    events: list[str] = []

    # DDP looks at the annotations of such a hook and wants no strings.
    def reduce(_, bucket):
        events.append("bucket")
        return (
            dist.all_reduce(bucket.buffer(), async_op=True)
            .get_future()
            .then(lambda future: future.value()[0] / 2)
        )

    model.register_comm_hook(None, reduce)
    for step in range(2):
        # DDP forms its buckets anew after the first step.
        events.clear()
        x = batch(rank, step, requires_grad=True)
        # The input's gradient is the last thing that a backward computes.
        x.register_hook(lambda _: events.append("first layer"))
        model(x).square().mean().backward()
    if optimized:
        assert autockpt.get_plan(model).recompute_ns > 0
    return events


def test_reduction_overlaps_the_backward(tmp_path: Path) -> None:
    """A backward that is one graph hands all gradients over at its end: nothing was reduced
    before. Cut into pieces, buckets go off while it runs.
    """
    expected, got = run_ranks(2, tmp_path, _overlapping)[0]
    assert got.count("bucket") == expected.count("bucket") > 2
    assert got.index("first layer") > 1


@pytest.mark.row("DistributedDataParallel, four ranks", "gloo; sums over more than two ranks")
@pytest.mark.full
@pytest.mark.parametrize(("order", "as_view", "accumulate"), CASES)
def test_four_ranks(order: str, as_view: bool, accumulate: int, tmp_path: Path) -> None:
    """With more than two ranks the order of a sum depends on where in a bucket a value lies, and
    buckets are formed by the order in which gradients arrive: it must be eager's.
    """
    results = run_ranks(4, tmp_path, _data_parallel, order, as_view, accumulate)
    for names, text, recompute_ns in results:
        assert names == []
        assert recompute_ns > 0
        assert text == results[0][1]


def _sharded(rank: int, order: str) -> tuple[list[str], list[str], list[int], list[bool]]:
    def shard(model: nn.Module) -> nn.Module:
        for block in model.blocks:
            fully_shard(block)
        return fully_shard(model)

    def optimize(model: nn.Module) -> nn.Module:
        for block in model.blocks:
            # The greedy method finds no plan within the budget of so small a block.
            options = {**OPTIONS, "method": "auto", "time_limit_s": 0.5}
            autockpt.optimize(block, "75%", loss_fn=_mean_of_squares, **options)
        return model

    expected = train(shard(blocks()), rank)
    model = shard(optimize(blocks())) if order == "before" else optimize(shard(blocks()))
    got = train(model, rank)
    plans = [autockpt.get_plan(block) for block in model.blocks]
    return (
        differing(expected, got),
        [p.to_json() for p in plans],
        [p.recompute_ns for p in plans],
        [p.measured_peak_bytes <= p.budget_bytes for p in plans],
    )


@pytest.mark.row("FSDP2, two and four ranks", "blocks optimized before and after sharding")
@pytest.mark.parametrize(
    ("order", "world_size"),
    [
        ("before", 2),
        pytest.param("after", 2, marks=pytest.mark.full),
        pytest.param("before", 4, marks=pytest.mark.full),
        pytest.param("after", 4, marks=pytest.mark.full),
    ],
)
def test_blocks_that_are_fully_sharded(order: str, world_size: int, tmp_path: Path) -> None:
    for names, plans, recompute_ns, fits in (
        results := run_ranks(world_size, tmp_path, _sharded, order)
    ):
        assert names == []
        assert plans == results[0][1]
        assert all(time_ns > 0 for time_ns in recompute_ns)
        assert all(fits)


def _spread(rank: int) -> list[str]:
    messages = []
    whole_model = blocks()
    for block in whole_model.blocks:
        fully_shard(block)
    fully_shard(whole_model)
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    plan = {"1": ColwiseParallel(), "4": RowwiseParallel()}
    tensor_parallel = parallelize_module(blocks().blocks[0], mesh, plan)
    for model in (whole_model, tensor_parallel):
        autockpt.optimize(model, "85%", **OPTIONS)
        try:
            model(batch(rank, 0))
        except autockpt.CaptureError as error:
            messages.append(str(error))
        # The model is as it was.
        model(batch(0, 0)).square().mean().backward()
    return messages


@pytest.mark.row("models spread over ranks", "a limitation: CaptureError, and eager trains on")
def test_models_spread_over_ranks_are_refused_with_advice(tmp_path: Path) -> None:
    for messages in run_ranks(2, tmp_path, _spread):
        assert len(messages) == 2
        assert all("DTensor" in m and "optimize each block" in m for m in messages)
