"""Programs on a terminal of their own, and what is left on its screen."""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import sys
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import forked

_ERASE = "\r\x1b[2K"
_OTHERS = re.compile(r"\x1b\[(?!2K)[0-9;?]*[a-zA-Z]")  # colors, and what rich does to the cursor


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a program wrote to its terminal: every text, and the lines that are left."""

    code: int
    written: str

    @property
    def frames(self) -> list[str]:
        """What stood in a line before it was erased, without the spinner."""
        pieces = self.written.split(_ERASE)
        return [piece[2:] for piece in pieces if piece[2:].startswith("autockpt ")]

    @property
    def screen(self) -> list[str]:
        """The lines that are left."""
        lines = self.written.replace("\r\n", "\n").split("\n")
        return [line.rpartition(_ERASE)[2].rpartition("\r")[2] for line in lines]


def environment(**changed: str) -> dict[str, str]:
    """Of a program that shows progress, unless a change says otherwise."""
    kept = {name: value for name, value in os.environ.items() if name != "AUTOCKPT_PROGRESS"}
    root = Path(__file__).parents[1]
    path = os.pathsep.join((str(root), str(root / "solvers"), str(root / "tests")))
    return {**kept, "PYTHONPATH": path, "TERM": "xterm", "PYTHONUTF8": "1", **changed}


def on_terminal(program: str, *, width: int = 100, is_fresh: bool = False, **changed: str) -> Shown:
    """Run a program whose standard streams are a terminal.

    Args:
        program: Its code.
        width: Letters in a line of the terminal.
        is_fresh: Whether an interpreter of its own starts, with the encoding that the environment
            asks for.
        changed: Of the environment.
    """
    main, worker = pty.openpty()
    ioctl(worker, TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    env = environment(**changed)
    streams = {"stdin": worker, "stdout": worker, "stderr": worker}
    process: subprocess.Popen[bytes] | forked.Program
    if is_fresh:
        process = subprocess.Popen([sys.executable, "-c", program], env=env, **streams)
    else:
        process = forked.Program(program, env=env, **streams)
    os.close(worker)
    written = b""
    while True:
        try:
            read = os.read(main, 65536)
        except OSError:  # Linux says so when the program has ended
            break
        if not read:
            break
        written += read
    os.close(main)
    return Shown(code=process.wait(), written=_OTHERS.sub("", written.decode()))


def in_a_pipe(program: str, **changed: str) -> subprocess.CompletedProcess[str]:
    """Run a program whose standard streams are pipes."""
    return forked.run(program, env=environment(**changed))
