"""What memory costs: budgets against overhead, with the proven bound, drawn and saved.

python examples/pareto_curve.py --output curve.svg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import autockpt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--output", type=Path, help="a .png or .svg; needs matplotlib")
    options = parser.parse_args()

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=512, n_positions=64, n_embd=128, n_layer=options.layers, n_head=4
    )
    ids = torch.randint(config.vocab_size, (4, config.n_positions))
    curve = autockpt.pareto(
        GPT2LMHeadModel(config),
        options.points,
        sample_kwargs={"input_ids": ids, "labels": ids},
        optimizer="adamw",
    )
    print(curve)
    if options.output is not None:
        curve.save_plot(options.output)


if __name__ == "__main__":
    main()
