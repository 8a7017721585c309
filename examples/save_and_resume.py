"""Save a training run with torch.save, and resume it to the same bits.

python examples/save_and_resume.py
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import nn

import autockpt


def build(budget: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    layers: list[nn.Module] = []
    for _ in range(6):
        layers += [nn.Linear(64, 64), nn.GELU(), nn.Dropout(0.1)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return autockpt.optimize(model, budget, optimizer=optimizer), optimizer


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(512, 64, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="80%")
    options = parser.parse_args()

    torch.manual_seed(0)
    model, optimizer = build(options.budget)
    train(model, optimizer, range(3))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.pt"
        # The state dict has the names and tensors of the model, as without autockpt.
        torch.save(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "random": torch.get_rng_state(),
            },
            file,
        )
        train(model, optimizer, range(3, 6))

        torch.manual_seed(123)
        resumed, resumed_optimizer = build(options.budget)
        saved = torch.load(file)
    resumed.load_state_dict(saved["model"])
    resumed_optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["random"])
    train(resumed, resumed_optimizer, range(3, 6))
    same = all(map(torch.equal, model.parameters(), resumed.parameters()))
    print(f"resumed run equals the other bit for bit: {'yes' if same else 'no'}")


if __name__ == "__main__":
    main()
