"""A method of your own beside the default one: it returns a schedule, autockpt does the rest.

python examples/own_method.py
autockpt plan zoo:sequential --budget 70% --method examples/own_method.py:cheapest_simple
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

import autockpt
from autockpt_solvers import Problem, Schedule, solve


def cheapest_simple(problem: Problem, *, time_limit_s: float, seed: int) -> Schedule | None:
    """Asks three simple methods and returns the cheapest plan that fits; None if none does."""
    names = ("sqrt", "uniform", "full")
    found = [solve(problem, method=n, time_limit_s=time_limit_s / len(names)) for n in names]
    fitting = [each for each in found if each.schedule is not None]
    cheapest = min(fitting, key=lambda each: each.recompute_ns, default=None)
    return None if cheapest is None else cheapest.schedule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="70%")
    options = parser.parse_args()

    torch.manual_seed(0)
    layers = [layer for _ in range(8) for layer in (nn.Linear(64, 64), nn.GELU())]
    model, x = nn.Sequential(*layers), torch.randn(1024, 64)
    for name, method in (("own", cheapest_simple), ("default", "auto")):
        plan = autockpt.plan(
            model,
            options.budget,
            sample_args=(x,),
            loss_fn=lambda y: y.square().mean(),
            optimizer="sgd",
            method=method,
        )
        peak = autockpt.format_bytes(plan.predicted_peak_bytes)
        print(f"{name}: peak {peak}, +{plan.overhead:.1%}, at least +{plan.lower_bound:.1%}")


if __name__ == "__main__":
    main()
