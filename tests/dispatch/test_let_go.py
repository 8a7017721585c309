"""What your loop lets go of is freed at once: neither plans nor handled errors keep it alive."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import autockpt
from autockpt.dispatch.lookup import optimized_forward


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """What is found to be freed here was freed because nothing referred to it."""
    gc.disable()
    yield
    gc.enable()


class Hidden(nn.Module):
    """Returns a loss and the hidden states of all blocks, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
            for _ in range(4)
        )
        self.head = nn.Linear(64, 500)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, object]:
        hidden = [x]
        for block in self.blocks:
            hidden.append(hidden[-1] + block(hidden[-1]))
        logits = self.head(hidden[-1])
        loss = nn.functional.cross_entropy(logits, y)
        return {"loss": loss, "logits": logits, "hidden": hidden[1:]}


def _batch(batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch_size, 64), torch.randint(0, 500, (batch_size,))


def _accumulate(model: nn.Module, steps: int, batch_size: int, *, keeps: bool) -> None:
    for _ in range(steps):
        model.zero_grad()
        for _ in range(2):
            output = model(*_batch(batch_size))
            kept = output if keeps else None
            loss = output["loss"]
            del output
            loss.backward()
            del kept


def test_an_output_that_only_a_graph_keeps_is_not_kept_by_the_loop() -> None:
    """The second piece of a graph saves what the first returns. It was taken for an output that
    the loop keeps: a warning said so, and the plan recomputed three times as much."""
    torch.manual_seed(0)
    model = Hidden()
    autockpt.optimize(model, "75%", optimizer="sgd", method="greedy")
    _accumulate(model, 2, 256, keeps=False)
    plan = autockpt.get_plan(model)
    assert plan.outputs_bytes == 4
    num_plans = optimized_forward(model).num_plans

    with pytest.warns(UserWarning, match="keeps since the last step"):
        _accumulate(model, 2, 256, keeps=True)
    assert optimized_forward(model).num_plans == num_plans + 1
    assert autockpt.get_plan(model).outputs_bytes > 4


@pytest.mark.usefixtures("no_garbage_collection")
def test_a_rung_that_failed_keeps_no_output_alive() -> None:
    """The errors of rungs that failed were in a cycle with the frames that they had passed, and
    these held the output of the call until Python collected garbage."""

    class Branches(Hidden):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, object]:
            return super().forward(x * 2 if x.sum() > -1e9 else x, y)

    model = Branches()
    autockpt.optimize(model, "95%", optimizer="sgd", method="greedy")
    with pytest.raises(ValueError, match="no number") as caught:  # noqa: PT012
        try:
            int("no number")
        except ValueError:
            # Planned while another exception is handled, which keeps its traceback.
            with pytest.warns(UserWarning, match="falls back"):
                output = model(*_batch(64))
            raise
    assert caught.traceback[-1].name == test_a_rung_that_failed_keeps_no_output_alive.__name__
    logits = weakref.ref(output["logits"])
    loss = output["loss"]
    loss.backward()
    del output, loss
    assert logits() is None
    assert autockpt.get_plan(model).rung != "whole"


@pytest.mark.usefixtures("no_garbage_collection")
def test_a_refusal_keeps_no_input_alive() -> None:
    """The error was kept as it was raised, to be raised again: its traceback leads to your loop,
    which held a batch for as long as the model."""
    model = Hidden()
    autockpt.optimize(model, "1 kB", optimizer="sgd", method="greedy")

    def step() -> weakref.ref[torch.Tensor]:
        x, y = _batch(64)
        with pytest.raises(autockpt.BudgetError):
            model(x, y)
        return weakref.ref(x)

    assert step()() is None
    assert step()() is None


def test_a_graph_that_is_freed_already_is_not_asked_for_what_it_has_saved() -> None:
    """The discriminator of a GAN trains on samples whose own graph has run its backward."""
    torch.manual_seed(0)
    generator, critic = (
        nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.GELU()) for _ in range(4)))
        for _ in range(2)
    )
    for model in (generator, critic):
        autockpt.optimize(model, "90%", optimizer="sgd", method="greedy")
    for _ in range(3):
        generator.zero_grad()
        critic.zero_grad()
        sample = generator(torch.randn(64, 32))
        sample.square().mean().backward()
        critic(sample).mean().backward(inputs=list(critic.parameters()))
