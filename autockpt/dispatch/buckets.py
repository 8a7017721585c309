"""Which plan serves which inputs if sizes change from call to call.

The first inputs of a family get a plan for exactly their sizes: most programs never pass others.
When other sizes come, plans are made for buckets, and the dimensions that were seen to vary are
left open. A model that fits as it is also fits for all smaller inputs.

If one size varies, the buckets are a factor of 1.5 apart at most. If several vary, each by itself,
a bucket for each combination would be too many. So a bucket is widened to sizes of other inputs,
and serves smaller ones as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from autockpt.dispatch.layout import Layout, Sizes
from autockpt.request import Dimensions

K = TypeVar("K", bound=Hashable)
# From one bucket to the next, each size is a factor smaller, and the number of elements another one
# for each size but one that varies by itself: plans for all combinations would be too many. For 100
# batches with random numbers and lengths of texts, a factor of 3 leads to 13 plans, 1.5 to 20.
_STEP, _FREE = 1.5, 3.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Sizes to plan for.

    Attributes:
        sizes: The largest sizes that the plan serves.
        varying: The dimensions that may be smaller.
        rounded: These sizes, rounded up.
        more_than: The plan serves inputs with more elements than this: with fewer, one for smaller
            inputs recomputes less.
    """

    sizes: Sizes
    varying: Dimensions
    rounded: Sizes
    more_than: float

    def serves(self, layout: Layout) -> bool:
        """Whether the plan serves inputs of this layout, which is of the same family."""
        return (
            layout.fits_in(self.sizes)
            and layout.differing(self.sizes) <= self.varying
            and layout.num_elements(self.varying) > self.more_than
        )


@dataclasses.dataclass(slots=True)
class _Family(Generic[K]):
    """What is known of one family of layouts, by the keys of its plans."""

    first: Sizes
    seen: dict[Sizes, None] = dataclasses.field(default_factory=dict)
    varying: Dimensions = frozenset()
    served: dict[K, Bucket] = dataclasses.field(default_factory=dict)
    untouched: dict[K, Sizes] = dataclasses.field(default_factory=dict)
    failed: set[Bucket] = dataclasses.field(default_factory=set)
    too_large: dict[Bucket, int] = dataclasses.field(default_factory=dict)
    budgeted: set[Sizes] = dataclasses.field(default_factory=set)

    def is_refused(self, sizes: Sizes, budget_bytes: int | None) -> bool:
        """Whether a plan for sizes that are no larger did not fit this budget or a larger one."""
        return any(
            budget_bytes is not None
            and budget_bytes <= refused_bytes
            and _elementwise(max, sizes, refused.sizes) == sizes
            for refused, refused_bytes in self.too_large.items()
        )


