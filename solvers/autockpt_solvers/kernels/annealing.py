"""What both kinds of simulated annealing share: cooling, acceptance, and what they record.

`local` anneals compute orders, `refinement` what a plan keeps. Both take a change that makes a plan
worse with a probability that falls with the temperature. Both count bytes over the budget with a
weight that rises.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from autockpt_solvers.kernels.compiling import compiled_within

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HOPELESS = 20.0  # worse by this many temperatures: taken once in half a billion times


class Cooling(NamedTuple):
    """How a run cools.

    Attributes:
        unit_ns: Recompute time that counts as one.
        unit_bytes: Bytes over the budget that count as one, before they are weighted.
        first_temperature: Temperature at the first step.
        last_temperature: Temperature at the last step.
        first_weight: Weight of the bytes at the first step.
        last_weight: Weight of the bytes at the last step.
    """

    unit_ns: float
    unit_bytes: float
    first_temperature: float
    last_temperature: float
    first_weight: float
    last_weight: float


class Steps(NamedTuple):
    """Some steps of a run: the first, the one to stop before, and how many the run has."""

    first: int
    stop: int
    total: int


# What runs have found: the recompute time and length of the cheapest order that fits (-1 if none
# does yet), the peak and length of the leanest order, and the bytes over the budget of the order
# that is the least over it.
FOUND = np.dtype(
    [
        ("best_ns", np.int64),
        ("best_length", np.int64),
        ("lean_peak_bytes", np.int64),
        ("lean_length", np.int64),
        ("least_over_bytes", np.int64),
    ]
)


def nothing_found() -> NDArray[Any]:
    """An array with one record of `FOUND`, which compiled code changes."""
    most = np.iinfo(np.int64).max
    return np.array([(-1, 0, most, 0, most)], dtype=FOUND)


@compiled_within
def draw(random: np.random.Generator, below: int) -> int:
    """A random integer from 0 to `below` - 1."""
    return int(random.random() * below)


@compiled_within
def temperature_at(cooling: Cooling, share: float) -> float:
    """The temperature when a share of the steps is done."""
    fall = cooling.last_temperature / cooling.first_temperature
    return float(cooling.first_temperature * fall**share)


@compiled_within
def weight_at(cooling: Cooling, share: float) -> float:
    """The weight of bytes over the budget when a share of the steps is done."""
    rise = cooling.last_weight / cooling.first_weight
    return float(cooling.first_weight * rise**share)


@compiled_within
def is_taken(worse: float, temperature: float, random: np.random.Generator) -> bool:
    """Whether a change that makes a plan worse by so much is taken; always if it does not."""
    if worse <= 0:
        return True
    return worse < _HOPELESS * temperature and random.random() < math.exp(-worse / temperature)
