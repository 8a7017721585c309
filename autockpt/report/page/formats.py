"""Times, ticks of axes, and texts that may be shown."""

from __future__ import annotations

import math

from autockpt.budget import format_bytes
from autockpt.report.words.inert import inert

_UNITS_NS = ((10**9, "s"), (10**6, "ms"), (10**3, "µs"), (1, "ns"))
_UNITS_BYTES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))


def format_time(time_ns: float) -> str:
    """Returns a time with three digits in the largest unit that fits."""
    size, unit = next((pair for pair in _UNITS_NS if time_ns >= pair[0]), _UNITS_NS[-1])
    return f"{_digits(time_ns / size)} {unit}"


def format_share(share: float, *, signed: bool = False) -> str:
    """Returns a share in per cent, with a digit behind the point."""
    return f"{share:+.1%}" if signed else f"{share:.1%}"


def time_ticks(most_ns: int) -> list[tuple[float, str]]:
    """Places from 0 to 1 on an axis of time, with labels."""
    return _ticks(most_ns, _UNITS_NS, base=10, num=6)


def byte_ticks(most_bytes: int) -> list[tuple[float, str]]:
    """Places from 0 to 1 on an axis of bytes, with labels."""
    return _ticks(most_bytes, _UNITS_BYTES, base=2, num=6)


def _ticks(
    most: int, units: tuple[tuple[int, str], ...], *, base: int, num: int
) -> list[tuple[float, str]]:
    if most <= 0:
        return [(0.0, "0")]
    size, unit = next((pair for pair in units if most >= pair[0]), units[-1])
    step = _round_step(most / size / num, base)
    count = math.floor(most / size / step)
    return [(at * step * size / most, f"{_plain(at * step)} {unit}") for at in range(count + 1)]


def _round_step(least: float, base: int) -> float:
    """The next round number: 1, 2 or 5 times a power of 10, or a power of 2 if that is above 1."""
    if base == 2 and least > 1:
        return float(2 ** math.ceil(math.log2(least)))
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))


def _plain(number: float) -> str:
    return f"{number:.6g}"


def _digits(number: float) -> str:
    return (
        f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"
    )


__all__ = ["byte_ticks", "format_bytes", "format_share", "format_time", "inert", "time_ticks"]
