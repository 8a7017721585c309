"""A LightningModule in its usual form: autockpt plans its training_step.

python examples/lightning_module.py --budget 70%
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autockpt


class Classifier(LightningModule):
    """A body, a head, and a loss in the training step."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(6):
            layers += [nn.Linear(width, width), nn.GELU(), nn.Dropout(0.1)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, 10)

    def training_step(self, batch: Any, batch_index: int) -> torch.Tensor:
        x, labels = batch
        loss = nn.functional.cross_entropy(self.head(self.body(x)), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="70%")
    options = parser.parse_args()

    torch.manual_seed(0)
    data = TensorDataset(torch.randn(2048, 64), torch.randint(10, (2048,)))
    model = autockpt.optimize(Classifier(), options.budget, optimizer="adamw")
    trainer = Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(model, DataLoader(data, batch_size=512))
    print(f"loss {trainer.callback_metrics['loss'].item():.4f}")
    print(autockpt.get_plan(model))


if __name__ == "__main__":
    main()
