"""What a model holds besides parameters and buffers, put back after steps that are not yours.

Steps are tried, measured and traced on the model itself, and change what its attributes lead to.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from autockpt.torch_private.fakes import unset_fake_temporarily
from autockpt.torch_private.modules import buffer_registry
from autockpt.verify.object_walk import CONTAINERS, GENERATORS, IMMUTABLE, attributes, reached
from autockpt.verify.snapshot import Snapshot


@contextlib.contextmanager
def unchanged_attributes(module: torch.nn.Module, *, copies: bool = True) -> Iterator[Held]:
    """Puts back the attributes of all submodules, and everything that they lead to.

    Hooks stay, and so do flags that are named after them: libraries install some at the first
    forward. Parameters and buffers of the module and its submodules are left out.

    Args:
        module: The module.
        copies: Whether to copy tensors, so that their values can be put back too.
    """
    held = Held(module, copies=copies)
    try:
        yield held
    finally:
        held.put_back()


class Held:
    """Everything that a module's attributes lead to, as it is now."""

    def __init__(self, module: torch.nn.Module, *, copies: bool) -> None:
        self._copies = copies
        self._values: list[Snapshot] = []
        self._namespaces: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._states: list[Callable[[], object]] = []
        self._of_python: list[tuple[random.Random, Any]] = []
        self._submodules = {id(m) for m in module.modules()}
        for value in reached(module).own:
            self._note(value)

    def has_drawn_in_python(self) -> bool:
        """Whether a ``random.Random`` was drawn from, which Dynamo takes for a constant."""
        return any(generator.getstate() != state for generator, state in self._of_python)

    def put_back(self) -> None:
        """Puts everything back."""
        for namespace, before in self._namespaces:
            for name in attributes(namespace).keys() - before.keys():
                del namespace[name]
            namespace.update(before)
        for container, content in self._containers:
            _set_content(container, content)
        for put_back in self._states:
            put_back()
        with unset_fake_temporarily():
            for snapshot in self._values:
                snapshot.put_back()

    def _note(self, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            # No parameters, no fakes, no tensors that are spread over ranks.
            is_plain = type(value) is torch.Tensor and value.layout is torch.strided
            if self._copies and is_plain and value.device.type != "meta":
                with unset_fake_temporarily():
                    self._values.append(Snapshot([value]))
        elif isinstance(value, GENERATORS):
            self._states.append(_generator_put_back(value))
            if isinstance(value, random.Random):
                self._of_python.append((value, value.getstate()))
        elif type(value) in CONTAINERS:
            self._containers.append((value, copy.copy(value)))
        elif not isinstance(value, (*CONTAINERS, *IMMUTABLE)):
            self._namespaces.append((value.__dict__, attributes(value.__dict__)))
            # A module that is hidden in an attribute; buffers of the others are not kept here.
            if isinstance(value, torch.nn.Module) and id(value) not in self._submodules:
                registry = buffer_registry(value)
                self._containers.append((registry, copy.copy(registry)))


def _generator_put_back(value: Any) -> Callable[[], object]:
    """Returns what puts a generator of random numbers back to its state of now."""
    if isinstance(value, np.random.Generator):
        return functools.partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    if isinstance(value, random.Random):
        return functools.partial(value.setstate, value.getstate())
    return functools.partial(value.set_state, value.get_state())


def _set_content(container: Any, content: Any) -> None:
    if type(container) is list:
        container[:] = content
    else:
        container.clear()
        (container.extend if type(container) is collections.deque else container.update)(content)
