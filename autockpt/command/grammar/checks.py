"""Checks of arguments that take no time: nothing here imports torch or builds a model."""

from __future__ import annotations

import ast
import importlib.util
import math
import re
import sys
from pathlib import Path

from autockpt.budget import Budget, parse_budget
from autockpt.command.grammar.usage_error import TargetError
from autockpt.devices.lookup import find_device
from autockpt.zoo.catalogue import NAMES
from autockpt_solvers.near_names import meant

FORMS = "write file.py:function, package.module:function, zoo:NAME or hf:CONFIG"
REDUCTIONS = ("sum", "mean")  # losses that have a name
HERE = ("cpu", "cuda", "meta", "mps", "xpu")
COSTS = "autockpt.costs"  # entry points
_FEWEST_BYTES = 10**6  # no training step has less, so a number below it lacks its unit


def checked_budget(text: str, option: str = "--budget") -> Budget:
    """Returns a budget; refuses a number so small that its unit must have been forgotten.

    Raises:
        ValueError: It is not a budget.
        TargetError: It is a number without a unit, below a megabyte.
    """
    budget = parse_budget(text)
    has_no_unit = re.fullmatch(r"[0-9_.]+", text.strip())
    if has_no_unit and budget.bytes is not None and budget.bytes < _FEWEST_BYTES:
        unit = "GB" if budget.bytes < 1000 else "MB"
        raise TargetError(
            f"{option} {text} is {budget.bytes} bytes: did you mean {text}{unit}? For bytes, write "
            f"{text}B"
        )
    return budget


def check_method(method: str) -> None:
    """Raises ValueError unless the method has a name that is known, or the form of a function."""
    if ":" in method:
        check_function(method)
    elif method != "auto":  # the engine takes a while to import
        from autockpt_solvers import check_method as check

        check(method)


def check_loss(loss: str) -> None:
    """Raises TargetError unless a loss is `sum`, `mean`, or has the form of a function."""
    if ":" in loss:
        check_function(loss)
    elif loss not in REDUCTIONS:
        raise TargetError(
            f"unknown loss {loss!r}; {meant(loss, REDUCTIONS)}use {', '.join(REDUCTIONS)}, or "
            "file.py:function for one of your own"
        )


def check_cost(cost: str) -> None:
    """Raises an error unless a cost model is installed, or has the form of a function.

    Raises:
        TargetError: There is none of this name, or no such file.
    """
    if ":" in cost:
        check_function(cost)
        return
    from autockpt_solvers.plugins import plugin_names

    installed = plugin_names(COSTS)
    if cost not in installed:
        names = f"the installed are {', '.join(installed)}" if installed else "none is installed"
        raise TargetError(
            f"unknown cost model {cost!r}; {meant(cost, installed)}{names}; use file.py:function "
            "for one of your own"
        )


def check_device(device: str) -> None:
    """Raises ValueError unless a device is one that may be here, or is known by its name."""
    if device.partition(":")[0] in HERE:
        return
    try:
        find_device(device)
    except ValueError as error:
        raise ValueError(f"{error}; {meant(device, HERE)}here are {', '.join(HERE)}") from error


def check_time_limit(limit_s: float | None) -> None:
    """Raises TargetError unless a time limit is above 0 and finite."""
    if limit_s is not None and not 0 < limit_s < math.inf:
        raise TargetError(f"--time-limit is {limit_s:g}; it must be above 0, and finite")


def check_target(target: str) -> None:
    """Raises TargetError if a target has no form that is known, or there is no such file or name.

    Configurations are looked for when they are read, and names of functions when the file has run.
    """
    kind, separator, name = target.partition(":")
    if kind == "zoo" and separator:
        if name not in NAMES:
            raise TargetError(
                f"unknown model {name!r}; {meant(name, NAMES)}the zoo has {', '.join(NAMES)}"
            )
    elif not (kind == "hf" and separator):
        check_function(target)


def check_function(target: str) -> tuple[str, str]:
    """Returns the place and the name of `file.py:function` or `package.module:function`.

    Raises:
        TargetError: It has another form, or there is no such file or package.
    """
    # From the right: a path may contain a colon.
    place, separator, name = target.rpartition(":")
    if target.endswith(".py") and Path(target).is_file():
        raise TargetError(
            f"{target} is a file; name a function of it too: {_with_function(target)}"
        )
    if not separator or not place or not name:
        guess = meant(target, NAMES, "zoo:{}".format)
        raise TargetError(f"{target!r} is no target; {guess}{FORMS}")
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise TargetError(f"there is no file {place}; {FORMS}")
    else:
        _check_package(place)
    return place, name


def _with_function(file: str) -> str:
    """The file with its functions that take no arguments, or with a word that stands for one."""
    try:
        body = ast.parse(Path(file).read_text(encoding="utf-8")).body
    except (OSError, SyntaxError, ValueError):
        body = []
    names = [each.name for each in body if isinstance(each, ast.FunctionDef) and _is_plain(each)]
    return " or ".join(f"{file}:{name}" for name in names[:3] or ["function"])


def _is_plain(function: ast.FunctionDef) -> bool:
    given = function.args
    required = len(given.posonlyargs + given.args) - len(given.defaults)
    return not required and all(given.kw_defaults) and not function.name.startswith("_")


def _check_package(module: str) -> None:
    top = module.partition(".")[0]
    sys.path.insert(0, str(Path.cwd()))
    try:
        is_there = top in sys.modules or importlib.util.find_spec(top) is not None
    except ValueError:  # no name of a module at all
        is_there = False
    finally:
        sys.path.pop(0)
    if not is_there:
        raise TargetError(f"there is no module {module!r}; {FORMS}")
