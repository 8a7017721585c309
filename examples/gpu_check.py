"""Hold every promise of autockpt against a real device, and write down what was measured.

    python examples/gpu_check.py --out results

First BERT-large at 6.5 GB, beside eager PyTorch and beside every layer checkpointed, and with twice
the batch (`gpu_seed.py`). Then for each model and budget: the optimized training is compared with
the eager one to the bit, the measured peak with the predicted one, with what was estimated from the
device's data sheet and with the budget, and the step times with each other. Both are trained again
in processes of their own under a hard memory limit of the budget: there eager is to run out of
memory, and the optimized model is to train; and a plan for more memory than the process may have is
to be made tighter (`gpu_limits.py`). At the end `budget="auto"`, on a device that is nearly full
(`gpu_auto.py`). Results go to `results.json` and `results.md` as they come, so that a run cut short
has not been for nothing.

On a machine without CUDA the same is done in small on the CPU; the limit is then one on the
process's data segment, which Linux enforces.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import datetime as dt
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_auto import check_auto
from gpu_limits import check_guard, check_limit, optimize, train_guarded, train_limited
from gpu_report import markdown
from gpu_seed import check_seed, estimated_device, fresh

import autockpt
from autockpt import zoo
from autockpt.experiments.side_by_side import Trainer, compare, time_in_turns

_MODELS = {"full": ("gpt2", "bert-large", "resnet50", "llama"), "small": ("gpt2", "resnet50")}
_PARTS = ("seed", "models", "auto")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    on_cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if on_cuda else "cpu")
    parser.add_argument("--size", choices=("small", "full"), default="full" if on_cuda else "small")
    parser.add_argument("--models", help="names of the zoo, separated by commas")
    parser.add_argument("--shares", default="0.75,0.5,0.25", help="of what lies between")
    parser.add_argument("--limit-share", type=float, default=0.5, help="share for the hard limit")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=10, help="pairs of timed steps")
    parser.add_argument("--time-limit", type=float, default=10.0, help="of the solver, in seconds")
    parser.add_argument("--deadline", type=float, default=540.0, help="start nothing after, in s")
    parser.add_argument("--out", type=Path, default=Path("gpu_check_results"))
    parser.add_argument("--parts", default=",".join(_PARTS), help="what to do, in this order")
    parser.add_argument("--limited", help=argparse.SUPPRESS)
    parser.add_argument("--guarded", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    options = parse_options()
    if options.limited:
        print(json.dumps(train_limited(**json.loads(options.limited))))
        return 0
    if options.guarded:
        print(json.dumps(train_guarded(**json.loads(options.guarded))))
        return 0
    started = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    models = options.models.split(",") if options.models else _MODELS[options.size]
    results: dict[str, Any] = {"machine": machine(options), "models": []}

    def out_of_time() -> bool:
        return bool(time.monotonic() - started > options.deadline)

    parts = options.parts.split(",")
    if "seed" in parts:
        results["seed"] = check_seed(options, out_of_time)
        write(results, options.out)
    for name in models if "models" in parts else ():
        if out_of_time():
            results["models"].append({"model": name, "skipped": "no time left"})
        else:
            results["models"].append(check_model(name, options, out_of_time))
        write(results, options.out)
    if "auto" in parts:
        results["auto"] = auto(results["models"], options, out_of_time)
    results["seconds"] = round(time.monotonic() - started, 1)
    results["ok"] = all(is_ok(model) for model in results["models"])
    results["ok"] &= "seed" not in results or is_seed_ok(results["seed"])
    results["ok"] &= results.get("auto", {}).get("ok", True)
    write(results, options.out)
    print(markdown(results))
    return 0 if results["ok"] else 1


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """What the numbers were measured on."""
    said = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "size": options.size,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "autockpt": autockpt.__version__,
    }
    if options.device != "cpu":
        properties = torch.cuda.get_device_properties(options.device)
        free_bytes, total_bytes = torch.cuda.mem_get_info(options.device)
        said["device"] = properties.name
        said["cuda"] = torch.version.cuda
        said["memory_bytes"] = total_bytes
        # What is gone before the first tensor: the context, and whoever else is on the device.
        said["context_bytes"] = total_bytes - free_bytes
    return said


def auto(
    models: list[dict[str, Any]], options: argparse.Namespace, out_of_time: Callable[[], bool]
) -> dict[str, Any]:
    """Trains the first model at the budget of a row where it needs a plan, as what is left."""
    for model in models:
        for row in model.get("budgets", ()):
            if "budget_bytes" in row and "error" not in row and not out_of_time():
                return check_auto(
                    model["model"], options, row["budget_bytes"], model["eager_peak_bytes"]
                )
    return {"skipped": "no model was planned, or no time left"}


def check_model(
    name: str, options: argparse.Namespace, out_of_time: Callable[[], bool]
) -> dict[str, Any]:
    """All checks of one model."""
    print(f"{name}: eager ...", file=sys.stderr, flush=True)
    eager = Trainer(zoo.build(name, options.size, device=options.device))
    again = copied(eager)
    expected = eager.train(options.steps)
    # Some kernels do not repeat themselves; then nothing can be equal to eager, not even eager.
    control = compare(expected, again.train(options.steps))
    del again
    eager_peak_bytes = eager.peak_bytes()
    resting_bytes = eager.resting_bytes()
    gradients_bytes = sum(
        p.grad.numel() * p.grad.element_size()
        for p in eager.model.parameters()
        if p.grad is not None
    )
    model: dict[str, Any] = {
        "model": name,
        "eager_peak_bytes": eager_peak_bytes,
        "eager_repeats_itself": control.bit_equal,
        "budgets": [],
    }
    # Nothing of it may stand beside what is measured next.
    del eager, expected
    fresh(options.device)
    for share in map(float, options.shares.split(",")):
        if out_of_time():
            model["budgets"].append({"share": share, "skipped": "no time left"})
            continue
        print(f"{name}: {share:g} ...", file=sys.stderr, flush=True)
        beyond_bytes = eager_peak_bytes - resting_bytes - gradients_bytes
        budget_bytes = resting_bytes + gradients_bytes + int(share * beyond_bytes)
        row: dict[str, Any] = {"share": share, "budget_bytes": budget_bytes}
        row |= check_budget(name, options, budget_bytes)
        if share == options.limit_share and "error" not in row:
            row["limit"] = check_limit(name, options, budget_bytes, eager_peak_bytes)
            # A plan for nearly all of eager's memory, where there is only this much more.
            planned_bytes = resting_bytes + gradients_bytes + int(0.9 * beyond_bytes)
            row["guard"] = check_guard(name, options, planned_bytes, int(1.1 * budget_bytes))
            row["estimated"] = estimated(name, options, budget_bytes)
        model["budgets"].append(row)
    return model


def estimated(name: str, options: argparse.Namespace, budget_bytes: int) -> dict[str, Any]:
    """Plans the same step without the device, from its data sheet."""
    example = zoo.build(name, options.size, device="meta")
    target = estimated_device(options)
    try:
        plan = autockpt.plan(
            example.model,
            # A plan for the device at hand does not count what cuBLAS keeps.
            budget_bytes + target.workspace_bytes,
            sample_args=example.args,
            sample_kwargs=dict(example.kwargs),
            loss_fn=example.loss_fn,
            time_limit_s=options.time_limit,
            device=target,
        )
    except autockpt.AutockptError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {
        "device": plan.device,
        "predicted_peak_bytes": plan.predicted_peak_bytes - target.workspace_bytes,
        "baseline_peak_bytes": plan.baseline_peak_bytes - target.workspace_bytes,
        "step_ms": (plan.baseline_step_ns + plan.recompute_ns) / 1e6,
    }


def copied(trainer: Trainer) -> Trainer:
    """A second trainer of the same model, as it is before the first step."""
    example = trainer.example
    return Trainer(dataclasses.replace(example, model=copy.deepcopy(example.model)))


def check_budget(name: str, options: argparse.Namespace, budget_bytes: int) -> dict[str, Any]:
    """Trains under a plan: bits, peak and time beside eager's."""
    optimized = Trainer(zoo.build(name, options.size, device=options.device))
    try:
        started = time.monotonic()
        optimize(optimized, budget_bytes, options.time_limit, verify=True)
        planning_s = time.monotonic() - started
    except autockpt.AutockptError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    plan = autockpt.get_plan(optimized.model)
    assert plan is not None
    eager = Trainer(zoo.build(name, options.size, device=options.device))
    comparison = compare(eager.train(options.steps), optimized.train(options.steps))
    fresh(options.device)
    peak_bytes = optimized.peak_bytes()
    times = time_in_turns(eager, optimized, num_pairs=options.pairs)
    del eager, optimized
    fresh(options.device)
    return {
        "predicted_ms": (plan.baseline_step_ns + plan.recompute_ns) / 1e6,
        "bit_equal": comparison.bit_equal,
        "num_tensors": comparison.num_tensors,
        "differing": comparison.differing[:10],
        "max_difference": comparison.max_difference,
        "peak_bytes": peak_bytes,
        "predicted_peak_bytes": plan.predicted_peak_bytes,
        "minimum_peak_bytes": plan.minimum_peak_bytes,
        "fits": peak_bytes <= budget_bytes,
        "prediction_off_bytes": peak_bytes - plan.predicted_peak_bytes,
        "predicted_overhead": plan.overhead,
        "lower_bound": plan.lower_bound,
        "eager_ms": times.first_ns / 1e6,
        "optimized_ms": times.second_ns / 1e6,
        "time_ratio": times.ratio,
        "method": plan.method,
        "solve_s": plan.solve_time_s,
        "planning_s": planning_s,
        "num_graphs": plan.num_graphs,
    }


def is_ok(model: dict[str, Any]) -> bool:
    """Whether all that was checked of a model holds; what was skipped is not held against it."""
    rows = [row for row in model.get("budgets", []) if "skipped" not in row]
    return all(
        "error" not in row
        and row["fits"]
        and (row["bit_equal"] or not model["eager_repeats_itself"])
        and ("limit" not in row or row["limit"]["ok"])
        and ("guard" not in row or row["guard"].get("ok", True) is True)
        for row in rows
    )


def is_seed_ok(seed: dict[str, Any]) -> bool:
    """Whether what was planned for the first case trains within its budget."""
    planned = [way for way in seed["ways"].values() if "budget_bytes" in way]
    return all(way.get("peak_bytes", 0) <= way["budget_bytes"] for way in planned)


def write(results: dict[str, Any], folder: Path) -> None:
    text = json.dumps(results, indent=2, sort_keys=True)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "results.md").write_text(markdown(results), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())


if __name__ == "__main__":
    sys.exit(main())
