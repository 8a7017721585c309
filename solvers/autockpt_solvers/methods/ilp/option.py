"""An option: one way to run a window, with what it keeps, recomputes and costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from autockpt_solvers.methods.ilp.window import WindowKind


@dataclass(frozen=True, slots=True)
class Option:
    """A way to run a window.

    Attributes:
        kept_bytes: Bytes it keeps from its forward pass until its backward ends.
        backward_peak_bytes: Peak of its backward, without what is in memory when that begins.
        forward_peak_bytes: Peak of its forward pass, with the outputs written so far.
        cost_ns: Time of what it recomputes.
        early: Ops that only the backward needs and that run in the forward pass, ascending.
        tail: What runs in its backward: window op k as k, backward op t as -1 - t.
    """

    kept_bytes: int
    backward_peak_bytes: int
    forward_peak_bytes: int
    cost_ns: int
    early: tuple[int, ...]
    tail: tuple[int, ...]


def measure(kind: WindowKind, early: Collection[int], tail: Sequence[int]) -> Option:
    """Measure a way to run a window, counting as `with_frees` and `simulate` do.

    Args:
        kind: The window.
        early: Ops that only the backward needs and that run in the forward pass.
        tail: What runs in its backward, in an order that the reads allow.

    Returns:
        The option.
    """
    ops, backward, sizes = kind.ops, kind.backward, kind.sizes
    kept = bytearray(len(sizes))
    birth = [-1] * len(sizes)
    last = [-1] * len(sizes)
    change = [0] * (len(tail) + 2)

    for position, step in enumerate(tail):
        for storage in backward[-1 - step].reads if step < 0 else ops[step].reads:
            if birth[storage] < 0:
                kept[storage] = 1
            last[storage] = position
        if step >= 0:
            for storage in ops[step].writes:
                # The value before ends here: it counts from its birth to its last read.
                if last[storage] >= 0:
                    change[max(birth[storage], 0)] += sizes[storage]
                    change[last[storage] + 1] -= sizes[storage]
                birth[storage] = last[storage] = position
    for storage, end in enumerate(last):
        if end >= 0:
            change[max(birth[storage], 0)] += sizes[storage]
            change[end + 1] -= sizes[storage]

    live = peak = 0
    around: list[int] = []
    before = 0
    for step in reversed(tail):
        if step < 0:
            before = backward[-1 - step].before_bytes
            around.append(backward[-1 - step].during_bytes)
        else:
            around.append(before + ops[step].working_bytes)
    around.reverse()
    for position, beside in enumerate(around):
        live += change[position]
        peak = max(peak, live + beside)
    for storage in kind.forced:
        kept[storage] = 1
    again = sum(ops[step].runtime_ns for step in tail if step >= 0)
    first = sum(op.runtime_ns for op in ops if op.fresh)
    return Option(
        kept_bytes=sum(size for size, k in zip(sizes, kept, strict=True) if k),
        backward_peak_bytes=peak,
        forward_peak_bytes=_forward_peak(kind, early, kept),
        cost_ns=again - first + sum(ops[op].runtime_ns for op in early),
        early=tuple(sorted(early)),
        tail=tuple(tail),
    )


def _forward_peak(kind: WindowKind, early: Collection[int], kept: bytearray) -> int:
    """Peak of the window's forward pass."""
    running = [k for k, op in enumerate(kind.ops) if not op.fresh or k in early]
    last = [-1] * len(kind.sizes)
    for k in running:
        for storage in kind.ops[k].writes:
            last[storage] = k
        for storage in kind.ops[k].reads:
            last[storage] = k
    dying: dict[int, int] = {}
    for storage, k in enumerate(last):
        if not kept[storage] and storage not in kind.lasting:
            dying[k] = dying.get(k, 0) + kind.sizes[storage]
    live = peak = 0
    for k in running:
        op = kind.ops[k]
        live += sum(kind.sizes[s] for s in op.writes)
        peak = max(peak, live + op.working_bytes + op.transient_bytes)
        live -= dying.get(k, 0)
    return peak


def just_in_time(kind: WindowKind, kept: Iterable[int]) -> Option:
    """The option that keeps `kept` and recomputes the rest when it is first read."""
    ops, producer = kind.ops, kind.producer
    keep = set(kept) | kind.forced
    while True:
        at_hand = set(keep)
        tail: list[int] = []
        for index, reader in enumerate(kind.backward):
            missing = [s for s in reader.reads if s not in at_hand]
            again: set[int] = set()
            while missing:
                storage = missing.pop()
                op = producer[storage]
                if storage in at_hand or op in again:
                    continue
                if reader.may_recompute and (ops[op].rerunnable or ops[op].fresh):
                    again.add(op)
                    missing.extend(s for s in ops[op].reads if s not in at_hand)
                else:
                    keep.add(storage)
                    at_hand.add(storage)
            for op in again:
                at_hand.update(ops[op].writes)
            tail.extend(sorted(again))
            tail.append(-1 - index)
        early = early_ops(kind, keep)
        twice = {op for op in tail if op >= 0 and not ops[op].rerunnable} & early
        if not twice:
            return measure(kind, early, tail)
        keep.update(s for op in twice for s in ops[op].writes)


def early_ops(kind: WindowKind, kept: Iterable[int]) -> set[int]:
    """Ops that only the backward needs and that must run in the forward pass to keep `kept`."""
    producer = kind.producer
    found: set[int] = set()
    stack = [producer[s] for s in kept]
    while stack:
        op = stack.pop()
        if kind.ops[op].fresh and op not in found:
            found.add(op)
            stack.extend(producer[s] for s in kind.ops[op].reads)
    return found


def pareto(options: Iterable[Option]) -> list[Option]:
    """The options that no other one equals or beats in every respect, fewest kept bytes first."""
    ordered = sorted(
        options,
        key=lambda o: (
            o.kept_bytes,
            o.cost_ns,
            o.backward_peak_bytes,
            o.forward_peak_bytes,
            o.early,
            o.tail,
        ),
    )
    front: list[Option] = []
    for option in ordered:
        if not any(
            o.backward_peak_bytes <= option.backward_peak_bytes
            and o.cost_ns <= option.cost_ns
            and o.forward_peak_bytes <= option.forward_peak_bytes
            for o in front
        ):
            front.append(option)
    return front
