"""Memory budgets: parses what you pass as a budget, and formats bytes.

A budget limits all memory of a training step: parameters, buffers, gradients, optimizer state,
inputs, activations, temporary tensors and workspace. You pass bytes, text with a unit, a share of
eager PyTorch's peak, or a share of a device's memory. That peak is known only after profiling, and
that memory only when a step is planned, so a budget is parsed first and resolved later.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Literal, SupportsIndex

_UNIT_BYTES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_PATTERN = re.compile(r"([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?|\.[0-9]+)\s*([a-z]*|%)", re.IGNORECASE)
_OF_DEVICE = re.compile(r"(.*%)\s*of\s+(device|free)", re.IGNORECASE | re.DOTALL)
_FORMS = (
    'write bytes as an int, "8GB" (8e9 bytes), "8GiB" (2**33 bytes), "60%" (of the eager peak), '
    '"auto", "80% of free" or "80% of device"'
)
# What a share is of: the peak of the eager step; the memory of the device; or what of that memory
# the step can have now, with a margin left free for "auto".
Whole = Literal["eager peak", "device", "free", "auto"]
# An allocator cannot use all that is free: blocks have gaps between them, and libraries allocate
# beside it.
_MARGIN = 0.05
_LEAST_MARGIN_BYTES = 256 * 2**20
# What is free differs by a little from process to process. Rounded, it leads to the same plan.
_STEP_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A parsed budget: absolute, or relative to the peak of eager PyTorch or to a device's memory.

    Attributes:
        bytes: The budget in bytes; None if it is relative.
        percent: The budget as a percentage; None if it is absolute.
        of: What the percentage is of.
        less_bytes: What is deducted once the budget is known in bytes.
    """

    bytes: int | None = None
    percent: float | None = None
    of: Whole = "eager peak"
    less_bytes: int = 0

    def __post_init__(self) -> None:
        if (self.bytes is None) == (self.percent is None):
            raise ValueError("a Budget has either bytes or percent, not both and not neither")
        if self.bytes is not None and self.bytes <= 0:
            raise ValueError(f"budget must be more than 0 bytes, got {self.bytes}; {_FORMS}")
        if self.percent is not None and not 0 < self.percent < float("inf"):
            raise ValueError(f"budget must be more than 0%, got {self.percent}%; {_FORMS}")
        if self.bytes is not None and self.is_of_device:
            raise ValueError("a Budget in bytes is no share of a device's memory")
        if self.percent is not None and self.percent > 100 and self.is_of_device:
            raise ValueError(f"budget is {self}, and a device has no more than 100%; {_FORMS}")

    @property
    def is_of_device(self) -> bool:
        """Whether the budget depends on a device's memory; see `on_device`."""
        return self.of != "eager peak"

    @property
    def counts_other_models(self) -> bool:
        """Whether other optimized models of the step are part of it.

        A share of eager's peak is one of the model's own step, and what others have in memory is
        not free.
        """
        return self.bytes is not None or self.of == "device"

    def on_device(self, *, total_bytes: int, usable_bytes: int) -> Budget:
        """Returns the budget for a step on a device; itself if it does not depend on a device.

        Args:
            total_bytes: The memory of the device.
            usable_bytes: What of it the whole step can have: what is free, and what the step has
                already.

        Raises:
            ValueError: If nothing is left.
        """
        if not self.is_of_device:
            return self
        whole_bytes = total_bytes if self.of == "device" else usable_bytes
        num_bytes = int(Decimal(str(self.percent)) * whole_bytes / 100)
        if self.of == "auto":
            num_bytes -= max(int(_MARGIN * total_bytes), _LEAST_MARGIN_BYTES)
        if num_bytes > _STEP_BYTES:
            num_bytes -= num_bytes % _STEP_BYTES
        if num_bytes <= 0:
            raise ValueError(
                f"budget {self} leaves nothing: a step can have {format_bytes(usable_bytes)} of "
                f"the device's {format_bytes(total_bytes)}; free memory, or give bytes"
            )
        return Budget(bytes=num_bytes)

    def resolve(self, baseline_peak_bytes: int) -> int:
        """Returns the budget in bytes.

        Args:
            baseline_peak_bytes: The total peak of a step in eager PyTorch; a relative budget is a
                share of it, rounded down.

        Raises:
            ValueError: If that share is less than a byte, or the budget depends on a device.
        """
        if self.bytes is not None:
            return max(1, self.bytes - self.less_bytes)
        if self.is_of_device:
            raise ValueError(no_device(self))
        num_bytes = int(Decimal(str(self.percent)) * baseline_peak_bytes / 100)
        if num_bytes == 0 and baseline_peak_bytes > 0:
            raise ValueError(
                f"budget {self}, which is {format_bytes(baseline_peak_bytes)}, is less than one "
                f"byte; {_FORMS}"
            )
        return max(min(1, num_bytes), num_bytes - self.less_bytes)

    def __str__(self) -> str:
        if self.bytes is not None:
            return format_bytes(self.bytes)
        if self.of == "auto":
            return "auto"
        return f"{self.percent:g}% of {'' if self.of == 'free' else 'the '}{self.of}"


