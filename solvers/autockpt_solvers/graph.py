"""The graph to plan: operations, the storages that they write, and what must be left at the end.

Nothing here knows PyTorch. Memory is counted per *storage*, not per tensor, because views share the
bytes of their base. What a training step keeps in memory anyway (parameters, optimizer state, model
inputs) is not in the graph. It counts as the problem's `fixed_bytes`, and reading it is free.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import networkx as nx

_MOST_BYTES = 1 << 53  # what floating-point numbers count exactly
_MOST_NS = 1 << 48  # three days; solvers count in fractions of a nanosecond
_MOST_REGIONS = 1 << 16  # solvers have a row for each


def check_integer(value: object, what: str) -> None:
    """Raise TypeError unless a value is an int; Python would also count with floats and bools."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(
            f"{what} is {value!r}, a {type(value).__name__}; it must be an int: convert it first"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """One block of memory that an operation allocates."""

    name: str
    size_bytes: int

    def __post_init__(self) -> None:
        check_integer(self.size_bytes, f"size_bytes of storage {self.name!r}")
        if self.size_bytes < 0:
            raise ValueError(
                f"storage {self.name!r} has {self.size_bytes} bytes; sizes must be 0 or more"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One operation: what it reads and writes, and the cost of one run.

    Attributes:
        name: Name, for messages and reports.
        runtime_ns: Time of one run.
        reads: Indices of the storages that must be live while it runs.
        writes: Indices of the storages that it allocates. An op that writes none has an effect.
        workspace_bytes: Bytes in use only while it runs.
        recomputable: False if it may run only once (random numbers, mutations).
        is_backward: True for ops of the backward pass.
        segment: Label of the part of the model that it comes from, for reports.
        region: Index of the captured graph that it belongs to, in order of the forward pass.
        overwrites: Of the storages that it reads, those whose memory its writes reuse. No other op
            may read them, and neither this op nor the one that writes them may run again.
        is_fence: True for a backward op that others must not pass: those before it in the graph run
            before it, and those after it run after it.
    """

    name: str
    runtime_ns: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    workspace_bytes: int = 0
    recomputable: bool = True
    is_backward: bool = False
    segment: str = ""
    region: int = 0
    overwrites: tuple[int, ...] = ()
    is_fence: bool = False

    def __post_init__(self) -> None:
        for what, value in (
            ("runtime_ns", self.runtime_ns),
            ("workspace_bytes", self.workspace_bytes),
            ("region", self.region),
        ):
            check_integer(value, f"{what} of op {self.name!r}")
            if value < 0:
                raise ValueError(f"op {self.name!r} has {what} {value}; it must be 0 or more")
        for storage in (*self.reads, *self.writes, *self.overwrites):
            check_integer(storage, f"a storage that op {self.name!r} names")
        if self.region >= _MOST_REGIONS:
            raise ValueError(
                f"op {self.name!r} has region {self.region}; it must be below {_MOST_REGIONS}: "
                "number the regions from 0"
            )
        if len(set(self.reads)) != len(self.reads) or len(set(self.writes)) != len(self.writes):
            raise ValueError(
                f"op {self.name!r} names a storage twice; list each read and write once"
            )
        if self.is_fence and not self.is_backward:
            raise ValueError(
                f"op {self.name!r} is a fence but not a backward op; only backward ops may be"
            )
        if not set(self.overwrites) <= set(self.reads) or len(set(self.overwrites)) != len(
            self.overwrites
        ):
            raise ValueError(
                f"op {self.name!r} overwrites {self.overwrites}; it may overwrite what it reads, "
                "each once"
            )
        if not set(self.reads).isdisjoint(self.writes):
            raise ValueError(
                f"op {self.name!r} reads a storage it writes; writes must be new storages"
            )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ComputeGraph:
    """Operations in their original execution order; the constructor checks them.

    All forward ops of all regions come first, regions ascending; then the backward ops, regions
    descending. The fields after `outputs` are derived, and do not count for equality.

    Attributes:
        ops: Operations in execution order.
        storages: Storages; each is written by exactly one op.
        outputs: Storages that stay in memory at the end (outputs, buffers, gradients).
        producer: Per storage, the op that writes it.
        readers: Per storage, the ops that read it, ascending.
        is_output: Per storage, whether it is in `outputs`.
        num_forward: Number of forward ops; they are `ops[:num_forward]`.
        is_required: Per op, whether it is a forward op that must run before the first backward op:
            an ancestor of an output of the forward pass, or of a forward op that writes nothing.
        is_needed: Per op, whether every valid schedule runs it.
        stretch: Per op, its stretch of the backward pass; 0 for forward ops. A stretch ends with a
            region and at a fence. Within it, backward ops may change places.
        working_bytes: Per op, the bytes that a run needs beside live storages and its writes: its
            workspace, less what it overwrites. It may be negative.
    """

    ops: tuple[Op, ...]
    storages: tuple[Storage, ...]
    outputs: tuple[int, ...]
    producer: tuple[int, ...] = field(init=False, repr=False, compare=False)
    readers: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)
    is_output: tuple[bool, ...] = field(init=False, repr=False, compare=False)
    num_forward: int = field(init=False, repr=False, compare=False)
    is_required: tuple[bool, ...] = field(init=False, repr=False, compare=False)
    is_needed: tuple[bool, ...] = field(init=False, repr=False, compare=False)
    stretch: tuple[int, ...] = field(init=False, repr=False, compare=False)
    working_bytes: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check_indices()
        self._check_totals()
        producer, readers = self._link()
        self._check_order()
        is_output = [False] * len(self.storages)
        for storage in self.outputs:
            is_output[storage] = True
        self._check_overwrites(producer, readers, is_output)
        num_forward = sum(not op.is_backward for op in self.ops)
        roots = [producer[s] for s in self.outputs if producer[s] < num_forward]
        roots += [i for i in range(num_forward) if not self.ops[i].writes]
        is_required = self._ancestors(roots, producer)
        is_needed = self._ancestors(roots + list(range(num_forward, len(self.ops))), producer)
        derived = {
            "producer": tuple(producer),
            "readers": tuple(tuple(ops) for ops in readers),
            "is_output": tuple(is_output),
            "num_forward": num_forward,
            "is_required": tuple(is_required),
            "is_needed": tuple(is_needed),
            "stretch": tuple(self._stretches(num_forward)),
            "working_bytes": tuple(
                op.workspace_bytes - sum(self.size(s) for s in op.overwrites) for op in self.ops
            ),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        num_backward = len(self.ops) - self.num_forward
        storages_bytes = sum(storage.size_bytes for storage in self.storages)
        return (
            f"<ComputeGraph: {len(self.ops):,} ops ({self.num_forward:,} forward, {num_backward:,} "
            f"backward) of {self.total_runtime_ns / 1e6:,.2f} ms, {len(self.storages):,} storages "
            f"of {storages_bytes:,} bytes, {len(self.outputs):,} outputs>"
        )

    def to_networkx(self) -> nx.DiGraph:
        """Return the graph for networkx, with a node for each op and each storage.

        Nodes are `("op", index)` and `("storage", index)`. Their attributes are the fields of `Op`
        and `Storage`, beside `kind` (`"op"` or `"storage"`), `index`, and for storages `output`:
        the position among `outputs`, -1 if it is none. Edges lead from an op to what it writes,
        and from a storage to the ops that read it; `position` is the place among the op's writes
        or reads, and `overwrites` that among its overwrites, -1 if it is none.
        """
        from autockpt_solvers.networks import to_networkx

        return to_networkx(self)

    @classmethod
    def from_networkx(cls, network: nx.DiGraph) -> ComputeGraph:
        """Return the graph that `to_networkx` has written, or that you made for networkx.

        Args:
            network: Nodes need `kind`, ops `runtime_ns`, and storages `size_bytes`. Everything else
                has a default: ops and storages count in the order in which they were added.

        Raises:
            TypeError: It is not a `networkx.DiGraph`, or a number has the wrong type.
            ValueError: It is not such a graph, or not a valid one.
        """
        from autockpt_solvers.networks import from_networkx

        return from_networkx(network)

    @property
    def total_runtime_ns(self) -> int:
        """Time of one training step in which every needed op runs once."""
        return sum(
            op.runtime_ns for op, needed in zip(self.ops, self.is_needed, strict=True) if needed
        )

    @property
    def most_bytes(self) -> int:
        """Bytes that no schedule can exceed: all storages, and the largest workspace."""
        workspace_bytes = max((op.workspace_bytes for op in self.ops), default=0)
        return sum(storage.size_bytes for storage in self.storages) + workspace_bytes

    def size(self, storage: int) -> int:
        """Bytes of a storage."""
        return self.storages[storage].size_bytes

    def _check_indices(self) -> None:
        num = len(self.storages)
        for storage in self.outputs:
            check_integer(storage, "a storage that outputs name")
        for op in self.ops:
            for storage in (*op.reads, *op.writes):
                if not 0 <= storage < num:
                    raise ValueError(
                        f"op {op.name!r} names storage {storage}; the graph has 0 to {num - 1}"
                    )
        for storage in self.outputs:
            if not 0 <= storage < num:
                raise ValueError(f"outputs name storage {storage}; the graph has 0 to {num - 1}")
        if len(set(self.outputs)) != len(self.outputs):
            raise ValueError("outputs name a storage twice; list each output once")

    def _check_totals(self) -> None:
        """Sums must be exact in 64-bit integers and in floating point."""
        runtime_ns = sum(op.runtime_ns for op in self.ops)
        for what, total, most in (
            ("bytes", self.most_bytes, _MOST_BYTES),
            ("ns of run time", runtime_ns, _MOST_NS),
        ):
            if total > most:
                raise ValueError(
                    # Not as a float: files may contain numbers of any size.
                    f"the graph has {Decimal(total):.1e} {what} in all; at most {most:.1e} can be "
                    "counted: use a larger unit"
                )

    def _link(self) -> tuple[list[int], list[list[int]]]:
        producer = [-1] * len(self.storages)
        readers: list[list[int]] = [[] for _ in self.storages]
        for index, op in enumerate(self.ops):
            for storage in op.reads:
                if producer[storage] < 0:
                    name = self.storages[storage].name
                    raise ValueError(
                        f"op {op.name!r} reads storage {name!r} before an op has written it; "
                        "list ops in execution order, and leave fixed storages out"
                    )
                readers[storage].append(index)
            for storage in op.writes:
                if producer[storage] >= 0:
                    first = self.ops[producer[storage]].name
                    raise ValueError(
                        f"storage {self.storages[storage].name!r} is written by {first!r} and by "
                        f"{op.name!r}; every storage must have exactly one writer"
                    )
                producer[storage] = index
        for storage, writer in enumerate(producer):
            if writer < 0:
                raise ValueError(
                    f"storage {self.storages[storage].name!r} is written by no op; "
                    "leave it out of the graph and count it as fixed bytes"
                )
        return producer, readers

    def _check_order(self) -> None:
        for before, after in zip(self.ops, self.ops[1:], strict=False):
            if before.is_backward and not after.is_backward:
                raise ValueError(
                    f"forward op {after.name!r} follows backward op {before.name!r}; "
                    "forward ops must come first"
                )
            if before.is_backward != after.is_backward:
                continue
            if (
                (after.region < before.region)
                if not after.is_backward
                else (after.region > before.region)
            ):
                order = "fall" if after.is_backward else "rise"
                raise ValueError(
                    f"op {after.name!r} of region {after.region} follows {before.name!r} of region "
                    f"{before.region}; regions must {order} in the "
                    f"{'backward' if after.is_backward else 'forward'} pass"
                )

    def _stretches(self, num_forward: int) -> list[int]:
        stretches = [0] * num_forward
        before: Op | None = None
        for op in self.ops[num_forward:]:
            begins = before is None or op.is_fence or before.is_fence or op.region != before.region
            stretches.append((stretches[-1] if stretches else 0) + begins)
            before = op
        return stretches

    def _check_overwrites(
        self, producer: list[int], readers: list[list[int]], is_output: list[bool]
    ) -> None:
        """What is overwritten is gone, so it must be written once and read once."""
        for op in self.ops:
            for storage in op.overwrites:
                if op.recomputable or self.ops[producer[storage]].recomputable:
                    reason = "it, or what makes that, may run again"
                elif len(readers[storage]) > 1:
                    reason = "others read it"
                elif is_output[storage]:
                    reason = "that is an output"
                else:
                    continue
                raise ValueError(
                    f"op {op.name!r} overwrites {self.storages[storage].name!r}, but {reason}"
                )
            if sum(map(self.size, op.overwrites)) > sum(map(self.size, op.writes)):
                raise ValueError(f"op {op.name!r} overwrites more bytes than it writes")

    def _ancestors(self, roots: list[int], producer: list[int]) -> list[bool]:
        found = [False] * len(self.ops)
        stack = list(roots)
        while stack:
            op = stack.pop()
            if not found[op]:
                found[op] = True
                stack.extend(producer[s] for s in self.ops[op].reads if not found[producer[s]])
        return found
