"""Data parallelism under torchrun: DistributedDataParallel, or blocks under `fully_shard` (FSDP2).

torchrun --nproc-per-node 2 examples/distributed.py
torchrun --nproc-per-node 2 examples/distributed.py --shard
"""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import autockpt


class Network(nn.Module):
    """Blocks with a head."""

    def __init__(self, num_blocks: int, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                nn.GELU(),
                nn.Linear(4 * width, width),
            )
            for _ in range(num_blocks)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        logits: torch.Tensor = self.head(x)
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="75%")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--shard", action="store_true", help="blocks under fully_shard")
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    rank = dist.get_rank()
    if device == "cuda":
        torch.cuda.set_device(rank % torch.cuda.device_count())
    torch.manual_seed(0)
    network = Network(num_blocks=4, width=64).to(device)
    if options.shard:
        # Each block has a budget of its own. Optimizer state is sharded, so it is left out.
        for block in network.blocks:
            fully_shard(autockpt.optimize(block, options.budget, optimizer="sgd"))
        model: nn.Module = network
    else:
        autockpt.optimize(network, options.budget, optimizer="adamw")
        model = DistributedDataParallel(network)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    torch.manual_seed(rank)  # every rank has a batch of its own
    for step in range(options.steps):
        x = torch.randn(1024, 64, device=device)
        labels = torch.randint(10, (1024,), device=device)
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rank == 0:
            print(f"step {step + 1}  loss {loss.item():.4f}")
    planned = network.blocks[0] if options.shard else network
    if rank == 0 and (plan := autockpt.get_plan(planned)):
        print(f"planned {autockpt.format_bytes(plan.predicted_peak_bytes)}, {plan.rung}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
