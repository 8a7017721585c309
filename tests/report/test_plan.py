from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autockpt.report.breakdown import module_rows, peak_parts
from autockpt.report.parts import FixedBytes, ModuleRow
from autockpt.report.plan import Plan
from autockpt.report.timeline.places import NO_PLACES, Places, SourceLine
from autockpt.report.words import cost_warning
from autockpt_solvers import ComputeGraph, Op, SolveStatus, Storage, simulate, with_frees

_MIB = 2**20


def _row(module: str, **fields: int) -> ModuleRow:
    usual = {"saved_bytes": 0, "recomputed_bytes": 0, "recompute_ns": 0, "num_recomputed_ops": 0}
    return ModuleRow(module=module, **{**usual, **fields})


def _plan(**fields: Any) -> Plan:
    graph = ComputeGraph(
        ops=(
            Op(name="embed", runtime_ns=5, reads=(), writes=(0,), workspace_bytes=3, region=0),
            Op(name="draw", runtime_ns=7, reads=(0,), writes=(1,), recomputable=False, segment="h"),
            Op(name="grad", runtime_ns=9, reads=(0, 1), writes=(2,), is_backward=True),
        ),
        storages=tuple(Storage(name=name, size_bytes=8) for name in "xyz"),
        outputs=(2,),
    )
    usual: dict[str, Any] = {
        "budget_bytes": 100 * _MIB,
        "predicted_peak_bytes": 96 * _MIB,
        "baseline_peak_bytes": 200 * _MIB,
        "minimum_peak_bytes": 80 * _MIB,
        "minimum_bound_bytes": 79 * _MIB,
        "baseline_step_ns": 1_000_000_000,
        "recompute_ns": 120_000_000,
        "lower_bound_ns": 90_000_000,
        "status": SolveStatus.FEASIBLE,
        "method": "blocks",
        "solve_time_s": 1.25,
        "fixed": FixedBytes(
            parameters_bytes=20 * _MIB,
            buffers_bytes=0,
            optimizer_bytes=40 * _MIB,
            inputs_bytes=8192,
        ),
        "gradients_bytes": 20 * _MIB,
        "optimizer_name": "AdamW",
        "optimizer_assumed": True,
        "cost_source": "measured",
        "device": "cpu",
        "num_graphs": 1,
        "rows": (
            _row("embed", saved_bytes=3 * _MIB),
            _row("h.0.mlp", saved_bytes=_MIB, recomputed_bytes=4 * _MIB, num_recomputed_ops=2),
            _row("h.1.mlp", saved_bytes=_MIB, recomputed_bytes=4 * _MIB, num_recomputed_ops=2),
            _row("h.2.mlp", saved_bytes=5 * _MIB),
        ),
        "notes": ("A note [with brackets].",),
        "peak_parts": (
            ("gradients", 20 * _MIB),
            ("saved activations", 14 * _MIB - 8192),
            ("workspace", 2 * _MIB),
        ),
        "graph": graph,
        "schedule": with_frees(graph, [0, 1, 2]),
        "places": Places(
            lines=(SourceLine(file="m.py", line=3),), of_ops=(0, -1, -1), outside=(1,)
        ),
    }
    if fields.get("graph", graph) is None:
        usual["places"] = NO_PLACES
    return Plan(**{**usual, **fields})


def _honest(**fields: Any) -> Plan:
    """A plan whose numbers are those that its schedule gives, as what plans are read must be."""
    graph = ComputeGraph(
        ops=(
            Op(name="embed", runtime_ns=5, reads=(), writes=(0,), segment="embed"),
            Op(name="act", runtime_ns=7, reads=(0,), writes=(1,), segment="h"),
            Op(name="loss", runtime_ns=2, reads=(1,), writes=(2,), workspace_bytes=3),
            Op(name="grad", runtime_ns=9, reads=(0, 1), writes=(3,), is_backward=True),
        ),
        storages=tuple(Storage(name=name, size_bytes=8) for name in "xyzg"),
        outputs=(2, 3),
    )
    lines = (SourceLine(file="m.py", line=3),)
    step: dict[str, Any] = {
        "graph": graph,
        "schedule": with_frees(graph, [0, 1, 2, 1, 3]),
        "places": Places(lines=lines, of_ops=(0, -1, -1, -1), outside=(2,)),
    }
    plan = _plan(**{**step, **fields})
    if plan.graph is None or plan.schedule is None:
        return plan
    timeline = simulate(plan.graph, plan.schedule)
    outside = frozenset(plan.places.outside)
    peak_bytes = plan.fixed.total_bytes + timeline.peak_bytes
    derived: dict[str, Any] = {
        "baseline_step_ns": plan.graph.total_runtime_ns,
        "recompute_ns": timeline.recompute_ns,
        "lower_bound_ns": 0,
        "rows": module_rows(plan.graph, plan.schedule, timeline),
        "peak_parts": tuple(peak_parts(plan.graph, plan.schedule, timeline, outside).items()),
        "predicted_peak_bytes": peak_bytes,
        "minimum_peak_bytes": peak_bytes,
        "minimum_bound_bytes": peak_bytes,
    }
    return dataclasses.replace(plan, **{**derived, **fields})


