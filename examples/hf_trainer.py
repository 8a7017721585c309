"""Hugging Face's Trainer with a model in a budget.

python examples/hf_trainer.py --budget 70%
"""

from __future__ import annotations

import argparse
import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import autockpt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="70%")
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=512, num_hidden_layers=4, hidden_size=128, num_attention_heads=4,
        intermediate_size=512,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    model = autockpt.optimize(model, options.budget, optimizer="adamw")
    data = [
        {"input_ids": torch.randint(512, (64,)), "labels": torch.randint(2, ())} for _ in range(64)
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                folder,
                max_steps=options.steps,
                per_device_train_batch_size=8,
                logging_steps=1,
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=data,
        )
        trainer.train()
    print(autockpt.get_plan(model))


if __name__ == "__main__":
    main()
