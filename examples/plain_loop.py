"""A plain training loop, and the one line that keeps it in a budget.

python examples/plain_loop.py --budget 70%
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

import autockpt


def build_model(width: int = 128, num_layers: int = 8) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(num_layers):
        layers += [nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(0.1)]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="70%", help='"8GB", "8GiB", "60%%" of the eager peak')
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = build_model().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    # The loss of 512 x 10 logits is small. If yours is large, pass loss_fn too, so that it counts.
    model = autockpt.optimize(model, options.budget, optimizer=optimizer)

    for step in range(options.steps):
        x = torch.randn(512, 128, device=device)
        labels = torch.randint(10, (512,), device=device)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        print(f"step {step + 1}  loss {loss.item():.4f}")
    print(autockpt.get_plan(model))


if __name__ == "__main__":
    main()
