"""What a rich console shows, as plain text: without colours, blanks at line ends and a terminal."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType


def plain_text(report: RenderableType, *, width: int, encoding: str = "utf-8") -> str:
    """Returns a report as lines of text.

    Args:
        report: What to show.
        width: Letters in a line; what may not be wrapped is not cut off.
        encoding: What letters there are; others are written out.
    """
    buffer = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    console = Console(
        file=buffer, width=width, color_system=None, legacy_windows=False, force_jupyter=False
    )
    console.print(report, crop=False)
    buffer.seek(0)
    return "\n".join(line.rstrip() for line in buffer.read().splitlines())
