from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from autockpt.command.cli import _app
from autockpt.report.curve.value import Curve


def _run(*args: str) -> Result:
    return CliRunner().invoke(_app, args)


def test_a_curve_is_printed_written_and_drawn(tmp_path: Path) -> None:
    script = tmp_path / "mine_for_pareto.py"
    script.write_text(
        "import torch\n"
        "def make():\n"
        "    layers = [torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU())\n"
        "              for _ in range(4)]\n"
        "    return torch.nn.Sequential(*layers), torch.ones(256, 64)\n"
    )
    json, csv, plot = (tmp_path / name for name in ("c.json", "c.csv", "c.svg"))
    result = _run(
        *("pareto", f"{script}:make", "--loss", "sum", "--optimizer", "sgd", "--points", "4"),
        *("--method", "greedy", "--json", str(json), "--csv", str(csv), "--plot", str(plot)),
    )
    assert result.exit_code == 0, result.output
    curve = Curve.from_json(json.read_text())
    lines = result.stdout.splitlines()
    assert lines[0] == str(curve).splitlines()[0]
    assert max(map(len, lines)) <= 80
    assert len(curve.points) == 4
    assert csv.read_text() == curve.to_csv()
    assert "proven bound" in plot.read_text()
    result = _run(
        *("pareto", f"{script}:make", "--loss", "sum", "--budgets", "1MB, 90%", "--csv", "-"),
        *("--method", "greedy", "--quiet"),
    )
    assert result.exit_code == 0, result.output
    rows = [line.split(",") for line in result.stdout.splitlines()]
    assert [row[0] for row in rows[:3]] == ["kind", "plan", "plan"]
    assert "1000000" in (rows[1][3], rows[2][3])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--points", "0"), "--points is 0; it must be 1 or more"),
        (("--budgets", "40%,much"), "'much' is not an amount of memory"),
        (("--points", "3", "--budgets", "40%"), "exclude each other"),
        (("--plot", "curve.bmp"), "the suffix '.bmp' names no format"),
        (("--csv", "no/such/x.csv"), "there is no folder"),
    ],
)
def test_wrong_arguments_fail_before_anything_is_built(
    args: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "autockpt.command.targets.target.load", lambda *_, **__: pytest.fail("built")
    )
    result = _run("pareto", "zoo:sequential", *args)
    assert result.exit_code == 2
    assert message in result.stderr