def test_shares_are_of_the_baseline_step() -> None:
    plan = _plan()
    assert plan.overhead == pytest.approx(0.12)
    assert plan.lower_bound == pytest.approx(0.09)
    assert plan.gap == pytest.approx(0.25)
    nothing = _plan(recompute_ns=0, lower_bound_ns=0, baseline_step_ns=0)
    assert (nothing.overhead, nothing.lower_bound, nothing.gap) == (0.0, 0.0, 0.0)


def test_plans_refuse_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="predicted_peak_bytes must not be negative, got -1"):
        _plan(predicted_peak_bytes=-1)
    with pytest.raises(
        ValueError, match="cost_source must be 'measured' or 'roofline' or 'model', got 'air'"
    ):
        _plan(cost_source="air")
    with pytest.raises(ValueError, match="peak_parts must not be more"):
        _plan(peak_parts=(("gradients", 37 * _MIB),))
    with pytest.raises(ValueError, match="must have the graph"):
        _plan(graph=None)
    with pytest.raises(ValueError, match="saved_bytes must not be negative"):
        _row("x", saved_bytes=-1)


def test_the_report_says_all_that_is_promised() -> None:
    report = str(_plan(measured_peak_bytes=96 * _MIB + 512))
    lines = report.splitlines()
    assert report.isascii()
    assert max(map(len, lines)) <= 100

    def line_of(start: str) -> str:
        return next(line for line in lines if line.strip().startswith(start))

    assert "autockpt plan for cpu, 1 graph" in report
    assert "200.00 MiB" in line_of("eager")
    assert "96.00 MiB  48% of eager" in line_of("this plan")
    assert "+512 B against the prediction" in line_of("measured")
    assert "80.00 MiB" in line_of("least found")
    assert "+12.0%" in line_of("recomputed")
    assert "120.00 ms on 1.00 s" in line_of("recomputed")
    assert "+9.0%: at most 25.0%" in line_of("lower bound")
    assert "blocks in 1.2 s" in line_of("solved by")
    assert "20.00 MiB" in line_of("parameters")
    assert "AdamW (assumed" in line_of("optimizer state")
    assert "20.00 MiB  all together take 20.00 MiB" in line_of("gradients")
    assert "13.99 MiB" in line_of("saved activations")
    assert "96.00 MiB  measured: 96.00 MiB" in line_of("predicted peak")
    assert line_of("h.[0-1].mlp").split()[1:6] == ["2", "2.00", "MiB", "8.00", "MiB"]
    assert line_of("total").split()[1:6] == ["4", "10.00", "MiB", "8.00", "MiB"]
    assert "measured on cpu" in line_of("-")
    assert "A note [with brackets]." in report


def test_the_report_tells_a_proven_minimum_from_the_least_found() -> None:
    """A roomy budget's report named a "minimum" that a smaller budget's plan went below."""
    assert re.search(r"minimum .* 80.00 MiB  proven", str(_plan(minimum_bound_bytes=80 * _MIB)))
    found = str(_plan(minimum_bound_bytes=79 * _MIB))
    assert re.search(r"least found .* 80.00 MiB  at least 79.00 MiB", found)


def test_the_report_names_no_minimum_that_nobody_searched_for() -> None:
    """Eager's own peak was told as the least found."""
    report = str(_plan(minimum_bound_bytes=0, minimum_peak_bytes=200 * _MIB))
    assert re.search(r"\n +minimum +not searched for\n", report)
    assert report.count("200.00 MiB") == 3  # eager's peak: first line, its own, and the picture
    assert "least found" not in report


