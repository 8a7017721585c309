"""Which plan serves which inputs if sizes change from call to call.

The first inputs of a family get a plan for exactly their sizes: most programs never pass others.
When other sizes come, plans are made for buckets (:mod:`autockpt.dispatch.layout`), and the
dimensions that were seen to vary are left open. A model that fits as it is also fits for all
smaller inputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

from autockpt.dispatch.layout import Layout, Sizes
from autockpt.request import Dimensions

K = TypeVar("K", bound=Hashable)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Sizes to plan for.

    Attributes:
        sizes: The largest sizes that the plan serves.
        varying: The dimensions that may be smaller.
        rounded: The sizes of the bucket: inputs that round up to others belong to another bucket.
    """

    sizes: Sizes
    varying: Dimensions
    rounded: Sizes

    def serves(self, layout: Layout) -> bool:
        """Whether the plan serves inputs of this layout, which is of the same family."""
        return (
            layout.fits_in(self.sizes)
            and layout.differing(self.sizes) <= self.varying
            and layout.rounded(self.varying) == self.rounded
        )


@dataclasses.dataclass(slots=True)
class _Family(Generic[K]):
    """What is known of one family of layouts, by the keys of its plans."""

    first: Sizes
    varying: Dimensions = frozenset()
    served: dict[K, Bucket] = dataclasses.field(default_factory=dict)
    untouched: dict[K, Sizes] = dataclasses.field(default_factory=dict)
    failed: set[Bucket] = dataclasses.field(default_factory=set)


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
                served=dict(family.served),
                untouched=dict(family.untouched),
                failed=set(family.failed),
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
        return next((key for key, b in family.served.items() if b.serves(layout)), None)

    def is_within_known(self, layout: Layout) -> bool:
        """Whether inputs at least as large in every dimension were planned for."""
        family = self._families.get(layout.family)
        if family is None:
            return False
        known = [family.first, *family.untouched.values()]
        known += [bucket.sizes for bucket in family.served.values()]
        return any(layout.fits_in(sizes) for sizes in known)

    def candidates(self, layout: Layout, *, rounds_up: bool) -> list[Bucket]:
        """Buckets to plan for instead of exactly this layout, best first; none for the first.

        Args:
            layout: The layout of inputs that no plan serves.
            rounds_up: Whether to plan for larger sizes than any seen so far.
        """
        if layout.family is None:
            return []
        family = self._families.setdefault(layout.family, _Family(layout.sizes))
        family.varying |= layout.differing(family.first)
        if not family.varying:
            return []
        rounded = layout.rounded(family.varying)
        largest = rounded
        if not rounds_up:
            seen = family.first if layout.fits_in(family.first) else layout.sizes
            largest = _smaller(rounded, seen)
        buckets = [
            Bucket(sizes=sizes, varying=family.varying, rounded=rounded)
            for sizes in (largest, layout.sizes)
        ]
        return [bucket for bucket in dict.fromkeys(buckets) if bucket not in family.failed]

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

    def fail(self, layout: Layout, bucket: Bucket) -> None:
        """Do not try this bucket again."""
        self._families[layout.family].failed.add(bucket)

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


def _smaller(left: Sizes, right: Sizes) -> Sizes:
    pairs = zip(left, right, strict=True)
    return tuple(tuple(map(min, a, b)) for a, b in pairs)
