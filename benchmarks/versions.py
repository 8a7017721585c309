"""Run the core tests with the oldest and the newest torch and transformers; write docs/versions.md.

`make versions` calls this. Each pair of versions gets a fresh environment under `build/versions/`,
which is removed after its tests. Other dependencies are the newest that pip finds. Builds of torch
that pip installs may be CUDA builds of several GB; the tests run them on the CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "versions"
PAGE = ROOT / "docs" / "versions.md"

# The oldest versions that pyproject.toml allows, then the newest that pip finds.
PAIRS = ("2.11.0:4.50.0", "newest:newest")
# The capture, bits, peaks, the ladder and the engine, in a few minutes.
CORE = (
    "tests/torch_private",
    "tests/capture/test_tricky_models.py",
    "tests/matrix/test_capture.py",
    "tests/verify/test_measure.py",
    "tests/ladder/test_ladder.py",
    "tests/solvers/test_solve.py",
)
TOOLS = ("pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the tests gave with one pair of versions."""

    torch: str
    transformers: str
    result: str
    failed: tuple[str, ...]


def environment(number: int, pair: str) -> Path:
    """Create an environment with a pair of versions, as `torch:transformers`; return its Python."""
    torch, transformers = pair.split(":")
    folder = FOLDER / str(number)
    python = folder / "bin" / "python"
    if python.exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pinned = [
        name if version == "newest" else f"{name}=={version}"
        for name, version in (("torch", torch), ("transformers", transformers))
    ]
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *pinned, *TOOLS, "-e", str(ROOT)], check=True, cwd=ROOT)
    return python


def tested(python: Path, *, workers: int) -> Row:
    """Run the core tests in an environment."""
    versions = subprocess.run(
        [python, "-c", "import torch, transformers as t; print(torch.__version__, t.__version__)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    command = [python, "-m", "pytest", "-q", "-n", str(workers), "--dist", "worksteal", *CORE]
    # Settings of the environment that this script runs in are not the fresh one's.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    lines = run.stdout.strip().splitlines() or run.stderr.strip().splitlines() or ["no output"]
    failed = tuple(line for line in lines if line.startswith(("FAILED", "ERROR")))
    for line in failed:
        print(f"  {line}", flush=True)
    result = re.sub(r" in [\d.]+s.*$", "", lines[-1].strip("= "))
    return Row(torch=versions[0], transformers=versions[1], result=result, failed=failed)


def page(rows: list[Row], *, today: dt.date) -> str:
    """The page as Markdown."""
    table = "\n".join(f"| {row.torch} | {row.transformers} | {row.result} |" for row in rows)
    failures = "".join(
        f"\nFailed with torch {row.torch} and transformers {row.transformers}:\n\n"
        + "".join(f"- `{line.split(' - ')[0].split(' ', 1)[1]}`\n" for line in row.failed)
        for row in rows
        if row.failed
    )
    return (
        "# Versions\n\n"
        "`make versions` runs the core tests (capture, bits, peaks, ladder, engine) in a fresh\n"
        "environment for the oldest and the newest torch and transformers that autockpt supports.\n"
        f"These results are of {today:%Y-%m-%d}, with Python {platform.python_version()} on\n"
        f"{platform.system()} {platform.machine()}, on the CPU.\n\n"
        "| torch | transformers | core tests |\n|---|---|---|\n"
        f"{table}\n{failures}"
        "\nautockpt uses private names of torch, all of them in `autockpt/torch_private`. If your\n"
        "torch lacks one, autockpt raises an error that names it and the tested versions.\n"
    )


def main() -> None:
    """Test every pair of versions and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", nargs="*", default=PAIRS, help="torch:transformers")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--install-only", action="store_true", help="create the environments")
    parser.add_argument("--keep", action="store_true", help="do not remove the environments")
    options = parser.parse_args()
    rows = []
    for number, pair in enumerate(options.pairs):
        print(f"torch:transformers {pair}", flush=True)
        python = environment(number, pair)
        if options.install_only:
            continue
        rows.append(tested(python, workers=options.workers))
        print(f"  {rows[-1].result}", flush=True)
        if not options.keep:
            shutil.rmtree(python.parent.parent)
    if not options.install_only:
        PAGE.write_text(page(rows, today=dt.datetime.now(tz=dt.UTC).date()), encoding="utf-8")
        if any(row.failed for row in rows):
            sys.exit(1)


if __name__ == "__main__":
    main()