def test_a_bound_on_checkpointed_calls_is_told_as_one() -> None:
    """A capture may need less than any choice of calls to checkpoint."""
    found = str(_plan(rung="checkpoint"))
    assert re.search(r"least found .* 80.00 MiB  at least 79.00 MiB by checkpointing calls", found)
    proven = str(_plan(rung="checkpoint", minimum_bound_bytes=80 * _MIB))
    assert re.search(r"minimum .* 80.00 MiB  proven, by checkpointing calls", proven)


def test_a_plan_that_more_than_doubles_the_step_says_so_and_what_more_memory_saves() -> None:
    """Near the least budget a plan of +677% was followed without a word."""
    dear = _plan(
        recompute_ns=6_770_000_000,
        cheaper_budgets=((101 * _MIB, 310_000_000), (110 * _MIB, 90_000_000)),
    )
    assert cost_warning(dear) == (
        "the plan for 100.00 MiB recomputes 677% of the step. Larger budgets cost less "
        "(+1.00 MiB: +31%; +10.00 MiB: +9%)."
    )
    assert "The plan for 100.00 MiB recomputes 677% of the step." in " ".join(str(dear).split())
    assert cost_warning(_plan(recompute_ns=1_000_000_000)) == ""
    alone = _plan(recompute_ns=1_500_000_000)
    assert cost_warning(alone).endswith("recomputes 150% of the step. Raise the budget if you can.")


def test_the_report_of_a_plan_that_recomputes_nothing_is_short() -> None:
    report = str(_plan(recompute_ns=0, lower_bound_ns=0, rows=(_row("h", saved_bytes=1),)))
    assert "recomputed  nothing" in report
    assert "lower bound" not in report
    assert "Saved for the backward" not in report


def test_the_report_is_honest_about_estimates_and_bounds() -> None:
    report = str(_plan(cost_source="roofline", lower_bound_ns=0, optimizer_assumed=False))
    assert "are estimated for cpu (a roofline): nothing was run" in report
    assert "none is proven" in report
    assert "assumed" not in report
    optimal = str(_plan(status=SolveStatus.OPTIMAL, lower_bound_ns=120_000_000))
    assert "optimal in its class" in optimal


def test_a_long_table_shows_what_matters_and_counts_the_rest() -> None:
    rows = tuple(
        _row(f"block_{i}", saved_bytes=i + 1, num_recomputed_ops=1, recomputed_bytes=1)
        for i in range(100)
    )
    report = str(_plan(rows=rows))
    assert "block_99 " in report
    assert "block_3 " not in report
    assert "... 60 smaller entries" in report
    assert str(sum(range(1, 101))) not in report  # 5050 B are printed as KiB
    assert "4.93 KiB" in report


def test_json_is_for_diffs() -> None:
    text = _plan().to_json()
    lines = text.splitlines()
    assert sum('"module": ' in line for line in lines) == 4
    document = json.loads(text)
    assert document["version"] == 2
    assert list(document) == sorted(document)
    assert sum('"recomputable": ' in line for line in lines) == 3
    changed = dataclasses.replace(_plan(), budget_bytes=1).to_json().splitlines()
    assert [old for old, new in zip(lines, changed, strict=True) if old != new] == [
        f'  "budget_bytes": {100 * _MIB},'
    ]


