"""Commands as processes, as somebody types them; a server has imported torch for them."""

from __future__ import annotations

import subprocess

import forked
from terminals import environment

_PROGRAM = "from autockpt.command.cli import main\nmain()\n"


def autockpt(*args: str, width: int = 80, **changed: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose standard streams are pipes.

    Args:
        args: What is typed after `autockpt`.
        width: Letters in a line of its output.
        changed: Of its environment.
    """
    env = environment(AUTOCKPT_PROGRESS="0", COLUMNS=str(width), **changed)
    return forked.run(_PROGRAM, *args, env=env)


def error_of(run: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line that a command ends with that fails with this exit code."""
    assert run.returncode == code, (run.returncode, run.stderr)
    lines = run.stderr.splitlines()
    assert lines, run.stdout
    assert lines[0].startswith("error: "), run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
    return lines[0]
