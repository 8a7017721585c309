"""Graphs and schedules as JSON text: data only, versioned, and checked when read.

Storages are `[name, bytes]` and steps are integers (op k is `k`, freeing storage k is `-1 - k`),
because a large model has tens of thousands of each.
"""

from __future__ import annotations

import json
from typing import Any

from autockpt_solvers.graph import ComputeGraph, Op, Storage
from autockpt_solvers.schedule import Compute, Free, Schedule

_VERSION = 1
_MOST_NAMED = 8  # fields of a file that a message names
_GRAPH = "autockpt-graph"
_SCHEDULE = "autockpt-schedule"
_WRITERS = {_GRAPH: "`graph_to_json`", _SCHEDULE: "`schedule_to_json`"}
_OP_FIELDS: dict[str, type] = {
    "name": str,
    "runtime_ns": int,
    "reads": list,
    "writes": list,
    "workspace_bytes": int,
    "recomputable": bool,
    "is_backward": bool,
    "segment": str,
    "region": int,
}
_OPTIONAL_FIELDS = {"overwrites": list, "is_fence": bool}  # left out if empty or false

_KINDS = {str: "text", int: "an integer", list: "a list", bool: "true or false"}


def graph_to_json(graph: ComputeGraph) -> str:
    """Write a graph, one op or storage per line."""
    ops = [
        json.dumps(
            {field: getattr(op, field) for field in _OP_FIELDS}
            | {field: given for field in _OPTIONAL_FIELDS if (given := getattr(op, field))},
            separators=(",", ":"),
        )
        for op in graph.ops
    ]
    storages = [json.dumps([s.name, s.size_bytes], separators=(",", ":")) for s in graph.storages]
    return (
        f'{{"format": "{_GRAPH}", "version": {_VERSION},\n"ops": [\n'
        + ",\n".join(ops)
        + '\n],\n"storages": [\n'
        + ",\n".join(storages)
        + f'\n],\n"outputs": {json.dumps(graph.outputs)}}}\n'
    )


def graph_from_json(text: str) -> ComputeGraph:
    """Read a graph.

    Args:
        text: Text that `graph_to_json` wrote.

    Returns:
        The graph.

    Raises:
        ValueError: The text is not such a graph, or not a valid one.
    """
    data = _load(text, _GRAPH, {"ops", "storages", "outputs"})
    storages = []
    for entry in _list(data["storages"], "storages"):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise ValueError(f"storage {entry!r} must be a pair [name, bytes]")
        storages.append(Storage(name=entry[0], size_bytes=_integer(entry[1], "bytes")))
    return ComputeGraph(
        ops=tuple(_op(entry) for entry in _list(data["ops"], "ops")),
        storages=tuple(storages),
        outputs=_indices(data["outputs"], "outputs"),
    )


def schedule_to_json(schedule: Schedule) -> str:
    """Write a schedule."""
    steps = [step.op if isinstance(step, Compute) else -1 - step.storage for step in schedule.steps]
    return f'{{"format": "{_SCHEDULE}", "version": {_VERSION}, "steps": {json.dumps(steps)}}}\n'


def schedule_from_json(text: str) -> Schedule:
    """Read a schedule. Only `simulate` checks whether it can run on a graph.

    Args:
        text: Text that `schedule_to_json` wrote.

    Returns:
        The schedule.

    Raises:
        ValueError: The text is not a schedule.
    """
    data = _load(text, _SCHEDULE, {"steps"})
    steps = _indices(data["steps"], "steps")
    return Schedule(steps=tuple(Compute(k) if k >= 0 else Free(-1 - k) for k in steps))


def parse_json(text: str) -> object:
    """Parse JSON text; raises ValueError whatever is wrong with it."""
    try:
        data: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    return data


def describe(data: object) -> str:
    """Describe JSON data, for messages."""
    if isinstance(data, dict):
        fields = ", ".join(repr(field) for field in sorted(data)[:_MOST_NAMED])
        more = ", ..." if len(data) > _MOST_NAMED else ""
        form = f" of format {data['format']!r}" if "format" in data else ""
        return f"it is an object{form} with the fields {fields or 'none'}{more}"
    names = {list: "a list", str: "text", type(None): "null", bool: "a truth value"}
    return f"it is {names.get(type(data), 'a number')}"


def _load(text: str, form: str, fields: set[str]) -> dict[str, Any]:
    data = parse_json(text)
    if not isinstance(data, dict) or data.get("format") != form:
        raise ValueError(
            f'not a file of format "{form}": {describe(data)}; it must be a JSON object with that '
            f'"format", as {_WRITERS[form]} writes it'
        )
    if data.get("version") != _VERSION:
        raise ValueError(
            f"version {data.get('version')!r} of {form} is not known; it must be {_VERSION}: write "
            f"the file again with {_WRITERS[form]} of this release"
        )
    if set(data) != fields | {"format", "version"}:
        raise ValueError(
            f"{form} must have the fields {sorted(fields)} beside format and version, not "
            f"{sorted(set(data) - {'format', 'version'})}"
        )
    return data


def _op(entry: object) -> Op:
    if not isinstance(entry, dict) or set(entry) - set(_OPTIONAL_FIELDS) != set(_OP_FIELDS):
        raise ValueError(
            f"op {entry!r} must have the fields {sorted(_OP_FIELDS)}, and may have "
            f"{sorted(_OPTIONAL_FIELDS)}"
        )
    for field, kind in (_OP_FIELDS | _OPTIONAL_FIELDS).items():
        if field in entry and type(entry[field]) is not kind:
            raise ValueError(
                f"op {entry['name']!r}: {field} is {entry[field]!r}; it must be {_KINDS[kind]}"
            )
    return Op(
        **{
            **entry,
            "reads": _indices(entry["reads"], "reads"),
            "writes": _indices(entry["writes"], "writes"),
            "overwrites": _indices(entry.get("overwrites", []), "overwrites"),
        }
    )


def _indices(value: object, what: str) -> tuple[int, ...]:
    return tuple(_integer(entry, what) for entry in _list(value, what))


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list, not {type(value).__name__}")  # noqa: TRY004
    return value


def _integer(value: object, what: str) -> int:
    if type(value) is not int:
        raise ValueError(f"{what}: {value!r} must be an integer: round it, or use a smaller unit")
    return value
