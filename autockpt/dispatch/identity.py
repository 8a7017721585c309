"""What a kept plan belongs to, as a hash: the model, its inputs, the request, the device.

Equal hashes do not prove that a plan fits; the hash only has to find it. A plan for graphs names
them, and no other graph runs by it. A plan for calls of modules is compared with eager again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import platform
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import autockpt_solvers
from autockpt.dispatch.key import PlanKey
from autockpt.profile.cache import PROFILE_VERSION, device_name
from autockpt.request import Request
from autockpt_solvers import method_names

_SCHEMA_VERSION = 1
_PLAIN = (bool, int, float, str, type(None))
_LEAST_HASH = 2**31


def identity(
    module: torch.nn.Module,
    forward: Callable[..., Any],
    key: PlanKey,
    request: Request,
    *,
    buckets_bytes: int = 0,
    holds_data: bool = True,
) -> str | None:
    """The hash for one kind of call of a module; None if its plan cannot be told from others.

    Args:
        module: The module.
        forward: Its own forward.
        key: What the plan depends on.
        request: What is asked of the plan. The time limit does not count. Its loss and its cost
            model count by their code and what that refers to.
        buckets_bytes: What data parallelism keeps beside the gradients.
        holds_data: False if tensors of the module or its inputs are fake or meta tensors. Times of
            their plans are estimated, on a device that may not be there.
    """
    if request.method not in method_names() or key.has_global_hooks:
        return None  # a method of another package may change under the same name
    loss, cost = (
        None if given is None else _described(given) for given in (request.loss_fn, request.cost)
    )
    if (request.loss_fn is not None and loss is None) or (
        request.cost is not None and cost is None
    ):
        return None
    device = next((t.device for t in _tensors(module) if t.device.type != "cpu"), None)
    device = device or torch.device("cpu")
    # Devices of one kind share plans, whatever their index.
    called = re.sub(r"index=\d+|cuda:\d+", "", f"{key}")
    lines = [
        f"{_SCHEMA_VERSION} {PROFILE_VERSION} {torch.__version__} {platform.python_version()}",
        " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ortools", "numba")),
        _own_sources(),
        device_name(device) if holds_data else f"no data on {device.type}",
        _settings_of_torch(),
        f"{request.method} {request.budget} {request.budget.bytes} {request.optimizer}",
        f"{buckets_bytes} {loss} {called} {request.device} {cost}",
        _code(forward),
        *_parts(module),
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@functools.cache
def _own_sources() -> str:
    """Autockpt's own code, by the size and the date of each file."""
    digest = hashlib.sha256()
    for folder in (Path(__file__).parent.parent, Path(autockpt_solvers.__path__[0])):
        for file in sorted(folder.rglob("*.py")):
            status = file.stat()
            digest.update(
                f"{file.relative_to(folder)} {status.st_size} {status.st_mtime_ns}".encode()
            )
    return digest.hexdigest()


def _settings_of_torch() -> str:
    """Settings that decide which kernels run, and with them the workspace."""
    backends = torch.backends
    settings = (
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        backends.cudnn.enabled,
        backends.cudnn.benchmark,
        backends.cudnn.deterministic,
        backends.cuda.flash_sdp_enabled(),
        backends.cuda.mem_efficient_sdp_enabled(),
        backends.cuda.math_sdp_enabled(),
        backends.mkldnn.enabled,
    )
    return repr(settings)


def _tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _parts(module: torch.nn.Module) -> Iterator[str]:
    """A line for each submodule and each tensor, with tensors that are shared told apart."""
    numbers: dict[int, int] = {}
    classes: dict[type, str] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        settings = ""
        with contextlib.suppress(Exception):  # code of the user
            settings = part.extra_repr()
        kind = classes.get(type(part)) or _class(type(part))
        classes[type(part)] = kind
        yield f"{path} {part.training} {settings} {kind} {_plain_values(part)}"
    for path, tensor in (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ):
        number = numbers.setdefault(id(tensor), len(numbers))
        strides = tensor.stride() if tensor.layout is torch.strided else ()
        yield (
            f"{path} {number} {tuple(tensor.shape)} {strides} {tensor.dtype} {tensor.device.type} "
            f"{tensor.requires_grad}"
        )


def _plain_values(part: torch.nn.Module) -> list[tuple[str, Any]]:
    """The plain values among a module's attributes, and among those of objects in them."""
    found: list[tuple[str, Any]] = []
    for name, value in vars(part).items():
        if isinstance(value, _PLAIN):
            found.append((name, value))
        elif name == "forward" or name[0] == "_" or _is_own(value):
            continue
        elif not isinstance(value, (dict, torch.Tensor, torch.nn.Module)):
            inner = getattr(value, "__dict__", None)
            items = inner.items() if isinstance(inner, dict) else ()
            found += [(f"{name}.{key}", v) for key, v in items if _is_lasting(key, v)]
    return sorted(found, key=repr)


