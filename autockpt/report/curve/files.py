"""A curve as JSON, as CSV and as a DataFrame."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

if TYPE_CHECKING:
    import pandas as pd

    from autockpt.report.curve.value import Curve

CurveT = TypeVar("CurveT", bound="Curve")
_FORMAT = "autockpt curve"
_VERSION = 1
COLUMNS = (
    "kind",
    "method",
    "status",
    "budget_bytes",
    "predicted_peak_bytes",
    "recompute_ns",
    "overhead",
    "lower_bound_ns",
    "lower_bound",
    "is_knee",
)


def dumps(curve: Curve) -> str:
    """Returns a curve as JSON with a line for each field, and sorted keys."""
    values = {field.name: getattr(curve, field.name) for field in dataclasses.fields(curve)}
    document = {"format": _FORMAT, "version": _VERSION, **msgspec.to_builtins(values)}
    return json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n"


def loads(text: str, kind: type[CurveT]) -> CurveT:
    """Reads what `dumps` wrote.

    Args:
        text: The JSON text.
        kind: The class to make.

    Raises:
        TypeError: If the text is not a str.
        ValueError: If the text is not a curve, is of another version, or is damaged.
    """
    if not isinstance(text, str):
        raise TypeError(f"a curve is read from a str, got {type(text).__name__}")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is not a curve: it is not JSON ({error})") from error
    if not isinstance(document, dict) or document.pop("format", None) != _FORMAT:
        raise ValueError(
            f'this is not a curve: it must contain "format": "{_FORMAT}"; give one that '
            "Curve.to_json wrote"
        )
    version = document.pop("version", None)
    if version != _VERSION:
        raise ValueError(
            f"this curve is of version {version!r}, this autockpt reads version {_VERSION}; "
            "make the curve again"
        )
    unknown = document.keys() - {field.name for field in dataclasses.fields(kind)}
    try:
        if unknown:
            raise ValueError(f"the field {min(unknown)!r} is unknown")
        return msgspec.convert(document, kind)
    except ValueError as error:
        raise ValueError(f"this curve is damaged: {error}; make the curve again") from error


def rows(curve: Curve) -> list[dict[str, Any]]:
    """The points as rows with `COLUMNS`, then those of simple methods.

    For a simple method the budget is the plan's peak: the smallest budget it fits.
    """
    knee = curve.knee
    made = []
    for point in curve.points:
        row = {"kind": "plan", **dataclasses.asdict(point), "is_knee": point == knee}
        made.append(row | {"status": point.status.value})
    for simple in curve.simple:
        row = dict.fromkeys(COLUMNS) | {"kind": "simple", **dataclasses.asdict(simple)}
        made.append(row | {"budget_bytes": simple.predicted_peak_bytes, "is_knee": False})
    return made


def csv_text(curve: Curve) -> str:
    """Returns `rows` as CSV text; what is None is left empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(curve))
    return buffer.getvalue()


def dataframe(curve: Curve) -> pd.DataFrame:
    """Returns `rows` as a DataFrame.

    Raises:
        ImportError: If pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            "to_dataframe needs pandas, which is not installed: pip install pandas. to_csv and "
            "to_json work without it."
        ) from error
    frame = pd.DataFrame(rows(curve), columns=list(COLUMNS))
    whole = [name for name in COLUMNS if name.endswith(("_bytes", "_ns"))]
    return frame.astype(dict.fromkeys(whole, "Int64"))
