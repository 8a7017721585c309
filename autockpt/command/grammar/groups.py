"""Options in groups: a command takes a dataclass of options, and the command line each of them.

One grammar for all commands: what a group has is called, described and checked in one place.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Any, cast


def spread(function: Callable[..., None]) -> Callable[..., None]:
    """Returns a command for typer, in which each group of options stands as its single options.

    Args:
        function: A command. Parameters that are annotated with a dataclass are groups; the fields
            of the dataclass are annotated as typer's options are.
    """
    signature = inspect.signature(function, eval_str=True)
    groups: dict[str, Callable[..., Any]] = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if isinstance(parameter.annotation, type)
        if dataclasses.is_dataclass(parameter.annotation)
    }
    flat: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name in groups:
            flat += _fields(groups[name])
        else:
            flat.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    def command(**given: Any) -> None:
        for name, group in groups.items():
            fields = dataclasses.fields(cast(Any, group))
            given[name] = group(**{field.name: given.pop(field.name) for field in fields})
        function(**given)

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    command.__signature__ = signature.replace(parameters=flat)  # type: ignore[attr-defined]
    return command


def _fields(group: Any) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty
            if field.default is dataclasses.MISSING
            else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]
