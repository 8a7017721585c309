"""Cuts of the forward pass: places that few bytes cross, and the storages that cross them.

A cut at place `p` of the forward order separates the ops before it from those at and after it. The
storages that cross it are written before it and read by forward ops after it. A checkpointed
segment starts from them.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autockpt_solvers.orders.facts import GraphFacts


def crossing_bytes(facts: GraphFacts, order: list[int]) -> list[int]:
    """Per place 0..len(order), the bytes that forward ops read across it, without outputs."""
    change = [0] * (len(order) + 2)
    for storage, born, last in forward_spans(facts, order):
        if last > born and not facts.graph.is_output[storage]:
            change[born + 1] += facts.sizes[storage]
            change[last + 1] -= facts.sizes[storage]
    live = 0
    crossing = []
    for k in range(len(order) + 1):
        live += change[k]
        crossing.append(live)
    return crossing


def forward_spans(facts: GraphFacts, order: list[int]) -> list[tuple[int, int, int]]:
    """Per storage that the forward order writes, the places of its writer and last reader.

    As (storage, writer, last reader), ascending; the last reader is -1 if there is none.
    """
    place = {op: k for k, op in enumerate(order)}
    spans = []
    for op, born in place.items():
        for storage in facts.writes[op]:
            last = max((place.get(r, -1) for r in facts.graph.readers[storage]), default=-1)
            spans.append((storage, born, last))
    return sorted(spans)


def crossing_storages(spans: list[tuple[int, int, int]], cuts: list[int]) -> list[int]:
    """The storages, of `forward_spans`, that cross any of the cuts, both ascending."""
    return [s for s, born, last in spans if bisect_right(cuts, born) < bisect_right(cuts, last)]


def narrow_places(crossing: list[int], reach: int = 4) -> list[int]:
    """Places that no more bytes cross than any other place within `reach`.

    Of a row of equal places, the last is taken, and every `2 * reach`-th before it. The choice only
    looks at the neighbourhood, so identical layers are cut at identical places.
    """
    last = len(crossing) - 1
    places: list[int] = []
    row_end = -1
    for k in range(last - 1, 0, -1):
        around = crossing[max(1, k - reach) : min(last, k + reach + 1)]
        if crossing[k] > min(around):
            continue
        in_row = places and crossing[k : row_end + 1].count(crossing[k]) == row_end + 1 - k
        if not in_row:
            row_end = k
            places.append(k)
        elif (row_end - k) % (2 * reach) == 0:
            places.append(k)
    return places[::-1]
