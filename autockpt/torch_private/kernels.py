"""Trace the kernels that eager PyTorch runs, so that a captured graph gives eager's bits.

Tracing alone changes last bits: about fifty ATen operators carry Python kernels that only apply
under tracing, dropout becomes ``native_dropout`` (other roundings than the CPU's eager dropout),
and operators that fill a tensor in place along its strides make a new, contiguous one.
Inside :func:`exact_tracing` these are disabled, and eager's own arithmetic is traced instead.
Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch._C import DispatchKey
from torch._decomp import decomposition_table
from torch._decomp.decompositions import native_batch_norm, native_batch_norm_backward
from torch._refs import native_group_norm, native_layer_norm, roll
from torch._subclasses.fake_tensor import torch_decomp_decompositions
from torch._subclasses.functional_tensor import FunctionalTensorMode

from autockpt.torch_private.fakes import FakeTensorMode
from autockpt.torch_private.tensors import suggest_memory_format

aten = torch.ops.aten

_TRACING_KEYS = (
    DispatchKey.Autograd,
    DispatchKey.AutogradCPU,
    DispatchKey.AutogradCUDA,
    DispatchKey.CompositeImplicitAutograd,
)
_OF_COMPOSITES = (DispatchKey.Autograd, DispatchKey.CompositeImplicitAutograd)
_TRACING_LOCK = threading.RLock()
# What else is replaced while tracing, by operator, see `also_replaced`.
_others: dict[Any, Any] = {}

_library = torch.library.Library("autockpt", "DEF")
_library.define(
    "keep_mask(Tensor like, float keep_probability) -> Tensor",
    tags=(torch.Tag.nondeterministic_seeded,),
)
_library.define("dropout_noise(Tensor keep_mask, ScalarType dtype, float divisor) -> Tensor")


def _keep_mask(like: torch.Tensor, keep_probability: float) -> torch.Tensor:
    """Draw as eager's CPU dropout does, in ``like``'s dtype and strides; kept as one byte each.

    The byte mask is what makes dropout cheap to save: a quarter of float32's noise, and the noise
    comes back from it without a draw.
    """
    return torch.empty_like(like).bernoulli_(keep_probability).to(torch.bool)


def _dropout_noise(keep_mask: torch.Tensor, dtype: torch.dtype, divisor: float) -> torch.Tensor:
    return keep_mask.to(dtype).div_(divisor)


_IMPLEMENTATIONS: dict[str, tuple[Any, Any]] = {
    # By operator: what runs, and what replaces it on tensors without data.
    "keep_mask": (
        _keep_mask,
        lambda like, keep_probability: torch.empty_like(like, dtype=torch.bool),
    ),
    "dropout_noise": (
        _dropout_noise,
        lambda keep_mask, dtype, divisor: torch.empty_like(keep_mask, dtype=dtype),
    ),
}
for _name, (_run, _shape) in _IMPLEMENTATIONS.items():
    _library.impl(_name, _run, "CPU")
    _library.impl(_name, _run, "CUDA")
    _library.impl(_name, _shape, "Meta")


def eager_dropout(x: torch.Tensor, p: float, train: bool) -> torch.Tensor:
    """Dropout with eager's arithmetic; its draw is an operator of its own, `keep_mask`."""
    if p == 0 or not train or x.numel() == 0:
        return x
    if x.device.type == "cuda" and p < 1:
        # CUDA's eager dropout is native_dropout, whatever the tracer.
        return aten.native_dropout(x, p, train)[0]  # type: ignore[no-any-return]
    if p == 1:
        return x * torch.zeros((), dtype=x.dtype, device=x.device)
    mask = torch.ops.autockpt.keep_mask(x.detach(), 1 - p)
    noise: torch.Tensor = torch.ops.autockpt.dropout_noise(mask, x.dtype, 1 - p)
    return x * noise


