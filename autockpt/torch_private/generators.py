"""Random generators: read and restore their state, and its size.

Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch


def run_with_rng_state(state: torch.Tensor, op: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a random operator from a saved generator state, leaving the generator as it is."""
    device = _random_device(args, kwargs)
    if device.type == "cpu":
        current = torch.get_rng_state()
        torch.set_rng_state(state)
        try:
            return op(*args, **kwargs)
        finally:
            torch.set_rng_state(current)
    module = torch.get_device_module(device)
    current = module.get_rng_state(device)
    module.set_rng_state(state, device)
    try:
        return op(*args, **kwargs)
    finally:
        module.set_rng_state(current, device)


def rng_state(*args: Any, **kwargs: Any) -> torch.Tensor:
    """The state of the generator that a random operator called with these arguments would use."""
    device = _random_device(args, kwargs)
    if device.type == "cpu":
        return torch.get_rng_state()
    state: torch.Tensor = torch.get_device_module(device).get_rng_state(device)
    return state


def fake_rng_state(like: torch.Tensor) -> torch.Tensor:
    """What :func:`rng_state` returns for the generator of ``like``'s device, as a fake tensor."""
    num_bytes = rng_state_bytes(like.device)
    return like.new_empty((num_bytes,), dtype=torch.uint8, device="cpu")


def rng_state_bytes(device: torch.device) -> int:
    """Size of a generator's state: a Mersenne twister on the CPU, seed and offset elsewhere."""
    return 5056 if device.type == "cpu" else 16


@contextlib.contextmanager
def noticing_rng_states(notice: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Call something with each state of the CPU's generator that is read inside.

    ``torch.utils.checkpoint`` keeps one for the backward, and no dispatch mode sees it.
    """
    original = torch.get_rng_state

    @functools.wraps(original)
    def read() -> torch.Tensor:
        state = original()
        notice(state)
        return state

    torch.get_rng_state = read
    try:
        yield
    finally:
        torch.get_rng_state = original


def _random_device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            return value.device
    device = kwargs.get("device")
    return torch.device(device) if device is not None else torch.device("cpu")
