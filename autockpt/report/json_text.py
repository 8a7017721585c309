"""Plans as text: plain data only, checked on the way in, made for diffs on the way out.

Records are written as JSON objects by field name, graphs and schedules as the engine writes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

from autockpt_solvers import (
    ComputeGraph,
    Schedule,
    SolveStatus,
    graph_from_json,
    graph_to_json,
    schedule_from_json,
    schedule_to_json,
)

_Record = TypeVar("_Record")
# Longer lists get a line per item.
_MAX_ON_A_LINE = 16
# More bytes or nanoseconds than any machine has; no arithmetic on them may fail.
_MAX_INT = 2**63 - 1


def encode(value: Any) -> Any:
    """Turns a record into plain data."""
    match value:
        case ComputeGraph():
            return json.loads(graph_to_json(value))
        case Schedule():
            return json.loads(schedule_to_json(value))
        case SolveStatus():
            return value.value
        case tuple():
            return [encode(item) for item in value]
    if is_dataclass(value):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    return value


def dumps(document: Mapping[str, Any]) -> str:
    """Writes plain data as JSON: sorted keys, and one line for each innermost thing."""
    return _layout(document, 0) + "\n"


def _layout(value: Any, depth: int) -> str:
    # A list of anything but a few numbers gets a line per item; items stay on their line.
    inner, outer = "  " * (depth + 1), "  " * depth
    if isinstance(value, Mapping) and depth < 2:
        items = [f"{inner}{json.dumps(k)}: {_layout(value[k], depth + 1)}" for k in sorted(value)]
    elif isinstance(value, list) and (
        len(value) > _MAX_ON_A_LINE or any(isinstance(item, list | dict | str) for item in value)
    ):
        items = [inner + _line(item) for item in value]
    else:
        return _line(value)
    opening, closing = ("{", "}") if isinstance(value, Mapping) else ("[", "]")
    return f"{opening}\n" + ",\n".join(items) + f"\n{outer}{closing}"


def _line(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def loads(text: str) -> dict[str, Any]:
    """Reads JSON of one object.

    Raises:
        ValueError: If it is not that.
    """
    if not isinstance(text, str):
        raise TypeError(f"a plan is read from a str, got {type(text).__name__}")
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is not a plan: it is not JSON ({error})") from error
    if not isinstance(document, dict):
        # Not a TypeError: the argument is text, as it must be, and says the wrong thing.
        raise ValueError(f"this is not a plan: it is a JSON {type(document).__name__}")  # noqa: TRY004
    return document


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def decode(cls: type[_Record], data: Any, records: tuple[type[Any], ...] = ()) -> _Record:
    """Turns plain data into a record of type `cls`, checking every field.

    Args:
        cls: The dataclass to make.
        data: What `encode` made of one, as read back.
        records: Dataclasses that its fields may be.

    Raises:
        ValueError: If a field is missing, unknown, of the wrong type or out of range.
    """
    decoders = {
        **_DECODERS,
        **{record.__name__: _decoder_of(record) for record in records},
    }
    return _decode_record(cls, data, cls.__name__, decoders)


_Decoder = Callable[[Any, str], Any]


def _decoder_of(cls: type[Any]) -> _Decoder:
    return lambda data, where: _decode_record(cls, data, where, _DECODERS)


def _decode_record(
    cls: type[_Record], data: Any, where: str, decoders: Mapping[str, _Decoder]
) -> _Record:
    if not isinstance(data, dict):
        raise _damage(where, "an object", data)
    known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    unknown = sorted(data.keys() - known.keys())
    if unknown:
        raise ValueError(f"this plan is damaged: {where} has the unknown field {unknown[0]!r}")
    values = {}
    for name, field in known.items():
        if name in data:
            values[name] = _decode_field(data[name], str(field.type), f"{where}.{name}", decoders)
        elif field.default is MISSING:
            raise ValueError(f"this plan is damaged: {where} lacks the field {name!r}")
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"this plan is damaged: {where}: {error}") from error


def _decode_field(data: Any, annotation: str, where: str, decoders: Mapping[str, _Decoder]) -> Any:
    if annotation.endswith(" | None"):
        if data is None:
            return None
        annotation = annotation.removesuffix(" | None")
    if annotation.startswith("tuple["):
        item = decoders[annotation.removeprefix("tuple[").removesuffix(", ...]")]
        return tuple(item(entry, f"{where}[{i}]") for i, entry in enumerate(_list(data, where)))
    return decoders[annotation](data, where)


def _int(data: Any, where: str) -> int:
    if type(data) is not int:
        raise _damage(where, "a whole number", data)
    if abs(data) > _MAX_INT:
        raise _damage(where, "a whole number below 2**63", data)
    return data


def _float(data: Any, where: str) -> float:
    if type(data) not in (int, float) or not abs(data) < _MAX_INT:
        raise _damage(where, "a number", data)
    return float(data)


def _str(data: Any, where: str) -> str:
    if type(data) is not str:
        raise _damage(where, "text", data)
    return data


def _bool(data: Any, where: str) -> bool:
    if type(data) is not bool:
        raise _damage(where, "true or false", data)
    return data


def _list(data: Any, where: str) -> list[Any]:
    if type(data) is not list:
        raise _damage(where, "an array", data)
    return data


def _status(data: Any, where: str) -> SolveStatus:
    known = [status.value for status in SolveStatus]
    if data not in known:
        raise _damage(where, f"one of {', '.join(known)}", data)
    return SolveStatus(data)


def _graph(data: Any, where: str) -> ComputeGraph:
    return _engine_value(graph_from_json, data, where)


def _schedule(data: Any, where: str) -> Schedule:
    return _engine_value(schedule_from_json, data, where)


def _engine_value(read: Callable[[str], _Record], data: Any, where: str) -> _Record:
    try:
        return read(json.dumps(data))
    except ValueError as error:
        raise ValueError(f"this plan is damaged: {where}: {error}") from error


def _damage(where: str, expected: str, data: Any) -> ValueError:
    got = json.dumps(data, default=repr)
    got = got if len(got) <= 40 else got[:37] + "..."
    return ValueError(f"this plan is damaged: {where} must be {expected}, got {got}")


_DECODERS: dict[str, _Decoder] = {
    "int": _int,
    "float": _float,
    "str": _str,
    "bool": _bool,
    "SolveStatus": _status,
    "ComputeGraph": _graph,
    "Schedule": _schedule,
}
