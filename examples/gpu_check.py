"""Hold every promise of autockpt against a real device, and write down what was measured.

    python examples/gpu_check.py --out results

For each model and budget: the optimized training is compared with the eager one to the bit, the
measured peak with the predicted one and with the budget, and the step times with each other. Then
both are trained again in processes of their own under a hard memory limit of the budget: there
eager is to run out of memory, and the optimized model is to train. Results go to `results.json`
and `results.md` as they come, so that a run cut short has not been for nothing.

On a machine without CUDA the same is done in small on the CPU; the limit is then one on the
process's data segment, which Linux enforces.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import dataclasses
import datetime as dt
import gc
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import autockpt
from autockpt import zoo
from autockpt.budget import format_bytes
from autockpt.command.side_by_side import Trainer, compare, time_in_turns

_MODELS = {"full": ("gpt2", "bert-large", "resnet50", "llama"), "small": ("gpt2", "resnet50")}
# An allocator that is held to a limit loses some of it to fragments; the least of these factors
# at which the optimized model trains is written down.
_LIMIT_FACTORS = (1.0, 1.02, 1.05, 1.1, 1.2)
# What Python itself may take during a step, on top of tensors.
_CPU_SLACK_BYTES = 8 * 2**20


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
    parser.add_argument("--limited", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    options = parse_options()
    if options.limited:
        print(json.dumps(train_limited(**json.loads(options.limited))))
        return 0
    started = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    models = options.models.split(",") if options.models else _MODELS[options.size]
    results: dict[str, Any] = {"machine": machine(options), "models": []}
    for name in models:
        if time.monotonic() - started > options.deadline:
            results["models"].append({"model": name, "skipped": "no time left"})
        else:
            results["models"].append(check_model(name, options, started))
        write(results, options.out)
    results["seconds"] = round(time.monotonic() - started, 1)
    results["ok"] = all(is_ok(model) for model in results["models"])
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


def check_model(name: str, options: argparse.Namespace, started: float) -> dict[str, Any]:
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
        if time.monotonic() - started > options.deadline:
            model["budgets"].append({"share": share, "skipped": "no time left"})
            continue
        print(f"{name}: {share:g} ...", file=sys.stderr, flush=True)
        beyond_bytes = eager_peak_bytes - resting_bytes - gradients_bytes
        budget_bytes = resting_bytes + gradients_bytes + int(share * beyond_bytes)
        row: dict[str, Any] = {"share": share, "budget_bytes": budget_bytes}
        row |= check_budget(name, options, budget_bytes)
        if share == options.limit_share and "error" not in row:
            row["limit"] = check_limit(name, options, budget_bytes, eager_peak_bytes)
        model["budgets"].append(row)
    return model


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


def optimize(trainer: Trainer, budget_bytes: int, time_limit_s: float, *, verify: bool) -> None:
    example = trainer.example
    autockpt.optimize(
        trainer.model,
        budget_bytes,
        sample_args=example.args,
        sample_kwargs=dict(example.kwargs),
        loss_fn=example.loss_fn,
        optimizer=trainer.optimizer,
        time_limit_s=time_limit_s,
        verify=verify,
    )


def fresh(device: str) -> None:
    """Gives back what is no longer used, so that it does not count for what comes next."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


def check_limit(
    name: str, options: argparse.Namespace, budget_bytes: int, eager_peak_bytes: int
) -> dict[str, Any]:
    """Trains both in processes that cannot have more memory than a little over the budget."""
    tried: dict[str, Any] = {}
    for factor in _LIMIT_FACTORS:
        task = {
            "name": name,
            "size": options.size,
            "device": options.device,
            "budget_bytes": budget_bytes,
            "limit_bytes": (limit_bytes := int(budget_bytes * factor)),
            "steps": options.steps,
            "time_limit_s": options.time_limit,
        }
        tried = {"factor": factor, "optimized": in_a_process({**task, "optimized": True})}
        if tried["optimized"]["outcome"] == "trained":
            tried["eager"] = in_a_process({**task, "optimized": False})
            room_bytes = limit_bytes + (_CPU_SLACK_BYTES if options.device == "cpu" else 0)
            fails = tried["eager"]["outcome"] == "out of memory"
            return tried | {"ok": fails or eager_peak_bytes <= room_bytes}
    return tried | {"ok": False}


