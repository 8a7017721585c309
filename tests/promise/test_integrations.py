"""One line added to a program of a trainer: everything that comes of it stays the same."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from training import differing, state_of

import autockpt

# Gradients of so small a model are much of it, and an accumulating step holds them twice.
OPTIONS: dict[str, Any] = {"budget": "88%", "optimizer": "adamw", "method": "greedy"}


class Samples(Dataset):
    """A few samples, the same every time."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        return {
            "x": torch.randn(32, 32, generator=generator),
            "labels": torch.randn(32, generator=generator),
        }


class Regression(nn.Module):
    """Blocks with dropout, a BatchNorm, and a tied layer; returns its loss, as trainers like it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.norm = nn.BatchNorm1d(32)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        for layer in (*self.layers, self.layers[0]):
            h = layer(x)
            # GPT-2's GELU: autocast gives a power in float32.
            x = x + self.drop(0.5 * h * (1 + torch.tanh(0.8 * (h + 0.04 * torch.pow(h, 3)))))
        x = self.norm(x.transpose(1, 2)).mean(1)
        return {"loss": nn.functional.mse_loss(x, labels), "logits": x}


def regression(*, optimized: bool) -> nn.Module:
    torch.manual_seed(0)
    model = Regression()
    return autockpt.optimize(model, **OPTIONS) if optimized else model


def assert_recomputes(model: nn.Module) -> None:
    plan = autockpt.get_plan(model)
    assert plan is not None
    assert plan.recompute_ns > 0
    assert plan.measured_peak_bytes is not None
    assert plan.measured_peak_bytes <= plan.budget_bytes


@pytest.mark.row(
    "Hugging Face's Trainer", "MLP with BatchNorm, dropout, a tied layer; saved, resumed"
)
@pytest.mark.parametrize("bf16", [True, pytest.param(False, marks=pytest.mark.full)])
def test_trainer_of_transformers(bf16: bool, tmp_path: Path) -> None:
    """Accumulating, clipping, saving and resuming. Under bf16 the backward runs outside of the
    autocast block that accelerate puts around the forward; it was once traced as if inside, and
    gradients through a power were off in their last bits without a word.
    """
    from transformers import Trainer, TrainingArguments

    def train(model: nn.Module, folder: Path, num_steps: int, *, resume: bool) -> dict[str, Any]:
        arguments = TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            max_steps=num_steps,
            max_grad_norm=0.5,
            bf16=bf16,
            use_cpu=True,
            report_to=[],
            save_steps=2,
            logging_steps=1,
            disable_tqdm=True,
            seed=3,
            lr_scheduler_type="constant",
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=Samples())
        trainer.train(resume_from_checkpoint=resume)
        logs = [log for log in trainer.state.log_history if "loss" in log]
        assert len(logs) == num_steps
        losses = {f"loss {n}": torch.tensor(log["loss"]) for n, log in enumerate(logs)}
        norms = {f"norm {n}": torch.tensor(log["grad_norm"]) for n, log in enumerate(logs)}
        return losses | norms | state_of(model, trainer.optimizer)

    results = []
    for optimized in (False, True):
        folder = tmp_path / str(optimized)
        model = regression(optimized=optimized)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(accelerate|transformers)\.")
            first = train(model, folder, 2, resume=False)
            if optimized:
                assert_recomputes(model)
            # Another process: the model is built again, and its state read from the checkpoint.
            model = regression(optimized=optimized)
            results.append((first, train(model, folder, 3, resume=True)))
        if optimized:
            assert_recomputes(model)
    for expected, got in zip(*results, strict=True):
        assert differing(expected, got) == []


@pytest.mark.row("accelerate", "MLP with BatchNorm, dropout, a tied layer; saved, resumed")
@pytest.mark.parametrize("mixed_precision", ["bf16", pytest.param("no", marks=pytest.mark.full)])
def test_accelerate(mixed_precision: str, tmp_path: Path) -> None:
    """With mixed precision accelerate puts functions of its own around the forward: the plan was
    no longer found under them, and could not be taken back.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    def program(*, optimized: bool) -> list[dict[str, Any]]:
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(
            cpu=True, mixed_precision=mixed_precision, gradient_accumulation_steps=2
        )
        model = regression(optimized=optimized)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        loader = DataLoader(Samples(), batch_size=4)
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

        def epoch() -> dict[str, Any]:
            losses = {}
            for number, batch in enumerate(loader):
                with accelerator.accumulate(model):
                    loss = model(**batch)["loss"]
                    losses[f"loss {number}"] = loss.detach().clone()
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 0.5)
                    optimizer.step()
                    optimizer.zero_grad()
            return losses | state_of(model, optimizer)

        records = [epoch()]
        folder = str(tmp_path / f"{optimized}")
        accelerator.save_state(folder)
        records.append(epoch())
        accelerator.load_state(folder)
        records.append(epoch())
        if optimized:
            assert_recomputes(model)
            assert_recomputes(accelerator.unwrap_model(model))
            autockpt.restore(model)
            assert autockpt.get_plan(model) is None
            loss = model(**next(iter(loader)))["loss"]
            assert "CompiledFunctionBackward" not in str(loss.grad_fn.next_functions)
        return records

    for expected, got in zip(program(optimized=False), program(optimized=True), strict=True):
        assert differing(expected, got) == []


def _lightning_classifier(*, optimized: bool) -> Any:
    import pytorch_lightning

    class Classifier(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = regression(optimized=optimized)
            self.losses: list[torch.Tensor] = []

        def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
            loss = self.model(**batch)["loss"]
            self.losses.append(loss.detach().clone())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    return Classifier()


@pytest.mark.row("Lightning's Trainer", "MLP with BatchNorm, dropout, a tied layer; saved, resumed")
@pytest.mark.parametrize(
    "precision", ["bf16-mixed", pytest.param("32-true", marks=pytest.mark.full)]
)
def test_trainer_of_lightning(precision: str, tmp_path: Path) -> None:
    import pytorch_lightning

    def train(module: Any, folder: Path, num_steps: int, checkpoint: str | None) -> dict[str, Any]:
        torch.manual_seed(5)
        trainer = pytorch_lightning.Trainer(
            accelerator="cpu",
            precision=precision,
            max_steps=num_steps,
            accumulate_grad_batches=2,
            gradient_clip_val=0.5,
            default_root_dir=str(folder),
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
        )
        trainer.fit(module, DataLoader(Samples(), batch_size=4), ckpt_path=checkpoint)
        if checkpoint is None:
            trainer.save_checkpoint(folder / "middle.ckpt")
        losses = {f"loss {n}": loss for n, loss in enumerate(module.losses)}
        assert len(losses) >= 3
        return losses | state_of(module, trainer.optimizers[0])

    results = []
    for optimized in (False, True):
        folder = tmp_path / str(optimized)
        module = _lightning_classifier(optimized=optimized)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pytorch_lightning|torch\.jit|lightning)")
            first = train(module, folder, 2, None)
            if optimized:
                assert_recomputes(module.model)
            module = _lightning_classifier(optimized=optimized)
            second = train(module, folder, 4, str(folder / "middle.ckpt"))
        results.append((first, second))
    for expected, got in zip(*results, strict=True):
        assert differing(expected, got) == []
