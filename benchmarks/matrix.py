"""Run the correctness matrix and write its page.

    python benchmarks/matrix.py [--output docs/correctness.md] [pytest arguments]

Tests name the row that they show with ``@pytest.mark.row(name, models)``; a row passes when all of
its tests do. Every marked test runs, the longer ones included.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime as dt
import platform
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
_RESULTS = {"passed": "pass", "failed": "FAIL", "skipped": "skipped", "xfailed": "limitation"}
_INTRODUCTION = """\
# Correctness

Each row is a feature that people train with. Its tests train the same program with and without
autockpt for several steps. They compare bit for bit: losses and other outputs, the gradient of
every parameter, parameters, buffers, optimizer state, and the state of every random generator. In
rows with a budget, the measured peak must stay within it, at two budgets: the smallest workable
one, and one halfway to what eager PyTorch needs. [Limitations](limitations.md) lists what is not
supported.

`make test` runs some tests of each row, mostly at the smallest budget. `make matrix` runs all of
them, and `python benchmarks/matrix.py` writes this page. `python benchmarks/fuzz.py` tests [random
modules](benchmarks/fuzz.md) in the same way, 1,000 by default.
"""


@dataclasses.dataclass
class Row:
    """A row of the page: where it is shown, on what, and what came of it."""

    models: dict[str, None] = dataclasses.field(default_factory=dict)
    tests: dict[str, None] = dataclasses.field(default_factory=dict)
    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    @property
    def result(self) -> str:
        """The worst of its tests' outcomes, and how many there are."""
        for outcome in ("failed", "xfailed", "skipped", "passed"):
            if self.outcomes[outcome]:
                return f"{_RESULTS[outcome]} ({self.outcomes[outcome]} of {self.outcomes.total()})"
        return "not run"


class Matrix:
    """A pytest plugin that keeps the rows' tests, and what becomes of each."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self._rows_of: dict[str, list[str]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note which tests show which row."""
        for item in items:
            for mark in item.iter_markers("row"):
                name, models = mark.args
                row = self.rows.setdefault(name, Row())
                row.models.setdefault(models)
                row.tests.setdefault(item.nodeid.split("[")[0])
                self._rows_of.setdefault(item.nodeid, []).append(name)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome of a test: of its call, or of a setup that failed or skipped."""
        if report.when != "call" and report.outcome == "passed":
            return
        outcome = "xfailed" if hasattr(report, "wasxfail") else report.outcome
        for name in self._rows_of.get(report.nodeid, []):
            self.rows[name].outcomes[outcome] += 1

    def page(self) -> str:
        """The page in Markdown."""
        lines = [
            _INTRODUCTION,
            f"Written {dt.datetime.now(tz=dt.UTC):%Y-%m-%d} with torch {torch.__version__}, Python "
            f"{platform.python_version()}, on the CPU ({platform.machine()}).\n",
            "| row | models | shown by | result |",
            "|---|---|---|---|",
        ]
        for name, row in sorted(self.rows.items(), key=lambda item: item[0].lower()):
            if row.outcomes:
                tests = "<br>".join(f"`{_short(test)}`" for test in row.tests)
                lines.append(f"| {name} | {'; '.join(row.models)} | {tests} | {row.result} |")
        return "\n".join(lines) + "\n"


def _short(nodeid: str) -> str:
    path, _, test = nodeid.partition("::")
    return f"{Path(path).name}::{test}"


def main() -> int:
    """Run the tests, write the page, and return pytest's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "correctness.md")
    parser.add_argument("--workers", type=int, default=2)
    options, arguments = parser.parse_known_args()
    matrix = Matrix()
    command = ["-v", "-m", "row", f"--rootdir={ROOT}", *(arguments or [str(ROOT / "tests")])]
    # Workers do not tell which marks their tests bear: they are collected here beforehand.
    pytest.main([*command, "-n", "0", "--collect-only", "-q"], plugins=[matrix])
    status = pytest.main([*command, "-n", str(options.workers)], plugins=[matrix])
    options.output.write_text(matrix.page(), encoding="utf-8")
    print(f"wrote {options.output}")
    return int(status)


if __name__ == "__main__":
    raise SystemExit(main())
