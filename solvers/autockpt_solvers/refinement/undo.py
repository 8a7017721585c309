"""Notes of what a change does to the tables of a plan, so that it can be undone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autockpt_solvers.kernels.compiling import compiled_within

if TYPE_CHECKING:
    from autockpt_solvers.refinement.tables import Flags, Numbers

# Kinds of notes: a storage was at hand or not, was touched otherwise, was live elsewhere; a reader
# had other runs, other most bytes; the forward pass ran other ops; a storage that a reader did not
# touch before is kept after it or not.
AT_HAND, TOUCH, LIVE, RUNS, MOST, FORWARD, KEPT = range(7)


@compiled_within
def note(notes: Numbers, totals: Any, kind: int, a: int, b: int, c: int) -> None:
    """Add a note: a kind, and three numbers that mean something else for each kind."""
    row = totals.num_notes
    notes[row, 0] = kind
    notes[row, 1] = a
    notes[row, 2] = b
    notes[row, 3] = c
    totals.num_notes = row + 1


@compiled_within
def flip(flags: Flags) -> None:
    """Turn flags into their opposites."""
    for k in range(flags.size):
        flags[k] ^= 1


@compiled_within
def add(numbers: Numbers, number: int) -> None:
    """Add a number to each of some."""
    for k in range(numbers.size):
        numbers[k] += number
