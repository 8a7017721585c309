"""How many gradients autograd adds up for a tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from autockpt.torch_private.autograd import num_gradients


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (torch.sin, 1),
        (lambda x: x.detach(), 0),
        (lambda x: x * x, 2),
        (lambda x: functional.rms_norm(x, (4,)), 2),
        (lambda x: x.chunk(2), 1),  # one node gives both parts, and gets both gradients
        (torch.unbind, 1),
        (lambda x: [x.sin(), x.chunk(2)[0]], 2),
    ],
)
def test_gradients_are_counted_by_node(function: Callable[[torch.Tensor], Any], expected: int):
    x = torch.randn(4, 4, requires_grad=True)
    assert num_gradients(function(x), x) == expected
