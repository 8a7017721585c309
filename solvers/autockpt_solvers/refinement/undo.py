"""Notes of what a change of a plan (see `held`) does to its tables, to take it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.compiling import compiled_within
from autockpt_solvers.refinement.tables import NOTES

if TYPE_CHECKING:
    from autockpt_solvers.refinement.tables import Flags, Numbers

# Kinds of notes: storages that are at hand or not, how they are touched, where they are live; what
# runs in a stage, and its most bytes; that the forward pass runs other ops.
AT_HAND, TOUCH, LIVE, RUNS, MOST, HEAD = range(6)


@compiled_within
def note(notes: Numbers, totals: Numbers, kind: int, a: int, b: int, c: int) -> None:
    """Adds a note: what was, and what of it, by numbers that depend on the kind."""
    row = totals[NOTES]
    notes[row, 0] = kind
    notes[row, 1] = a
    notes[row, 2] = b
    notes[row, 3] = c
    totals[NOTES] = row + 1


@compiled_within
def flip(flags: Flags) -> None:
    """Turns flags into their opposites."""
    for k in range(flags.size):
        flags[k] ^= 1


@compiled_within
def add(numbers: Numbers, number: int) -> None:
    """Adds a number to each of some."""
    for k in range(numbers.size):
        numbers[k] += number
