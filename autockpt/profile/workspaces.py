"""What operators allocate beside their inputs and outputs on a CUDA device that is not here.

Known are the kernels of attention, whose backward sums gradients in float32. What cuDNN takes for a
convolution depends on the algorithm that it finds fastest; it is not counted.
"""

from __future__ import annotations

from typing import Any

import torch

from autockpt.devices.device import Device
from autockpt.torch_private.operators import is_operator

_ROWS, _FEATURES = 128, 32  # blocks of the flash kernels
_FLOAT_BYTES = 4


def workspace_bytes(target: Any, touched: list[torch.Tensor], device: Device) -> int:
    """Returns the bytes that an operator allocates and frees again.

    Args:
        target: The operator.
        touched: Its arguments and results, in order; the backwards of attention get the gradient
            of the output and then query, key and value.
        device: Where it runs.
    """
    if device.capability is None or not is_operator(target):
        return 0
    name = target.overloadpacket.__name__
    if "attention" not in name or not name.endswith("backward"):
        return 0
    gradient, query, key, value = touched[:4]
    batch, heads, tokens, features = query.shape
    sums = batch * heads * _up(tokens, _ROWS) * _FLOAT_BYTES  # of gradient times output, by row
    if "efficient" in name:
        # In float32 the product itself is made first.
        product = gradient.numel() * _FLOAT_BYTES if query.dtype is torch.float32 else 0
        return sums + product
    of_query = sums * _up(features, _FEATURES)
    # With shared heads, gradients of keys and values are made for every head and then summed.
    shared = [t for t in (key, value) if t.size(1) != heads]
    expanded = sum(t.numel() * t.element_size() * heads // t.size(1) for t in shared)
    return sums + of_query + expanded


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
