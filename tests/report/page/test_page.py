"""The page of a plan: what it shows, that it is inert, and that it needs nothing else."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autockpt.budget import format_bytes
from autockpt.report.diff import diff_html, diff_text
from autockpt.report.kinds import STEP_KINDS
from autockpt.report.page.areas import NUM_COLUMNS, areas, columns
from autockpt.report.page.data import timeline_data
from autockpt.report.page.formats import byte_ticks, format_time, time_ticks
from autockpt.report.page.groups import GROUPS, by_group
from autockpt.report.page.listing import listing
from autockpt.report.page.tree import Branch, tree_of
from autockpt.report.plan import Plan
from autockpt.report.timeline.value import Timeline
from autockpt_solvers import Compute
from tests.plans import PLAN
from tests.small_plans import planned


class _Page(HTMLParser):
    """The elements of a page, and what a reader sees of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "br", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "path":
            assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)


def _embedded(page: str, name: str) -> str:
    found = re.search(f'<script type="text/plain" id="{name}">([^<]*)</script>', page)
    assert found is not None
    return gzip.decompress(base64.b64decode(found[1])).decode()


def test_the_page_answers_first_and_has_all_that_is_promised() -> None:
    plan = planned()
    page = plan.to_html(curve=plan.curve(4, time_limit_s=0.5))
    parsed = _Page(page)
    assert not parsed.open  # every element is closed
    words = parsed.text
    assert words.index("Fits 90.00 MiB") < words.index("peak 75.00 MiB instead of 155.00 MiB")
    for title in (
        "Where the memory goes",
        "Memory over one training step",
        "What other budgets cost",
        "Module by module",
        "Predicted and measured",
        "The forward and the backward, rewritten",
        "About this plan",
    ):
        assert title in words
    for group in GROUPS:
        assert f"{group.label} {group.meaning}" in words
    assert "no step has run under this plan yet" in words
    assert "A note." in words
    assert "budget 90.00 MiB" in words
    assert "smallest budget 55.00 MiB" in words
    measured = dataclasses.replace(plan, measured_peak_bytes=plan.predicted_peak_bytes + 512)
    assert "+512 bytes against the prediction" in _Page(measured.to_html(curve=False)).text
    assert Plan.from_json(_embedded(page, "json")) == plan


def test_the_page_loads_nothing() -> None:
    """One file: no address is in an attribute, and a policy forbids loading anything."""
    page = planned().to_html(curve=False)
    parsed = _Page(page)
    policies = [a["content"] for tag, a in parsed.tags if a.get("http-equiv")]
    assert policies == [
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    ]
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            assert (attributes.get(name) or "data:,").startswith(("data:,", "#")), (tag, name)
    assert "http" not in page.replace("http-equiv", "")
    assert "url(" not in page
    assert "@import" not in page


