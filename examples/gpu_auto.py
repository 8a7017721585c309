"""`budget="auto"` on a device that is nearly full; part of `gpu_check.py`."""

from __future__ import annotations

import argparse
from typing import Any

import torch

import autockpt
from autockpt import zoo
from autockpt.experiments.side_by_side import Trainer


def check_auto(
    name: str, options: argparse.Namespace, wanted_bytes: int, eager_peak_bytes: int
) -> dict[str, Any]:
    """Fills the device until about ``wanted_bytes`` are left for a step, and trains there.

    Args:
        name: A model of the zoo.
        options: See `gpu_check.py`.
        wanted_bytes: The budget that "auto" is to come to, more or less.
        eager_peak_bytes: What the eager step needs, which is more.
    """
    trainer = Trainer(zoo.build(name, options.size, device=options.device))
    example = trainer.example

    def optimize() -> None:
        autockpt.optimize(
            trainer.model,
            "auto",
            sample_args=example.args,
            sample_kwargs=dict(example.kwargs),
            loss_fn=example.loss_fn,
            optimizer=trainer.optimizer,
            time_limit_s=options.time_limit,
        )

    if options.device == "cpu":
        try:
            optimize()
        except ValueError as error:
            return {"error_on_cpu": str(error), "ok": "give a number" in str(error)}
        return {"ok": False}
    torch.cuda.empty_cache()
    free_bytes, total_bytes = torch.cuda.mem_get_info(options.device)
    margin_bytes = total_bytes // 20
    ballast_bytes = free_bytes + trainer.resting_bytes() - margin_bytes - wanted_bytes
    ballast = torch.empty(max(0, ballast_bytes), dtype=torch.uint8, device=options.device)
    try:
        optimize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(options.device)
        losses = [trainer.step().item() for _ in range(options.steps)]
    except (autockpt.AutockptError, torch.OutOfMemoryError) as error:
        return {"error": f"{type(error).__name__}: {error}", "ok": False}
    plan = autockpt.get_plan(trainer.model)
    assert plan is not None
    reserved_bytes = torch.cuda.max_memory_reserved(options.device) - ballast.nbytes
    return {
        "wanted_bytes": wanted_bytes,
        "budget_bytes": plan.budget_bytes,
        "eager_peak_bytes": eager_peak_bytes,
        "measured_peak_bytes": plan.measured_peak_bytes,
        "max_memory_reserved_bytes": reserved_bytes,
        "loss": losses[-1],
        # Within a block of rounding, and what the optimizer's first step leaves.
        "ok": abs(plan.budget_bytes - wanted_bytes) < 0.1 * total_bytes,
    }
