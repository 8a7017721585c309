from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import autockpt
from autockpt.budget import sufficient_budget
from autockpt.command.cli import _app
from autockpt.report.plan import Plan
from autockpt.report.words.headline import headline
from autockpt_solvers import (
    Compute,
    ComputeGraph,
    Free,
    Op,
    Schedule,
    Storage,
    graph_to_json,
    read_instance,
    simulate,
)

_QUICK = ("--time-limit", "2")


def _run(*args: str) -> Result:
    return CliRunner().invoke(_app, args)


def test_plan_prints_the_report_and_writes_the_plan(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    result = _run("plan", "zoo:sequential", "--budget", "70%", "--json", str(file), *_QUICK)
    assert result.exit_code == 0, result.output
    assert "Peak memory of a training step" in result.output
    assert "(assumed; pass optimizer=" in result.output
    plan = Plan.from_json(file.read_text())
    assert plan.predicted_peak_bytes <= plan.budget_bytes < plan.baseline_peak_bytes
    first = result.output.splitlines()[0]
    assert first == headline(plan)[: len(first)].rstrip()
    assert f"autockpt verify zoo:sequential --budget {sufficient_budget(plan.budget_bytes)}" in (
        result.output
    )


def test_plan_takes_a_file_with_its_own_loss_and_optimizer(tmp_path: Path) -> None:
    script = tmp_path / "mine_for_cli.py"
    script.write_text(
        "import torch\n"
        "def make():\n"
        "    layers = [torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU())\n"
        "              for _ in range(6)]\n"
        "    return torch.nn.Sequential(*layers), torch.ones(512, 64)\n"
        "def loss(output):\n"
        "    return output.square().sum()\n"
    )
    result = _run(
        *("plan", f"{script}:make", "--budget", "80%", "--loss", f"{script}:loss"),
        *("--optimizer", "sgd", "--json", "-", "--method", "greedy"),
    )
    assert result.exit_code == 0, result.output
    plan = Plan.from_json(result.stdout)
    assert not plan.optimizer_assumed
    assert plan.fixed.optimizer_bytes == 0
    assert plan.fixed.inputs_bytes == 512 * 64 * 4


def test_plan_needs_no_memory_for_a_full_model() -> None:
    result = _run(
        *("plan", "zoo:vit", "--size", "full", "--device", "meta", "--budget", "70%"),
        *("--json", "-", "--method", "greedy"),
    )
    assert result.exit_code == 0, result.output
    plan = Plan.from_json(result.stdout)
    assert plan.cost_source == "roofline"
    assert plan.fixed.parameters_bytes == 4 * 86_567_656


def test_a_budget_that_cannot_be_met_fails_with_the_least_that_can() -> None:
    result = _run("plan", "zoo:sequential", "--budget", "1MB", "--method", "greedy")
    assert result.exit_code == 3
    assert result.stderr.startswith("error: budget 976.56 KiB is too small: ")
    assert "Raise budget to" in result.stderr
    assert result.stdout == ""


def test_a_failure_tells_what_other_rungs_failed_of(tmp_path: Path) -> None:
    script = tmp_path / "reading.py"
    script.write_text(
        "import torch\n"
        "class Reading(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x).sum() * float(x.sum())\n"
        "def make():\n"
        "    return Reading(8, 8), torch.ones(4, 8)\n"
    )
    result = _run("plan", f"{script}:make", "--budget", "50%", *_QUICK)
    assert result.exit_code == 4
    first, *notes = result.stderr.splitlines()
    assert first.startswith(f"error: cannot capture Reading ({script}:4): ")
    assert [note.partition(" was tried as well: cannot capture Reading")[0] for note in notes] == [
        "The rung 'blocks'",
        "The rung 'checkpoint'",
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("zoo:nothing", "--budget", "1GB"), "unknown model 'nothing'"),
        (("zoo:sequential", "--budget", "much"), "budget 'much' is not an amount of memory"),
        (("zoo:sequential", "--budget", "0"), "must be more than 0 bytes"),
        (("zoo:sequential", "--budget", "1GB", "--method", "magic"), "unknown method 'magic'"),
        (("zoo:sequential", "--budget", "1GB", "--optimizer", "magic"), "magic"),
        (("nowhere.py:f", "--budget", "1GB"), "there is no file nowhere.py"),
        (("zoo:sequential", "--budget", "1GB", "--json", "no/such/x.json"), "there is no folder"),
        (("zoo:sequential", "--budget", "1GB", "--json", "."), "cannot write .: it is a folder"),
        (("zoo:sequential", "--budget", "1GB", "--time-limit", "0"), "it must be above 0"),
        (("zoo:sequential", "--budget", "1GB", "--time-limit", "-1"), "it must be above 0"),
        (("zoo:sequential", "--budget", "0.00000001%"), "is less than one byte"),
    ],
)
def test_wrong_arguments_are_told_in_a_line(args: tuple[str, ...], message: str) -> None:
    result = _run("plan", *args)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in _run("plan", *args, "--traceback").stderr