def _is_own(value: Any) -> bool:
    """Whether autockpt has put a value there, such as an optimized method."""
    return type(value).__module__.partition(".")[0] == "autockpt"


def _is_lasting(name: str, value: Any) -> bool:
    """Whether a value of an object is plain, and the same in every process.

    transformers keeps a hash of a text, which is another one in each.
    """
    is_hash = name[0] == "_" and isinstance(value, int) and abs(value) >= _LEAST_HASH
    return isinstance(value, _PLAIN) and not is_hash


def _class(kind: type) -> str:
    """A class by its name and its library's version, or its methods if it is in no library."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    version = _library_version(kind.__module__.partition(".")[0])
    if version is not None:
        return f"{name} {version}"
    methods = [
        f"{method}:{_code(value)}"
        for base in kind.__mro__
        if _library_version(base.__module__.partition(".")[0]) is None and base is not object
        for method, value in sorted(vars(base).items())
        if isinstance(value, types.FunctionType)
    ]
    return f"{name} {' '.join(methods)}"


@functools.lru_cache(maxsize=256)
def _library_version(package: str) -> str | None:
    loaded = sys.modules.get(package)
    version = getattr(loaded, "__version__", None)
    return version if isinstance(version, str) and package != "__main__" else None


def _code(function: Any) -> str:
    """A hash of a function's code, wherever it stands in its file."""
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        return f"{type(function).__module__}.{type(function).__qualname__}"
    digest = hashlib.sha256()
    stack = [code]
    while stack:
        current = stack.pop()
        digest.update(current.co_code)
        digest.update(repr((current.co_names, current.co_varnames)).encode())
        for constant in current.co_consts:
            if isinstance(constant, types.CodeType):
                stack.append(constant)
            elif isinstance(constant, frozenset):
                # Its order is another one in each process.
                digest.update(repr(sorted(map(repr, constant))).encode())
            else:
                digest.update(repr(constant).encode())
    return digest.hexdigest()


def _described(value: Any, outer: tuple[int, ...] = ()) -> str | None:
    """What a loss function computes, in words that are the same in every process, or None."""
    if isinstance(value, (bool, int, float, str, type(None))):
        return repr(value)
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)} {value.dtype} {value.requires_grad}"
    if isinstance(value, (types.BuiltinFunctionType, types.ModuleType, type)):
        return _of_a_library(value)
    if isinstance(value, types.FunctionType) and _of_a_library(value) is not None:
        return _of_a_library(value)
    if id(value) in outer:
        return None
    if isinstance(value, functools.partial):
        parts = [value.func, *value.args, *value.keywords.values()]
        return _all_described(parts, f"partial {sorted(value.keywords)}", (*outer, id(value)))
    if isinstance(value, types.FunctionType):
        try:
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
        except ValueError:  # a cell that is empty
            return None
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        cells += _looked_up(value)
        head = f"{value.__qualname__} {_code(value)}"
        return _all_described([*cells, *defaults], head, (*outer, id(value)))
    if isinstance(value, torch.nn.Module) and not list(value.children()):
        tensors = [
            f"{name} {tuple(t.shape)} {t.dtype}"
            for name, t in (*value.named_parameters(), *value.named_buffers())
        ]
        plain = {k: v for k, v in vars(value).items() if isinstance(v, (bool, int, float, str))}
        return f"{_class(type(value))} {sorted(plain.items())} {tensors}"
    return None


def _looked_up(function: types.FunctionType) -> list[Any]:
    """What a function finds among the globals of its module when it runs."""
    names = {*function.__code__.co_names}
    found = [value for name, value in function.__globals__.items() if name in names]
    modules = [value for value in found if isinstance(value, types.ModuleType)]
    for module in modules:
        if _of_a_library(module) is None:
            found.remove(module)
            found += [value for name, value in vars(module).items() if name in names]
    return found


def _of_a_library(value: Any) -> str | None:
    """A name and the version that decides what it is; None for code of the user's."""
    name = value.__name__ if isinstance(value, types.ModuleType) else value.__module__ or ""
    package = name.partition(".")[0]
    version = _library_version(package)
    if version is None and (package in sys.stdlib_module_names or not package):
        version = ""
    return None if version is None else f"{name} {getattr(value, '__qualname__', '')} {version}"


def _all_described(values: list[Any], head: str, outer: tuple[int, ...]) -> str | None:
    described = [_described(value, outer) for value in values]
    if any(text is None for text in described):
        return None
    return f"{head} {described}"
