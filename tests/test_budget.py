from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autockpt.budget import Budget, format_bytes, parse_budget, sufficient_budget


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("8GB", 8 * 10**9),
        ("8GiB", 2**33),
        ("512MB", 512 * 10**6),
        ("512 MiB", 512 * 2**20),
        (" 1.5gib ", 3 * 2**29),
        ("100kB", 100_000),
        ("7", 7),
        ("7B", 7),
        ("1_000_000", 10**6),
        (".5GB", 5 * 10**8),
        ("0.1GB", 10**8),  # 0.1 is not exact in binary: the text is read as a decimal
    ],
)
def test_text_is_read_exactly(text: str, num_bytes: int) -> None:
    assert parse_budget(text) == Budget(bytes=num_bytes)


def test_whole_numbers_are_bytes() -> None:
    assert parse_budget(123).bytes == 123
    parsed = parse_budget(np.int64(123)).bytes
    assert parsed == 123
    assert type(parsed) is int


def test_a_parsed_budget_passes_through() -> None:
    budget = Budget(percent=60.0)
    assert parse_budget(budget) is budget


def test_percent_is_of_the_eager_peak_rounded_down() -> None:
    assert parse_budget("60%").resolve(1001) == 600
    assert parse_budget("12.5 %").resolve(1000) == 125
    assert parse_budget("8GB").resolve(1001) == 8 * 10**9


@pytest.mark.parametrize(
    "value", ["8 potatoes", "", "GB", "-8GB", "1e9", "nan", "inf", "8GB8", "8,5GB", "%", "٨GB"]
)
def test_nonsense_text_says_what_is_possible(value: str) -> None:
    with pytest.raises(ValueError, match=r'"8GiB".*"60%"') as error:
        parse_budget(value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("value", [0, -1, "0", "0%", "0GB", "0.0%", "0.1B"])
def test_budgets_must_be_positive(value: int | str) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        parse_budget(value)


@pytest.mark.parametrize("value", [True, False, None, 8e9, math.nan, b"8GB", [8], object()])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match="budget must be an int or a str, got"):
        parse_budget(value)  # type: ignore[arg-type]


def test_unknown_units_list_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown unit 'Go'.*GiB"):
        parse_budget("8Go")


def test_a_budget_is_absolute_or_relative() -> None:
    with pytest.raises(ValueError, match="either bytes or percent"):
        Budget()
    with pytest.raises(ValueError, match="either bytes or percent"):
        Budget(bytes=1, percent=1.0)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1.00 KiB"),
        (900, "900 B"),
        (2**20 - 1, "1.00 MiB"),
        (int(2.41 * 2**30), "2.41 GiB"),
        (3 * 2**40, "3.00 TiB"),
        (-(2**20), "-1.00 MiB"),
    ],
)
def test_bytes_are_written_in_binary_units(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text


@given(st.integers(min_value=1, max_value=2**50))
def test_the_suggested_budget_suffices_and_wastes_little(num_bytes: int) -> None:
    suggested = parse_budget(sufficient_budget(num_bytes)).resolve(0)
    assert num_bytes <= suggested <= num_bytes * 1.01 + 1


def test_shares_of_a_device_are_read_and_resolved() -> None:
    total, usable = 16 * 2**30, 10 * 2**30

    def resolved(text: str) -> int | None:
        return parse_budget(text).on_device(total_bytes=total, usable_bytes=usable).bytes

    step = 64 * 2**20
    assert resolved("auto") == (usable - total // 20) // step * step
    assert resolved(" AUTO ") == resolved("auto")
    assert resolved("80% of device") == int(0.8 * total) // step * step
    assert resolved("50.5 %  of free") == int(0.505 * usable) // step * step
    assert resolved("8GB") == 8 * 10**9
    assert parse_budget("60%").on_device(total_bytes=1, usable_bytes=1) == parse_budget("60%")
    assert [str(parse_budget(t)) for t in ("auto", "80% of device", "80% of free", "60%")] == [
        "auto",
        "80% of the device",
        "80% of free",
        "60% of the eager peak",
    ]


def test_a_share_of_a_device_needs_a_device_with_room() -> None:
    with pytest.raises(ValueError, match=r'budget "auto" depends.*give a number, such as "8GB"'):
        parse_budget("auto").resolve(1000)
    with pytest.raises(ValueError, match=r"auto leaves nothing: a step can have 100\.00 MiB of"):
        parse_budget("auto").on_device(total_bytes=2**33, usable_bytes=100 * 2**20)
    with pytest.raises(ValueError, match="no more than 100%"):
        parse_budget("120% of device")
    for text in ("80 of device", "8GB of free", "80% of gpu", "0% of free"):
        with pytest.raises(ValueError, match='"80% of device"'):
            parse_budget(text)


def test_what_is_held_back_is_deducted_once_the_budget_is_known() -> None:
    assert Budget(bytes=100, less_bytes=30).resolve(1) == 70
    assert Budget(percent=50, less_bytes=30).resolve(200) == 70
    assert Budget(bytes=100, less_bytes=500).resolve(1) == 1
