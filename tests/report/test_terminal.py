"""The report in a terminal, from 60 to 200 columns, as blocks and as ASCII.

AUTOCKPT_WRITE_GOLDEN=1 writes the golden files anew: look at what changed.
"""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from autockpt.report.plan import Plan
from autockpt.report.terminal import tables
from autockpt.report.terminal.at_peak import peak_place, standing_at_peak
from autockpt.report.terminal.names import shortened
from autockpt.report.terminal.tables import Surroundings
from autockpt.report.words.headline import headline, tries, verdict
from autockpt_solvers import SolveStatus
from tests.small_plans import MIB, planned

_GOLDEN = Path(__file__).parent / "golden"
_WIDTHS = (60, 80, 120, 200)


def _around(plan: Plan) -> Surroundings:
    nearby = ((plan.budget_bytes + 12 * MIB, plan.recompute_ns // 3),)
    return Surroundings(timelines=plan.timeline(), nearby=nearby, command="my_model.py:make")


def _shown(plan: Plan, width: int, *, colors: bool = False) -> str:
    """What a terminal shows that has blocks."""
    buffer = io.StringIO()
    console = Console(
        file=buffer, width=width, color_system="truecolor" if colors else None, force_terminal=True
    )
    console.print(tables.render(plan, _around(plan), width=width))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


@pytest.mark.parametrize("kind", ["blocks", "ascii"])
@pytest.mark.parametrize("width", _WIDTHS)
def test_the_report_at_a_width(width: int, kind: str) -> None:
    plan = planned(0.5, segment="encoder.layers")
    if kind == "ascii":
        text = tables.text(plan, _around(plan), width=width) + "\n"
        assert text.isascii()
    else:
        text = _shown(plan, width)
    # Lines to paste are not broken.
    broken = [line for line in text.splitlines() if not line.startswith("  autockpt ")]
    assert max(map(len, broken)) <= width
    file = _GOLDEN / f"plan_{kind}_{width}.txt"
    if os.environ.get("AUTOCKPT_WRITE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", _WIDTHS)
def test_colors_change_nothing_else(width: int) -> None:
    import re

    plan = planned(0.5)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", _shown(plan, width, colors=True))
    stripped = "\n".join(line.rstrip() for line in plain.splitlines()) + "\n"
    assert stripped == _shown(plan, width)


def test_the_first_line_answers() -> None:
    plan = dataclasses.replace(
        planned(0.5),
        budget_bytes=8 * 10**9,
        predicted_peak_bytes=7 * 10**9,
        baseline_peak_bytes=18 * 10**9,
        baseline_step_ns=1000,
        recompute_ns=41,
        lower_bound_ns=35,
        peak_parts=(),
    )
    assert headline(plan) == (
        "fits 8 GB (7.45 GiB): peak 6.52 GiB (eager 16.76 GiB, -61%), +4.1% time, "
        "at most 0.6% above the best possible"
    )
    assert verdict(plan).word == "worth it"
    proven = dataclasses.replace(plan, lower_bound_ns=41, status=SolveStatus.OPTIMAL)
    assert headline(proven).endswith("+4.1% time, proven to be the best possible")
    unproven = dataclasses.replace(plan, lower_bound_ns=0)
    assert headline(unproven).endswith(", no bound is proven")
    free = dataclasses.replace(plan, recompute_ns=0, lower_bound_ns=0)
    assert headline(free).endswith("(eager 16.76 GiB, -61%), +0.0% time, nothing is recomputed")
    alike = dataclasses.replace(free, baseline_peak_bytes=7 * 10**9)
    assert headline(alike) == (
        "fits 8 GB (7.45 GiB) as it is: peak 6.52 GiB, nothing is recomputed"
    )
    over = dataclasses.replace(plan, measured_peak_bytes=9 * 10**9)
    assert headline(over) == "does not fit 8 GB (7.45 GiB): needs 8.38 GiB, +4.1% time"
    assert tables.text(over).startswith("does not fit 8 GB")


def test_a_verdict_says_what_else_to_do() -> None:
    plan = dataclasses.replace(planned(0.5), baseline_step_ns=1000, peak_parts=())
    peak_bytes = plan.predicted_peak_bytes
    dear = dataclasses.replace(plan, baseline_peak_bytes=3 * peak_bytes, recompute_ns=300)
    assert verdict(dear).word == "expensive"
    assert verdict(dear).reason == "saves 67% of the memory for 30.0% more time."
    assert "smaller batch with gradient accumulation" in verdict(dear).advice
    fixed = dataclasses.replace(plan.fixed, optimizer_bytes=peak_bytes // 2)
    heavy = dataclasses.replace(dear, fixed=fixed)
    assert "parameters, gradients and optimizer state, which no plan saves" in verdict(heavy).advice
    modest = dataclasses.replace(dear, baseline_peak_bytes=peak_bytes * 3 // 2, recompute_ns=10)
    assert verdict(modest).word == "modest"
    assert verdict(modest).advice == "A smaller budget saves more."
    worth = dataclasses.replace(dear, recompute_ns=299)
    assert verdict(worth).word == "worth it"
    assert not verdict(worth).advice


def test_what_is_at_the_peak_adds_up_and_has_its_place() -> None:
    plan = planned(0.5)
    timeline = plan.timeline().plan
    found = standing_at_peak(timeline)
    assert sum(each.size_bytes for each in found) == (
        plan.predicted_peak_bytes - plan.fixed.total_bytes
    )
    assert [each.size_bytes for each in found] == sorted(
        (each.size_bytes for each in found), reverse=True
    )
    assert any(each.count > 1 and "layer.[" in each.module for each in found)
    assert all("[]" not in each.module for each in found)
    assert peak_place(timeline).startswith("the ")


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("transformer.h.[0-11].attn", 40, "transformer.h.[0-11].attn"),
        ("transformer.h.[0-11].attn", 20, "..h.[0-11].attn"),
        ("transformer.h.[0-11].attn", 7, "..attn"),
        ("a_very_long_name_of_one_part", 10, "..one_part"),
        ("m\x1b[31m.n", 40, "m\\x1b[31m.n"),
    ],
)
def test_names_break_at_their_dots(name: str, width: int, expected: str) -> None:
    assert shortened(name, width) == expected


def test_texts_of_files_do_nothing_when_shown() -> None:
    """Escapes of a file reached the terminal, and markup changed what was read."""
    evil = "\x1b[31m[bold]x[/bold]\x07\u202e"
    plan = planned(0.5)
    plan = dataclasses.replace(
        plan, device=evil, method=evil, notes=(evil,), optimizer_name=evil, rows=plan.rows
    )
    for text in (str(plan), _shown(plan, 80)):
        assert "\x07" not in text
        assert "\u202e" not in text
        assert "\x1b[31m" not in text
        assert "[bold]x[/bold]" in text


def test_lines_to_paste_name_the_next_budget() -> None:
    plan = planned(0.5)
    larger = ((plan.budget_bytes + MIB, 0),)
    lines = dict(tries(plan, larger, "zoo:gpt2 --size full"))
    assert any(line.startswith("autockpt plan zoo:gpt2 --size full --budget ") for line in lines)
    assert any(line.startswith("autockpt verify zoo:gpt2 --size full --budget ") for line in lines)
    assert next(iter(dict(tries(plan, (), None)))).startswith("autockpt.optimize(model, ")