def in_a_process(task: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), "--limited", json.dumps(task)]
    # On the CPU every block above 64 KiB gets pages of its own, which go back when it is freed:
    # otherwise what the process holds says little about what its tensors take.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment
    )
    if done.returncode != 0:
        end = done.stderr.strip().splitlines()[-1:] or [""]
        return {"outcome": f"failed with code {done.returncode}: {end[0]}"}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def train_limited(
    *,
    name: str,
    size: zoo.Size,
    device: str,
    budget_bytes: int,
    limit_bytes: int,
    steps: int,
    time_limit_s: float,
    optimized: bool,
) -> dict[str, Any]:
    """Trains under a hard limit; runs in a process of its own."""
    on_cuda = device != "cpu"
    if on_cuda:
        total_bytes = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(limit_bytes / total_bytes, device)
    trainer = Trainer(zoo.build(name, size, device=device))
    try:
        if optimized:
            # Its own check would run eager once, which the limit does not allow.
            optimize(trainer, budget_bytes, time_limit_s, verify=False)
        if not on_cuda:
            # What planning and the first step leave in the process is no tensor of a step.
            trainer.step()
            trainer.optimizer.zero_grad(set_to_none=True)
            gc.collect()
            limit_data_segment(limit_bytes - trainer.resting_bytes() + _CPU_SLACK_BYTES)
        loss = [trainer.step().item() for _ in range(steps)][-1]
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            return {"outcome": "out of memory"}
        raise
    answer: dict[str, Any] = {"outcome": "trained", "loss": loss}
    if on_cuda:
        answer["max_memory_allocated_bytes"] = torch.cuda.max_memory_allocated(device)
        answer["max_memory_reserved_bytes"] = torch.cuda.max_memory_reserved(device)
    return answer


def limit_data_segment(more_bytes: int) -> None:
    """Lets this process have so many bytes more than it has now (Linux)."""
    import resource

    ctypes.CDLL(None).malloc_trim(0)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now_bytes = int(status["VmData"].split()[0]) * 1024
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (now_bytes + more_bytes, hard))


def is_ok(model: dict[str, Any]) -> bool:
    """Whether all that was checked of a model holds; what was skipped is not held against it."""
    rows = [row for row in model.get("budgets", []) if "skipped" not in row]
    return all(
        "error" not in row
        and row["fits"]
        and (row["bit_equal"] or not model["eager_repeats_itself"])
        and ("limit" not in row or row["limit"]["ok"])
        for row in rows
    )


def write(results: dict[str, Any], folder: Path) -> None:
    text = json.dumps(results, indent=2, sort_keys=True)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "results.md").write_text(markdown(results), encoding="utf-8")


def markdown(results: dict[str, Any]) -> str:
    said = results["machine"]
    versions = f"torch {said['torch']}, Python {said['python']}, autockpt {said['autockpt']}"
    lines = [f"# {said['device']}, {said['date']}", "", f"{versions}; {said['size']} models.", ""]
    if "context_bytes" in said:
        context = format_bytes(said["context_bytes"])
        lines += [f"Taken before the first tensor (CUDA context and others): {context}.", ""]
    header = "model|f|budget|eager peak|peak|predicted|time|recompute|bit-equal|under a hard limit"
    lines += [f"| {header.replace('|', ' | ')} |", f"|{'---|' * 10}"]
    for model in results["models"]:
        lines += [markdown_row(model, row) for row in model.get("budgets", [model])]
    return "\n".join(lines) + "\n"


def markdown_row(model: dict[str, Any], row: dict[str, Any]) -> str:
    cells = [model["model"], f"{row['share']:g}" if "share" in row else ""]
    if "skipped" in row or "error" in row:
        return f"| {' | '.join([*cells, row.get('skipped') or row['error'], *[''] * 7])} |"
    equal = "yes" if row["bit_equal"] else f"no ({row['max_difference']:.1e})"
    if not model["eager_repeats_itself"]:
        equal += "; eager does not repeat itself"
    cells += [
        format_bytes(row["budget_bytes"]),
        format_bytes(model["eager_peak_bytes"]),
        format_bytes(row["peak_bytes"]) + ("" if row["fits"] else " (over)"),
        format_bytes(row["predicted_peak_bytes"]),
        f"x{row['time_ratio']:.3f} of {row['eager_ms']:.1f} ms",
        f"+{row['predicted_overhead']:.1%} (bound {row['lower_bound']:.1%})",
        equal,
        limit_cell(row),
    ]
    return f"| {' | '.join(cells)} |"


def limit_cell(row: dict[str, Any]) -> str:
    if "limit" not in row:
        return ""
    limit = row["limit"]
    cell = f"at x{limit['factor']:g} of the budget: optimized {limit['optimized']['outcome']}"
    reserved = limit["optimized"].get("max_memory_reserved_bytes")
    if reserved is not None:
        cell += f" ({format_bytes(reserved)} reserved)"
    return cell + (f", eager {limit['eager']['outcome']}" if "eager" in limit else "")


if __name__ == "__main__":
    sys.exit(main())
