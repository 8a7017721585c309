"""What a step saves beside eager PyTorch and what that costs, in the words of every headline."""

from __future__ import annotations

from autockpt.budget import format_bytes


def against_eager(
    peak_bytes: int, eager_bytes: int, overhead: float, *, has_share: bool = True
) -> str:
    """Returns `(eager 18.0 GiB, -58%), +4.1% time`, to follow a peak.

    Args:
        peak_bytes: The peak.
        eager_bytes: Eager PyTorch's.
        overhead: The additional time as a share of the step.
        has_share: Whether to say how much lower the peak is.
    """
    less = f", {peak_bytes / max(1, eager_bytes) - 1:+.0%}" if has_share else ""
    return f"(eager {format_bytes(eager_bytes)}{less}), {overhead:+.1%} time"
