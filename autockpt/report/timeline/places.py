"""Where the operations of a planned graph come from: lines of source code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autockpt_solvers import ComputeGraph

_MOST_LINES = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLine:
    """A line of source code.

    Attributes:
        file: The file, as Python imports it: `my_models.py`, `transformers/activations.py`.
        line: Its number, from 1.
        code: What it says; empty if the source was not at hand.
    """

    file: str
    line: int
    code: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.line < _MOST_LINES:
            raise ValueError(f"line must be from 1 to {_MOST_LINES - 1}, got {self.line}")

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The source lines of a graph's operations, kept beside the graph.

    Attributes:
        lines: The lines, each once.
        of_ops: Per operation, the index of its line, -1 if it is not known; empty if none is known.
            An operation of the backward has the line of what it differentiates.
        outside: The operations that code outside of the model runs, ascending.
    """

    lines: tuple[SourceLine, ...] = ()
    of_ops: tuple[int, ...] = ()
    outside: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not all(-1 <= at < len(self.lines) for at in self.of_ops):
            raise ValueError(f"places.of_ops must be from -1 to {len(self.lines) - 1}")
        if list(self.outside) != sorted(set(self.outside)) or min(self.outside, default=0) < 0:
            raise ValueError("places.outside must be ascending operations")

    def line_of(self, op: int) -> SourceLine | None:
        """The line of an operation, if it is known."""
        at = self.of_ops[op] if self.of_ops else -1
        return None if at < 0 else self.lines[at]

    def check(self, graph: ComputeGraph | None) -> None:
        """Raises ValueError if these are not the places of this graph's operations."""
        num_ops = 0 if graph is None else len(graph.ops)
        if self.of_ops and len(self.of_ops) != num_ops:
            raise ValueError(f"places.of_ops has {len(self.of_ops)} entries for {num_ops} ops")
        if self.outside and self.outside[-1] >= num_ops:
            raise ValueError(f"places.outside names op {self.outside[-1]} of {num_ops} ops")


NO_PLACES = Places()
