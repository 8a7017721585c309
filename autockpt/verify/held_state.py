"""What a model holds besides parameters and buffers, put back after steps that are not the user's.

Attributes of modules lead to lists and dicts, to objects of the user's own classes, to tensors and
generators in them. Steps are tried, measured and traced on the model itself, and change them.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import enum
import functools
import random
import sys
import sysconfig
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from autockpt.torch_private.fakes import unset_fake_temporarily
from autockpt.torch_private.modules import REGISTRIES, buffer_registry

_CONTAINERS = (list, dict, set, collections.deque, collections.OrderedDict, collections.defaultdict)
_PLAIN = (bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device, type(None))
_REGISTRIES = (*REGISTRIES, "forward")
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
_OWN = ("autockpt", "autockpt_solvers", "torch")
_MOST_OBJECTS = 100_000


@contextlib.contextmanager
def unchanged_attributes(module: torch.nn.Module, *, copies: bool = True) -> Iterator[Held]:
    """Put the attributes of all submodules back as they were, and what is reached through them.

    Hooks stay, and flags that are named after them: libraries install some at the first forward.
    Buffers of the module and its submodules are not looked at.

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
    """What is reached through a module's attributes, as it is now."""

    def __init__(self, module: torch.nn.Module, *, copies: bool) -> None:
        self._copies = copies
        self._values: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._namespaces: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._states: list[Callable[[], object]] = []
        self._of_python: list[tuple[random.Random, Any]] = []
        self._pending: list[Any] = []
        self._seen: set[int] = set()
        self._note_modules(module)
        while self._pending and len(self._seen) < _MOST_OBJECTS:
            value = self._pending.pop()
            if id(value) not in self._seen:
                self._seen.add(id(value))
                self._note(value)

    def has_drawn_in_python(self) -> bool:
        """Whether an own ``random.Random`` has moved since, which Dynamo takes for a constant."""
        return any(generator.getstate() != state for generator, state in self._of_python)

    def put_back(self) -> None:
        """Everything as it was."""
        for namespace, before in self._namespaces:
            for name in _attributes(namespace).keys() - before.keys():
                del namespace[name]
            namespace.update(before)
        for container, content in self._containers:
            _set_content(container, content)
        for put_back in self._states:
            put_back()
        with torch.no_grad(), unset_fake_temporarily():
            for tensor, value in self._values:
                # What nobody wrote into may be saved for a backward, and keeps its version.
                if not torch.equal(tensor, value):
                    tensor.copy_(value)

    def _note_modules(self, module: torch.nn.Module) -> None:
        for m in module.modules():
            self._seen.add(id(m))
            self._note_namespace(m.__dict__)

    def _note_namespace(self, namespace: dict[str, Any]) -> None:
        attributes = _attributes(namespace)
        self._namespaces.append((namespace, attributes))
        self._pending += [v for v in attributes.values() if not isinstance(v, _PLAIN)]

    def _note(self, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            # No parameters, no fakes, no tensors that are spread over ranks.
            is_plain = type(value) is torch.Tensor and value.layout is torch.strided
            if self._copies and is_plain and value.device.type != "meta":
                with unset_fake_temporarily():
                    self._values.append((value, value.detach().clone()))
        elif isinstance(value, torch.nn.Module):
            self._note_modules(value)
            for m in value.modules():
                self._containers.append((buffer_registry(m), copy.copy(buffer_registry(m))))
            self._pending += list(value.buffers())
        elif isinstance(value, (*_CONTAINERS, tuple)):
            if type(value) in _CONTAINERS:
                self._containers.append((value, copy.copy(value)))
            items = value.values() if isinstance(value, dict) else value
            self._pending += [item for item in items if not isinstance(item, _PLAIN)]
        elif (put_back := _generator_put_back(value)) is not None:
            self._states.append(put_back)
            if isinstance(value, random.Random):
                self._of_python.append((value, value.getstate()))
        elif _is_users(type(value)) and isinstance(getattr(value, "__dict__", None), dict):
            self._note_namespace(value.__dict__)


def _attributes(namespace: dict[str, Any]) -> dict[str, Any]:
    """Attributes, hooks and registries of modules apart."""
    return {k: v for k, v in namespace.items() if k not in _REGISTRIES and "hook" not in k}


def _generator_put_back(value: Any) -> Callable[[], object] | None:
    """What puts a generator of random numbers back to where it is now; None if it is none."""
    if isinstance(value, torch.Generator):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        return functools.partial(value.setstate, value.getstate())
    if isinstance(value, np.random.RandomState):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        return functools.partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    return None


def _is_users(kind: type) -> bool:
    """Whether a class is of the user's own code: objects of libraries may be in use meanwhile."""
    name = kind.__module__
    if name == "builtins" or name.partition(".")[0] in _OWN:
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is None or not str(file).startswith(_LIBRARIES)


def _set_content(container: Any, content: Any) -> None:
    if type(container) is list:
        container[:] = content
    else:
        container.clear()
        (container.extend if type(container) is collections.deque else container.update)(content)
