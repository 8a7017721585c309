"""The kinds of memory, gathered into the few groups that a picture can show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from autockpt.report.kinds import MemoryKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Kinds of memory with a colour of their own.

    Attributes:
        key: Its name in style sheets.
        label: What readers see.
        meaning: What it is, in a few words.
        kinds: The kinds of the ledger; empty for the group of all others.
    """

    key: str
    label: str
    meaning: str
    kinds: tuple[str, ...]


# From the bottom of the picture to its top.
GROUPS = (
    Group(
        key="parameters",
        label="parameters",
        meaning="with buffers, inputs, other models and what libraries keep, there all the time",
        kinds=(
            MemoryKind.PARAMETERS,
            MemoryKind.BUFFERS,
            MemoryKind.INPUTS,
            MemoryKind.BUCKETS,
            MemoryKind.LIBRARIES,
            MemoryKind.OTHER_MODELS,
        ),
    ),
    Group(
        key="optimizer",
        label="optimizer state",
        meaning="there all the time",
        kinds=(MemoryKind.OPTIMIZER_STATE,),
    ),
    Group(
        key="gradients",
        label="gradients",
        meaning="of parameters, made by the backward",
        kinds=(MemoryKind.GRADIENTS, MemoryKind.OLDER_GRADIENTS, MemoryKind.CLEARED_GRADIENTS),
    ),
    Group(
        key="saved",
        label="saved activations",
        meaning="kept from the forward for the backward, with outputs",
        kinds=(MemoryKind.SAVED, MemoryKind.OUTPUTS, MemoryKind.OTHER_CALLS),
    ),
    Group(
        key="recomputed",
        label="recomputed activations",
        meaning="freed in the forward, made again in the backward",
        kinds=(MemoryKind.RECOMPUTED,),
    ),
    Group(
        key="transient",
        label="transient",
        meaning="values between two operations, and workspace",
        kinds=(),
    ),
)
# Where a style sheet cannot tell a light page from a dark one.
COLORS = {
    "parameters": "#74839a",
    "optimizer": "#a9b5c4",
    "gradients": "#9a76bd",
    "saved": "#3477b6",
    "recomputed": "#ee8b3a",
    "transient": "#dcbf5a",
    "budget": "#d6404b",
    "minimum": "#17936b",
    "measured": "#888888",
}
_OF_KIND = {kind: at for at, group in enumerate(GROUPS) for kind in group.kinds}


def group_of(kind: str) -> int:
    """The index of a kind's group."""
    return _OF_KIND.get(kind, len(GROUPS) - 1)


def by_group(kind_bytes: Mapping[str, int] | Iterable[tuple[str, int]]) -> list[int]:
    """Adds up bytes by kind to bytes by group."""
    totals = [0] * len(GROUPS)
    for kind, size_bytes in dict(kind_bytes).items():
        totals[group_of(kind)] += size_bytes
    return totals
