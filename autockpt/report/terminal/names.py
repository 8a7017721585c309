"""Names of modules in a column: shortened at their dots, never in the middle of a word."""

from __future__ import annotations

from autockpt.report.words.inert import inert

_LEFT_OUT = ".."


def shortened(name: str, width: int) -> str:
    """Returns a dotted name that fits a width: its last parts, if not all of them do.

    Args:
        name: The name; what is not printable of it is written out.
        width: How many letters there are.
    """
    name = inert(name)
    if len(name) <= width:
        return name
    parts = name.split(".")
    for first in range(1, len(parts)):
        rest = _LEFT_OUT + ".".join(parts[first:])
        if len(rest) <= width:
            return rest
    return _LEFT_OUT + parts[-1][-max(1, width - len(_LEFT_OUT)) :]


def without_folders(line: str, width: int) -> str:
    """Returns a file and its line, without the folders that do not fit a width."""
    while len(line) > width and "/" in line:
        line = line.split("/", 1)[1]
    return line if len(line) <= width else _LEFT_OUT + line[-max(1, width - len(_LEFT_OUT)) :]
