"""The program of a plan: for each captured graph, the order that it runs in."""

from __future__ import annotations

import dataclasses

from autockpt.capture.pieces import Pieces
from autockpt.lower.orders import RegionOrder
from autockpt.request import Dimensions


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRegion:
    """How one captured graph runs: which graph it is, and the order of its ops.

    ``arrivals`` are positions of parameters among its input tensors, in the order in which eager
    autograd completes their gradients.
    """

    fingerprint: str
    constants: str
    signatures: tuple[str, ...]
    absent_tangents: frozenset[int]
    order: RegionOrder
    arrivals: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRegions:
    """All captured graphs of a step, and how they were captured.

    ``varying`` are dimensions of input tensors that may have other sizes than planned for;
    ``numbers_vary`` says whether Python numbers that the forward reads may change as well;
    ``blocks`` are submodules that were captured one by one, if the forward was not as a whole;
    ``output_types`` are those of `Capture`.
    """

    regions: tuple[PlannedRegion, ...]
    positions_are_counted: bool
    pieces: Pieces
    varying: Dimensions = frozenset()
    blocks: tuple[str, ...] = ()
    numbers_vary: bool = False
    output_types: tuple[tuple[int, int], ...] | None = None

    @property
    def is_exact(self) -> bool:
        """Whether graphs that run must be the very ones that were planned."""
        return not (self.varying or self.numbers_vary)
