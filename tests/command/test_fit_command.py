"""`autockpt fit`, and configurations of the hub as targets of the other commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from autockpt.command.cli import _app
from autockpt.command.running import exits
from autockpt.command.running.failures import failure_of
from autockpt_solvers import ScheduleError
from tests.hub.test_build import LLAMA


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(_app, [*arguments, "--quiet"])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("llama")
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return f"hf:{folder}"


def test_one_screen(llama: str, tmp_path: Path) -> None:
    file = tmp_path / "fit.json"
    size = ("--batch", "4", "--seq", "64", "--dtype", "bf16")
    result = _run("fit", llama, "--device", "h100", *size, "--json", str(file))
    assert result.exit_code == 0, result.output
    assert result.output.startswith("fits as it is")
    assert "NVIDIA H100 SXM 80GB, 4 sequences of 64 tokens" in result.output
    assert "LoRA of rank 16" in result.output
    values = json.loads(file.read_text())
    assert (values["batch"], values["tokens"]) == (4, 64)


def test_several_devices_are_a_table() -> None:
    result = _run("fit", "zoo:sequential", "--devices", "t4,h100,mi300x")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines] == ["device", "t4", "h100", "mi300x"]
    assert all(len(line) <= 80 and "as it is" in line for line in lines[1:])


def test_what_does_not_fit_has_an_exit_code_of_its_own() -> None:
    result = _run("fit", "zoo:sequential", "--device", "t4", "--budget", "1MB")
    assert result.exit_code == 3
    assert result.output.startswith("does not fit 976.56 KiB")


def test_other_commands_take_configurations_and_devices(llama: str) -> None:
    size = ("--seq", "64", "--dtype", "bf16", "--method", "greedy")
    planned = _run("plan", llama, "--budget", "100%", "--device", "a100", *size, "--batch", "2")
    assert planned.exit_code == 0, planned.output
    assert "a100-80" in planned.output
    again = _run(
        *("plan", llama, "--budget", "100%", "--device", "a100", "--batch", "2", "--accumulate"),
        *size,
    )
    assert again.exit_code == 0, again.output
    largest = _run("max-batch", llama, "--budget", "40MB", "--device", "a100", *size)
    assert largest.exit_code == 0, largest.output
    assert "largest batch" in largest.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "zoo:gpt2"), "give one of --device and --devices"),
        (("fit", "zoo:gpt2", "--device", "h1000"), "unknown device 'h1000'"),
        (("fit", "zoo:gpt2", "--device", "cpu"), "cpu is no device to fit: name one with a memory"),
        (("fit", "zoo:gpt2", "--device", "cuda:0"), "cuda:0 is no device to fit"),
        (("fit", "hf:./none.json", "--device", "h100", "--budget", "200GB"), "more than the 78.61"),
        (("fit", "hf:./none.json", "--device", "h100", "--budget", "60%"), "budget is 60% of the"),
        (
            ("fit", "hf:./none.json", "--device", "h100", "--optimizer", "adamx"),
            "unknown optimizer",
        ),
        (("fit", "hf:", "--device", "h100"), "write hf:PLACE"),
        (("fit", "zoo:gpt2", "--device", "h100", "--dtype", "bf16"), "are for hf:CONFIG"),
        (("fit", "hf:./none.json", "--device", "h100"), "there is no file"),
        (("plan", "hf:./none.json", "--device", "cuda", "--budget", "1GB"), "without weights"),
        (("plan", "hf:./none.json", "--budget", "8 gigs"), "budget '8 gigs'"),
        (("fit", "hf:./none.json", "--device", "h100", "--dtype", "int4"), "dtype is 'int4'"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(
    arguments: tuple[str, ...], message: str
) -> None:
    result = _run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert result.output.count("\n") == 1


def test_a_device_of_a_table_that_has_less_than_the_budget_counts_with_all_it_has() -> None:
    result = _run("fit", "zoo:sequential", "--devices", "t4,h100", "--budget", "20GB")
    assert result.exit_code == 0, result.output
    lines = {line.split(" ")[0]: line for line in result.output.splitlines()}
    assert "14.25 GiB" in lines["t4"]
    assert "18.63 GiB" in lines["h100"]


def test_a_card_without_bf16_is_offered_fp16(llama: str) -> None:
    result = _run("fit", llama, "--device", "t4", "--batch", "2", "--seq", "16")
    assert result.exit_code == 0, result.output
    assert "fp16 throughout" in result.output
    assert "bf16" not in result.output


def test_a_batch_that_autockpt_made_is_named_if_the_model_cannot_be_captured(
    tmp_path: Path,
) -> None:
    config = {
        **LLAMA,
        "model_type": "mixtral",
        "num_key_value_heads": 8,
        "architectures": ["MixtralForCausalLM"],
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    result = _run("plan", f"hf:{file}", "--device", "h100", "--budget", "100%", "--seq", "8")
    assert result.exit_code == 4
    assert f"autockpt made the batch for hf:{file}: if that does not fit" in result.output


def test_a_schedule_that_does_not_run_is_no_fault_of_yours() -> None:
    """It was told like a wrong argument, with exit code 2."""
    failure = failure_of(ScheduleError("step 3: storage 'x' is not live", step=3))
    assert failure.code == exits.BUG
    assert failure.lines[0].startswith("error: a bug in autockpt: ScheduleError: step 3")
