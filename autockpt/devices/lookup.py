"""Finds a device by its name, or reads one of your own from a file."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from autockpt.budget import parse_budget
from autockpt.devices.device import Device, Efficiency, PeakRates
from autockpt.devices.table import DEVICES
from autockpt_solvers.near_names import meant

# Words that people put around the names of the table.
_MAKERS = ("nvidia-", "amd-", "geforce-", "tesla-", "instinct-")
# Other chips, or parts of one, under the name of one that is known: their rates are lower.
_OTHER_MODELS = {"nvl", "laptop", "d", "mig", "max", "q"}
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
    if name not in DEVICES and (like := device_like(text)) is not None:
        return like
    if name not in DEVICES:
        raise ValueError(
            f"unknown device {text!r}; {meant(name, DEVICES)}known are {', '.join(DEVICES)}, and a "
            ".toml file that describes one"
        )
    return DEVICES[name]


def device_like(title: str) -> Device | None:
    """Returns the device whose name a driver reports as ``title``; None if it is not known."""
    words = set(title.lower().replace("-", " ").split())
    alike = [d for d in DEVICES.values() if _model(d) <= words]
    # The A100's data sheet gives the same rates for both of its forms.
    others = _OTHER_MODELS if "a100" in words else _OTHER_MODELS | {"pcie"}
    if not alike or words & others:
        return None
    # "A100 80GB": of several sizes, the one that the title names.
    sizes = {word.removesuffix("gb") for word in words if word.endswith("gb")}
    named = [device for device in alike if device.name.rpartition("-")[2] in sizes]
    return (named or alike)[0]


def _model(device: Device) -> set[str]:
    name = device.name.removesuffix("-40").removesuffix("-80")
    return set(name.replace("-", " ").split())


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
    try:
        return _described({"name": path.stem, "title": path.stem, "source": str(path), **values})
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise ValueError(f"the device file {path} does not describe a device: {error}") from error


def _described(values: dict[str, Any]) -> Device:
    """The device that the entries of a file describe.

    Raises:
        TypeError: An entry has the wrong type.
        ValueError: They do not describe one.
    """
    for name in ("memory", "context"):
        if name not in values:
            continue
        if f"{name}_bytes" in values:
            raise ValueError(f"it has both {name} and {name}_bytes; give one of them")
        values[f"{name}_bytes"] = _bytes(name, values.pop(name))
    _check_entries(values, Device, "", more=("memory", "context"))
    for table, kind in (("rates", PeakRates), ("efficiency", Efficiency)):
        if isinstance(values.get(table), dict):
            _check_entries(values[table], kind, f"[{table}] ")
    for name in ("memory", "bytes_per_s", "rates"):
        if name not in values and f"{name}_bytes" not in values:
            raise ValueError(f"it has no {name}")
    values.setdefault("host_bytes_per_s", 32e9)
    values.setdefault("capability", None)
    return msgspec.convert(values, Device, strict=False)


def _bytes(name: str, value: Any) -> int:
    if name == "context" and value == 0 and not isinstance(value, bool):
        return 0
    try:
        found = parse_budget(value).bytes
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    if found is None:
        raise ValueError(f'{name} is {value!r}; write bytes, "48GB" or "48GiB"')
    return found


def _check_entries(
    values: dict[str, Any], kind: type[Any], table: str, *, more: tuple[str, ...] = ()
) -> None:
    """Raises ValueError if there are entries of other names than the fields of a kind."""
    known = (*more, *kind.__dataclass_fields__)
    unknown = sorted(values.keys() - set(known))
    if unknown:
        raise ValueError(
            f"unknown entries: {table}{', '.join(unknown)}; it may have {table}{', '.join(known)}"
        )
