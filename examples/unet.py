"""Train a small diffusion model: the UNet of diffusers predicts the noise in an image.

python examples/unet.py --budget 60%
"""

from __future__ import annotations

import argparse

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch.nn import functional

import autockpt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="60%")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--size", type=int, default=32, help="pixels of a side")
    parser.add_argument("--width", type=int, default=32)
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    width = options.width
    model = UNet2DModel(
        sample_size=options.size,
        block_out_channels=(width, 2 * width),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    ).to(device)
    scheduler = DDPMScheduler()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    autockpt.optimize(model, options.budget, optimizer=optimizer)

    for step in range(options.steps):
        images = torch.randn(4, 3, options.size, options.size, device=device)
        noise = torch.randn_like(images)
        times = torch.randint(len(scheduler.timesteps), (4,), device=device)
        noisy = scheduler.add_noise(images, noise, times)
        loss = functional.mse_loss(model(noisy, times).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step + 1}  loss {loss.item():.4f}")
    print(autockpt.get_plan(model))


if __name__ == "__main__":
    main()
