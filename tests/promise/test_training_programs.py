"""What people train with, each program with and without the one line: the same to the bit."""

from __future__ import annotations

import copy
import threading
import warnings
from typing import Any

import pytest
import torch
from programs import OPTIONS, Convolutions, batch, blocks, compare, record, train
from torch import nn
from torch.utils.data import DataLoader
from training import assert_same_program

import autockpt


@pytest.fixture(params=["middle", pytest.param("small", marks=pytest.mark.full)])
def budget(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.row(
    "autocast with a GradScaler", "MLP; scales that overflow, clipping of unscaled gradients"
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_with_a_grad_scaler(dtype: torch.dtype, budget: str) -> None:
    def program(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**17, growth_interval=1)
        losses, scales = [], {}
        for step in range(4):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype):
                losses.append(model(x))
            scaler.scale(losses[-1]).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
            scales[f"scale {step}"] = torch.tensor(scaler.get_scale())
        return record(model, losses) | scales

    compare(blocks(), batch(), program, budget, lambda: torch.autocast("cpu", dtype))


@pytest.mark.full
@pytest.mark.row("bf16 and float64 parameters", "residual MLP with BatchNorm")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_parameters_of_other_types(dtype: torch.dtype, budget: str) -> None:
    compare(blocks().to(dtype), batch(dtype), budget=budget)


@pytest.mark.full
@pytest.mark.row("channels_last", "residual CNN")
def test_channels_last(budget: str) -> None:
    torch.manual_seed(0)
    model = Convolutions().to(memory_format=torch.channels_last)
    x = torch.randn(4, 8, 16, 16).to(memory_format=torch.channels_last)
    compare(model, x, budget=budget)


class Adapter(nn.Module):
    """A frozen layer and a product of two small matrices that is trained in its place."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(32, 4, bias=False)
        self.up = nn.Linear(4, 32, bias=False)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(self.drop(x)))


@pytest.mark.full
@pytest.mark.row("LoRA-like adapters", "residual MLP, momentum and clipping")
def test_adapters_on_a_frozen_model(budget: str) -> None:
    model = blocks()
    model.norm.requires_grad_(False)
    model.layers = nn.ModuleList(Adapter(layer) for layer in model.layers)
    compare(model, batch(), budget=budget)


def test_a_prompt_trained_through_a_frozen_network() -> None:
    """Soft prompts and textual inversion were refused with "the model does not train"."""
    torch.manual_seed(0)
    layers = (nn.Sequential(nn.Linear(32, 96), nn.GELU(), nn.Linear(96, 32)) for _ in range(4))
    model = nn.Sequential(*layers).train().requires_grad_(False)
    eager, prompt = copy.deepcopy(model), nn.Parameter(torch.randn(256, 32))

    def step(network: nn.Module) -> torch.Tensor:
        prompt.grad = None
        network(prompt).square().mean().backward()
        return prompt.grad

    expected = step(eager)
    optimizer = torch.optim.AdamW([prompt])  # none of its parameters is the network's
    autockpt.optimize(
        model, "80%", optimizer=optimizer, loss_fn=lambda y: y.square().mean(), method="greedy"
    )
    assert torch.equal(step(model), expected)
    plan = autockpt.get_plan(model)
    assert plan.rung == "whole"
    assert plan.recompute_ns > 0
    assert plan.measured_peak_bytes == plan.predicted_peak_bytes <= plan.budget_bytes

    class Reading(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.sum().item() < 1e9 else x

    lower = Reading(*copy.deepcopy(eager)).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        autockpt.optimize(
            lower, "80%", optimizer="sgd", loss_fn=lambda y: y.square().mean(), method="greedy"
        )
        assert torch.equal(step(lower), expected)
    plan = autockpt.get_plan(lower)
    assert plan.rung == "checkpoint"
    assert plan.measured_peak_bytes <= plan.budget_bytes


@pytest.mark.row("tied, frozen and unused parameters", "frozen and thawed on the way")
def test_parameters_frozen_and_thawed_on_the_way() -> None:
    """Each has a plan of its own: the first one's graphs do not know the other's."""

    def program(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
        first = train(model, x, 2)
        model.zero_grad()
        for layer in model.layers[:2]:
            layer.requires_grad_(False)
        second = train(model, x, 2)
        model.zero_grad()
        model.requires_grad_(True)
        third = train(model, x, 2)
        return {f"{n} {k}": v for n, r in enumerate((first, second, third)) for k, v in r.items()}

    # A percentage is of the largest step: with frozen layers the model fits as it is.
    model = blocks()
    optimized = copy.deepcopy(model)
    autockpt.optimize(optimized, "85%", **OPTIONS)
    assert_same_program(model, optimized, lambda m: program(m, batch()))


@pytest.mark.row("deepcopy, pickle, torch.save", "an averaged copy trained beside the model")
def test_a_moving_average_of_the_model() -> None:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    def program(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            losses.append(model(x))
            losses[-1].backward()
            optimizer.step()
            average.update_parameters(model)
        average.eval()
        with torch.no_grad():
            losses.append(average(x))
        found = {f"average {k}": v.clone() for k, v in average.state_dict().items()}
        return record(model, losses) | found

    compare(blocks(), batch(), program)


@pytest.mark.row("threads", "planned in another; others compute meanwhile; loader workers")
def test_planning_and_training_in_another_thread() -> None:
    def program(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
        results: list[Any] = []

        def run() -> None:
            try:
                results.append(train(model, x))
            except BaseException as error:  # noqa: BLE001 - raised again in the main thread
                results.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if isinstance(results[0], BaseException):
            raise results[0]
        return results[0]

    compare(blocks(), batch(), program)


@pytest.mark.row("threads", "planned in another; others compute meanwhile; loader workers")
def test_other_threads_compute_while_the_model_is_planned() -> None:
    """Tracing swaps kernels for a while; what other threads compute meanwhile stays the same."""
    other = nn.Sequential(nn.Linear(32, 32), nn.Dropout(0.0), nn.Softmax(-1), nn.Linear(32, 4))
    x = batch()
    stop = threading.Event()
    wrong: list[str] = []

    def gradient() -> torch.Tensor:
        twin = copy.deepcopy(other)
        out = nn.functional.interpolate(twin(x)[None], scale_factor=2.0)
        out.square().mean().backward()
        return torch.cat([p.grad.flatten() for p in twin.parameters()])

    expected = gradient()

    def compute() -> None:
        while not stop.is_set():
            try:
                if not torch.equal(gradient(), expected):
                    wrong.append("differs")
            except BaseException as error:  # noqa: BLE001 - fails the test in the main thread
                wrong.append(repr(error))
                return

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        compare(blocks(), x)
    finally:
        stop.set()
        thread.join()
    assert wrong == []


def _doubled(sample: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(sample) * 2


@pytest.mark.row("threads", "planned in another; others compute meanwhile; loader workers")
def test_data_loader_workers() -> None:
    def program(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        for part in DataLoader(x, batch_size=256, num_workers=1, collate_fn=_doubled):
            optimizer.zero_grad()
            losses.append(model(part))
            losses[-1].backward()
            optimizer.step()
        return record(model, losses)

    compare(blocks(), batch(), program)
