"""Reads and writes plans as JSON: strict on the way in, laid out for diffs on the way out.

Graphs and schedules are written in the engine's own formats.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypedDict, TypeVar

import msgspec

from autockpt.report.files.derived import check_derived, check_laws
from autockpt.report.timeline.places import NO_PLACES, Places, SourceLine
from autockpt.report.values import PlanValues
from autockpt_solvers import (
    ComputeGraph,
    Schedule,
    ScheduleError,
    graph_from_json,
    graph_to_json,
    schedule_from_json,
    schedule_to_json,
)

_FORMAT = "autockpt plan"
_VERSION = 2
# Plans of version 1 have no places.
_READABLE = (1, _VERSION)
# Longer lists get a line per item.
_MAX_ON_A_LINE = 16
# More bytes or nanoseconds than any machine has; no arithmetic on them may fail.
_MAX_NUMBER = 2**63


class _PlacesFields(TypedDict):
    lines: tuple[tuple[str, int, str], ...]
    of_ops: tuple[int, ...]
    outside: tuple[int, ...]


_Plan = TypeVar("_Plan")
_Value = TypeVar("_Value")


def dumps(
    values: PlanValues, graph: ComputeGraph | None, schedule: Schedule | None, places: Places
) -> str:
    """Writes a plan as JSON with sorted keys, and one row, op or storage per line."""
    document = {
        "format": _FORMAT,
        "version": _VERSION,
        **_values_of(values),
        "graph": None if graph is None else json.loads(graph_to_json(graph)),
        "schedule": None if schedule is None else json.loads(schedule_to_json(schedule)),
        "places": _written(places),
    }
    return _layout(document, 0) + "\n"


def _written(places: Places) -> dict[str, Any]:
    return {
        "lines": [[line.file, line.line, line.code] for line in places.lines],
        "of_ops": list(places.of_ops),
        "outside": list(places.outside),
    }


def _values_of(values: PlanValues) -> dict[str, Any]:
    return {
        field.name: msgspec.to_builtins(getattr(values, field.name)) for field in fields(PlanValues)
    }


def _layout(value: Any, depth: int) -> str:
    # A list of anything but a few numbers gets a line per item; items stay on their line.
    inner, outer = "  " * (depth + 1), "  " * depth
    if isinstance(value, Mapping) and depth < 2:
        items = [f"{inner}{json.dumps(k)}: {_layout(value[k], depth + 1)}" for k in sorted(value)]
    elif isinstance(value, list | tuple) and (
        len(value) > _MAX_ON_A_LINE or any(isinstance(item, list | dict | str) for item in value)
    ):
        items = [inner + _line(item) for item in value]
    else:
        return _line(value)
    opening, closing = ("{", "}") if isinstance(value, Mapping) else ("[", "]")
    return f"{opening}\n" + ",\n".join(items) + f"\n{outer}{closing}"


def _line(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def loads(text: str, make: Callable[..., _Plan]) -> _Plan:
    """Reads what `dumps` wrote, and passes it on as keyword arguments.

    Args:
        text: The JSON text.
        make: Makes a plan of the fields of `PlanValues`, a `graph`, a `schedule` and
            `places`.

    Raises:
        TypeError: If the text is not a str.
        ValueError: If the text is not a plan, is of another version, or is damaged: a field is
            missing, unknown, of the wrong type or out of range, or the schedule does not run.
    """
    document = _parsed(text)
    if document.pop("format", None) != _FORMAT:
        raise ValueError(
            f'this is not a plan: it must contain "format": "{_FORMAT}"; give one that '
            "Plan.save or Plan.to_json wrote"
        )
    version = document.pop("version", None)
    if version not in _READABLE or isinstance(version, bool):
        known = " and ".join(map(str, _READABLE))
        raise ValueError(
            f"this plan is of version {version!r}, this autockpt reads versions {known}; "
            "make the plan again"
        )
    if version == 1:
        document["places"] = _written(NO_PLACES)
    try:
        return make(**_decoded(document))
    except ValueError as error:
        raise ValueError(f"this plan is damaged: {error}; make the plan again") from error


def _parsed(text: str) -> dict[str, Any]:
    if not isinstance(text, str):
        raise TypeError(f"a plan is read from a str, got {type(text).__name__}")
    try:
        document = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is not a plan: it is not JSON ({error})") from error
    if not isinstance(document, dict):
        # Not a TypeError: the argument has the right type, its content is wrong.
        raise ValueError(f"this is not a plan: it is a JSON {type(document).__name__}")  # noqa: TRY004
    return document


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the field {twice!r} twice")
    return fields


def _decoded(document: dict[str, Any]) -> dict[str, Any]:
    graph = _read(graph_from_json, document.pop("graph", None), "$.graph")
    schedule = _read(schedule_from_json, document.pop("schedule", None), "$.schedule")
    places = _read_places(document.pop("places", None))
    values = msgspec.convert(document, PlanValues)
    _check(document, _values_of(values), "$")
    places.check(graph)
    check_laws(values)
    if graph is not None and schedule is not None:
        try:
            check_derived(values, graph, schedule, places)
        except ScheduleError as error:
            raise ValueError(f"its schedule fails: {error}") from error
    named = {field.name: getattr(values, field.name) for field in fields(PlanValues)}
    return {**named, "graph": graph, "schedule": schedule, "places": places}


def _read_places(data: Any) -> Places:
    read = msgspec.convert(data, _PlacesFields, str_keys=True)
    lines = tuple(SourceLine(file=file, line=line, code=code) for file, line, code in read["lines"])
    return Places(lines=lines, of_ops=read["of_ops"], outside=read["outside"])


def _check(given: Any, known: Any, where: str) -> None:
    """Refuses fields that the decoded plan does not have, and numbers too large to compute with."""
    if isinstance(given, dict):
        for name, value in given.items():
            if name not in known:
                raise ValueError(f"the field {where}.{name} is unknown")
            _check(value, known[name], f"{where}.{name}")
    elif isinstance(given, list):
        for i, (item, known_item) in enumerate(zip(given, known, strict=True)):
            _check(item, known_item, f"{where}[{i}]")
    elif isinstance(given, int | float) and not max(abs(given), abs(known)) < _MAX_NUMBER:
        raise ValueError(f"{where} must be a number below 2**63")


def _read(read: Callable[[str], _Value], data: Any, where: str) -> _Value | None:
    if data is None:
        return None
    try:
        return read(json.dumps(data))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
