"""Devices are found by the names that people type, and read from files of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from autockpt.devices.device import Device
from autockpt.devices.lookup import device_like, device_names, find_device
from autockpt.devices.table import DEVICES


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("h100", "h100"),
        ("H100", "h100"),
        ("NVIDIA H200", "h200"),
        ("a100", "a100-80"),
        ("a100-40", "a100-40"),
        ("RTX 4090", "rtx-4090"),
        ("rtx3090", "rtx-3090"),
        ("mi300x", "mi300x"),
        ("A100 80GB", "a100-80"),
        ("NVIDIA H100 80GB HBM3", "h100"),
    ],
)
def test_names_as_they_are_typed(typed: str, name: str) -> None:
    assert find_device(typed).name == name


def test_all_devices_that_are_promised_are_there() -> None:
    promised = "h100 a100-40 a100-80 h200 b200 l4 l40s t4 v100 rtx-3090 rtx-4090 rtx-5090 mi300x"
    assert set(promised.split()) == set(device_names())
    for device in DEVICES.values():
        assert device.source
        assert device.usable_bytes < device.memory_bytes
        assert device.rates.fp16 >= device.rates.fp32


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("Tesla V100-SXM2-32GB", "v100"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA TITAN X", None),
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("NVIDIA A100-PCIE-40GB", "a100-40"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_names_as_drivers_report_them(title: str, name: str | None) -> None:
    found = device_like(title)
    assert (found.name if found else None) == name


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown device 'h10'; did you mean 'h100'\? known are"):
        find_device("h10")
    with pytest.raises(TypeError, match="device is a int"):
        find_device(100)  # type: ignore[arg-type]


_FILE = """
memory = "16GiB"
bytes_per_s = 4e11
capability = [8, 9]
[rates]
fp64 = 1e12
fp32 = 20e12
fp16 = 80e12
"""


def test_a_device_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "my-card.toml"
    file.write_text(_FILE)
    device = find_device(file)
    assert (device.name, device.memory_bytes, device.capability) == ("my-card", 2**34, (8, 9))
    assert device.rates.bf16 is None
    file.write_text("context = 0" + _FILE)
    assert find_device(file).usable_bytes == 2**34


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory =", "is not TOML"),
        ('memory = "lots"', "memory: budget 'lots' is not an amount"),
        (_FILE.replace("fp32 = 20e12", ""), "does not describe a device"),
        (_FILE.replace("fp32 = 20e12", "fp32 = -1.0"), "does not describe a device"),
        (_FILE.replace("bytes_per_s", "bandwidth"), "unknown entries: bandwidth; it may have"),
        (_FILE + "bf17 = 1e12", r"unknown entries: \[rates\] bf17; it may have \[rates\] fp64"),
        (_FILE + "[efficiency]\nmatmull = 0.5", r"unknown entries: \[efficiency\] matmull"),
        (
            _FILE + "[efficiency]\nmatmul = 2",
            r"the efficiency of matmul is 2\.0; it must be above 0",
        ),
        (_FILE + "tf32 = inf", "tf32 is inf; it must be a number of operations"),
        (_FILE.replace("1e12", "nan"), "fp64 is nan; it must be a number of operations"),
        (_FILE.replace("4e11", "inf"), "bytes_per_s is inf; it must be a number above 0"),
        (_FILE.replace("[8, 9]", "[-8, 9]"), r"capability is \[-8, 9\]"),
        ("memory_bytes = 5" + _FILE, "it has both memory and memory_bytes; give one of them"),
        (_FILE.replace("16GiB", "300MiB"), "less than the 512.00 MiB of the driver's context"),
        (_FILE.replace("16GiB", "auto"), 'memory is \'auto\'; write bytes, "48GB" or "48GiB"'),
        ("", "it has no memory"),
    ],
)
def test_a_file_that_describes_no_device_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "card.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        find_device(file)
    with pytest.raises(ValueError, match="cannot read the device file"):
        find_device(tmp_path / "none.toml")


def test_a_device_checks_its_numbers() -> None:
    values = {name: getattr(DEVICES["t4"], name) for name in Device.__dataclass_fields__}
    with pytest.raises(ValueError, match="memory_bytes is 0; it must be a number above 0"):
        Device(**{**values, "memory_bytes": 0})
