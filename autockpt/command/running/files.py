"""The files that commands read and write; `-` is standard output."""

from __future__ import annotations

import os
from pathlib import Path

from autockpt.command.grammar.usage_error import TargetError
from autockpt.command.running.streams import answers

STANDARD_OUTPUT = Path("-")


def check_writable(*files: Path | None) -> None:
    """Fails before the work is done if its results cannot be written, each to its own place."""
    named = [file for file in files if file is not None]
    if named.count(STANDARD_OUTPUT) > 1:
        raise TargetError(
            "two answers both take standard output (-); name a file for all but one of them"
        )
    for file in named:
        if file == STANDARD_OUTPUT:
            continue
        if named.count(file) > 1:
            raise TargetError(f"two answers would both be written to {file}; name two files")
        if not file.parent.is_dir():
            raise TargetError(f"cannot write {file}: there is no folder {file.parent}")
        if file.is_dir():
            raise TargetError(f"cannot write {file}: it is a folder; name a file")
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise TargetError(f"cannot write {file}: you may not write there")


def write(file: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all, or to standard output.

    Raises:
        TargetError: If it cannot be written.
    """
    from autockpt.report.files.plan_file import write_whole

    if file == STANDARD_OUTPUT and isinstance(content, str):
        answers().write(content)
        return
    try:
        write_whole(file, content, what="write")
    except OSError as error:
        raise TargetError(str(error)) from error


def read(file: Path) -> str:
    """Returns the text of a file.

    Raises:
        TargetError: If it cannot be read.
    """
    if file.is_dir():
        raise TargetError(f"{file} is a folder; name a file")
    if not file.exists():
        raise TargetError(f"there is no file {file}")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TargetError(f"{file} is not a text file: {error}") from error
    except OSError as error:
        raise TargetError(f"cannot read {file}: {error.strerror}") from error