@given(
    st.builds(
        _honest,
        budget_bytes=st.integers(1, 2**60),
        measured_peak_bytes=st.none() | st.integers(0, 2**60),
        solve_time_s=st.floats(0, 1e6),
        lower_bound_ns=st.integers(0, 6),
        notes=st.lists(st.text(), max_size=2).map(tuple),
        device=st.text(),
    )
    | st.builds(
        _plan,
        graph=st.none(),
        schedule=st.none(),
        rows=st.lists(st.builds(_row, st.text()), max_size=2).map(tuple),
    )
    | st.builds(lambda: _plan(schedule=None))
)
def test_json_comes_back_as_it_went(plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()
    assert str(again) == str(plan)


_text = _honest().to_json()


def _edit(*path: Any, value: Any) -> str:
    document = json.loads(_honest().to_json())
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(document)


def _without(key: str) -> str:
    document = json.loads(_honest().to_json())
    del document[key]
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "it is a JSON list"),
        ("{}", '"format": "autockpt plan"'),
        ('{"format": "autockpt plan"}', "of version None"),
        (_edit("version", value=3), "of version 3, this autockpt reads versions 1 and 2"),
        (_edit("budget_bytes", value=1.5), r"Expected `int`, got `float` - at `\$.budget_bytes`"),
        (_edit("budget_bytes", value=True), r"Expected `int`, got `bool` - at `\$.budget_bytes`"),
        (_edit("budget_bytes", value="1"), r"Expected `int`, got `str` - at `\$.budget_bytes`"),
        (_edit("budget_bytes", value=-1), "budget_bytes must not be negative"),
        (_edit("budget_bytes", value=2**63), r"\$.budget_bytes must be a number below 2\*\*63"),
        (_edit("budget_bytes", value=10**400), r"\$.budget_bytes must be a number below 2\*\*63"),
        (_edit("rows", 0, "recompute_ns", value=2**63), r"\$.rows\[0\].recompute_ns must be a"),
        # As a float it is 2**63: it was read, and what was written of it then was refused.
        (_edit("solve_time_s", value=2**63 - 1), r"\$.solve_time_s must be a number below 2\*\*63"),
        (_edit("solve_time_s", value=float("nan")), "NaN is not a number in JSON"),
        (_text.replace("1.25", "1e400"), r"\$.solve_time_s must be a number below 2\*\*63"),
        (_edit("solve_time_s", value="1"), r"Expected `float`, got `str` - at `\$.solve_time_s`"),
        (_edit("status", value="great"), r"Invalid enum value 'great' - at `\$.status`"),
        (_edit("status", value=[]), r"at `\$.status`"),
        (_edit("rung", value="top"), "rung must be 'whole' or"),
        (_edit("optimizer_assumed", value=1), r"Expected `bool`, got `int` - at `\$.optimizer_as"),
        (_edit("device", value=None), r"Expected `str`, got `null` - at `\$.device`"),
        (_edit("surprise", value=1), r"the field \$.surprise is unknown"),
        (_edit("fixed", "more", value=1), r"the field \$.fixed.more is unknown"),
        (_edit("rows", 0, "more", value=1), r"the field \$.rows\[0\].more is unknown"),
        (_without("fixed"), "missing required field `fixed`"),
        (_edit("fixed", value=3), r"Expected `object`, got `int` - at `\$.fixed`"),
        (_edit("rows", value={}), r"Expected `array`, got `object` - at `\$.rows`"),
        (_edit("rows", 0, "saved_bytes", value="x"), r"at `\$.rows\[0\].saved_bytes`"),
        (_edit("notes", value=[1]), r"Expected `str`, got `int` - at `\$.notes\[0\]`"),
        (_text.replace("{", '{"device": "cpu",', 1), "an object has the field 'device' twice"),
        (_edit("graph", value=None), "places.of_ops has 4 entries for 0 ops"),
        (_edit("graph", value=1), r'\$.graph: not a file of format "autockpt-graph"'),
        (_edit("graph", "storages", 0, value=["x", "8"]), "must be an integer"),
        (_edit("graph", "ops", 0, "reads", value=[99]), r"\$.graph: .*names storage 99"),
        (_edit("schedule", value=[]), r'\$.schedule: not a file of format "autockpt-schedule"'),
        (_edit("places", value=None), "Expected `object`, got `null`"),
        (_edit("places", "of_ops", value=[0]), "has 1 entries for 4 ops"),
        (_edit("places", "of_ops", value=[0, 1, -1, 0]), "places.of_ops must be from -1 to 0"),
        (_edit("places", "outside", value=[4]), "names op 4 of 4 ops"),
        (_edit("places", "outside", value=[1, 0]), "places.outside must be ascending"),
        (
            _edit("places", "lines", 0, value=["a.py", 0, ""]),
            "line must be from 1 to",
        ),
        (_edit("places", "lines", 0, value=["a.py", "1", ""]), "Expected `int`, got `str`"),
        (_without("places"), "Expected `object`, got `null`"),
        (_edit("schedule", "steps", value=["0"]), "must be an integer"),
        (_edit("schedule", "steps", value=[0]), "its schedule fails"),
        (_edit("schedule", "steps", value=[0, -78]), "its schedule fails"),
    ],
)
def test_foreign_and_damaged_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan.from_json(text)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["predicted_peak_bytes"], 1, "peak_parts must not be more than what the step has beside"),
        (["predicted_peak_bytes"], 10**9, "predicted_peak_bytes is 1000000000, but its schedule n"),
        (["baseline_step_ns"], 10**9, "baseline_step_ns is 1000000000, but its schedule gives 23"),
        (["recompute_ns"], 1, "recompute_ns is 1, but its schedule gives 7"),
        (["lower_bound_ns"], 8, "lower_bound_ns is above recompute_ns"),
        (["minimum_peak_bytes"], 1, "minimum_bound_bytes is above minimum_peak_bytes"),
        (["minimum_bound_bytes"], 10**9, "minimum_bound_bytes is above minimum_peak_bytes"),
        (["baseline_peak_bytes"], 1, "baseline_peak_bytes is below the memory of the whole step"),
        (["status"], "infeasible", "status is 'infeasible', which no plan has"),
        (["cheaper_budgets"], [[1, 1]], "cheaper_budgets must be larger budgets that cost less"),
        (["rows", 0, "saved_bytes"], 9, r"rows is .*, but its schedule gives \(ModuleRow"),
        (["rows"], [], r"rows is \(\), but its schedule gives \(ModuleRow"),
        (["peak_parts", 0, 1], 7, r"peak_parts is .*, but its schedule gives "),
        (["peak_parts", 0, 0], "nothing", r"peak_parts is .*, but its schedule gives "),
        (["fixed", "parameters_bytes"], 1, "predicted_peak_bytes is .*, but its schedule needs "),
        (["fixed", "parameters_bytes"], 10**9, ""),
        (["older_gradients_bytes"], 1, ""),
        (["graph", "ops", 2, "runtime_ns"], 1, "baseline_step_ns is 23, but its schedule gives 22"),
        (["graph", "storages", 0, 1], 7, "rows is "),
    ],
)
def test_a_number_that_another_gives_cannot_be_edited(
    path: list[Any], value: Any, message: str
) -> None:
    """A peak of one byte was read and believed."""
    with pytest.raises(ValueError, match=f"this plan is damaged: .*{message}") as caught:
        Plan.from_json(_edit(*path, value=value))
    assert "\n" not in str(caught.value)


