"""Gradient accumulation: four micro-batches a step, without a second set of gradients.

python examples/accumulation.py --budget 70%
"""

from __future__ import annotations

import argparse

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import autockpt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="70%")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--micro-batches", type=int, default=4)
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=512, n_positions=64, n_embd=128, n_layer=options.layers, n_head=4
    )
    model = GPT2LMHeadModel(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    autockpt.optimize(model, options.budget, optimizer=optimizer)

    for step in range(options.steps):
        optimizer.zero_grad()
        total = 0.0
        for _ in range(options.micro_batches):
            ids = torch.randint(config.vocab_size, (4, config.n_positions), device=device)
            loss = model(input_ids=ids, labels=ids).loss / options.micro_batches
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        print(f"step {step + 1}  loss {total:.4f}")
    plan = autockpt.get_plan(model)
    assert plan is not None
    print(plan)


if __name__ == "__main__":
    main()
