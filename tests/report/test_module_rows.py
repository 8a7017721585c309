from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autockpt.report.parts import ModuleRow
from autockpt.report.words.module_rows import compress


def _row(module: str, saved_bytes: int = 1, recompute_ns: int = 0) -> ModuleRow:
    return ModuleRow(
        module=module,
        saved_bytes=saved_bytes,
        recomputed_bytes=0,
        recompute_ns=recompute_ns,
        num_recomputed_ops=0,
    )


def _names(*rows: ModuleRow) -> list[str]:
    return [line.module for line in compress(rows)]


def test_equal_layers_are_one_line() -> None:
    rows = [_row(f"h.{i}.{part}") for i in range(12) for part in ("attn", "mlp")]
    assert _names(_row("wte", 9), *rows, _row("ln_f", 9)) == [
        "wte",
        "h.[0-11].attn",
        "h.[0-11].mlp",
        "ln_f",
    ]


def test_layers_that_differ_stay_apart() -> None:
    rows = [_row(f"h.{i}", saved_bytes=5 if i in (2, 3, 7) else 1) for i in range(9)]
    assert _names(*rows) == ["h.[0-1,4-6,8]", "h.[2-3,7]"]


def test_times_may_differ_and_are_summed() -> None:
    (line,) = compress([_row("h.0", 4, recompute_ns=10), _row("h.1", 4, recompute_ns=11)])
    assert (line.num_modules, line.saved_bytes, line.recompute_ns) == (2, 8, 21)


def test_indices_within_indices() -> None:
    rows = [_row(f"stage.{i}.block.{j}.conv") for i in range(3) for j in range(2)]
    assert _names(*rows) == ["stage.[0-2].block.[0-1].conv"]
    # A ragged end keeps the rest together.
    assert _names(*rows[:-1]) == ["stage.[0-2].block.0.conv", "stage.[0-1].block.1.conv"]


def test_names_that_only_look_alike_stay_apart() -> None:
    assert _names(_row("a.0"), _row("b.0"), _row("a.0.x"), _row("")) == ["a.0", "b.0", "a.0.x", ""]


@given(
    st.lists(
        st.builds(
            _row,
            st.lists(st.sampled_from(["h", "0", "1", "2"]), min_size=1, max_size=4).map(".".join),
            st.integers(0, 1),
            st.integers(0, 3),
        ),
        unique_by=lambda row: row.module,
        max_size=20,
    )
)
def test_nothing_is_lost(rows: list[ModuleRow]) -> None:
    lines = compress(rows)
    assert sum(line.num_modules for line in lines) == len(rows)
    assert sum(line.saved_bytes for line in lines) == sum(row.saved_bytes for row in rows)
    assert sum(line.recompute_ns for line in lines) == sum(row.recompute_ns for row in rows)
    assert len({line.module for line in lines}) == len(lines)
