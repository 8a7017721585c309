"""Graphs for the engine's tests: a builder, chains, transformer-like blocks, random ones."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from hypothesis import strategies as st

from autockpt_solvers import ComputeGraph, Op, Storage


@dataclass
class Builder:
    """Adds ops one by one; storages are named after the op that writes them."""

    ops: list[Op] = field(default_factory=list)
    storages: list[Storage] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def add(self, name, reads=(), sizes=(1,), time=1, output=False, **fields):
        """Adds an op and returns the index of its (first) write, or None."""
        writes = tuple(range(len(self.storages), len(self.storages) + len(sizes)))
        suffixes = [""] if len(sizes) == 1 else [f".{i}" for i in range(len(sizes))]
        self.storages += [
            Storage(name=name + suffix, size_bytes=size)
            for suffix, size in zip(suffixes, sizes, strict=True)
        ]
        self.ops.append(Op(name=name, runtime_ns=time, reads=tuple(reads), writes=writes, **fields))
        if output:
            self.outputs += writes
        return writes[0] if writes else None

    def graph(self):
        return ComputeGraph(
            ops=tuple(self.ops), storages=tuple(self.storages), outputs=tuple(self.outputs)
        )


def chain(length, size=10, time=1):
    """x1 = f1(x0) ... loss; each backward op needs its layer's input and the gradient above."""
    b = Builder()
    acts = []
    for k in range(length):
        acts.append(b.add(f"f{k}", acts[-1:], (size,), time, segment=f"layer{k}"))
    b.add("loss", acts[-1:], (1,), output=True)
    grad = b.add("dloss", acts[-1:], (size,), is_backward=True)
    for k in reversed(range(length)):
        reads = [grad, *([acts[k - 1]] if k else [])]
        grad = b.add(f"d{k}", reads, (size,), time, is_backward=True)
        b.add(f"w{k}", [grad], (1,), output=True, is_backward=True)
    return b.graph()


def blocks(length, size=16, mask=True, frozen=0, side=0):
    """Residual blocks with an expensive and a cheap branch, as in a transformer's MLP.

    The first `frozen` of them have no backward. A chain of `side` cheap ops leads to the first
    block, and to the last backward op.
    """
    b = Builder()
    end = None
    for k in range(side):
        end = b.add(f"side{k}", () if end is None else [end], (size,), 1)
    x = b.add("embed", () if end is None else [end], (size,), 5)
    saved = []
    for k in range(length):
        label = f"block{k}"
        n = b.add(f"norm{k}", [x], (size,), 3, segment=label)
        h = b.add(f"up{k}", [n], (4 * size,), 40, segment=label)
        a = b.add(f"act{k}", [h], (4 * size,), 4, segment=label)
        m = b.add(f"mask{k}", [a], (size,), 1, recomputable=not mask, segment=label)
        d = b.add(f"down{k}", [a, m], (size,), 40, workspace_bytes=size // 2, segment=label)
        saved.append((x, n, h, a, m))
        x = b.add(f"add{k}", [x, d], (size,), 2, segment=label)
    b.add("loss", [x], (1,), 2, output=True)
    g = b.add("dloss", [x], (size,), 2, is_backward=True)
    for k in reversed(range(frozen, length)):
        x, n, h, a, m = saved[k]
        da = b.add(f"ddown{k}", [g, m], (4 * size,), 40, is_backward=True)
        b.add(f"gdown{k}", [g, a], (2,), 40, output=True, is_backward=True)
        dh = b.add(f"dact{k}", [da, h], (4 * size,), 5, is_backward=True)
        b.add(f"gup{k}", [dh, n], (2,), 40, output=True, is_backward=True)
        dn = b.add(f"dup{k}", [dh], (size,), 40, is_backward=True)
        dx = b.add(f"dnorm{k}", [dn, x], (size,), 4, is_backward=True)
        g = b.add(f"dadd{k}", [g, dx], (size,), 2, is_backward=True)
    b.add("dembed", [g] if end is None else [g, end], (4,), 5, output=True, is_backward=True)
    return b.graph()


@st.composite
def graphs(draw, max_forward=7, max_backward=6, max_regions=2, max_sizes=2):
    """Small random training graphs: skips, several outputs, ops that may not run twice, regions."""
    b = Builder()
    num_forward = draw(st.integers(1, max_forward))
    num_backward = draw(st.integers(0, max_backward))
    num_regions = draw(st.integers(1, max_regions))
    cuts = sorted(draw(st.integers(0, num_forward)) for _ in range(num_regions - 1))
    back_cuts = sorted(draw(st.integers(0, num_backward)) for _ in range(num_regions - 1))
    size = st.integers(0, 6)

    def some(high, least=0):
        if high == 0:
            return []
        return draw(st.lists(st.integers(0, high - 1), min_size=least, max_size=3, unique=True))

    for k in range(num_forward):
        last = k == num_forward - 1
        sizes = [draw(size) for _ in range(draw(st.sampled_from((1, 1, 1, max_sizes))))]
        b.add(
            f"f{k}",
            some(len(b.storages)),
            sizes,
            draw(st.integers(0, 5)),
            output=last or draw(st.integers(0, 5)) == 0,
            workspace_bytes=draw(st.integers(0, 3)),
            recomputable=draw(st.integers(0, 4)) > 0,
            region=sum(k >= c for c in cuts),
        )
    for k in range(num_backward):
        sizes = [draw(size) for _ in range(draw(st.sampled_from((0, 1, 1, 1, max_sizes))))]
        b.add(
            f"b{k}",
            some(len(b.storages), 1),
            sizes,
            draw(st.integers(0, 5)),
            output=draw(st.booleans()),
            workspace_bytes=draw(st.integers(0, 3)),
            is_backward=True,
            is_fence=draw(st.integers(0, 5)) == 0,
            region=num_regions - 1 - sum(k >= c for c in back_cuts),
        )
    overwrite_some(b, draw)
    return b.graph()


def overwrite_some(b, draw):
    """Lets backward ops write over what only they read, where that may be."""
    made_by = {s: k for k, op in enumerate(b.ops) for s in op.writes}
    for k, op in enumerate(b.ops):
        room = sum(b.storages[s].size_bytes for s in op.writes)
        for s in op.reads:
            made = b.ops[made_by[s]]
            alone = sum(s in other.reads for other in b.ops) == 1 and s not in b.outputs
            fits = b.storages[s].size_bytes <= room
            if op.is_backward and made.is_backward and alone and fits and draw(st.booleans()):
                b.ops[made_by[s]] = dataclasses.replace(made, recomputable=False)
                b.ops[k] = dataclasses.replace(b.ops[k], recomputable=False, overwrites=(s,))
                break
