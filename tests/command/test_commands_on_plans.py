"""`explain`, `apply`, `verify`, `monitor` and `doctor` as processes, with their errors."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from command_line import autockpt, error_of

from autockpt.choices.plain import nearest_plain
from autockpt.command.running import exits
from tests.small_plans import planned

_SCRIPT = """
import torch

def make(batch=512):
    torch.manual_seed(0)
    layers = [torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Dropout(0.1))
              for _ in range(4)]
    return torch.nn.Sequential(*layers), torch.ones(batch, 64)
"""
_QUICK = ("--loss", "sum", "--optimizer", "sgd", "--method", "greedy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plans")
    planned(0.5, segment="encoder.layers").save(folder / "plan.json")
    (folder / "models_for_commands.py").write_text(_SCRIPT)
    return folder


class TestExplain:
    def test_a_module(self, folder: Path) -> None:
        out = folder / "explained.json"
        run = autockpt("explain", f"{folder}/plan.json", "encoder.layers.2", "--json", str(out))
        assert run.returncode == 0, run.stderr
        assert run.stdout.startswith("encoder.layers.2\n")
        assert "instead: peak " in run.stdout
        assert "my_model.py:11" in run.stdout or "losses.py:12" in run.stdout
        told = json.loads(out.read_text())
        assert {each["name"] for each in told["choices"]} == {"gelu_2", "addmm_2"}
        for other in told["others"]:
            assert other["fits"] == (other["peak_bytes"] <= told["budget_bytes"])

    def test_a_target(self, folder: Path) -> None:
        target = f"{folder}/models_for_commands.py:make"
        run = autockpt("explain", target, "1.0", "--budget", "90%", *_QUICK, "--json", "-")
        assert run.returncode == 0, run.stderr
        assert all(each["size_bytes"] for each in json.loads(run.stdout)["choices"][:1])

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["PLAN", "encoder.layer"], "did you mean 'encoder.layers'"),
            (["PLAN", "x", "--budget", "1GB"], "is a plan and has its budget; leave out --budget"),
            (["zoo:gpt2", "x"], "zoo:gpt2 needs a budget: add --budget 8GB"),
            (["nowhere.json", "x"], "there is no file nowhere.json"),
            (["zoo:gpt2", "x", "--budget", "8"], "did you mean 8GB?"),
        ],
    )
    def test_errors(self, folder: Path, args: list[str], message: str) -> None:
        args = [arg.replace("PLAN", f"{folder}/plan.json") for arg in args]
        assert message in error_of(autockpt("explain", *args), exits.USAGE)

    def test_a_plan_that_was_edited(self, folder: Path) -> None:
        file = folder / "edited.json"
        document = json.loads((folder / "plan.json").read_text()) | {"predicted_peak_bytes": 1}
        file.write_text(json.dumps(document))
        told = error_of(autockpt("explain", str(file), "encoder"), exits.USAGE)
        assert "this plan is damaged" in told


class TestApply:
    def test_the_one_call_and_the_nearest_with_torch_alone(self, folder: Path) -> None:
        out = folder / "applied.json"
        run = autockpt("apply", f"{folder}/plan.json", "--json", str(out), width=60)
        assert run.returncode == 0, run.stderr
        assert f'model = autockpt.optimize(model, plan="{folder}/plan.json"' in run.stdout
        assert "add the same one here" in run.stdout  # a loss_fn that the file does not name
        line = (
            "    layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)"
        )
        assert line in run.stdout.splitlines()  # not broken at 60 columns
        told = json.loads(out.read_text())
        assert told["plain"][0]["code"][-1] == line
        assert told["plain"][0]["overhead"] > told["overhead"]

    def test_a_target(self, folder: Path) -> None:
        target = f"{folder}/models_for_commands.py:make"
        run = autockpt("apply", target, "--budget", "90%", *_QUICK)
        assert run.returncode == 0, run.stderr
        assert "checkpoint_sequential(model, " in run.stdout
        # Without them the call made another plan, for another step.
        assert ', optimizer="sgd", loss_fn=lambda output: output.sum())' in run.stdout
        for line in run.stdout.splitlines():
            assert line.startswith(
                ("#", "import ", "from ", "model", "for ", "    ", "):", "output")
            ) or (not line)

    def test_what_does_not_fit(self, folder: Path) -> None:
        target = f"{folder}/models_for_commands.py:make"
        run = autockpt("apply", target, "--budget", "1000B", *_QUICK)
        assert "is too small" in error_of(run, exits.DOES_NOT_FIT)

    def test_names_of_a_file_are_no_code(self, folder: Path) -> None:
        """A module's name, or a file's, could end the string that it was pasted into."""
        evil = folder / 'a"); evil("b.json'
        planned(0.5, segment='h") or evil("').save(evil)
        told = json.loads(autockpt("apply", str(evil), "--json", "-").stdout)
        for lines in (told["code"], *(way["code"] for way in told["plain"])):
            names = {each.id for each in ast.walk(ast.parse("\n".join(lines)))
                     if isinstance(each, ast.Name)}  # fmt: skip
            assert "evil" not in names
        keyword = nearest_plain(planned(0.5, segment="parts.class.blocks"))[0]
        assert 'model.get_submodule("parts.class.blocks")' in "\n".join(keyword.code)


class TestVerify:
    def test_bits_peak_and_time(self, folder: Path) -> None:
        target, out = f"{folder}/models_for_commands.py:make", folder / "verified.json"
        run = autockpt(
            "verify", target, "--budget", "90%", *_QUICK, "--steps", "2", "--json", str(out)
        )
        assert run.returncode == 0, run.stderr
        assert "verified: peak " in run.stdout
        assert "bit-equal: yes" in run.stdout
        told = json.loads(out.read_text())
        assert told["bit_equal"]
        assert told["optimized_peak_bytes"] <= told["budget_bytes"] < told["eager_peak_bytes"]
        assert told["optimized_peak_bytes"] == told["predicted_peak_bytes"]

    def test_a_model_without_weights(self) -> None:
        run = autockpt("verify", "zoo:sequential", "--device", "meta", "--budget", "60%")
        assert "has no weights, so no step of it can run" in error_of(run, exits.USAGE)

    def test_what_does_not_fit(self, folder: Path) -> None:
        target = f"{folder}/models_for_commands.py:make"
        run = autockpt("verify", target, "--budget", "1000B", *_QUICK)
        assert run.returncode == exits.DOES_NOT_FIT
        assert "is too small" in run.stderr


_TRAINING = """
import sys
import torch
import autockpt

