"""Measures or estimates the run time and workspace of every node.

Each operator is measured once per input layout, on made-up inputs with the right shapes and
strides, so a measurement needs no more memory than a few operators. Results are stored on disk by
device and torch version. If nothing can run (the device is missing, or the model is on fake or meta
tensors), the cost is a roofline estimate: the larger of the time for the FLOPs and the time for the
bytes moved.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.fx as fx

from autockpt import progress
from autockpt.capture.nodes import tensors_of
from autockpt.devices.device import Device
from autockpt.profile.cache import NodeCost, ProfileCache
from autockpt.profile.roofline import device_of, roofline
from autockpt.profile.turns import times_ns
from autockpt.torch_private.pytree import tree_leaves, tree_map
from autockpt.torch_private.tensors import storage_key
from autockpt.verify.peak import memory_profile
from autockpt.verify.random_state import kept_random_states

# By signature: bytes beyond inputs and outputs, and the size of each output's storage.
Workspaces = dict[str, tuple[int, tuple[int, ...]]]

_MIN_IN_TURNS = 16  # operators
_SPAN = "autockpt workspace "


def signature(node: fx.Node) -> str:
    """Returns a node's operator, shapes, strides and dtypes: equal signatures cost the same."""

    def describe(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return (tuple(value.shape), tuple(value.stride()), str(value.dtype))
        return value

    def of_argument(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return tree_map(describe, argument.meta.get("val"))
        return argument

    arguments = fx.node.map_aggregate((node.args, tuple(sorted(node.kwargs.items()))), of_argument)
    return f"{node.target}{arguments!r}"


def profile(
    nodes: Iterable[fx.Node],
    device: torch.device,
    *,
    measure: bool,
    cache: ProfileCache | None = None,
    target: Device | None = None,
) -> dict[fx.Node, NodeCost]:
    """Returns the cost of every node.

    Call it outside of any fake-tensor mode: inside one, the operators would not really run.

    Args:
        nodes: Nodes that make storage, with fake tensors in ``meta["val"]``.
        device: Where the model runs.
        measure: Whether to run the operators; otherwise their cost is estimated.
        cache: Known costs; None opens the one in the user's cache folder.
        target: The device to estimate costs for; None for ``device``.
    """
    nodes = list(nodes)
    by_signature: dict[str, fx.Node] = {}
    signatures = {node: signature(node) for node in nodes}
    for node in nodes:
        by_signature.setdefault(signatures[node], node)
    if not measure:
        spec = target or device_of(device)
        costs = {key: roofline(node, spec) for key, node in by_signature.items()}
    else:
        costs = _measured(by_signature, device, cache or ProfileCache.open_default(device))
    return {node: costs[signatures[node]] for node in nodes}


def _measured(
    by_signature: dict[str, fx.Node], device: torch.device, cache: ProfileCache
) -> dict[str, NodeCost]:
    known = cache.load(by_signature)
    missing = {key: node for key, node in by_signature.items() if key not in known}
    if not missing:
        return known
    measured: dict[str, NodeCost] = {}
    # Graphs contain their casts; the caller's autocast must not add others.
    progress.stage("profiling the memory of operators", num_all=len(missing))
    with kept_random_states(device), torch.autocast(device.type, enabled=False):
        workspace = (_workspace_cpu if device.type == "cpu" else _workspace_device)(missing, device)
        progress.stage("profiling the time of operators", num_all=len(missing))
        runs = {key: node for key, node in missing.items() if key in workspace}
        others = [node for key, node in by_signature.items() if key in known]
        for key, runtime_ns in zip(runs, _runtimes_ns(runs, others, device), strict=True):
            workspace_bytes, output_bytes = workspace[key]
            measured[key] = NodeCost(
                runtime_ns=runtime_ns,
                workspace_bytes=workspace_bytes,
                output_bytes=output_bytes,
            )
    estimated = {
        key: roofline(node, device_of(device))
        for key, node in missing.items()
        if key not in workspace
    }
    cache.store(measured)
    return known | measured | estimated


def _call(node: fx.Node) -> Callable[[], Any]:
    """Returns a call of the node's operator on made-up inputs of the recorded layout."""
    made: dict[fx.Node, Any] = {}

    def of_argument(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            if argument not in made:
                made[argument] = tree_map(_made_up, argument.meta.get("val"))
            return made[argument]
        return argument

    args = fx.node.map_aggregate(node.args, of_argument)
    kwargs = fx.node.map_aggregate(node.kwargs, of_argument)
    target: Any = node.target
    return lambda: target(*args, **kwargs)


def _made_up(value: Any) -> Any:
    """Makes a real tensor with the shape, strides, dtype and device of a fake one."""
    if not isinstance(value, torch.Tensor):
        return value
    num_elements = value.untyped_storage().nbytes() // max(value.element_size(), 1)
    num_elements = max(num_elements, 1)
    base: torch.Tensor
    if value.dtype.is_floating_point or value.dtype.is_complex:
        dtype = value.dtype if value.dtype.itemsize >= 4 else torch.float32
        base = torch.randn(num_elements, dtype=dtype, device=value.device).to(value.dtype) * 0.5
    elif value.dtype == torch.bool:
        base = torch.ones(num_elements, dtype=torch.bool, device=value.device)
    else:
        # Zero is a valid index, target class and offset.
        base = torch.zeros(num_elements, dtype=value.dtype, device=value.device)
    return torch.as_strided(base, value.shape, value.stride(), value.storage_offset())


def _runtimes_ns(
    missing: dict[str, fx.Node], known: list[fx.Node], device: torch.device
) -> list[int]:
    """Returns the times of the missing nodes' operators, in their order."""
    if device.type != "cpu":
        with torch.no_grad():
            return [_runtime_ns_device(_call(node), device) for node in missing.values()]
    # A few operators alone would find the caches as they left them: known ones run between them.
    beside = known[: max(0, _MIN_IN_TURNS - len(missing))]
    return times_ns([*missing.values(), *beside], _call)[: len(missing)]


def _runtime_ns_device(call: Callable[[], Any], device: torch.device) -> int:
    """Returns the median of ten runs, timed with events on the device."""
    module = torch.get_device_module(device)
    for _ in range(2):
        call()
    module.synchronize(device)
    times_ms = []
    for _ in range(10):
        start, end = module.Event(enable_timing=True), module.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        module.synchronize(device)
        times_ms.append(start.elapsed_time(end))
    return max(1, int(sorted(times_ms)[len(times_ms) // 2] * 1e6))


def _workspace_cpu(missing: dict[str, fx.Node], device: torch.device) -> Workspaces:
    """Measures all signatures in one profiler session: starting one takes almost a second.

    Operators that cannot run on made-up inputs are left out.
    """
    keys = list(missing)
    returned: dict[int, tuple[int, ...]] = {}
    held_bytes: dict[int, int] = {}
    gc.collect()
    with torch.no_grad(), memory_profile() as session:
        for position, key in enumerate(keys):
            progress.advance(position)
            with contextlib.suppress(Exception):
                call = _call(missing[key])
                with torch.profiler.record_function(f"{_SPAN}{position}"):
                    result = call()
                held_bytes[position] = _new_bytes(missing[key], result)
                returned[position] = _output_bytes(missing[key], result)
                del result, call
    events = session.profiler.kineto_results.events()
    spans = sorted(
        (
            event.start_ns(),
            event.start_ns() + event.duration_ns(),
            int(event.name().removeprefix(_SPAN)),
        )
        for event in events
        if event.name().startswith(_SPAN)
    )
    memory = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    workspace: Workspaces = {}
    cursor = 0
    for start_ns, end_ns, position in spans:
        while cursor < len(memory) and memory[cursor][0] < start_ns:
            cursor += 1
        live_bytes = peak_bytes = 0
        while cursor < len(memory) and memory[cursor][0] <= end_ns:
            live_bytes += memory[cursor][1]
            peak_bytes = max(peak_bytes, live_bytes)
            cursor += 1
        if position in returned:
            beyond_bytes = max(0, peak_bytes - held_bytes[position])
            workspace[keys[position]] = (beyond_bytes, returned[position])
    return workspace


def _workspace_device(missing: dict[str, fx.Node], device: torch.device) -> Workspaces:
    module = torch.get_device_module(device)
    workspace: Workspaces = {}
    with torch.no_grad():
        for position, (key, node) in enumerate(missing.items()):
            progress.advance(position)
            with contextlib.suppress(Exception):
                call = _call(node)
                call()  # the first call creates handles and workspaces that stay for later calls
                module.synchronize(device)
                module.reset_peak_memory_stats(device)
                before_bytes = module.memory_allocated(device)
                result = call()
                module.synchronize(device)
                peak_bytes = module.max_memory_allocated(device) - before_bytes
                held_bytes = module.memory_allocated(device) - before_bytes
                workspace[key] = (max(0, peak_bytes - held_bytes), _output_bytes(node, result))
                del result, call
    return workspace


def _returned(node: fx.Node, result: Any) -> list[tuple[Any, torch.Tensor]]:
    """What a call returned beside every tensor that was recorded for the node.

    A backward that is not asked for a gradient may return none where the fake one returned it.
    """
    leaves = zip(tree_leaves(result), tree_leaves(node.meta.get("val")), strict=True)
    return [(real, fake) for real, fake in leaves if isinstance(fake, torch.Tensor)]


def _storage_bytes(value: Any) -> int:
    return value.untyped_storage().nbytes() if isinstance(value, torch.Tensor) else 0


def _output_bytes(node: fx.Node, result: Any) -> tuple[int, ...]:
    return tuple(_storage_bytes(real) for real, _ in _returned(node, result))


def _new_bytes(node: fx.Node, result: Any) -> int:
    """Returns the bytes of the storages that a call returned, without those of its inputs."""
    inputs = {
        storage_key(t)
        for parent in node.all_input_nodes
        for t in tensors_of(parent.meta.get("val"))
    }
    made = {
        storage_key(real): _storage_bytes(real)
        for real, fake in _returned(node, result)
        if isinstance(real, torch.Tensor) and storage_key(fake) not in inputs
    }
    return sum(made.values())