def no_device(budget: Budget) -> str:
    """Returns what is wrong with a budget that depends on a device if the step runs on none."""
    return (
        f'budget "{budget}" depends on the memory of a device, and this step runs on none that has '
        'its own: give a number, such as "8GB", or "60%" of the eager peak'
    )


def parse_budget(budget: SupportsIndex | str | Budget) -> Budget:
    """Parses a budget.

    Args:
        budget: Bytes as an int; text with a decimal or binary unit (`"512MB"`, `"8GiB"`, upper or
            lower case); a percentage of the eager peak (`"60%"`); `"auto"`; or a percentage of a
            device's memory (`"80% of device"`) or of what is free of it (`"80% of free"`).

    Raises:
        TypeError: If it is neither a whole number nor text.
        ValueError: If it is not positive, or the text is not a budget.
    """
    if isinstance(budget, Budget):
        return budget
    if isinstance(budget, str):
        return _parse_text(budget)
    if isinstance(budget, bool) or not hasattr(type(budget), "__index__"):
        hint = " (a float? round it with int(...))" if isinstance(budget, float) else ""
        raise TypeError(
            f"budget must be an int or a str, got {budget!r} of type {type(budget).__name__}"
            f"{hint}; {_FORMS}"
        )
    return Budget(bytes=operator.index(budget))


def _parse_text(text: str) -> Budget:
    if text.strip().lower() == "auto":
        return Budget(percent=100.0, of="auto")
    if share := _OF_DEVICE.fullmatch(text.strip()):
        of: Whole = "device" if share[2].lower() == "device" else "free"
        return dataclasses.replace(_parse_text(share[1]), of=of)
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"budget {text!r} is not an amount of memory; {_FORMS}")
    number, unit = Decimal(match[1].replace("_", "")), match[2].lower()
    if unit == "%":
        if number == 0:
            raise ValueError(f"budget {text!r} must be more than 0%; {_FORMS}")
        return Budget(percent=float(number))
    if unit not in _UNIT_BYTES and unit:
        known = ", ".join(("B", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB", "%"))
        raise ValueError(
            f"budget {text!r} has the unknown unit {match[2]!r} (known: {known}); {_FORMS}"
        )
    num_bytes = int(number * _UNIT_BYTES[unit or "b"])
    if num_bytes == 0:
        raise ValueError(f"budget {text!r} must be more than 0 bytes; {_FORMS}")
    return Budget(bytes=num_bytes)


def format_bytes(num_bytes: int) -> str:
    """Returns bytes in the largest binary unit that keeps the number at one or more."""
    if num_bytes < 0:
        return "-" + format_bytes(-num_bytes)
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        size = _UNIT_BYTES[unit.lower()]
        # Compared after rounding, so that 1.00 MiB is never printed as 1024 KiB.
        if round(num_bytes / size, 2) >= 1:
            return f"{num_bytes / size:.2f} {unit}"
    return f"{num_bytes} B"


def sufficient_budget(num_bytes: int) -> str:
    """Returns a budget of at least `num_bytes` as text, rounded up to two digits: `"2.42GiB"`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        size = _UNIT_BYTES[unit.lower()]
        if num_bytes >= size:
            amount = (Decimal(num_bytes) / size).quantize(Decimal("0.01"), ROUND_CEILING)
            return f"{amount}{unit}"
    return f"{num_bytes}B"
