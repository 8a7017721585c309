"""A device as a plan sees it: how fast it is, how much memory it has, which kernels it runs."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from autockpt.budget import format_bytes

if TYPE_CHECKING:
    import torch

_LARGE_WORKSPACE_BYTES = 32 * 2**20
# PyTorch's caching allocator gives out blocks of whole units of this size.
ALLOCATION_BYTES = 512
_WORKSPACE_BYTES = 8_519_680  # ":4096:2:16:8", in the words of CUBLAS_WORKSPACE_CONFIG

# What a matrix product runs in: torch's defaults let convolutions use TF32, and nothing else.
Arithmetic = Literal["fp64", "fp32", "tf32", "fp16", "bf16"]
_ARITHMETIC: dict[str, Arithmetic] = {
    "torch.float64": "fp64",
    "torch.float32": "fp32",
    "torch.float16": "fp16",
    "torch.bfloat16": "bf16",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakRates:
    """Operations per second of matrix products by arithmetic, dense, from a data sheet.

    Attributes:
        fp64: Double precision.
        fp32: Single precision, without tensor cores; elementwise operators run at this rate too.
        tf32: Single precision on tensor cores; None if the device has none for it.
        fp16: Half precision, accumulated in single precision.
        bf16: Brain float; None if the device computes it in single precision.
    """

    fp64: float
    fp32: float
    fp16: float
    tf32: float | None = None
    bf16: float | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            rate = getattr(self, field.name)
            if rate is not None and not 0 < rate < math.inf:
                raise ValueError(
                    f"{field.name} is {rate}; it must be a number of operations per second above 0"
                )

    def of(self, dtype: torch.dtype, *, is_convolution: bool = False) -> float:
        """Operations per second of a matrix product or a convolution of this dtype."""
        arithmetic = _ARITHMETIC.get(str(dtype), "fp32")
        if arithmetic == "fp32" and is_convolution:
            arithmetic = "tf32"
        rate: float | None = getattr(self, arithmetic)
        return self.fp32 if rate is None else rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """What share of its peak a kind of kernel reaches; `table.py` has the sources.

    The first four are shares of the arithmetic's peak rate, the others of the memory's bandwidth.
    """

    matmul: float = 0.75
    convolution: float = 0.45
    attention: float = 0.60
    attention_backward: float = 0.50
    normalization: float = 0.70
    normalization_backward: float = 0.45
    elementwise: float = 0.85

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            share = getattr(self, field.name)
            if not 0 < share <= 1:
                raise ValueError(
                    f"the efficiency of {field.name} is {share}; it must be above 0, and at most 1"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device that a plan can be made for.

    Attributes:
        name: How you name it: ``"h100"``.
        title: Its name in the data sheet.
        source: The data sheet.
        memory_bytes: Memory of the device, as its driver reports it.
        bytes_per_s: Bandwidth of that memory.
        host_bytes_per_s: Bandwidth of its link to the host, in one direction.
        rates: Peak rates.
        capability: Compute capability, such as ``(9, 0)``; None if the device is not NVIDIA's.
        efficiency: What share of the peak rates kernels reach.
        launch_ns: The least time of an operator in eager PyTorch.
        is_accelerator: Whether it is one, with an allocator and operators like CUDA's.
        context_bytes: What the driver and loaded kernels take beside all tensors; an assumption.
    """

    name: str
    title: str
    source: str
    memory_bytes: int
    bytes_per_s: float
    host_bytes_per_s: float
    rates: PeakRates
    capability: tuple[int, int] | None
    efficiency: Efficiency = Efficiency()
    launch_ns: int = 5_000
    context_bytes: int = 512 * 2**20
    is_accelerator: bool = True

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "bytes_per_s", "host_bytes_per_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a number above 0")
        for name in ("launch_ns", "context_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if self.memory_bytes <= self.context_bytes:
            raise ValueError(
                f"its memory of {format_bytes(self.memory_bytes)} is less than the "
                f"{format_bytes(self.context_bytes)} of the driver's context; give context too"
            )
        if self.capability is not None and min(self.capability) < 0:
            raise ValueError(f"capability is {list(self.capability)}; it must be such as [8, 9]")

    @property
    def workspace_bytes(self) -> int:
        """What the library of matrix products keeps once it has run: torch's default for CUDA.

        Source: ``getChosenWorkspaceSize`` in PyTorch's ``CublasHandlePool.cpp``: 32 MiB on Hopper
        and Blackwell, ``:4096:2:16:8`` before. The backward runs in a thread with a handle of its
        own, so there are two. 0 if the device is not NVIDIA's, where it is not known.
        """
        if self.capability is None:
            return 0
        is_recent = self.capability[0] in (9, 10, 12)
        return 2 * (_LARGE_WORKSPACE_BYTES if is_recent else _WORKSPACE_BYTES)

    @property
    def usable_bytes(self) -> int:
        """What is left for tensors."""
        return self.memory_bytes - self.context_bytes