def test_the_page_can_be_read_without_seeing_it() -> None:
    parsed = _Page(planned().to_html(curve=planned().curve(3, time_limit_s=0.5)))
    tags = parsed.tags
    ids = [attributes["id"] for _, attributes in tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for tag, attributes in tags:
        for name in ("aria-labelledby", "aria-describedby"):
            assert set((attributes.get(name) or "").split()) <= set(ids), tag
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-labelledby"]
    assert "In words" not in parsed.text
    assert "Memory is at its peak of 75.00 MiB after" in parsed.text  # of a picture's description
    assert "the backward of layer.5.mlp (dx_5, my_model.py:11)" in parsed.text
    assert ("html", {"lang": "en"}) in tags
    assert [tag for tag, _ in tags].count("h1") == 1


_EVIL = "</script><img src=x onerror=alert(1)>\"'&\x1b[31m\x07{{ 7 * 7 }}\u202e"


def test_texts_of_a_plan_are_inert() -> None:
    """Names with markup, escapes of terminals and templates are shown as they are."""
    plan = planned(segment=_EVIL, notes=(_EVIL,), device=_EVIL, method=_EVIL, optimizer_name=_EVIL)
    lines = tuple(dataclasses.replace(line, file=_EVIL, code=_EVIL) for line in plan.places.lines)
    plan = dataclasses.replace(plan, places=dataclasses.replace(plan.places, lines=lines))
    pages = (
        plan.to_html(curve=plan.curve(3, time_limit_s=0.5)),
        diff_html(plan, planned(0.7), (_EVIL, _EVIL)),
    )
    for page in pages:
        assert "<img" not in page
        assert "\x1b" not in page
        assert "\x07" not in page
        assert "\u202e" not in page
        assert html.escape("{{ 7 * 7 }}") in page
        assert page.lower().count("</script>") == page.lower().count("<script")
        data = json.loads(_embedded(page, "data"))
        texts = [*data["graphs"][0]["modules"], *data["graphs"][0]["lines"][0]]
        assert not any("\x1b" in text for text in texts)
    assert "\x1b" not in str(diff_text(planned(), plan))


def test_a_plan_without_a_capture_has_a_page_too() -> None:
    page = _Page(PLAN.to_html())
    assert "Fits 100 B" in page.text
    assert "Memory over one training step" not in page.text
    as_it_is = planned(budget_bytes=2**40, recompute_ns=0)
    words = _Page(as_it_is.to_html(curve=False)).text
    assert "Fits 1.00 TiB as it is" in words
    over = planned(budget_bytes=2**20)
    assert "Needs 75.00 MiB, over 1.00 MiB" in _Page(over.to_html(curve=False)).text
    dear = planned(recompute_ns=10**9, cheaper_budgets=((200 * 2**20, 100),))
    assert "Larger budgets cost less (+110.00 MiB" in _Page(dear.to_html(curve=False)).text


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    file = tmp_path / "plan.html"
    page = planned().to_html(file, curve=False)
    assert file.read_text(encoding="utf-8") == page
    with pytest.raises(OSError, match="no folder"):
        planned().to_html(tmp_path / "nowhere" / "plan.html", curve=False)
    assert planned().to_html(curve=False) == page  # the same plan, the same page


def test_two_plans_stand_side_by_side() -> None:
    first, second = planned(0.4), planned(0.8)
    words = _Page(diff_html(first, second, ("40%", "80%"))).text
    text = diff_text(first, second, ("40%", "80%"))
    more = format_bytes(second.predicted_peak_bytes - first.predicted_peak_bytes)
    assert f"80% needs {more} more memory and" in words
    assert f"80% needs {more} more memory and" in text
    assert "peak of 40%" in words
    assert "layer.[" in text  # equal layers share a line
    assert "layer.[" in words
    assert max(map(len, text.splitlines())) <= 100
    same = diff_text(first, first)
    assert "B needs the same memory and the same time" in same
    assert "All modules are treated alike." in same
    assert "All modules are treated alike." in _Page(diff_html(first, first)).text
    assert "needs" in _Page(diff_html(PLAN, first)).text  # one without a timeline


def _timelines() -> list[Timeline]:
    both = planned().timeline()
    return [both.eager, both.plan]


@pytest.mark.parametrize("timeline", _timelines(), ids=["eager", "plan"])
def test_pictures_are_thinned_but_keep_every_peak(timeline: Timeline) -> None:
    shown = columns(timeline, timeline.duration_ns, 7)
    assert len(shown) == 7
    assert timeline.peak in shown
    for column, at in enumerate(shown):
        begin, end = (timeline.duration_ns * k / 7 for k in (column, column + 1))
        inside = [
            moment.total_bytes
            for moment in timeline.moments
            if moment.start_ns < end and moment.start_ns + moment.duration_ns > begin
        ]
        assert timeline.moments[at].total_bytes >= max(inside)
    longer = columns(timeline, 2 * timeline.duration_ns)
    assert longer[: NUM_COLUMNS // 2].count(-1) == 0
    assert set(longer[NUM_COLUMNS // 2 + 1 :]) == {-1}


def test_areas_stack_up_to_what_is_in_memory() -> None:
    timeline = planned().timeline().plan
    most_bytes = timeline.peak_bytes
    found = areas(timeline, most_ns=timeline.duration_ns, most_bytes=most_bytes)
    heights = [
        min(int(point.split(",")[1]) for point in re.split("[ L]", area.path[1:-1]))
        for area in found
    ]
    assert min(heights) == 0  # the peak reaches the top
    kinds = {group.key: at for at, group in enumerate(GROUPS)}
    order = [kinds[area.key] for area in found]
    assert order == sorted(order)
    used = by_group(dict.fromkeys(timeline.kinds, 1))
    assert [bool(used[at]) for at in order] == [True] * len(order)


def test_every_kind_is_in_one_group() -> None:
    assert sum(by_group(dict.fromkeys(STEP_KINDS, 1))) == len(STEP_KINDS)


def test_what_the_script_gets_is_what_is_alive() -> None:
    """The page lists tensors from intervals; they must be those of the timeline."""
    for timeline in _timelines():
        kinds: dict[str, int] = {}
        data = timeline_data(timeline, kinds)
        names = list(kinds)
        lives = [tuple(data["lives"][k : k + 4]) for k in range(0, len(data["lives"]), 4)]
        for at in range(len(timeline.moments)):
            found = sorted(
                (timeline.graph.size(storage), names[kind], timeline.name_of(storage))
                for storage, first, end, kind in lives
                if first <= at < end
            )
            wanted = sorted(
                (alive.size_bytes, alive.kind, alive.name)
                for alive in timeline.alive(at)
                if alive.op is not None and "workspace" not in alive.kind
                if alive.kind != "optimizer's step"
            )
            assert found == wanted
        steps = [k if k >= 0 else None for k in data["steps"]]
        assert steps == [moment.op for moment in timeline.moments]


def test_the_code_runs_in_the_order_of_the_schedule() -> None:
    timeline = planned().timeline().plan
    lines = listing(timeline).splitlines()
    forward, backward = lines.index("def forward():"), lines.index("def backward():")
    assert forward < backward
    calls = [line.split("=")[0].split("(")[0].strip() for line in lines if "(" in line]
    calls = [name for name in calls if name not in ("def forward", "def backward")]
    order = [
        timeline.graph.ops[step.op].name.replace(" ", "_")
        for step in timeline.schedule.steps
        if isinstance(step, Compute)
    ]
    assert calls == order
    assert any(line.startswith("    gelu_1 = gelu(addmm_0)  ") for line in lines)
    again = [line for line in lines[backward:] if line.endswith(", again")]
    assert len(again) == planned().num_recomputed_ops
    assert "# layer.4.mlp, my_model.py:10, again" in again[0]
    assert not any(line.endswith("again") for line in lines[:backward])


def _leaves(branch: Branch) -> list[Branch]:
    return [leaf for each in branch.inside for leaf in _leaves(each)] or [branch]


def test_a_tree_of_modules_adds_up() -> None:
    plan = planned()
    root = tree_of(plan.rows)
    assert root.saved_bytes == sum(row.saved_bytes for row in plan.rows)
    assert root.recompute_ns == plan.recompute_ns
    leaves = _leaves(root)
    assert sum(leaf.recomputed_bytes for leaf in leaves) == root.recomputed_bytes
    assert sum(leaf.saved_bytes for leaf in leaves) == root.saved_bytes
    assert [each.name for each in root.inside] == ["(outside any module)", "embed", "layer"]


@given(st.integers(0, 2**50))
def test_ticks_are_round_and_few(most: int) -> None:
    for ticks in (time_ticks(most), byte_ticks(most)):
        places = [at for at, _ in ticks]
        assert places == sorted(places)
        assert 0 <= places[0] <= places[-1] <= 1
        assert len(ticks) <= 7
        assert len({label for _, label in ticks}) == len(ticks)


def test_figures_have_three_digits() -> None:
    told: dict[Any, str] = {0: "0.00 ns", 999: "999 ns", 1234: "1.23 µs", 12_340_000: "12.3 ms"}
    assert {time_ns: format_time(time_ns) for time_ns in told} == told


def test_a_large_plan_makes_a_small_page() -> None:
    """As many operations as BERT-large has."""
    plan = planned()
    graph = planned().graph
    assert graph is not None
    from tests.small_plans import layers_graph

    big = layers_graph(500)
    from autockpt_solvers import baseline_schedule

    large = dataclasses.replace(
        plan,
        graph=big,
        schedule=baseline_schedule(big),
        places=dataclasses.replace(plan.places, of_ops=(0,) * len(big.ops)),
    )
    assert len(json.dumps(large.to_html(curve=False))) < 2**20


def test_a_notebook_shows_the_answer_the_ledger_and_the_timeline() -> None:
    shown = planned()._repr_html_()
    parsed = _Page(shown)
    assert not parsed.open
    assert parsed.text.startswith("Fits 90.00 MiB peak 75.00 MiB instead of 155.00 MiB")
    assert "saved activations 120.00 MiB 40.00 MiB" in parsed.text
    assert "together 155.00 MiB 75.00 MiB" in parsed.text
    assert {"svg", "path"} <= {tag for tag, _ in parsed.tags}
    assert not {"script", "style", "link"} & {tag for tag, _ in parsed.tags}
    assert len(shown) < 30_000
    assert "<svg" not in PLAN._repr_html_()
    assert "<img" not in planned(segment=_EVIL, device=_EVIL)._repr_html_()
