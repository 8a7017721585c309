"""Programs in processes of their own that import nothing: a server has imported torch for them.

Importing torch and autockpt takes longer than most programs of the tests. Streams, the environment,
signals and exit codes are those of `python -c program`. What depends on how an interpreter starts,
such as its encoding, needs `subprocess`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping
from multiprocessing import reduction
from typing import Any

from ranks import context


class _Descriptor:
    """A file descriptor that another process inherits."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return _inherited, (reduction.DupFd(self.number),)  # type: ignore[no-untyped-call]


def _inherited(duplicate: Any) -> _Descriptor:
    return _Descriptor(duplicate.detach())


class Program:
    """A program that runs as `python -c` runs it."""

    def __init__(
        self,
        program: str,
        *args: str,
        env: Mapping[str, str],
        stdin: int | None = None,
        stdout: int,
        stderr: int,
    ) -> None:
        """Start it.

        Args:
            program: Its code.
            args: Its arguments.
            env: Its environment.
            stdin: A file descriptor; None for nothing to read.
            stdout: A file descriptor. Close yours.
            stderr: A file descriptor. Close yours.
        """
        with contextlib.ExitStack() as stack:
            if stdin is None:
                stdin = stack.enter_context(open(os.devnull)).fileno()  # noqa: PTH123
            streams = [_Descriptor(number) for number in (stdin, stdout, stderr)]
            self._process = context.Process(
                target=_run, args=(program, args, dict(env), streams), daemon=True
            )
            self._process.start()

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def wait(self, timeout_s: float | None = None) -> int:
        """Its exit code, or the negative number of the signal that ended it."""
        self._process.join(timeout_s)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise TimeoutError(f"the program still ran after {timeout_s} s")
        return code


def run(
    program: str, *args: str, env: Mapping[str, str], timeout_s: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run a program and return what it wrote."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        started = Program(program, *args, env=env, stdout=stdout.fileno(), stderr=stderr.fileno())
        code = started.wait(timeout_s)
        for written in (stdout, stderr):
            written.seek(0)
        return subprocess.CompletedProcess((program, *args), code, stdout.read(), stderr.read())


def _run(
    program: str, args: tuple[str, ...], env: dict[str, str], streams: list[_Descriptor]
) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream.number, number)
        os.close(stream.number)
    os.environ.clear()
    os.environ.update(env)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False, buffering=1 if os.isatty(1) else -1)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    sys.argv = ["-c", *args]
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    try:
        exec(compile(program, "<string>", "exec"), vars(main))  # noqa: S102
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - as the interpreter does
        sys.excepthook(type(error), error, error.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            # As the interpreter does, so that a shell sees why it ended.
            sys.stdout.flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        sys.exit(1)
