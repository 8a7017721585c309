"""Train a GPT-2 within a memory budget: the one line that autockpt adds to a training loop.

python examples/train_gpt2.py --budget 60%
"""

from __future__ import annotations

import argparse

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import autockpt
from autockpt.budget import format_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="60%", help='"8GB", "8GiB", "60%%" of the eager peak')
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--layers", type=int, default=12)
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=1024, n_positions=256, n_embd=192, n_layer=options.layers, n_head=6
    )
    model = GPT2LMHeadModel(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)

    model = autockpt.optimize(model, options.budget, optimizer=optimizer)

    for step in range(options.steps):
        ids = torch.randint(config.vocab_size, (4, config.n_positions), device=device)
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step + 1:3d}  loss {loss.item():.4f}")
        if step == 0 and (plan := autockpt.get_plan(model)):
            print(
                f"planned {format_bytes(plan.predicted_peak_bytes)} instead of "
                f"{format_bytes(plan.baseline_peak_bytes)}, for +{plan.overhead:.1%} of the step"
            )


if __name__ == "__main__":
    main()
