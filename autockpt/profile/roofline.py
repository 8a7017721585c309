"""Estimates operator costs for a device that is not available."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import torch
import torch.fx as fx

from autockpt.capture.nodes import tensors_of
from autockpt.profile.cache import NodeCost
from autockpt.torch_private.pytree import tree_leaves


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpeed:
    """Peak rates of a device, from the vendor's data sheet."""

    flops_per_s: float
    half_flops_per_s: float
    bytes_per_s: float
    launch_ns: int


# By device type. Dense rates; a plan depends only on the ratios between nodes. The CPU has those of
# one modest core, "cuda" those of an H100 SXM (NVIDIA's data sheet; FP32 without TF32).
DEVICE_SPEEDS = {
    "cpu": DeviceSpeed(flops_per_s=5e10, half_flops_per_s=5e10, bytes_per_s=1e10, launch_ns=2_000),
    "cuda": DeviceSpeed(
        flops_per_s=67e12, half_flops_per_s=989e12, bytes_per_s=3.35e12, launch_ns=4_000
    ),
}


def device_speed(device: torch.device) -> DeviceSpeed:
    """Return the rates of a device: its own, the CPU's for meta, else those of "cuda"."""
    kind = "cpu" if device.type == "meta" else device.type
    return DEVICE_SPEEDS.get(kind, DEVICE_SPEEDS["cuda"])


def roofline(node: fx.Node, device: torch.device) -> NodeCost:
    """Estimates a node: the larger of its compute and memory times, and a launch."""
    from torch.utils.flop_counter import flop_registry

    speed = device_speed(device)

    def value_of(argument: Any) -> Any:
        return argument.meta.get("val") if isinstance(argument, fx.Node) else argument

    args = fx.node.map_aggregate(node.args, value_of)
    kwargs = fx.node.map_aggregate(node.kwargs, value_of)
    result = node.meta.get("val")
    touched = tensors_of(tree_leaves((args, kwargs, result)))
    moved_bytes = sum(t.numel() * t.element_size() for t in touched)
    num_flops = 0
    packet = getattr(node.target, "overloadpacket", None)
    if packet in flop_registry:
        # A formula that does not take this call leaves the bytes to count alone.
        with contextlib.suppress(Exception):
            num_flops = flop_registry[packet](*args, **kwargs, out_val=result)
    half = any(t.dtype in (torch.float16, torch.bfloat16) for t in touched)
    rate = speed.half_flops_per_s if half else speed.flops_per_s
    seconds = max(num_flops / rate, moved_bytes / speed.bytes_per_s)
    return NodeCost(runtime_ns=speed.launch_ns + int(seconds * 1e9), workspace_bytes=0)
