"""Plans as JSON: made for diffs, the same when read, refused if a number contradicts another."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autockpt.report.plan import Plan
from autockpt.report.timeline.places import NO_PLACES
from autockpt_solvers import baseline_schedule
from tests.plans_of_values import MIB, honest_plan, plan_of, row_of
from tests.small_plans import planned


def test_json_is_for_diffs() -> None:
    text = plan_of().to_json()
    lines = text.splitlines()
    assert sum('"module": ' in line for line in lines) == 4
    document = json.loads(text)
    assert document["version"] == 2
    assert list(document) == sorted(document)
    assert sum('"recomputable": ' in line for line in lines) == 3
    changed = dataclasses.replace(plan_of(), budget_bytes=1).to_json().splitlines()
    assert [old for old, new in zip(lines, changed, strict=True) if old != new] == [
        f'  "budget_bytes": {100 * MIB},'
    ]


@given(
    st.builds(
        honest_plan,
        budget_bytes=st.integers(1, 2**60),
        measured_peak_bytes=st.none() | st.integers(100 * MIB, 2**60),
        solve_time_s=st.floats(0, 1e6),
        lower_bound_ns=st.integers(0, 6),
        notes=st.lists(st.text(), max_size=2).map(tuple),
        device=st.text(),
    )
    | st.builds(
        plan_of,
        graph=st.none(),
        schedule=st.none(),
        rows=st.lists(st.builds(row_of, st.text()), max_size=2).map(tuple),
    )
    | st.builds(lambda: plan_of(schedule=None))
)
def test_json_comes_back_as_it_went(plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()
    assert str(again) == str(plan)


_text = honest_plan().to_json()


def _edit(*path: Any, value: Any) -> str:
    document = json.loads(honest_plan().to_json())
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(document)


def _without(key: str) -> str:
    document = json.loads(honest_plan().to_json())
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
        (["gradients_bytes"], 0, "gradients_bytes is 0, but there is optimizer state"),
        (["outputs_bytes"], 8, "outputs_bytes is 8, but its graph keeps 0 for each call"),
        (["places", "outside"], [], "peak_parts is|outputs_bytes is 0, but its graph keeps 8"),
        (["measured_peak_bytes"], 1, "measured_peak_bytes is below the memory of the whole step"),
        (["num_graphs"], 0, "num_graphs is 0 on the rung 'whole'"),
        (["rung"], "checkpoint", "num_graphs is 1 on the rung 'checkpoint'"),
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
    document = json.loads(_text) | {"gradients_bytes": 1}
    assert Plan.from_json(json.dumps(document)).gradients_bytes == 1


def test_a_minimum_that_nobody_searched_for_is_what_the_plan_needs() -> None:
    graph = honest_plan().graph
    assert graph is not None
    plan = honest_plan(schedule=baseline_schedule(graph), minimum_bound_bytes=0)
    assert Plan.from_json(plan.to_json()) == plan
    document = json.loads(plan.to_json())
    document["minimum_peak_bytes"] -= 1
    with pytest.raises(ValueError, match="but nothing was searched, and the plan itself needs"):
        Plan.from_json(json.dumps(document))


@pytest.mark.parametrize(("num_calls", "is_read"), [(1, True), (3, True), (2.5, False)])
def test_outputs_of_several_calls(num_calls: float, is_read: bool) -> None:
    """Calls that share a backward keep their outputs until then."""
    plan = planned(0.5)
    assert plan.outputs_bytes == 4
    fixed = dataclasses.replace(plan.fixed, other_calls_bytes=MIB if num_calls > 1 else 0)
    peak_bytes = plan.predicted_peak_bytes + fixed.other_calls_bytes
    outputs_bytes = int(num_calls * plan.outputs_bytes)
    several = dataclasses.replace(
        plan, fixed=fixed, predicted_peak_bytes=peak_bytes, outputs_bytes=outputs_bytes
    )
    if is_read:
        assert Plan.from_json(several.to_json()) == several
        return
    with pytest.raises(ValueError, match="outputs_bytes is 10, but its graph keeps 4 for each"):
        Plan.from_json(several.to_json())


def test_plans_of_before_are_read() -> None:
    """They had no source lines."""
    document = json.loads(honest_plan().to_json())
    del document["places"]
    document["peak_parts"] = [["saved activations", 32]]
    old = Plan.from_json(json.dumps(document | {"version": 1}))
    parts = (("saved activations", 32),)
    assert old == dataclasses.replace(honest_plan(), places=NO_PLACES, peak_parts=parts)


def test_reading_needs_text() -> None:
    with pytest.raises(TypeError, match="from a str, got bytes"):
        Plan.from_json(b"{}")  # type: ignore[arg-type]
