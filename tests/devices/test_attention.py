"""The kernel of an attention is the one that PyTorch would choose on CUDA."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from autockpt.devices.attention import AttentionCall, attention_kernel

HALF, FLOAT = torch.bfloat16, torch.float32


def _call(
    dtype: torch.dtype = HALF,
    *,
    features: int = 64,
    tokens: int = 128,
    keys: int = 128,
    key_heads: int = 8,
    **changes: Any,
) -> AttentionCall:
    query = torch.empty(2, 8, tokens, features, dtype=dtype, device="meta", requires_grad=True)
    key = torch.empty(2, key_heads, keys, features, dtype=dtype, device="meta")
    call = AttentionCall(
        query=query,
        key=key,
        value=key,
        mask=None,
        dropout_p=0.0,
        is_causal=False,
        shares_heads=False,
    )
    return dataclasses.replace(call, **changes)


_MASK = torch.empty(2, 1, 128, 128, dtype=HALF, device="meta")
_CASES = [
    (_call(), (9, 0), "cudnn"),
    (_call(), (10, 0), "cudnn"),
    (_call(), (8, 0), "flash"),
    (_call(), (12, 0), "flash"),
    (_call(), None, "flash"),
    (_call(torch.float16), (7, 5), "efficient"),
    (_call(), (7, 0), "math"),  # no bfloat16 there
    (_call(FLOAT), (9, 0), "efficient"),
    (_call(torch.float64), (9, 0), "math"),
    # cuDNN draws its masks in sixteenths.
    (_call(dropout_p=0.1), (9, 0), "flash"),
    (_call(dropout_p=0.125), (9, 0), "cudnn"),
    (_call(mask=_MASK), (9, 0), "cudnn"),
    (_call(mask=_MASK), (8, 0), "efficient"),
    (_call(features=192), (9, 0), "flash"),
    (_call(features=320), (8, 0), "efficient"),
    (_call(features=60), (8, 0), "flash"),  # padded
    (_call(FLOAT, features=62), (8, 0), "math"),
    (_call(features=256), (8, 6), "flash"),
    (_call(features=208), (8, 6), "efficient"),
    (_call(features=208), (8, 0), "flash"),
    (_call(keys=256, is_causal=True), (8, 0), "efficient"),
    (_call(key_heads=2), (8, 0), "math"),
    (_call(key_heads=2, shares_heads=True), (8, 0), "flash"),
    (_call(key_heads=3, shares_heads=True), (8, 0), "math"),
    (_call(tokens=0), (8, 0), "math"),
    (_call(enabled=frozenset({"math"})), (9, 0), "math"),
    (_call(enabled=frozenset({"efficient", "math"})), (9, 0), "efficient"),
]


@pytest.mark.parametrize(("call", "capability", "kernel"), _CASES)
def test_kernel(call: AttentionCall, capability: tuple[int, int] | None, kernel: str) -> None:
    assert attention_kernel(call, capability) == kernel
