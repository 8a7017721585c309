"""Which kernel `scaled_dot_product_attention` runs on a CUDA device that is not here.

The rules are those of PyTorch's ``select_sdp_backend`` for dense tensors, in
``aten/src/ATen/native/transformers/cuda/sdp_utils.cpp``. What a device decides by the version of
cuDNN is decided as with the versions that torch's wheels bring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from autockpt.devices.device import Device

Kernel = Literal["cudnn", "flash", "efficient", "math"]
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCall:
    """A call of `scaled_dot_product_attention`.

    Attributes:
        query: Shape ``(batch, heads, tokens, features)``, as key and value.
        key: The keys.
        value: The values.
        mask: The mask, if there is one.
        dropout_p: Probability of dropout.
        is_causal: Whether later tokens are hidden.
        shares_heads: Whether several heads of the query may share one of key and value.
        enabled: The kernels that are switched on.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    dropout_p: float
    is_causal: bool
    shares_heads: bool
    enabled: frozenset[Kernel] = frozenset({"cudnn", "flash", "efficient", "math"})

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Query, key and value."""
        return self.query, self.key, self.value

    @property
    def heads_fit(self) -> bool:
        """Whether batches are equal, and so are heads unless they may be shared."""
        if len({t.size(0) for t in self.tensors}) > 1:
            return False
        heads, key_heads, value_heads = (t.size(1) for t in self.tensors)
        if self.shares_heads:
            return heads % key_heads == 0 and heads % value_heads == 0
        return heads == key_heads == value_heads


def attention_kernel(call: AttentionCall, capability: tuple[int, int] | None) -> Kernel:
    """Returns the kernel that runs a call.

    Args:
        call: The call.
        capability: Compute capability of the device; None for devices of other makers, which have
            kernels like flash and efficient attention, and not cuDNN.
    """
    if not _is_plain(call):
        return "math"
    prefers_cudnn = capability is not None and capability[0] in (9, 10)
    if prefers_cudnn and "cudnn" in call.enabled and _fits_cudnn(call):
        return "cudnn"
    if "flash" in call.enabled and _fits_flash(call, capability):
        return "flash"
    if "efficient" in call.enabled and _fits_efficient(call, capability):
        return "efficient"
    return "math"


def has_kernels_of(device: Device, other: Device) -> bool:
    """Returns whether two devices run the same kernels for every call."""
    return device.is_accelerator == other.is_accelerator and _generation(
        device.capability
    ) == _generation(other.capability)


def _generation(capability: tuple[int, int] | None) -> str:
    """What decides between kernels."""
    if capability is None:
        return "other makers"
    if capability < (8, 0):
        return "before Ampere"
    if capability[0] in (9, 10):
        return "prefers cuDNN"
    return "small chip" if _is_small_chip(capability) else "Ampere"


def _is_plain(call: AttentionCall) -> bool:
    """What all fused kernels ask for."""
    same_dtype = len({t.dtype for t in call.tensors}) == 1
    is_dense = all(t.dim() == 4 and t.stride(-1) == 1 for t in call.tensors)
    return same_dtype and is_dense and all(t.numel() for t in call.tensors) and call.heads_fit


def _fits_cudnn(call: AttentionCall) -> bool:
    features = [t.size(-1) for t in call.tensors]
    return (
        call.query.dtype in _HALF
        and max(features) <= 128
        and all(size % 8 == 0 for size in features)
        and call.key.size(2) > 1
        and (not call.dropout_p or call.query.size(2) > 1)
        and (call.dropout_p * 16).is_integer()
        and (call.mask is None or (call.mask.dim() in (2, 4) and not call.mask.requires_grad))
    )


def _fits_flash(call: AttentionCall, capability: tuple[int, int] | None) -> bool:
    features = call.query.size(-1)
    is_square = call.query.size(2) == call.key.size(2)
    if capability is not None:
        trains = any(t.requires_grad for t in call.tensors)
        is_small = _is_small_chip(capability)
        if trains and is_small and not _fits_small_chips(features, call.dropout_p):
            return False
        if capability < (8, 0):
            return False
    return (
        call.query.dtype in _HALF
        and call.mask is None
        and features <= 256
        and len({t.size(-1) for t in call.tensors}) == 1
        and (is_square or not call.is_causal)
    )


def _is_small_chip(capability: tuple[int, int]) -> bool:
    return (8, 6) <= capability <= (8, 9) or capability[0] == 12


def _fits_small_chips(features: int, dropout_p: float) -> bool:
    return features <= 192 or (not dropout_p and features > 224)


def _fits_efficient(call: AttentionCall, capability: tuple[int, int] | None) -> bool:
    query, key, value = call.tensors
    is_half = query.dtype in _HALF
    if capability is None or capability[0] >= 8:
        alignment = 8 if is_half else 4
    else:
        alignment = 8 if is_half else 1
        if query.dtype is torch.bfloat16:
            return False
    return (
        query.dtype in (torch.float32, *_HALF)
        and query.size(-1) == key.size(-1)
        and query.size(-1) % alignment == 0
        and value.size(-1) % alignment == 0
        and (capability is not None or not call.shares_heads or query.size(1) == key.size(1))
    )
