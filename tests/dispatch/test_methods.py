"""Methods beside the forward: planned like it, in plain loops and under Lightning's Trainer."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import pytorch_lightning
import torch
from loops import Blocks, batches, peak_bytes, train
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autockpt
from autockpt.dispatch.lookup import optimized_methods
from autockpt.dispatch.methods import Counters

(X,) = batches(1)


class TwoParts(nn.Module):
    """Parts of which none has all parameters, called by a method beside the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Blocks(num_blocks=2), Blocks(num_blocks=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, Any]:
        loss = (self.decoder(self.encoder(batch["x"])) - batch["y"]).square().mean()
        return {"loss": loss, "batch_idx": batch_idx}


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> torch.Tensor:
    optimizer.zero_grad()
    loss = model.training_step({"x": X, "y": X.flip(0)}, batch_idx=number)["loss"]
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        model(X)
    return loss


def test_a_method_is_planned_from_its_first_call() -> None:
    """Two parts called one after the other were never planned: none has all the parameters."""
    trained = train(TwoParts(), _step, budget="75%", methods=("training_step",))
    assert trained.is_same
    model = trained.model
    plan = autockpt.get_plan(model)
    assert plan.rung == "whole"
    assert plan.recompute_ns > 0
    by_name = {each.name: each.num_plans for each in optimized_methods(model)}
    # One for the first step, at most one for outputs that the loop frees; none for each index.
    assert by_name["forward"] == 0
    assert by_name["training_step"] <= 2
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    model.zero_grad()
    peak = peak_bytes(model, [X, X.flip(0)], lambda: _step(model, optimizer, 9))
    assert peak <= plan.budget_bytes
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert autockpt.get_plan(copied) == plan
        assert copied.training_step({"x": X, "y": X}, 3)["loss"].requires_grad
    autockpt.restore(model)
    assert not {"forward", "training_step"} & model.__dict__.keys()
    assert autockpt.get_plan(model) is None


def test_sample_inputs_are_for_the_first_method() -> None:
    inputs = {"x": X, "y": X}
    model = autockpt.optimize(
        TwoParts(), "75%", sample_args=(inputs, 0), methods=("training_step",), method="greedy"
    )
    plan = autockpt.get_plan(model)
    assert plan is not None
    model.training_step(inputs, 1)["loss"].backward()
    assert autockpt.get_plan(model) is plan
    with pytest.raises(TypeError, match="do not fit the model's training_step"):
        autockpt.optimize(model, "75%", sample_args=(X, 0, 1), methods=("training_step",))
    # The optimized model is as it was after an error, and forgets methods that are not named.
    assert autockpt.get_plan(model) is plan
    autockpt.optimize(model, "75%")
    assert [each.name for each in optimized_methods(model)] == ["forward"]


def test_a_method_that_was_not_named_is_told_with_its_name() -> None:
    model = autockpt.optimize(TwoParts(), "75%", optimizer="sgd")
    with pytest.warns(UserWarning, match=r'another method was.*methods=\("training_step",\)\)\.$'):
        _step(model, torch.optim.SGD(model.parameters(), lr=1e-2), 0)


def test_a_part_beside_a_planned_forward_is_told() -> None:
    """The plan of the forward is followed, but what runs outside of it has no plan."""
    model = autockpt.optimize(TwoParts(), "90%", optimizer="sgd", method="greedy")
    with pytest.warns(UserWarning, match="a part of that step ran outside of the forward"):
        model.decoder(model(X)).sum().backward()
    assert autockpt.get_plan(model) is not None


@pytest.mark.parametrize(
    ("methods", "error", "message"),
    [
        ("training_step", TypeError, r'must be a tuple of names, such as \("training_step",\)'),
        (("train_step",), ValueError, "TwoParts does not define. Did you mean 'training_step'"),
        (("encoder",), ValueError, "TwoParts does not define"),
        (("forward",), ValueError, "always planned"),
        (("zero_grad",), ValueError, "method of every torch.nn.Module"),
    ],
)
def test_wrong_names_are_errors(methods: Any, error: type[Exception], message: str) -> None:
    model = TwoParts()
    with pytest.raises(error, match=message):
        autockpt.optimize(model, "75%", methods=methods)
    assert "forward" not in model.__dict__


def test_counters_choose_no_plan_and_other_integers_do() -> None:
    def method(batch: Any, batch_idx: int, count: int, *, size: int) -> None: ...

    counters = Counters(method)
    assert counters.hidden((X, 57, 0), {"size": 3}) == ((X, 57.0, 0.0), {"size": 3})
    # The index goes on, the count begins anew, and a size is none of these.
    assert counters.hidden((X, 90, 1), {"size": 4}) == ((X, 90.0, 1.0), {"size": 4})
    assert counters.hidden((X, 0, 0), {"size": 1}) == ((X, 0.0, 0.0), {"size": 1})
    # A count that jumps is a number like any other from then on.
    assert counters.hidden((X, 1, 5), {"size": 1})[0][2] == 5
    assert counters.hidden((X, 2, 6), {"size": 1})[0][2] == 6


class Lit(pytorch_lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Blocks(num_blocks=2), Blocks(num_blocks=2)
        self.seen: list[Any] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        x, y = batch
        z = self(x)
        self.log("size of z", z.detach().abs().mean(), on_step=True, on_epoch=True)
        loss = (self.decoder(z) - y).square().mean()
        self.log_dict({"loss": loss, "twice": 2 * loss}, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("validation", self.decoder(self.encoder(batch[0])).sum())

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        metrics = {name: value.item() for name, value in self.trainer.callback_metrics.items()}
        self.seen.append((outputs["loss"].item(), metrics))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-2)


def _fit(model: Lit) -> Lit:
    torch.manual_seed(3)
    loader = DataLoader(TensorDataset(torch.cat([X, X / 2]), torch.cat([X, X])), batch_size=256)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(pytorch_lightning|torch\.jit|lightning)")
        trainer = pytorch_lightning.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(model, loader, loader)
    return model


@pytest.mark.row("a LightningModule", "training_step calls several parts of it and logs")
def test_a_lightning_module_needs_one_line() -> None:
    """What is logged is logged once for a step, although planning runs the step several times."""
    eager = Lit()
    model = copy.deepcopy(eager)
    autockpt.optimize(model, "75%", optimizer="sgd", method="greedy")
    _fit(eager)
    _fit(model)
    assert len(eager.seen) == 4
    assert eager.seen == model.seen
    assert all(map(torch.equal, eager.parameters(), model.parameters()))
    plan = autockpt.get_plan(model)
    assert plan.recompute_ns > 0
    assert plan.measured_peak_bytes <= plan.budget_bytes
    autockpt.restore(model)
    assert not {"forward", "training_step", "log", "log_dict"} & model.__dict__.keys()


def test_a_training_step_with_its_own_backward_is_left_alone() -> None:
    """With manual optimization, trying a step would step the optimizer."""
    model = Lit()
    model.automatic_optimization = False
    assert [each.name for each in optimized_methods(autockpt.optimize(model, "75%"))] == ["forward"]
    model = autockpt.optimize(Lit(), "75%", methods=())
    assert [each.name for each in optimized_methods(model)] == ["forward"]
