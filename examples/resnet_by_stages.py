"""A ResNet-50 whose stages are checkpointed by hand, beside a plan for the same peak.

python examples/resnet_by_stages.py

The stages have BatchNorm, which plain checkpointing updates twice a step.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import ResNetConfig, ResNetForImageClassification

import autockpt
from autockpt.verify.peak import measure_peak_bytes


class Checkpointed(nn.Module):
    """Runs a stage under `torch.utils.checkpoint`."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, *args: Any) -> Any:
        return checkpoint(self.stage, *args, use_reentrant=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64, help="pixels of a side")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--small", action="store_true", help="two layers a stage, thin")
    options = parser.parse_args()
    torch.manual_seed(0)
    config = ResNetConfig()
    if options.small:
        config = ResNetConfig(
            embedding_size=16, hidden_sizes=[32, 64, 64, 64], depths=[2, 2, 2, 2], num_labels=10
        )
    eager = ResNetForImageClassification(config)
    batch = {
        "pixel_values": torch.randn(options.batch, 3, options.size, options.size),
        "labels": torch.randint(config.num_labels, (options.batch,)),
    }

    def step(model: nn.Module) -> None:
        model.zero_grad(set_to_none=True)
        model(**batch).loss.backward()

    by_hand = copy.deepcopy(eager)
    stages = by_hand.resnet.encoder.stages
    for i, stage in enumerate(stages):
        stages[i] = Checkpointed(stage)
    planned = copy.deepcopy(eager)
    resting_bytes = sum(t.nbytes for t in (*eager.parameters(), *eager.buffers(), *batch.values()))
    stages_bytes = measure_peak_bytes(lambda: step(by_hand))
    autockpt.optimize(planned, resting_bytes + stages_bytes, optimizer="sgd", sample_kwargs=batch)
    for model in (eager, planned):
        step(model)
    for name, model in (("stages by hand", by_hand), ("autockpt", planned)):
        pairs = list(zip(eager.buffers(), model.buffers(), strict=True))
        differ = sum(not torch.equal(a, b) for a, b in pairs)
        print(f"{name}: {differ} of {len(pairs)} buffers differ from eager's after one step")
    eager.zero_grad(set_to_none=True)
    eager_bytes = measure_peak_bytes(lambda: step(eager))
    for name, model in (("eager", eager), ("stages by hand", by_hand), ("autockpt", planned)):
        model.zero_grad(set_to_none=True)
        peak_bytes = measure_peak_bytes(lambda: step(model))  # noqa: B023 - called at once
        print(f"{name}: peak {autockpt.format_bytes(peak_bytes)}, {peak_bytes / eager_bytes:.0%}")
    print(autockpt.get_plan(planned))


if __name__ == "__main__":
    main()