def _eager_bernoulli_(x: torch.Tensor, p: float = 0.5, generator: Any = None) -> torch.Tensor:
    if generator is not None:
        raise NotImplementedError("bernoulli_ with a generator of its own cannot be traced")
    mask = torch.ops.autockpt.keep_mask(x.detach(), p)
    return x.copy_(torch.ops.autockpt.dropout_noise(mask, x.dtype, 1.0))


def _normalized_like(x: torch.Tensor) -> torch.Tensor:
    """BatchNorm's kernels fill a contiguous tensor, or one in channels last if ``x`` is."""
    filled = torch.contiguous_format if x.dim() < 4 else suggest_memory_format(x)
    return torch.empty_like(x, memory_format=filled)


# Fake tensors accept only functions of one module of torch's: these go by the name of one.
_accepted = functools.wraps(native_batch_norm, assigned=("__module__", "__name__"))


@_accepted
def _batch_norm_shape(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    *args: Any,
) -> tuple[torch.Tensor, ...]:
    _, *statistics = native_batch_norm(x, weight, bias, running_mean, *args)
    like = weight if weight is not None else running_mean
    return _normalized_like(x), *_of_parameters_type(statistics, x, like)


@_accepted
def _layer_norm_shape(
    x: torch.Tensor, shape: list[int], weight: torch.Tensor | None, *args: Any
) -> tuple[torch.Tensor, ...]:
    output, *statistics = native_layer_norm(x, shape, weight, *args)
    return output, *_of_parameters_type(statistics, x, weight)


@_accepted
def _group_norm_shape(
    x: torch.Tensor, weight: torch.Tensor | None, *args: Any
) -> tuple[torch.Tensor, ...]:
    output, *statistics = native_group_norm(x, weight, *args)
    return output, *_of_parameters_type(statistics, x, weight)


def _of_parameters_type(
    statistics: list[torch.Tensor], x: torch.Tensor, parameter: torch.Tensor | None
) -> list[torch.Tensor]:
    """On the CPU, statistics have the type of the parameters, also of an input in a smaller one."""
    if x.device.type != "cpu" or parameter is None:
        return statistics
    return [each.to(parameter.dtype) for each in statistics]


@_accepted
def _batch_norm_backward_shape(
    gradient: torch.Tensor, x: torch.Tensor, *args: Any
) -> tuple[torch.Tensor | None, ...]:
    results: tuple[torch.Tensor | None, ...] = native_batch_norm_backward(gradient, x, *args)
    of_input, *others = results
    return None if of_input is None else _normalized_like(x), *others


@_accepted
def _roll_shape(x: torch.Tensor, shifts: list[int], dims: list[int] | None = None) -> torch.Tensor:
    """The CPU's kernel joins two parts along each dimension, in channels last if they are."""
    if x.device.type != "cpu" or not dims or x.numel() == 0:
        return roll(x, shifts, dims or ())
    for shift, dim in zip(shifts, dims, strict=True):
        start = -shift % x.shape[dim]
        parts = x.narrow(dim, start, x.shape[dim] - start), x.narrow(dim, 0, start)
        x = torch.cat(parts, dim)
    return x


# In-place operators, which keep strides, that have a functional form whose result is contiguous.
_MADE_CONTIGUOUS = (
    *("masked_fill", "masked_scatter", "scatter", "scatter_add", "scatter_reduce", "index_add"),
    *("index_copy", "index_reduce", "cumsum", "cumprod", "tril", "triu", "renorm"),
)


@functools.cache
def _functionalized() -> dict[Any, Any]:
    """What replaces in-place operators while tracing: kernels round differently by strides."""
    kernels: dict[Any, Any] = {
        aten.unsafe_split.Tensor: _split_into_views,
        aten.unsafe_split_with_sizes.default: _split_into_views,
    }
    for name in _MADE_CONTIGUOUS:
        in_place, functional = getattr(aten, f"{name}_"), getattr(aten, name)
        for overload in in_place.overloads():
            op = getattr(in_place, overload)
            kernels[op] = functools.partial(_write_along_strides, op, getattr(functional, overload))
    return kernels