print("arguments", sys.argv[1:], __name__)
model = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.GELU(), torch.nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x = torch.ones(64, 32)
if "--plan" in sys.argv:
    autockpt.optimize(model, "100%", loss_fn=torch.sum, optimizer=optimizer, method="greedy")
for _ in range(4):
    optimizer.zero_grad()
    model(x).sum().backward()
    optimizer.step()
if "--fail" in sys.argv:
    raise KeyError("data")
if "--exit" in sys.argv:
    sys.exit(7)
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("scripts") / "train.py"
    file.write_text(_TRAINING)
    return file


class TestMonitor:
    def test_a_script_and_its_arguments(self, script: Path) -> None:
        out = script.parent / "summary.json"
        run = autockpt("monitor", "--json", str(out), str(script), "--plan", "--epochs", "3")
        assert run.returncode == 0, run.stderr
        assert run.stdout == "arguments ['--plan', '--epochs', '3'] __main__\n"
        assert "3 steps timed" in run.stderr
        assert "autockpt: plan  peak " in run.stderr
        told = json.loads(out.read_text())
        assert told["num_steps"] == 3
        assert told["median_step_s"] > 0
        assert told["peak_reserved_bytes"] >= told["peak_bytes"] > 0
        assert told["predicted_peak_bytes"] <= told["budget_bytes"]

    def test_the_exit_code_is_the_scripts(self, script: Path) -> None:
        assert autockpt("monitor", str(script), "--exit").returncode == 7

    def test_a_script_that_fails(self, script: Path) -> None:
        run = autockpt("monitor", str(script), "--fail")
        assert run.returncode == exits.USAGE
        assert f"error: {script} failed at {script}:17: KeyError: 'data'" in run.stderr
        assert "Traceback" not in run.stderr
        shown = autockpt("monitor", "--traceback", str(script), "--fail")
        assert "Traceback" in shown.stderr

    def test_lines_while_it_runs(self, tmp_path: Path) -> None:
        file = tmp_path / "slow.py"
        file.write_text("import time\ntime.sleep(0.6)\n")
        run = autockpt("monitor", "--every", "0.2", str(file))
        lines = [line for line in run.stderr.splitlines() if " resident " in line]
        assert len(lines) >= 2
        assert autockpt("monitor", "-q", str(file)).stderr.count("autockpt: ") == 2

    def test_an_interrupt_ends_the_script_and_leaves_its_summary(self, tmp_path: Path) -> None:
        file = tmp_path / "interrupted.py"
        file.write_text(
            "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
        )
        run = autockpt("monitor", str(file))
        assert run.returncode == exits.INTERRUPTED
        assert "autockpt: ran " in run.stderr
        assert "Traceback" not in run.stderr

    def test_errors(self, script: Path) -> None:
        told = error_of(autockpt("monitor", "nowhere.py"), exits.USAGE)
        assert "there is no file nowhere.py" in told
        run = autockpt("monitor", "--plan", "nowhere.json", str(script))
        assert "there is no file nowhere.json" in error_of(run, exits.USAGE)


def test_doctor_finds_all_well(tmp_path: Path) -> None:
    out = tmp_path / "doctor.json"
    run = autockpt("doctor", "--json", str(out))
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith("autockpt doctor: all is well\n")
    told = json.loads(out.read_text())
    assert told["is_well"]
    assert set(told["versions"]) >= {"autockpt", "torch", "python"}
    assert told["cache"]["folder"]
    assert [check["works"] for check in told["checks"][:4]] == [True] * 4


def test_doctor_says_what_fails_without_a_traceback(tmp_path: Path) -> None:
    file = tmp_path / "not_a_folder"
    file.touch()
    run = autockpt("doctor", AUTOCKPT_CACHE_DIR=str(file / "cache"))
    assert run.returncode == exits.BUG
    assert run.stdout.startswith("autockpt doctor: something fails")
    assert "fails  writing to the cache" in run.stdout
    assert "Traceback" not in run.stderr
