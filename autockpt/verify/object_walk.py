"""Everything that a module's attributes lead to, found in one way for all who ask.

Attributes lead to lists and dicts, to objects of classes of your own, and to tensors and random
generators in them. So do hooks on modules, which may collect values in a list of yours.
`held_state` puts all of that back after steps that are not yours, and `AttributeWatch` sees whether
a call changes it, so that nothing is put back unseen.
"""

from __future__ import annotations

import collections
import enum
import functools
import random
import sys
import sysconfig
import types
from typing import Any, NamedTuple

import numpy as np
import torch

from autockpt.torch_private.modules import REGISTRIES, buffer_registry
from autockpt.torch_private.tensors import write_count

CONTAINERS = (list, dict, set, collections.deque, collections.OrderedDict, collections.defaultdict)
IMMUTABLE = (tuple, frozenset)
GENERATORS = (torch.Generator, random.Random, np.random.RandomState, np.random.Generator)
_PLAIN = (bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device, type(None))
_REGISTRIES = (*REGISTRIES, "forward")
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
_OWN = ("autockpt", "autockpt_solvers", "torch")
_MOST_OBJECTS = 100_000  # objects visited at most: a model may hold a whole data set
# How far to look behind an object of a library: it may lead to half of the process.
_LIBRARY_DEPTH = 3


class Reached(NamedTuple):
    """What a module's attributes lead to, each object once.

    Attributes:
        own: Modules, containers, tensors, generators and objects of your own classes.
        foreign: Objects of libraries. They may be in use meanwhile, so nothing of them is put back.
    """

    own: list[Any]
    foreign: list[Any]


def reached(module: torch.nn.Module) -> Reached:
    """Walks from a module; its parameters and buffers, and its submodules', are left out."""
    seen = {id(buffer) for buffer in module.buffers()}
    found = Reached([], [])
    pending: list[Any] = [module]
    while pending and len(seen) < _MOST_OBJECTS:
        value = pending.pop()
        if id(value) not in seen:
            seen.add(id(value))
            is_own = _is_own(value)
            (found.own if is_own else found.foreign).append(value)
            if is_own:
                pending += _parts(value)
    return found


class AttributeWatch:
    """Sees whether anything that a module's attributes lead to changes from now on.

    It looks behind objects of libraries too, though not far.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        found = reached(module)
        objects = {id(value): value for value in (*found.own, *found.foreign)}
        outermost = found.foreign
        for _ in range(_LIBRARY_DEPTH):
            parts = {id(part): part for value in outermost for part in _parts(value)}
            outermost = [part for key, part in parts.items() if key not in objects]
            objects |= parts
        self._before = [(value, _fingerprint(value)) for value in objects.values()]
        # What is known by its address only must not be freed.
        self._alive = [_parts(value) for value in outermost]

    def has_changed(self) -> bool:
        """Whether anything changed; what is new can only be reached through what changed."""
        return any(_fingerprint(value) != before for value, before in self._before)


def attributes(namespace: dict[str, Any]) -> dict[str, Any]:
    """Returns attributes without hooks, and without the registries of modules."""
    return {k: v for k, v in namespace.items() if k not in _REGISTRIES and "hook" not in k}


def generator_state(generator: Any) -> Any:
    """Returns the state of one of the `GENERATORS`; states of equal generators compare equal."""
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().tobytes()
    if isinstance(generator, np.random.RandomState):
        return repr(generator.__getstate__())
    if isinstance(generator, np.random.Generator):
        return repr(generator.bit_generator.state)
    return generator.getstate()


def _is_own(value: Any) -> bool:
    known = (torch.Tensor, torch.nn.Module, *IMMUTABLE, *CONTAINERS, *GENERATORS)
    return isinstance(value, known) or (_is_users(type(value)) and _has_namespace(value))


def _is_users(kind: type) -> bool:
    """Whether a class is of the user's own code."""
    return _is_users_module(kind.__module__)


def _is_users_module(name: str) -> bool:
    if name == "builtins" or name.partition(".")[0] in _OWN:
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is None or not str(file).startswith(_LIBRARIES)


def _has_namespace(value: Any) -> bool:
    return isinstance(getattr(value, "__dict__", None), dict)


def _parts(value: Any) -> list[Any]:
    """What an object holds and that can change itself."""
    return [part for part in _content(value) if not isinstance(part, _PLAIN)]


def _content(value: Any) -> list[Any]:
    if isinstance(value, (torch.Tensor, types.ModuleType, *GENERATORS)):
        return []
    if isinstance(value, torch.nn.Module):
        held = attributes(value.__dict__)
        registered = [*buffer_registry(value).items(), *value.named_children()]
        hooks = [part for hook in _hooks(value) for part in _collected_in(hook)]
        return [*held.keys(), *held.values(), *(p for item in registered for p in item), *hooks]
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        return list(value)
    namespace = getattr(value, "__dict__", {})
    return [*namespace.keys(), *namespace.values()]


def _hooks(module: torch.nn.Module) -> list[Any]:
    """The hooks on a module that are not of a library."""
    registries = [each for name, each in vars(module).items() if "hook" in name]
    hooks = [hook for each in registries if isinstance(each, dict) for hook in each.values()]
    return [hook for hook in hooks if _is_users_module(_module_of(hook))]


def _module_of(hook: Any) -> str:
    while isinstance(hook, functools.partial):
        hook = hook.func
    return getattr(hook, "__module__", None) or "builtins"


def _collected_in(hook: Any) -> list[Any]:
    """Lists, dicts and tensors that the code of a hook names, itself or in an object.

    An object as a whole may be a trainer, and lead to a data set.
    """
    given: list[Any] = []
    while isinstance(hook, functools.partial):
        given += [*hook.args, *hook.keywords.values()]
        hook = hook.func
    if not hasattr(hook, "__code__") and not hasattr(hook, "__func__"):
        hook = getattr(hook, "__call__", hook)  # noqa: B004 - the method, not whether there is one
    global_values: list[Any] = []
    while hook is not None:
        function = getattr(hook, "__func__", hook)
        code = getattr(function, "__code__", None)
        if code is not None:
            cells = map(_in_cell, function.__closure__ or ())
            known = [getattr(hook, "__self__", None), *cells]
            names = [name for name in code.co_names if name in function.__globals__]
            global_values += [function.__globals__[name] for name in names]
            objects = [vars(each) for each in known if _has_namespace(each)]
            given += [*known, *(each[n] for each in objects for n in code.co_names if n in each)]
        hook = getattr(function, "__wrapped__", None)
    containers = [each for each in (*given, *global_values) if type(each) in CONTAINERS]
    return [*containers, *(each for each in given if isinstance(each, torch.Tensor))]


def _in_cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that is assigned later
        return None


def _fingerprint(value: Any) -> Any:
    """Returns something that compares equal as long as the object itself does not change."""
    if isinstance(value, torch.Tensor):
        return 0 if value.is_inference() else write_count(value)
    if isinstance(value, GENERATORS):
        return generator_state(value)
    return [(type(v), v) if isinstance(v, _PLAIN) else id(v) for v in _content(value)]