def test_demo_shows_both_sides_and_that_they_are_equal() -> None:
    result = _run(
        *("demo", "--model", "sequential", "--budget", "70%", "--steps", "2"),
        *("--method", "greedy"),
    )
    assert result.exit_code == 0, result.output
    assert "bit-equal: yes" in result.output
    assert "verified: peak " in result.output
    assert "Peak memory of a training step" in result.output


def test_version_and_module_entry() -> None:
    command = [sys.executable, "-m", "autockpt", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == autockpt.__version__


def test_a_graph_is_exported_and_solved(tmp_path: Path) -> None:
    file, answer, steps = tmp_path / "graph.json", tmp_path / "answer.json", tmp_path / "steps.json"
    result = _run("graph", "zoo:sequential", "--optimizer", "sgd", "-o", str(file))
    assert result.exit_code == 0, result.output
    # Parameters, buffers and inputs; what eager needs beyond the graph was counted with them.
    example = autockpt.zoo.build("sequential")
    tensors = [*example.model.parameters(), *example.model.buffers(), *example.args]
    fixed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert f"{fixed} fixed bytes beside them" in result.output
    graph = read_instance(file.read_text()).graph
    wanted = ("--budget", "60%", "--json", str(answer), "--schedule", str(steps))
    result = _run("solve", str(file), *wanted, *_QUICK)
    assert result.exit_code == 0, result.output
    told = json.loads(answer.read_text())
    schedule = Schedule(
        steps=tuple(
            Compute(index) if kind == "compute" else Free(index)
            for kind, index in json.loads(steps.read_text())
        )
    )
    timeline = simulate(graph, schedule)
    assert timeline.peak_bytes == told["peak_bytes"] <= told["budget_bytes"]
    assert timeline.recompute_ns == told["recompute_ns"]
    assert f"duration increase  {told['duration_increase_percent']:.3f}%" in result.output


def test_a_budget_below_every_schedule_is_said_to_be(tmp_path: Path) -> None:
    file = tmp_path / "plain.json"
    ops = [{"name": name, "duration": 1, "output_bytes": 10} for name in "ab"]
    file.write_text(json.dumps({"ops": ops, "edges": [[0, 1]]}))
    result = _run("solve", str(file), "--budget", "50%", *_QUICK)
    assert result.exit_code == 3
    assert "infeasible" in result.output
    assert "proven: no plan can be below 20 bytes" in result.output


def test_a_bound_on_bytes_is_told_for_the_plans_that_it_holds_for(tmp_path: Path) -> None:
    """It was said of all plans where it holds for plans that run each backward op once only."""
    sizes = (Storage(name="kept", size_bytes=8), Storage(name="other", size_bytes=7))
    file, answer = tmp_path / "graph.json", tmp_path / "answer.json"
    ops = (
        Op(name="first", runtime_ns=1, reads=(), writes=(0,), is_backward=True),
        Op(name="second", runtime_ns=1, reads=(), writes=(1,), is_backward=True),
        Op(name="third", runtime_ns=1, reads=(0,), writes=(), is_backward=True),
    )
    file.write_text(graph_to_json(ComputeGraph(ops=ops, storages=sizes, outputs=())))
    result = _run("solve", str(file), "--budget", "9B", "--json", str(answer), *_QUICK)
    assert result.exit_code == 3
    assert "proven: no plan of the class below can be below 15 bytes" in result.output
    assert "bounds hold for    each backward op once" in result.output
    told = json.loads(answer.read_text())
    assert (told["lower_bound_bytes"], told["peak_bytes"]) == (15, 15)
    # A plan that makes `kept` again fits.
    result = _run("solve", str(file), "--budget", "9B", "--method", "exact", *_QUICK)
    assert "status             optimal" in result.output


def test_a_small_graph_of_free_order_is_solved_with_a_proof(tmp_path: Path) -> None:
    file = tmp_path / "plain.json"
    sizes, edges = [40, 5, 80, 5, 1], [[0, 1], [1, 2], [2, 3], [3, 4], [0, 4]]
    ops = [{"name": str(k), "duration": 3, "output_bytes": size} for k, size in enumerate(sizes)]
    file.write_text(json.dumps({"ops": ops, "edges": edges}))
    result = _run("solve", str(file), "--budget", "90B", *_QUICK)
    assert result.exit_code == 0, result.output
    assert "status             optimal" in result.output
    assert "lower bound        20.000%" in result.output
    assert "bounds hold for    all plans" in result.output


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, ["--budget", "80%"], "there is no file"),
        (b"ops: 3", ["--budget", "80%"], "not JSON"),
        (b"\xff\xfe\x00", ["--budget", "80%"], "is not a text file"),
        (b'{"format": "autockpt-graph", "version": 9}', ["--budget", "80%"], "version 9 of"),
        (b"[" * 100_000, ["--budget", "80%"], "not JSON"),
        (
            b'{"ops": [{"duration": 1, "output_bytes": 1%s}], "edges": []}' % (b"0" * 400),
            ["--budget", "80%"],
            "the graph has 1.0e+400 bytes in all",
        ),
        (b'{"ops": [], "edges": []}', ["--budget", "much"], "not an amount of memory"),
        (b'{"ops": [], "edges": []}', ["--budget", "80%", "--method", "best"], "unknown method"),
        (b'{"ops": [], "edges": []}', ["--budget", "1B", "--time-limit", "0"], "must be above 0"),
        (b'{"ops": [], "edges": []}', ["--budget", "1B", "--json", "."], "is a folder; name a"),
        (b'{"ops": [], "edges": []}', ["--budget", "1B", "--schedule", "/"], "is a folder; name a"),
    ],
)
def test_what_cannot_be_solved_is_told_in_one_line(
    tmp_path: Path, content: bytes | None, arguments: list[str], message: str
) -> None:
    file = tmp_path / "graph.json"
    if content is not None:
        file.write_bytes(content)
    result = _run("solve", str(file), *arguments)
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert result.output.startswith("error: ")
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("file", "message"), [(".", ". is a folder; name a file"), (os.devnull, "not JSON")]
)
def test_what_is_no_graph_file_is_said_to_be_what_it_is(file: str, message: str) -> None:
    result = _run("solve", file, "--budget", "80%")
    assert result.exit_code == 2
    assert result.output.startswith("error: ")
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_file_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "plain.json"
    file.write_text('{"ops": [{"name": "a", "duration": 1, "output_bytes": 1}], "edges": []}')
    result = _run("solve", str(file), "--budget", "100%", "--json", "/dev/full", *_QUICK)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: cannot write /dev/full: No space left on device. ")