class Buckets(Generic[K]):
    """The plans of a model by sizes; the caller chooses the keys."""

    def __init__(self) -> None:
        self._families: dict[Any, _Family[K]] = {}

    def copy(self) -> Buckets[K]:
        """An independent copy."""
        copied: Buckets[K] = Buckets()
        copied._families = {
            name: dataclasses.replace(
                family,
                seen=dict(family.seen),
                served=dict(family.served),
                untouched=dict(family.untouched),
                failed=set(family.failed),
                too_large=dict(family.too_large),
                budgeted=set(family.budgeted),
            )
            for name, family in self._families.items()
        }
        return copied

    def serving(self, layout: Layout) -> K | None:
        """The key of a plan that serves this layout too; None if none does."""
        family = self._families.get(layout.family)
        if family is None:
            return None
        for key, sizes in family.untouched.items():
            if layout.fits_in(sizes):
                return key
        serving = [key for key, bucket in family.served.items() if bucket.serves(layout)]
        return min(serving, key=lambda key: _num_elements(layout, family.served[key]), default=None)

    def is_within_known(self, layout: Layout) -> bool:
        """Whether the budget is known of inputs at least as large in every dimension."""
        family = self._families.get(layout.family)
        if family is None:
            return False
        known = [family.first, *family.budgeted, *family.untouched.values()]
        known += [bucket.sizes for bucket in family.served.values()]
        return any(layout.fits_in(sizes) for sizes in known)

    def know_budget(self, layout: Layout) -> None:
        """Remember that the budget of these inputs is known, though no plan is for their sizes."""
        self._families[layout.family].budgeted.add(layout.sizes)

    def candidates(
        self, layout: Layout, *, rounds_up: bool, budget_bytes: int | None
    ) -> list[Bucket]:
        """Buckets to plan for instead of exactly this layout, best first; none for the first.

        Args:
            layout: The layout of inputs that no plan serves.
            rounds_up: Whether to plan for larger sizes than any seen so far, if one size varies.
            budget_bytes: The budget, if it is known.
        """
        if layout.family is None:
            return []
        family = self._families.setdefault(layout.family, _Family(layout.sizes))
        family.seen[layout.sizes] = None
        family.varying |= layout.differing(family.first)
        if not family.varying:
            return []
        num_free = _num_free(layout, family)
        widest = _widened(layout, family, num_free, budget_bytes)
        largest = _elementwise(max, *family.seen)
        sizes = [_elementwise(min, widest, largest), layout.sizes]
        if rounds_up or num_free > 1:
            sizes.insert(0, widest)
        buckets = [
            Bucket(
                sizes=top,
                varying=family.varying,
                rounded=widest,
                more_than=_next_smaller(layout.of_sizes(widest), family.varying, num_free),
            )
            for top in sizes
        ]
        return [
            bucket
            for bucket in dict.fromkeys(buckets)
            if bucket not in family.failed and not family.is_refused(bucket.sizes, budget_bytes)
        ]

    def add(self, layout: Layout, key: K, bucket: Bucket) -> None:
        """Remember a plan for a bucket; it replaces a plan for smaller sizes."""
        served = self._families[layout.family].served
        for older, other in list(served.items()):
            if (other.varying, other.rounded) == (bucket.varying, bucket.rounded):
                del served[older]
        served[key] = bucket

    def add_untouched(self, layout: Layout, key: K, sizes: Sizes) -> None:
        """Remember that the model fits as it is for inputs up to these sizes."""
        if layout.family is not None:
            self._families[layout.family].untouched[key] = sizes

    def fail(self, layout: Layout, bucket: Bucket, *, budget_bytes: int | None = None) -> None:
        """Do not try this bucket again; nor one that contains it, if this budget is too small."""
        family = self._families[layout.family]
        family.failed.add(bucket)
        if budget_bytes is not None:
            family.too_large[bucket] = budget_bytes

    def forget_plans(self) -> None:
        """Give up all plans; sizes that were planned for stay known."""
        for family in self._families.values():
            family.served.clear()

    def forget(self, key: K) -> bool:
        """Give up the bucket whose plan has this key; return whether there was one."""
        for family in self._families.values():
            bucket = family.served.pop(key, None)
            if bucket is not None:
                family.failed.add(bucket)
                return True
        return False


def _num_elements(layout: Layout, bucket: Bucket) -> float:
    return layout.of_sizes(bucket.sizes).num_elements(bucket.varying)


def _num_free(layout: Layout, family: _Family[Any]) -> int:
    """How many sizes vary by themselves: dimensions that are always equal are one size."""
    numbers = {leaf: at for at, leaf in enumerate(layout.leaves)}
    return len(
        {
            tuple(sizes[numbers[leaf]][dimension] for sizes in family.seen)
            for leaf, dimension in family.varying
        }
    )


def _widened(
    layout: Layout, family: _Family[Any], num_free: int, budget_bytes: int | None
) -> Sizes:
    """The sizes of a layout, rounded up, and as many others that were seen as one plan may serve.

    A batch of many short texts and one of a few long ones would lead to a batch of many long ones,
    which never comes: so there is a limit to the number of elements.
    """
    own = layout.num_elements(family.varying)
    others = [layout.of_sizes(sizes) for sizes in family.seen]
    others.sort(key=lambda other: (other.num_elements(family.varying), other.sizes), reverse=True)
    limit = _STEP * others[0].num_elements(family.varying)
    widest = layout.rounded(family.varying)
    for other in others:
        wider = layout.of_sizes(_elementwise(max, widest, other.rounded(family.varying)))
        if (
            wider.num_elements(family.varying) < limit
            and _next_smaller(wider, family.varying, num_free) < own
            and not family.is_refused(wider.sizes, budget_bytes)
        ):
            widest = wider.sizes
    return widest


def _next_smaller(layout: Layout, varying: Dimensions, num_free: int) -> float:
    """The number of elements below which inputs are for another bucket than these sizes."""
    return layout.num_elements(varying, smaller=_STEP) / _FREE ** (num_free - 1)


def _elementwise(choose: Callable[..., int], *several: Sizes) -> Sizes:
    return tuple(
        tuple(choose(sizes) for sizes in zip(*leaf, strict=True))
        for leaf in zip(*several, strict=True)
    )
