"""The layout of inputs: what a plan depends on, and which inputs may share one.

Inputs of one *family* differ in nothing but the sizes of dimensions. A plan made for some sizes
serves all smaller ones of its family, if the graph can be traced with those sizes left open; it
recomputes as much as the larger inputs need. Plans are made for a few sizes, *buckets*
(:mod:`autockpt.dispatch.buckets`), so that batches of a hundred lengths need a handful of plans.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch

from autockpt.request import Dimensions
from autockpt.torch_private.subclasses import is_subclass
from autockpt.verify.inputs import input_leaves, mapped_inputs, taken_apart

Sizes = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The layouts of the tensors among inputs, and the values of everything else.

    Attributes:
        family: Everything but the sizes. None if the strides do not follow from the sizes, so that
            this layout is a family of its own.
        sizes: The sizes of each tensor, in the order of the inputs' leaves; an integer of an object
            is a size as well.
        leaves: The index of each of these among the leaves.
        exact: Everything.
    """

    family: Any
    sizes: Sizes
    leaves: tuple[int, ...]
    exact: Any

    @property
    def kind(self) -> Any:
        """Everything but the sizes, or all of it if the layout is a family of its own."""
        return self.exact if self.family is None else self.family

    def __hash__(self) -> int:
        return hash(self.exact)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.exact == other.exact

    def fits_in(self, sizes: Sizes) -> bool:
        """Whether no dimension is larger than these."""
        return all(
            mine <= theirs
            for own, given in zip(self.sizes, sizes, strict=True)
            for mine, theirs in zip(own, given, strict=True)
        )

    def differing(self, sizes: Sizes) -> Dimensions:
        """The indices of leaf and dimension for every dimension that has another size."""
        return frozenset(
            (leaf, dimension)
            for leaf, own, given in zip(self.leaves, self.sizes, sizes, strict=True)
            for dimension, (mine, theirs) in enumerate(zip(own, given, strict=True))
            if mine != theirs
        )

    def of_sizes(self, sizes: Sizes) -> Layout:
        """The layout of inputs that have other sizes; only its family and leaves are used."""
        return dataclasses.replace(self, sizes=sizes)

    def rounded(self, varying: Dimensions) -> Sizes:
        """The sizes with varying dimensions rounded up."""
        return tuple(
            tuple(
                round_up(size) if (leaf, dimension) in varying else size
                for dimension, size in enumerate(own)
            )
            for leaf, own in zip(self.leaves, self.sizes, strict=True)
        )

    def num_elements(self, varying: Dimensions, *, smaller: float = 1) -> float:
        """How many elements the inputs have of which a dimension varies: how large the step is.

        Args:
            varying: The dimensions that vary.
            smaller: Divide each of them by this.
        """
        counted = {leaf for leaf, _ in varying}
        return sum(
            math.prod(
                size / smaller if (leaf, dimension) in varying else size
                for dimension, size in enumerate(own)
            )
            for leaf, own in zip(self.leaves, self.sizes, strict=True)
            if leaf in counted
        )


def layout_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Layout:
    """The layout of a call's inputs."""
    inputs = taken_apart((args, dict(kwargs)))
    exact: list[Any] = []
    family: list[Any] = []
    sizes: list[tuple[int, ...]] = []
    numbers: list[int] = []
    first: dict[int, int] = {}
    has_family = True
    for number, (leaf, in_object) in enumerate(zip(inputs.leaves, inputs.in_object, strict=True)):
        if not isinstance(leaf, torch.Tensor):
            # A float changes no shape: one plan serves all values.
            exact.append(leaf if _is_plain(leaf) else type(leaf))
            family.append(exact[-1])
            if in_object and type(leaf) is int and leaf > 1:
                # It mostly counts what tensors of the object have sizes of, so it is a size too.
                family[-1] = int
                sizes.append((leaf,))
                numbers.append(number)
            continue
        if first.setdefault(id(leaf), number) != number:
            # One tensor passed twice is one input of the graph.
            exact.append(first[id(leaf)])
            family.append(exact[-1])
            continue
        kind = tuple(map(str, (leaf.dtype, leaf.device, leaf.requires_grad, leaf.layout)))
        if is_subclass(leaf):
            kind = (*kind, f"{type(leaf).__module__}.{type(leaf).__qualname__}")
        strides = leaf.stride() if leaf.layout is torch.strided else ()
        order = _memory_format(leaf)
        has_family = has_family and order is not None
        exact.append((leaf.shape, strides, kind))
        # Tracers treat a size of 0 or 1 as a constant.
        family.append((str(order), kind, tuple(size if size <= 1 else None for size in leaf.shape)))
        sizes.append(tuple(leaf.shape))
        numbers.append(number)
    autocast = tuple(
        (kind, torch.get_autocast_dtype(kind), torch.is_autocast_cache_enabled())
        for kind in ("cpu", "cuda")
        if torch.is_autocast_enabled(kind)
    )
    return Layout(
        family=(tuple(family), inputs.structure, autocast) if has_family else None,
        sizes=tuple(sizes),
        leaves=tuple(numbers),
        exact=(tuple(exact), inputs.structure, autocast),
    )


def round_up(size: int) -> int:
    """Round up to a size of the form 2**k or 3 * 2**k."""
    power = 1 << max(0, size - 1).bit_length()
    return power * 3 // 4 if power >= 4 and size <= power * 3 // 4 else power


def resized(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], layout: Layout, sizes: Sizes
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs of other sizes, filled with zeros; tensors whose sizes do not change are kept."""
    inputs = (args, dict(kwargs))
    leaves = input_leaves(inputs)
    new_leaves = list(leaves)
    made_for: dict[int, torch.Tensor] = {}  # one tensor may be passed twice
    for number, own, given in zip(layout.leaves, layout.sizes, sizes, strict=True):
        leaf = leaves[number]
        if own == given:
            continue
        if isinstance(leaf, torch.Tensor):
            made = torch.zeros(given, dtype=leaf.dtype, device=leaf.device).contiguous(
                memory_format=_memory_format(leaf) or torch.contiguous_format
            )
            new_leaves[number] = made.requires_grad_(leaf.requires_grad)
            made_for[id(leaf)] = new_leaves[number]
        else:
            (new_leaves[number],) = given
    left = iter([made_for.get(id(old), new) for old, new in zip(leaves, new_leaves, strict=True)])
    new_args, new_kwargs = mapped_inputs(lambda _: next(left), inputs)
    return new_args, new_kwargs


def _memory_format(tensor: torch.Tensor) -> torch.memory_format | None:
    if tensor.layout is not torch.strided:
        return None
    formats = [torch.contiguous_format]
    formats += [torch.channels_last] if tensor.ndim == 4 else []
    formats += [torch.channels_last_3d] if tensor.ndim == 5 else []
    return next((f for f in formats if tensor.is_contiguous(memory_format=f)), None)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, str))