def _write_along_strides(
    op: Any, functional: Any, mode: Any, x: torch.Tensor, *args: Any, **kwargs: Any
) -> Any:
    with mode:
        if x.is_contiguous():
            return op._op_dk(DispatchKey.Python, x, *args, **kwargs)
        return x.copy_(functional(x, *args, **kwargs))


def _split_into_views(mode: Any, x: torch.Tensor, sizes: Any, dim: int = 0) -> list[torch.Tensor]:
    """Recurrent cells write into parts of a product, which have the gaps of its rows."""
    with mode:
        return list(x.split(sizes, dim))


# Operators that report other strides or types on fake tensors than their kernels return.
_EXACT_SHAPES: dict[Any, Any] = {
    aten.native_batch_norm.default: _batch_norm_shape,
    aten.native_batch_norm_backward.default: _batch_norm_backward_shape,
    aten.native_layer_norm.default: _layer_norm_shape,
    aten.native_group_norm.default: _group_norm_shape,
    aten.roll.default: _roll_shape,
}


@functools.cache
def _traced_only_ops() -> tuple[Any, ...]:
    """Operators with Python kernels that apply only under tracing."""
    import torch._decomp  # registers the kernels that are looked for here
    import torch._refs  # noqa: F401

    found = []
    for name in dir(aten):
        packet: Any = getattr(aten, name, None)
        if not hasattr(packet, "overloads"):
            continue
        for overload_name in packet.overloads():
            overload = getattr(packet, overload_name)
            if any(key in overload.py_kernels for key in _TRACING_KEYS):
                found.append(overload)
    return tuple(found)


@contextlib.contextmanager
def exact_layouts() -> Iterator[None]:
    """Give fake tensors the strides that eager's would have; everything is put back."""
    with _TRACING_LOCK, mock.patch.dict(decomposition_table, _EXACT_SHAPES):
        _forget_fakes()
        try:
            yield
        finally:
            _forget_fakes()


def _forget_fakes() -> None:
    # Fakes know outputs by the operator and the metadata of its inputs, and which operators the
    # table is used for.
    FakeTensorMode.cache_clear()
    torch_decomp_decompositions.cache_clear()


@contextlib.contextmanager
def _writing_along_strides() -> Iterator[None]:
    kernels = _functionalized()
    try:
        with contextlib.ExitStack() as patches:
            for op, kernel in kernels.items():
                patch = mock.patch.dict(op.python_key_table, {FunctionalTensorMode: kernel})
                patches.enter_context(patch)
                op._dispatch_cache.clear()
            yield
    finally:
        for op in kernels:
            op._dispatch_cache.clear()


@contextlib.contextmanager
def also_replaced(kernels: dict[Any, Any]) -> Iterator[None]:
    """Let `exact_tracing` also trace these in the place of composite operators."""
    with _TRACING_LOCK, mock.patch.dict(_others, kernels):
        yield


@contextlib.contextmanager
def exact_tracing() -> Iterator[None]:
    """Trace eager's C++ kernels, one thread at a time; everything is put back."""
    replaced: dict[Any, dict[Any, Any]] = {
        aten.dropout.default: dict.fromkeys(_OF_COMPOSITES, eager_dropout),
        aten.bernoulli_.float: {DispatchKey.Autograd: _eager_bernoulli_},
        **{op: dict.fromkeys(_OF_COMPOSITES, kernel) for op, kernel in _others.items()},
    }
    with _TRACING_LOCK, exact_layouts(), _writing_along_strides():
        ops = set(_traced_only_ops()) | set(replaced)
        kept: list[tuple[Any, dict[Any, Any]]] = []
        try:
            for op in ops:
                kept.append((op, dict(op.py_kernels)))
                for key in _TRACING_KEYS:
                    op.py_kernels.pop(key, None)
                op.py_kernels.update(replaced.get(op, {}))
                op._dispatch_cache.clear()
            yield
        finally:
            for op, kernels in kept:
                op.py_kernels.clear()
                op.py_kernels.update(kernels)
                op._dispatch_cache.clear()
