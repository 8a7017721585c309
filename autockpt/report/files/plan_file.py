"""A plan's text in a file: written whole or not at all, and read with errors that help."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import NoReturn

_MAX_BYTES = 2**30  # the largest plans have some megabytes


def write_whole(
    path: str | os.PathLike[str], content: str | bytes, *, what: str = "save the plan to"
) -> None:
    """Write a file so that whoever reads it sees all of the old content or all of the new.

    Args:
        path: The file; its folder must exist. A symbolic link stays one.
        content: What to write; text is written as UTF-8.
        what: What is done, for the message of an error.

    Raises:
        OSError: The file cannot be written; it is as it was.
    """
    file = Path(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        if file.is_dir():
            raise IsADirectoryError
        if file.exists() and not file.is_file():
            file.write_bytes(data)  # a device or a pipe cannot be replaced
        else:
            _replace(Path(os.path.realpath(file)), data)
    except OSError as error:
        _fail(error, f"cannot {what} {file}", _why_not_written(file, error))


def _replace(file: Path, data: bytes) -> None:
    if file.exists() and not os.access(file, os.W_OK):
        raise PermissionError
    beside = file.parent / f".autockpt-{secrets.token_hex(8)}.tmp"
    try:
        with beside.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if file.exists():
            shutil.copymode(file, beside)
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _why_not_written(file: Path, error: OSError) -> str:
    if isinstance(error, IsADirectoryError):
        return f"it is a folder. Name a file, such as {file / 'plan.json'}."
    if not file.parent.exists():
        return f"there is no folder {file.parent}. Create it, or name a file in another folder."
    if isinstance(error, PermissionError):
        return "you may not write there. Name a file in a folder of yours."
    reason = error.strerror or str(error)
    return f"{reason}. Nothing was changed; name a file in another place."


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a text file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no text.
    """
    file = Path(path)
    try:
        if file.is_file() and file.stat().st_size > _MAX_BYTES:
            raise ValueError(f"cannot load a plan from {file}: it is too large to be one")
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"cannot load a plan from {file}: it is no text ({error.reason} at byte "
            f"{error.start}). Name a file that Plan.save wrote."
        ) from error
    except OSError as error:
        _fail(error, f"cannot load a plan from {file}", _why_not_read(error))


def _why_not_read(error: OSError) -> str:
    reason = error.strerror or str(error)
    if isinstance(error, FileNotFoundError):
        reason = "there is no such file"
    if isinstance(error, IsADirectoryError):
        reason = "it is a folder"
    return f"{reason}. Name a file that Plan.save wrote, and that you may read."


def _fail(error: OSError, what: str, why: str) -> NoReturn:
    """Raise an error of the same class with one clear line."""
    told = type(error)(f"{what}: {why}")
    told.errno = error.errno
    raise told from error
