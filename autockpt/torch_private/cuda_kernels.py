"""Trace the operators that eager PyTorch runs on CUDA, on tensors that are on no device.

A CPU build of torch cannot run a backward on fake CUDA tensors. So fakes are on the CPU, and where
CUDA chooses another operator than the CPU does (attention, dropout, BatchNorm, RMSNorm, casts under
autocast), that one is traced instead. Only shapes come of it: nothing here ever runs.
Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher

from autockpt.devices.attention import AttentionCall, Kernel, attention_kernel
from autockpt.devices.device import Device
from autockpt.torch_private import kernels
from autockpt.torch_private.modes import no_autocast
from autockpt.torch_private.pytree import tree_map

aten = torch.ops.aten

_FLASH_ALIGNMENT = 8
_BIAS_ALIGNMENT = 16
_CUDNN_MIN_EPSILON = 1e-5
_CUDNN_MOST_BATCH = 880_801

# CUDA's autocast runs these in float32, the CPU's in the type of their inputs: PyTorch's "Autocast
# Op Reference".
_IN_FLOAT32 = (
    *("acos", "asin", "cosh", "sinh", "tan", "erfinv", "exp", "expm1", "log", "log10", "log1p"),
    *("log2", "reciprocal", "rsqrt", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar"),
    *("softplus", "layer_norm", "native_layer_norm", "group_norm", "cosine_similarity"),
    *("poisson_nll_loss", "cosine_embedding_loss", "nll_loss", "nll_loss2d", "l1_loss", "mse_loss"),
    *("hinge_embedding_loss", "kl_div", "smooth_l1_loss", "huber_loss", "margin_ranking_loss"),
    *("multilabel_margin_loss", "soft_margin_loss", "triplet_margin_loss", "multi_margin_loss"),
    *("binary_cross_entropy_with_logits", "dist", "pdist", "cdist", "renorm", "prod", "cumprod"),
    *("softmax.int", "log_softmax.int", "cumsum", "sum", "sum.dim_IntList", "rms_norm"),
)


@contextlib.contextmanager
def tracing_for(device: Device | None) -> Iterator[None]:
    """Trace what eager PyTorch runs on a device that is not here; for None, on that of the tensors.

    One thread at a time; everything is put back.
    """
    if device is None or not device.is_accelerator:
        yield
        return
    replaced = {
        aten.scaled_dot_product_attention.default: _attention_of(device),
        aten.batch_norm.default: _batch_norm,
        aten.dropout.default: _dropout,
    }
    if hasattr(aten, "_fused_rms_norm"):
        replaced[aten.rms_norm.default] = _rms_norm
    with kernels.also_replaced(replaced), _casts_of_cuda():
        yield


@contextlib.contextmanager
def eager_for(device: Device | None) -> Iterator[None]:
    """Let an eager step on fakes run the operators of `tracing_for`; use it inside of that."""
    if device is None:
        yield
        return
    with kernels.exact_tracing(), enable_python_dispatcher():
        yield


def _attention_of(device: Device) -> Callable[..., torch.Tensor]:
    def attention(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        call = AttentionCall(
            query=query,
            key=key,
            value=value,
            mask=attn_mask,
            dropout_p=dropout_p,
            is_causal=is_causal,
            shares_heads=enable_gqa,
            enabled=_enabled(),
        )
        kernel = attention_kernel(call, device.capability)
        if kernel == "math":
            of_math: torch.Tensor = aten._scaled_dot_product_attention_math.default(
                query,
                key,
                value,
                _as_bias(attn_mask, query.dtype),
                dropout_p,
                is_causal,
                None,
                scale=scale,
                enable_gqa=enable_gqa,
            )[0]
            return of_math
        return _fused(kernel, call, _default_scale(query, scale))

    return attention


def _fused(kernel: Kernel, call: AttentionCall, scale: float) -> torch.Tensor:
    """The output of a fused kernel, with what PyTorch does around it."""
    query, key, value = call.tensors
    bias = _as_bias(call.mask, query.dtype)
    trains = torch.is_grad_enabled() and any(t.requires_grad for t in call.tensors)
    rest = (call.dropout_p, call.is_causal)
    output: torch.Tensor
    if kernel == "flash":
        features = query.size(-1)
        query, key, value = (_padded(t, _FLASH_ALIGNMENT) for t in call.tensors)
        output = aten._scaled_dot_product_flash_attention.default(
            query, key, value, *rest, False, scale=scale
        )[0]
        return output[..., :features] if output.size(-1) != features else output
    if kernel == "cudnn":
        output = aten._scaled_dot_product_cudnn_attention.default(
            query, key, value, bias, trains, *rest, False, scale=scale
        )[0]
        return output
    output = aten._scaled_dot_product_efficient_attention.default(
        query, key, value, _whole_bias(bias, query, key), trains, *rest, scale=scale
    )[0]
    return output


def _default_scale(query: torch.Tensor, scale: float | None) -> float:
    return float(query.size(-1)) ** -0.5 if scale is None else scale


def _enabled() -> frozenset[Kernel]:
    """The kernels that are switched on, by `torch.nn.attention.sdpa_kernel` for instance."""
    switches: dict[Kernel, Callable[[], bool]] = {
        "cudnn": torch.backends.cuda.cudnn_sdp_enabled,
        "flash": torch.backends.cuda.flash_sdp_enabled,
        "efficient": torch.backends.cuda.mem_efficient_sdp_enabled,
        "math": torch.backends.cuda.math_sdp_enabled,
    }
    return frozenset(kernel for kernel, is_on in switches.items() if is_on())


def _as_bias(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """A mask of truth values as what is added to the scores."""
    if mask is None or mask.dtype is not torch.bool:
        return mask
    hidden = torch.full((), float("-inf"), dtype=dtype, device=mask.device)
    return torch.where(mask, torch.zeros((), dtype=dtype, device=mask.device), hidden)


def _whole_bias(
    bias: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor
) -> torch.Tensor | None:
    """A bias whose rows are aligned, for all batches and heads."""
    if bias is None:
        return None
    columns = bias.size(-1)
    aligned = _padded(bias, _BIAS_ALIGNMENT)[..., :columns]
    return aligned.expand(query.size(0), query.size(1), query.size(2), key.size(2))


def _padded(tensor: torch.Tensor, alignment: int) -> torch.Tensor:
    missing = -tensor.size(-1) % alignment
    return torch.nn.functional.pad(tensor, (0, missing)) if missing else tensor


def _dropout(x: torch.Tensor, p: float, train: bool) -> torch.Tensor:
    if 0 < p < 1 and train and x.numel():
        output: torch.Tensor = aten.native_dropout.default(x, p, train)[0]
        return output
    return kernels.eager_dropout(x, p, train)


def _batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> torch.Tensor:
    has_statistics = running_mean is not None and running_var is not None
    takes_cudnn = (
        cudnn_enabled
        and weight is not None
        and bias is not None
        and torch.bfloat16 not in (x.dtype, weight.dtype)
        and (x.dtype is not torch.float16 or weight.dtype is torch.float32)
        and (has_statistics or (running_mean is None and running_var is None and training))
        and x.dim() >= 3
        and x.size(0) <= _CUDNN_MOST_BATCH
        and eps >= _CUDNN_MIN_EPSILON
    )
    uses_batch = training or not has_statistics
    operator = aten.cudnn_batch_norm if takes_cudnn and training else aten.native_batch_norm
    normalized: torch.Tensor = operator.default(
        x, weight, bias, running_mean, running_var, uses_batch, momentum, eps
    )[0]
    return normalized


def _rms_norm(
    x: torch.Tensor,
    normalized_shape: list[int],
    weight: torch.Tensor | None = None,
    eps: float | None = None,
) -> torch.Tensor:
    normalized: torch.Tensor = aten._fused_rms_norm.default(x, normalized_shape, weight, eps)[0]
    return normalized


@contextlib.contextmanager
def _casts_of_cuda() -> Iterator[None]:
    """Let the CPU's autocast cast to float32 where CUDA's does."""
    library = torch.library.Library("aten", "IMPL", "AutocastCPU")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the CPU has kernels of its own for some
            for name in _IN_FLOAT32:
                packet, _, overload = name.partition(".")
                operator = getattr(getattr(aten, packet, None), overload or "default", None)
                if operator is not None:
                    library.impl(name, _in_float32(operator), allow_override=True)
        yield
    finally:
        library._destroy()


def _in_float32(operator: Any) -> Callable[..., Any]:
    def cast(value: Any) -> Any:
        is_low = isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16)
        return value.float() if is_low else value

    def run(*args: Any, **kwargs: Any) -> Any:
        with no_autocast():
            return operator(*tree_map(cast, args), **tree_map(cast, kwargs))

    return run
