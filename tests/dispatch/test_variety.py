"""What the warning about many plans names as the reason for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autockpt.dispatch.key import PlanKey, plan_key
from autockpt.dispatch.layout import layout_of
from autockpt.dispatch.variety import why_many
from autockpt.loop import PLAIN, Loop

X = torch.zeros(4, 8)


def key(*args: Any, loop: Loop = PLAIN) -> PlanKey:
    return plan_key(nn.Linear(8, 8), None, layout_of(args, {}), loop)


MANY = {
    "value of an argument that is no tensor": [key(X, power) for power in range(6)],
    "Pad the inputs to fewer sizes": [key(torch.zeros(size, 8), 1) for size in range(2, 8)],
    "neither contiguous": [key(torch.zeros(size, 16)[:, ::2]) for size in range(2, 8)],
    "another number of tensors": [key([X.clone() for _ in range(size)]) for size in range(6)],
    "another dtype": [
        key(torch.zeros(shape, dtype=dtype))
        for dtype in (torch.float32, torch.float64)
        for shape in ((4, 8), (1, 8), (4, 1))
    ],
    "how many calls share a backward": [
        key(X, loop=Loop(num_calls=calls)) for calls in range(1, 7)
    ],
}


@pytest.mark.parametrize("reason", MANY)
def test_what_differs_is_named(reason: str) -> None:
    """The warning blamed arguments that are no tensors, whatever differed."""
    keys = MANY[reason]
    assert reason in why_many(keys)
    # A few others do not change the reason.
    assert reason in why_many([key(torch.zeros(40, 8), 1), key(torch.zeros(50, 8), 1), *keys])