def test_the_smallest_budget_cannot_be_below_what_one_operation_needs() -> None:
    document = json.loads(_text) | {"minimum_bound_bytes": 0, "minimum_peak_bytes": 1}
    with pytest.raises(ValueError, match="minimum_peak_bytes is 1, but one operation of its graph"):
        Plan.from_json(json.dumps(document))


def test_gradients_at_the_peak_may_be_those_of_activations() -> None:
    """A step cut into blocks keeps what arrives at a block; its plan was said to be damaged."""
    document = json.loads(_text) | {"gradients_bytes": 0}
    assert Plan.from_json(json.dumps(document)).gradients_bytes == 0


def test_plans_of_before_are_read() -> None:
    """They had no source lines."""
    document = json.loads(_honest().to_json())
    del document["places"]
    document["peak_parts"] = [["saved activations", 32]]
    old = Plan.from_json(json.dumps(document | {"version": 1}))
    parts = (("saved activations", 32),)
    assert old == dataclasses.replace(_honest(), places=NO_PLACES, peak_parts=parts)


def test_a_repr_is_short_and_has_the_figures() -> None:
    """A plan's repr filled a notebook with 621,052 characters."""
    plan = _plan()
    assert repr(plan) == (
        "<Plan: budget 100.00 MiB, peak 96.00 MiB (eager 200.00 MiB), +12.0% time, cpu, "
        "rung 'whole'>"
    )
    assert repr(plan.graph) == (
        "<ComputeGraph: 3 ops (2 forward, 1 backward) of 0.00 ms, 3 storages of 24 bytes, "
        "1 outputs>"
    )
    assert repr(plan.schedule) == "<Schedule: 3 runs of 3 ops, 2 frees>"


def test_reading_needs_text() -> None:
    with pytest.raises(TypeError, match="from a str, got bytes"):
        Plan.from_json(b"{}")  # type: ignore[arg-type]
