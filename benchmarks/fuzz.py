"""Random modules trained eagerly and optimized, compared to the bit, peaks held to their budgets.

    python benchmarks/fuzz.py [--modules 1000] [--first-seed 0] [--workers 1]
    python benchmarks/fuzz.py --seed 17 [--no-shrink]

Every seed is a module, its data, how it is trained, and a budget. A failure is printed with its
seed, which alone reproduces it, and shrunk: layers and settings are left out while it still fails.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "fuzz"))

import torch
from fuzz_programs import Program, random_program
from fuzz_trial import Verdict, run_trial, shrunk

_MODULES_PER_PROCESS = 100


def main() -> int:
    """Run the seeds, print what failed, and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--modules", type=int, default=1000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seed", type=int, help="run this one alone, and say what it is")
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("AUTOCKPT_CACHE_DIR", tempfile.mkdtemp(prefix="autockpt-fuzz-"))
    if options.seed is not None:
        program = random_program(options.seed)
        print(describe(program))
        verdict = run_trial(program)
        print(verdict)
        if verdict.is_failure and not options.no_shrink:
            report_shrunk(program, verdict)
        return int(verdict.is_failure)
    seeds = range(options.first_seed, options.first_seed + options.modules)
    started = time.monotonic()
    counts: collections.Counter[str] = collections.Counter()
    reasons: collections.Counter[str] = collections.Counter()
    failed = []
    for seed, verdict in verdicts(seeds, options.workers):
        counts[verdict.kind] += 1
        if verdict.kind in ("refused", "invalid"):
            reasons[f"{verdict.kind}: {verdict.detail[:150]}"] += 1
        if verdict.is_failure:
            failed.append(seed)
            print(f"seed {seed}: {verdict.kind}: {verdict.detail}", flush=True)
    for reason, count in reasons.most_common():
        print(f"{count:5} {reason}")
    print(f"{dict(counts)} of {len(seeds)} modules in {time.monotonic() - started:.0f} s")
    if failed:
        print(f"failed seeds: {failed}; run one again with --seed SEED")
    return int(bool(failed))


def trial_of(seed: int) -> tuple[int, Verdict]:
    """A trial in a process of the pool."""
    torch.set_num_threads(1)
    return seed, run_trial(random_program(seed))


def verdicts(seeds: range, workers: int) -> Iterator[tuple[int, Verdict]]:
    """Verdicts of all seeds, in order; processes are renewed, so that what piles up goes."""
    for first in range(0, len(seeds), _MODULES_PER_PROCESS * workers):
        some = seeds[first : first + _MODULES_PER_PROCESS * workers]
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield from pool.map(trial_of, some)


def report_shrunk(program: Program, verdict: Verdict) -> None:
    """Print the smallest program that fails alike."""
    smallest = program
    for smallest in shrunk(program, verdict):
        print(f"smaller: {len(smallest.nodes)} layers", flush=True)
    print(describe(smallest))
    print(run_trial(smallest))


def describe(program: Program) -> str:
    """The program in lines."""
    lines = [f"  {node.layer} reads {node.reads} seed {node.seed}" for node in program.nodes]
    head = repr(program).replace(repr(program.nodes), "...")
    return "\n".join([head, *lines])


if __name__ == "__main__":
    raise SystemExit(main())
