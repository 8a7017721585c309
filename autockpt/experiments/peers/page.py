"""The races as a page of Markdown: peers, autockpt at their peaks, and where it is not ahead."""

from __future__ import annotations

import datetime as dt
import statistics
from collections.abc import Sequence

import msgspec

from autockpt.experiments.peers.measure import Measured, Race

_MIB = 2**20
_NOISE = 0.02  # ratios closer than this are equal here


class PeerResults(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="autockpt-peers"
):
    """The races, as they are written.

    Attributes:
        environment: Versions.
        num_rounds: How many rounds each race had.
        races: The races, in the order of the page.
    """

    environment: dict[str, str]
    num_rounds: int
    races: tuple[Race, ...]

    def to_json(self) -> str:
        """Returns the races as JSON text."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1).decode() + "\n"


def to_markdown(races: Sequence[Race], environment: dict[str, str], *, num_rounds: int) -> str:
    """Return the page.

    Args:
        races: The races, in the order of the page.
        environment: Versions.
        num_rounds: How many rounds each race had.
    """
    versions = ", ".join(f"{name} {value}" for name, value in environment.items())
    lines = [
        "# Peers",
        "",
        "Other ways to train in less memory, compared with autockpt at each peer's own measured",
        "peak.",
        "",
        f"Made on {dt.date.today().isoformat()} by `autockpt bench peers` with {versions}.",
        "",
        "All sides train from the same weights with AdamW on one CPU thread. Peaks are measured,",
        "in MiB, with everything counted. Times are processor time of a step over that of eager",
        f"PyTorch, the median of {num_rounds} rounds in which all sides alternate, with the range",
        "of the middle half. *Extra* is our added time as a share of the peer's. Bits compare",
        "losses, gradients, parameters and buffers after three steps with eager's, with",
        "dropout on where the model has it.",
        "",
        *_summary(races),
    ]
    for model in dict.fromkeys(race.model for race in races):
        lines += _section([race for race in races if race.model == model])
    return "\n".join([*lines, *_how()]) + "\n"


def _summary(races: Sequence[Race]) -> list[str]:
    lines = ["## In short", ""]
    ratios = [extra for race in races if (extra := _extra(race)) is not None]
    if ratios:
        lines.append(
            f"- Where a peer adds more than {_NOISE:.0%} of a step, the median of our added time "
            f"is {statistics.median(ratios):.2f} of the peer's, from {min(ratios):.2f} to "
            f"{max(ratios):.2f} ({len(ratios)} races)."
        )
    inexact = {_family(race.way) for race in races if not race.peer.is_same}
    ours = sum(race.ours is not None and race.ours.is_same for race in races)
    lines.append(
        f"- Our steps match eager's bits in {ours} of {len(races)} races; steps of peers in "
        f"{sum(race.peer.is_same for race in races)}."
    )
    if inexact:
        lines.append(f"- Not bit-equal to eager: {', '.join(sorted(inexact))}.")
    behind = [f"{race.model}, {race.way}: {why}" for race in races if (why := _behind(race))]
    lines += ["", "## Where we are not ahead", ""]
    lines += [f"- {line}" for line in behind] or ["In no race of this page."]
    return [*lines, ""]


def _family(way: str) -> str:
    """A way without its setting: ``Hugging Face``, or the name of a function of torch."""
    return way[: way.index("`", 1) + 1] if way.startswith("`") else way.partition(",")[0]


def _behind(race: Race) -> str:
    """Why autockpt is not ahead of a peer; empty if it is."""
    if race.ours is None:
        least = f"{race.least_bytes / _MIB:.1f}"
        return f"we do not reach {race.peer.peak_bytes / _MIB:.1f} MiB; our least is {least} MiB"
    if not race.ours.is_same:
        return f"our bits differ from eager's ({race.ours.what_differs})"
    if race.ours.peak_bytes > race.peer.peak_bytes:
        return f"our step takes {race.ours.peak_bytes - race.peer.peak_bytes} bytes more"
    if race.ours.ratio >= race.peer.ratio - _NOISE:
        return f"our step takes x{race.ours.ratio:.2f}, the peer's x{race.peer.ratio:.2f}"
    return ""


def _extra(race: Race) -> float | None:
    """Our added time over the peer's; None if the peer adds next to nothing."""
    if race.ours is None or race.peer.ratio <= 1 + _NOISE:
        return None
    return (race.ours.ratio - 1) / (race.peer.ratio - 1)


def _section(races: Sequence[Race]) -> list[str]:
    first = races[0]
    eager_mib = statistics.median(race.eager_peak_bytes for race in races) / _MIB
    eager_ms = 1e3 * statistics.median(race.eager_s for race in races)
    lines = [
        f"## {first.model}",
        "",
        f"Eager: {eager_mib:.1f} MiB, {eager_ms:.0f} ms.",
        "",
        "| peer | peak | step | bits | our peak | our step | bits | extra | our plan |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for race in races:
        extra = _extra(race)
        cells = [
            race.way,
            *_cells(race.peer),
            *(("", "does not fit", "") if race.ours is None else _cells(race.ours)),
            "" if extra is None else f"{extra:.2f}",
            race.note or f"least {race.least_bytes / _MIB:.1f} MiB",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _cells(side: Measured) -> tuple[str, str, str]:
    low, high = _middle_half(side.times)
    bits = "yes" if side.is_same else f"no: {side.what_differs}"
    return f"{side.peak_bytes / _MIB:.1f}", f"x{side.ratio:.2f} ({low:.2f} to {high:.2f})", bits


def _middle_half(times: tuple[float, ...]) -> tuple[float, float]:
    if len(times) < 2:
        return times[0], times[0]
    quarters = statistics.quantiles(times, n=4, method="inclusive")
    return quarters[0], quarters[2]


def _how() -> list[str]:
    return [
        "## How the peers are set up",
        "",
        "- The models are small configurations of transformers. A way that a model does not",
        "  support is left out.",
        "- *Hugging Face*: `gradient_checkpointing_enable` with `use_reentrant=False`, for every,",
        "  every second and every fourth layer of each stack.",
        "- *`checkpoint_sequential`*: the layers as a chain, with the number of segments that has",
        "  the lowest peak of 2, 3, 4, half as many as layers and as many as layers.",
        '- *`activation_memory_budget`*: `torch.compile(backend="aot_eager")` with that share in',
        "  `torch._functorch.config`. Its graphs run the kernels of eager PyTorch, one by one. Its",
        "  usual backend, Inductor, fuses them, and is not measured here.",
        "- *autockpt*: `optimize` with the peer's measured peak as the budget, verified as usual.",
    ]
