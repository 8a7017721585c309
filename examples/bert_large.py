"""BERT-large with autocast and GradScaler, at batch 8 and 16, within one budget.

python examples/bert_large.py --budget 6.5GB            # on a GPU
python examples/bert_large.py --small --budget 60%      # a small BERT, on a CPU
"""

from __future__ import annotations

import argparse

import torch
from transformers import BertConfig, BertForMaskedLM

import autockpt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="6.5GB")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.bfloat16
    length = 64 if options.small else 512
    config = BertConfig(
        num_hidden_layers=24, hidden_size=1024, num_attention_heads=16, intermediate_size=4096
    )
    if options.small:
        config = BertConfig(
            vocab_size=512, num_hidden_layers=4, hidden_size=128, num_attention_heads=4,
            intermediate_size=512,
        )  # fmt: skip
    for batch in options.batches:
        torch.manual_seed(0)
        model = BertForMaskedLM(config).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        scaler = torch.amp.GradScaler(device, enabled=dtype is torch.float16)
        autockpt.optimize(model, options.budget, optimizer=optimizer)
        for step in range(options.steps):
            ids = torch.randint(config.vocab_size, (batch, length), device=device)
            with torch.autocast(device, dtype):
                loss = model(input_ids=ids, labels=ids).loss
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            print(f"batch {batch}  step {step + 1}  loss {loss.item():.4f}")
        plan = autockpt.get_plan(model)
        assert plan is not None
        print(
            f"batch {batch}: peak {autockpt.format_bytes(plan.predicted_peak_bytes)} instead of "
            f"{autockpt.format_bytes(plan.baseline_peak_bytes)}, +{plan.overhead:.1%} time"
        )


if __name__ == "__main__":
    main()
