"""Options of a window: minimum cuts at every price, then single changes.

The cuts give every corner of the curve of kept bytes and time. Keeping one storage more or less
than an option found so far fills in what lies between, and finds options with a lower peak.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers.clock import Clock
from autockpt_solvers.methods.ilp.option import Option, just_in_time, pareto
from autockpt_solvers.orders.network import KeepNetwork

if TYPE_CHECKING:
    from autockpt_solvers.methods.ilp.window import WindowKind

_ROUNDS = 2  # of single changes; the second starts from what the first found
_MAX_FRONT = 24  # options that a round starts from, evenly taken from the best ones
_MAX_OPTIONS = 120  # that a window keeps in the end; composition takes time for each
_TINY = 64  # changing a storage this many times smaller than the largest one is not tried
_LOWEST_PRICE, _HIGHEST_PRICE = 1e-6, 1e9  # in ns per byte: keep nearly all, keep nearly nothing


def window_network(kind: WindowKind) -> KeepNetwork:
    """The network of a window; forced storages are in memory and cost nothing more."""
    return KeepNetwork(
        again_ns=[
            (0 if op.fresh else op.runtime_ns) if op.rerunnable or op.fresh else None
            for op in kind.ops
        ],
        reads=[op.reads for op in kind.ops],
        producer=kind.producer,
        priced=[s for s in range(len(kind.sizes)) if s not in kind.forced],
        needed={s for op in kind.backward for s in op.reads},
        must_keep=(),
    )


class Generator:
    """Collects the options of one kind of window, within an effort counted in ops replayed."""

    def __init__(self, kind: WindowKind, effort: int, clock: Clock, deadline: float) -> None:
        self.kind = kind
        self.clock = clock
        self.deadline = deadline
        self.network = window_network(kind)
        self.tried: dict[frozenset[int], Option] = {}
        self.tries_left = effort // (len(kind.backward) + 2 * len(kind.ops) + 1)

    def spent(self) -> bool:
        """Whether to stop. The clock is the last resort, because it is not deterministic."""
        return self.tries_left <= 0 or self.clock.now() > self.deadline

    def try_keeping(self, kept: frozenset[int]) -> Option:
        """The just-in-time option that keeps `kept`, made once."""
        if kept not in self.tried:
            self.tried[kept] = just_in_time(self.kind, kept)
            self.tries_left -= 1
        return self.tried[kept]

    def at_price(self, price: float) -> frozenset[int]:
        """What a minimum cut keeps at a price in ns per byte."""
        return frozenset(self.network.kept([price * size for size in self.kind.sizes]))

    def corners(self) -> None:
        """Find every corner of the curve of kept bytes and time."""
        needed = frozenset(s for op in self.kind.backward for s in op.reads)
        self.try_keeping(frozenset())
        self.try_keeping(needed)
        pending = [(self.at_price(_LOWEST_PRICE), self.at_price(_HIGHEST_PRICE))]
        while pending:
            rich, lean = pending.pop()
            a, b = self.try_keeping(rich), self.try_keeping(lean)
            saved_bytes = a.kept_bytes - b.kept_bytes
            if saved_bytes <= 0 or b.cost_ns <= a.cost_ns or self.clock.now() > self.deadline:
                continue
            middle = self.at_price((b.cost_ns - a.cost_ns) / saved_bytes)
            found = self.try_keeping(middle)
            if found.kept_bytes not in (a.kept_bytes, b.kept_bytes):
                pending += [(rich, middle), (middle, lean)]

    def neighbours(self) -> None:
        """Try every option of the front with one storage more and with one less."""
        sizes = self.kind.sizes
        reads = {s for op in self.kind.backward for s in op.reads}
        reads |= {s for op in self.kind.ops if op.rerunnable for s in op.reads}
        least = max((sizes[s] for s in reads), default=0) // _TINY
        useful = sorted(s for s in reads - self.kind.forced if sizes[s] >= least)
        done: set[frozenset[int]] = set()
        for _ in range(_ROUNDS):
            front = set(thin(pareto(self.tried.values()), _MAX_FRONT))
            seeds = [k for k, o in self.tried.items() if o in front and k not in done]
            for kept in sorted(seeds, key=sorted):
                done.add(kept)
                for storage in useful:
                    if self.spent():
                        return
                    self.try_keeping(kept ^ {storage})


def thin(front: list[Option], count: int) -> list[Option]:
    """At most `count` options, evenly taken from a front."""
    if len(front) <= count:
        return front
    return [front[k * (len(front) - 1) // (count - 1)] for k in range(count)]


def generate(
    kind: WindowKind, *, effort: int, deadline: float, clock: Clock | None = None
) -> list[Option]:
    """The options of a window that minimum cuts and single changes find, a Pareto front."""
    generator = Generator(kind, effort, clock or Clock(), deadline)
    generator.corners()
    generator.neighbours()
    return thin(pareto(generator.tried.values()), _MAX_OPTIONS)
