"""The examples run as a user runs them."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import forked
import pytest

_EXAMPLES = Path(__file__).parents[1] / "examples"


def _run(name: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, str(_EXAMPLES / name), *args],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


_QUICK = """
import os, runpy, sys
from autockpt_solvers.methods.ilp import pool
from autockpt_solvers.methods.local import method as local
from autockpt_solvers.methods.registry import METHODS
from autockpt_solvers.refinement import refine
from estimated_times import estimate_times
estimate_times()
if sys.argv[1] == "short":
    refine._STEPS_PER_OP //= 20
    pool._MAX_OPS_REPLAYED //= 20
    local._STEPS_PER_RUN //= 20
else:
    METHODS["auto"] = METHODS["greedy"]
del sys.argv[1]
script = sys.argv.pop(1)
sys.path.insert(0, os.path.dirname(script))  # as the interpreter does
runpy.run_path(script, run_name="__main__")
"""


def _run_quickly(name: str, *args: str, search: str = "greedy") -> str:
    """Runs an example in a process that has torch already, mostly with a quick search."""
    done = forked.run(
        _QUICK, search, str(_EXAMPLES / name), *args, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("plain_loop.py --steps 2 --budget 85%", "step 2  loss"),
        ("blocks_by_hand.py --blocks 3 --width 32 --steps 1", "autockpt at that peak"),
        ("resnet_by_stages.py --small --batch 4", "autockpt: 0 of 87 buffers differ"),
        ("unet.py --steps 2 --size 16 --width 16 --budget 80%", "step 2  loss"),
        ("bert_large.py --small --budget 85% --steps 2 --batches 4", "batch 4  step 2  loss"),
        ("accumulation.py --steps 2 --layers 2 --budget 85%", "step 2  loss"),
        ("lora.py --steps 2 --layers 2 --budget 85%", "trainable params: 7,168"),
        ("save_and_resume.py", "resumed run equals the other bit for bit: yes"),
        ("hf_trainer.py --steps 2 --budget 85%", "train_loss"),
        ("lightning_module.py --budget 85%", "loss 2."),
        ("own_method.py", "own: peak"),
        ("pareto_curve.py --points 4 --layers 1", "knee"),
    ],
)
def test_an_example(command: str, expected: str) -> None:
    search = "short" if command.startswith(("pareto", "plain_loop", "resnet")) else "greedy"
    assert expected in _run_quickly(*command.split(), search=search)


@pytest.mark.parametrize("how", [(), ("--shard",)])
def test_the_distributed_example(how: tuple[str, ...]) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            str(_EXAMPLES / "distributed.py"), "--steps", "2", *how,
        ],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "step 2  loss" in done.stdout
    assert "planned" in done.stdout


def test_train_gpt2() -> None:
    args = ("--layers", "1", "--steps", "3", "--budget", "80%")
    output = _run_quickly("train_gpt2.py", *args, search="short")
    assert "planned " in output
    losses = [float(line.split()[-1]) for line in output.splitlines() if line.startswith("step")]
    assert len(losses) == 3
    assert 6 < losses[-1] < 8  # near ln 1024: the data are random


@pytest.mark.skipif(sys.platform != "linux", reason="the hard limit on the CPU is Linux's")
def test_gpu_check_in_small(tmp_path: Path) -> None:
    output = _run(
        *("gpu_check.py", "--device", "cpu", "--size", "small", "--models", "sequential"),
        *("--shares", "0.5", "--steps", "2", "--pairs", "2", "--time-limit", "2"),
        *("--out", str(tmp_path)),
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["ok"]
    (row,) = results["models"][0]["budgets"]
    assert row["bit_equal"]
    assert row["peak_bytes"] <= row["budget_bytes"] < results["models"][0]["eager_peak_bytes"]
    assert row["limit"]["optimized"]["outcome"] == "trained"
    assert row["limit"]["eager"]["outcome"] == "out of memory"
    assert row["estimated"]["device"] == "h100"
    assert row["estimated"]["predicted_peak_bytes"] <= row["budget_bytes"]
    assert "give a number" in results["auto"]["error_on_cpu"]
    ways = results["seed"]["ways"]
    eager, ours = ways["eager"], ways["autockpt, batch 8"]
    assert ours["peak_bytes"] <= results["seed"]["budget_bytes"] < eager["peak_bytes"]
    assert ours["predicted_peak_bytes"] >= 0.995 * ours["peak_bytes"]
    assert ways["every layer checkpointed"]["peak_bytes"] < eager["peak_bytes"]
    twice = ways["autockpt, batch 16"]
    assert twice["peak_bytes"] <= twice["budget_bytes"]
    assert ways["estimated"]["predicted_peak_bytes"] <= results["seed"]["budget_bytes"]
    table = (tmp_path / "results.md").read_text()
    assert output.strip() == table.strip()
    assert "| sequential | 0.5 |" in table


def test_checkpointing_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reports come true with the checkpointing that they are about, and not with autockpt."""
    monkeypatch.syspath_prepend(str(_EXAMPLES))
    lies = importlib.import_module("checkpointing_lies")
    monkeypatch.setattr(lies, "_BUDGETS", (1.0, 0.5, 0.0))
    with warnings.catch_warnings():
        rows = [lies.redrawn_dropout(), lies.batch_norm_twice()]
        warnings.simplefilter("ignore")  # of torch.utils.checkpoint, and of torch.compile
        rows += [lies.frozen_embeddings(), lies.peaks_by_budget()]
    assert "gradients differ" in rows[0].theirs
    assert rows[1].theirs.endswith("buffers differ")
    assert "missing gradients" in rows[2].theirs
    assert "rises at 0.5 -> 0" in rows[3].theirs
    assert all(row.ours == "every bit as in eager" for row in rows[:3])
