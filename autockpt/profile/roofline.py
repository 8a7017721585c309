"""Estimates what operators cost on a device that is not available.

The time of a kernel is the larger of what its arithmetic and its memory traffic take, each at the
share of the peak rate that kernels of its kind reach; no operator takes less than its launch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Any

import torch
import torch.fx as fx

from autockpt.capture.nodes import tensors_of
from autockpt.devices.device import Device
from autockpt.devices.lookup import device_like
from autockpt.devices.table import DEVICES, GENERIC_CPU
from autockpt.profile.cache import NodeCost
from autockpt.profile.kinds import is_causal, kind_of
from autockpt.profile.workspaces import workspace_bytes


def device_of(device: torch.device) -> Device:
    """Returns the numbers of a device that is here: its own if they are known, else an H100's."""
    return _known(device) or DEVICES["h100"]


def is_known(device: torch.device) -> bool:
    """Whether there are numbers of a device that is here."""
    return _known(device) is not None


def _known(device: torch.device) -> Device | None:
    if device.type in ("cpu", "meta"):
        return GENERIC_CPU
    return device_like(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a node reads and returns, and how much it computes and moves.

    Attributes:
        inputs: Its arguments by position and by keyword, with tensors for nodes.
        result: What it returns.
        num_flops: Floating-point operations; 0 if there is no formula for its operator.
        moved_bytes: The bytes of all tensors among them.
    """

    inputs: Any
    result: Any
    num_flops: int
    moved_bytes: int

    @property
    def touched(self) -> list[torch.Tensor]:
        """All tensors that the node reads or returns."""
        return tensors_of((self.inputs, self.result))


def work_of(node: fx.Node) -> Work:
    """Returns what a node reads, returns, computes and moves."""

    def value_of(argument: Any) -> Any:
        return argument.meta.get("val") if isinstance(argument, fx.Node) else argument

    args = fx.node.map_aggregate(node.args, value_of)
    kwargs = fx.node.map_aggregate(node.kwargs, value_of)
    result = node.meta.get("val")
    touched = tensors_of((args, kwargs, result))
    return Work(
        inputs=(args, kwargs),
        result=result,
        num_flops=_num_flops(node, args, kwargs, result),
        moved_bytes=sum(t.numel() * t.element_size() for t in touched),
    )


def roofline(node: fx.Node, device: Device) -> NodeCost:
    """Estimates the cost of a node on a device."""
    work = work_of(node)
    touched = work.touched
    kind = kind_of(node.target)
    share = getattr(device.efficiency, kind)
    arithmetic_s = memory_s = 0.0
    if work.num_flops:
        rate = device.rates.of(_dtype_of(touched), is_convolution=kind == "convolution")
        arithmetic_s = work.num_flops / (rate * share)
        share = device.efficiency.elementwise
    if work.moved_bytes:
        memory_s = work.moved_bytes / (device.bytes_per_s * share)
    runtime_ns = int(max(arithmetic_s, memory_s) * 1e9)
    return NodeCost(
        runtime_ns=max(device.launch_ns, runtime_ns),
        workspace_bytes=workspace_bytes(node.target, touched, device),
    )


def _num_flops(node: fx.Node, args: Any, kwargs: Any, result: Any) -> int:
    from torch.utils.flop_counter import flop_registry

    packet = getattr(node.target, "overloadpacket", None)
    if packet not in flop_registry:
        return 0
    num_flops = 0
    # A formula that does not take this call leaves the bytes to count alone.
    with contextlib.suppress(Exception):
        num_flops = flop_registry[packet](*args, **kwargs, out_val=result)
    # Kernels skip what a causal mask hides; torch's formulas count it.
    return math.ceil(num_flops / 2) if is_causal(node) else num_flops


def _dtype_of(touched: list[torch.Tensor]) -> torch.dtype:
    """The smallest type of floating point among tensors."""
    floats = [t.dtype for t in touched if t.dtype.is_floating_point]
    return min(floats, key=lambda dtype: dtype.itemsize, default=torch.float32)
