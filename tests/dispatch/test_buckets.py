"""Which sizes a plan is made for, without any model being planned."""

from __future__ import annotations

import copy
import random
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autockpt.dispatch.buckets import Bucket, Buckets
from autockpt.dispatch.layout import Layout, layout_of


def layout(*sizes: tuple[int, ...]) -> Layout:
    return layout_of(tuple(torch.empty(size, device="meta") for size in sizes), {})


def candidates(buckets: Buckets[Any], of: Layout, budget_bytes: int | None = 9) -> list[Bucket]:
    return buckets.candidates(of, rounds_up=True, budget_bytes=budget_bytes)


def planned(layouts: list[Layout]) -> Buckets[int]:
    """Buckets after a plan was made for each layout that none served."""
    buckets: Buckets[int] = Buckets()
    for number, each in enumerate(layouts):
        if buckets.serving(each) is None:
            for bucket in candidates(buckets, each)[:1]:
                assert bucket.serves(each)
                buckets.add(each, number, bucket)
                assert buckets.serving(each) is not None
    return buckets


def num_plans(layouts: list[Layout]) -> int:
    buckets = planned(layouts)
    return sum(len(family.served) for family in buckets._families.values())


sizes = st.integers(2, 300)


@given(st.lists(st.tuples(sizes, sizes, sizes), min_size=1, max_size=30))
@settings(deadline=None)
def test_a_bucket_serves_the_inputs_that_it_was_made_for(many: list[tuple[int, ...]]) -> None:
    layouts = [layout((a, 4), (2, b), (a, c), (b, b)) for a, b, c in many]
    buckets = planned(layouts)
    most = max(each.num_elements(each.differing(((0, 0),) * 4)) for each in layouts)
    for family in buckets._families.values():
        for bucket in family.served.values():
            # No step takes much more than the largest so far.
            top = layouts[0].of_sizes(bucket.sizes)
            assert top.num_elements(bucket.varying) <= 1.5**2 * most


def test_sizes_that_vary_by_themselves_share_plans() -> None:
    """Each dimension was rounded up by itself, and each combination got a plan: 100 batches of
    graphs with random numbers of nodes, edges and graphs took 42 plans on average."""
    for seed in range(10):
        draw = random.Random(seed)
        graphs = [
            (draw.randint(60, 140), draw.randint(300, 700), draw.randint(3, 9)) for _ in range(100)
        ]
        assert num_plans([layout((n, 16), (2, e), (n,), (k,)) for n, e, k in graphs]) <= 6
        texts = [(draw.randint(2, 64), draw.randint(16, 512)) for _ in range(100)]
        assert num_plans([layout(size, size) for size in texts]) <= 20
        images = [(draw.randrange(128, 257, 16), draw.randrange(128, 257, 16)) for _ in range(100)]
        assert num_plans([layout((4, 3, *size), (4,)) for size in images]) <= 5


def test_no_plan_is_for_many_long_texts_if_they_never_come_together() -> None:
    many_short, few_long = layout((64, 16)), layout((8, 128))
    buckets = planned([many_short, few_long])
    (bucket,) = candidates(buckets, layout((32, 32)))[:1]
    assert layout((32, 32)).of_sizes(bucket.sizes).num_elements(bucket.varying) <= 1.5 * 64 * 16


def test_the_plan_for_the_smallest_sizes_serves() -> None:
    buckets = planned([layout((4, 30)), layout((6, 32)), layout((12, 48))])
    assert candidates(buckets, layout((6, 32)))
    small, large = layout((6, 32)), layout((12, 48))
    assert buckets.serving(small) == 1
    assert buckets.serving(large) == 2
    assert buckets.serving(layout((5, 33))) == 2


def test_larger_sizes_are_not_tried_within_a_budget_that_was_too_small() -> None:
    """Each search for a plan that does not exist takes seconds."""
    buckets: Buckets[int] = Buckets()
    first, second, third = layout((8, 40)), layout((9, 33)), layout((10, 49))
    assert candidates(buckets, first) == []
    refused, between, own = candidates(buckets, second, 9)
    assert [b.sizes for b in (refused, between, own)] == [((12, 48),), ((9, 40),), ((9, 33),)]
    buckets.fail(second, refused, budget_bytes=9)
    for again in (buckets, buckets.copy()):
        assert candidates(again, second, 9) == [between, own]
        assert all(b.sizes != ((12, 64),) for b in candidates(copy.copy(again), third, 9))
    assert candidates(buckets, third, 10)[0].sizes == ((12, 64),)
    assert candidates(buckets, third, None)[0].sizes == ((12, 64),)
    # One that failed for another reason may be a matter of its sizes.
    other = candidates(buckets, third, 10)[0]
    buckets.fail(third, other)
    assert other not in candidates(buckets, third, 10)
    assert candidates(buckets, layout((10, 70)), 10)[0].sizes == ((12, 96),)
