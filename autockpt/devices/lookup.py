"""Finds a device by its name, or reads one of your own from a file."""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from autockpt.budget import parse_budget
from autockpt.devices.device import Device
from autockpt.devices.table import DEVICES

# Words that people put around the names of the table.
_MAKERS = ("nvidia-", "amd-", "geforce-", "tesla-", "instinct-")
_ALIASES = {"a100": "a100-80", "rtx3090": "rtx-3090", "rtx4090": "rtx-4090", "rtx5090": "rtx-5090"}


def device_names() -> tuple[str, ...]:
    """Returns the names of the devices that `find_device` knows."""
    return tuple(DEVICES)


def find_device(device: str | os.PathLike[str] | Device) -> Device:
    """Returns a device.

    Args:
        device: A name of `device_names()`, a TOML file that describes a device, or a device.

    Raises:
        ValueError: There is no device of that name, or the file does not describe one.
        TypeError: It is none of these.
    """
    if isinstance(device, Device):
        return device
    if not isinstance(device, str | os.PathLike):
        raise TypeError(f"device is a {type(device).__name__}; it must be a name, a file or Device")
    text = os.fspath(device)
    if text.endswith(".toml"):
        return _read(Path(text))
    name = text.strip().lower().replace("_", "-").replace(" ", "-")
    for maker in _MAKERS:
        name = name.removeprefix(maker)
    name = _ALIASES.get(name, name)
    if name not in DEVICES:
        close = difflib.get_close_matches(name, DEVICES, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(
            f"unknown device {text!r}; {meant}known are {', '.join(DEVICES)}, and a .toml file "
            "that describes one"
        )
    return DEVICES[name]


def device_like(title: str) -> Device | None:
    """Returns the device whose name a driver reports as ``title``; None if it is not known."""
    words = set(title.lower().replace("-", " ").split())
    for device in DEVICES.values():
        name = set(device.name.removesuffix("-40").removesuffix("-80").replace("-", " ").split())
        if name <= words:
            return device
    return None


def _read(path: Path) -> Device:
    """Reads a device from a file.

    Raises:
        ValueError: The file cannot be read, or does not describe a device.
    """
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the device file {path}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"the device file {path} is not TOML: {error}") from error
    values = {"name": path.stem, "title": path.stem, "source": str(path), **values}
    for name in ("memory", "context"):
        if name in values:
            try:
                values[f"{name}_bytes"] = parse_budget(values.pop(name)).bytes
            except (TypeError, ValueError) as error:
                raise ValueError(f"the device file {path}: {name}: {error}") from error
    values.setdefault("host_bytes_per_s", 32e9)
    values.setdefault("capability", None)
    unknown = values.keys() - Device.__dataclass_fields__
    if unknown:
        raise ValueError(
            f"the device file {path} has unknown entries: {', '.join(sorted(unknown))}; "
            f"it may have {', '.join(['memory', 'context', *Device.__dataclass_fields__])}"
        )
    try:
        return msgspec.convert(values, Device, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise ValueError(f"the device file {path} does not describe a device: {error}") from error
