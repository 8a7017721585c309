"""The random generators of torch, Python and numpy that a forward may draw from."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from autockpt.host_random import host_random_states, set_host_random_states


def random_states(device: torch.device) -> tuple[Any, ...]:
    """Returns the states of all generators; compare them with :func:`same_states`."""
    states: list[Any] = [*host_random_states(), torch.get_rng_state()]
    if device.type not in ("cpu", "meta"):
        states.append(torch.get_device_module(device).get_rng_state(device))
    return tuple(states)


def set_random_states(states: tuple[Any, ...], device: torch.device) -> None:
    """Restores states that :func:`random_states` returned."""
    set_host_random_states(states[:2])
    torch.set_rng_state(states[2])
    if len(states) > 3:
        torch.get_device_module(device).set_rng_state(states[3], device)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seeds all generators with the same number."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if device.type not in ("cpu", "meta"):
        torch.get_device_module(device).manual_seed(seed)


def same_states(left: tuple[Any, ...], right: tuple[Any, ...]) -> bool:
    """Whether two sets of states are equal."""
    return (
        left[0] == right[0]
        and repr(left[1]) == repr(right[1])
        and np.array_equal(left[1]["state"]["key"], right[1]["state"]["key"])
        and all(torch.equal(ours, theirs) for ours, theirs in zip(left[2:], right[2:], strict=True))
    )


@contextlib.contextmanager
def kept_random_states(device: torch.device) -> Iterator[None]:
    """Restores every generator on exit."""
    before = random_states(device)
    try:
        yield
    finally:
        set_random_states(before, device)
