from __future__ import annotations

import re

import pytest

from autockpt.report.words.sentences import cost_warning
from autockpt_solvers import SolveStatus
from tests.plans_of_values import MIB, plan_of, row_of


def test_shares_are_of_the_baseline_step() -> None:
    plan = plan_of()
    assert plan.overhead == pytest.approx(0.12)
    assert plan.lower_bound == pytest.approx(0.09)
    assert plan.gap == pytest.approx(0.25)
    nothing = plan_of(recompute_ns=0, lower_bound_ns=0, baseline_step_ns=0)
    assert (nothing.overhead, nothing.lower_bound, nothing.gap) == (0.0, 0.0, 0.0)


def test_plans_refuse_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="predicted_peak_bytes must not be negative, got -1"):
        plan_of(predicted_peak_bytes=-1)
    with pytest.raises(
        ValueError, match="cost_source must be 'measured' or 'roofline' or 'model', got 'air'"
    ):
        plan_of(cost_source="air")
    with pytest.raises(ValueError, match="peak_parts must not be more"):
        plan_of(peak_parts=(("gradients", 37 * MIB),))
    with pytest.raises(ValueError, match="must have the graph"):
        plan_of(graph=None)
    with pytest.raises(ValueError, match="saved_bytes must not be negative"):
        row_of("x", saved_bytes=-1)


def test_the_report_says_all_that_is_promised() -> None:
    report = str(plan_of(measured_peak_bytes=96 * MIB + 512))
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
    assert re.search(r"minimum .* 80.00 MiB  proven", str(plan_of(minimum_bound_bytes=80 * MIB)))
    found = str(plan_of(minimum_bound_bytes=79 * MIB))
    assert re.search(r"least found .* 80.00 MiB  at least 79.00 MiB", found)


def test_the_report_names_no_minimum_that_nobody_searched_for() -> None:
    """Eager's own peak was told as the least found."""
    report = str(plan_of(minimum_bound_bytes=0, minimum_peak_bytes=200 * MIB))
    assert re.search(r"\n +minimum +not searched for\n", report)
    assert report.count("200.00 MiB") == 3  # eager's peak: first line, its own, and the picture
    assert "least found" not in report


def test_a_bound_on_checkpointed_calls_is_told_as_one() -> None:
    """A capture may need less than any choice of calls to checkpoint."""
    found = str(plan_of(rung="checkpoint"))
    assert re.search(r"least found .* 80.00 MiB  at least 79.00 MiB by checkpointing calls", found)
    proven = str(plan_of(rung="checkpoint", minimum_bound_bytes=80 * MIB))
    assert re.search(r"minimum .* 80.00 MiB  proven, by checkpointing calls", proven)


def test_a_plan_that_more_than_doubles_the_step_says_so_and_what_more_memory_saves() -> None:
    """Near the least budget a plan of +677% was followed without a word."""
    dear = plan_of(
        recompute_ns=6_770_000_000,
        cheaper_budgets=((101 * MIB, 310_000_000), (110 * MIB, 90_000_000)),
    )
    assert cost_warning(dear) == (
        "the plan for 100.00 MiB recomputes 677% of the step. Larger budgets cost less "
        "(+1.00 MiB: +31%; +10.00 MiB: +9%)."
    )
    assert "The plan for 100.00 MiB recomputes 677% of the step." in " ".join(str(dear).split())
    assert cost_warning(plan_of(recompute_ns=1_000_000_000)) == ""
    alone = plan_of(recompute_ns=1_500_000_000)
    assert cost_warning(alone).endswith("recomputes 150% of the step. Raise the budget if you can.")


def test_the_report_of_a_plan_that_recomputes_nothing_is_short() -> None:
    report = str(plan_of(recompute_ns=0, lower_bound_ns=0, rows=(row_of("h", saved_bytes=1),)))
    assert "recomputed  nothing" in report
    assert "lower bound" not in report
    assert "Saved for the backward" not in report


def test_a_plan_that_recomputes_nothing_is_not_the_model_as_it_is() -> None:
    """Eager needed more than the budget, and the report said that the model fits unchanged."""
    plan = plan_of(recompute_ns=0, lower_bound_ns=0, status=SolveStatus.OPTIMAL)
    assert plan.budget_bytes < plan.baseline_peak_bytes
    report = str(plan)
    assert "as it is" not in report.splitlines()[0]
    assert "(eager 200.00 MiB, -52%), +0.0% time, nothing is recomputed" in report
    assert "free: needs 52% less than eager PyTorch" in report
    assert 'autockpt.optimize(model, "100.00MiB")' in report


def test_the_report_is_honest_about_estimates_and_bounds() -> None:
    report = str(plan_of(cost_source="roofline", lower_bound_ns=0, optimizer_assumed=False))
    assert "are estimated for cpu (a roofline): nothing was run" in report
    assert "none is proven" in report
    assert "assumed" not in report
    optimal = str(plan_of(status=SolveStatus.OPTIMAL, lower_bound_ns=120_000_000))
    assert "optimal in its class" in optimal


def test_a_long_table_shows_what_matters_and_counts_the_rest() -> None:
    rows = tuple(
        row_of(f"block_{i}", saved_bytes=i + 1, num_recomputed_ops=1, recomputed_bytes=1)
        for i in range(100)
    )
    report = str(plan_of(rows=rows))
    assert "block_99 " in report
    assert "block_3 " not in report
    assert "... 60 smaller entries" in report
    assert str(sum(range(1, 101))) not in report  # 5050 B are printed as KiB
    assert "4.93 KiB" in report


def test_a_repr_is_short_and_has_the_figures() -> None:
    """A plan's repr filled a notebook with 621,052 characters."""
    plan = plan_of()
    assert repr(plan) == (
        "<Plan: budget 100.00 MiB, peak 96.00 MiB (eager 200.00 MiB), +12.0% time, cpu, "
        "rung 'whole'>"
    )
    assert repr(plan.graph) == (
        "<ComputeGraph: 3 ops (2 forward, 1 backward) of 0.00 ms, 3 storages of 24 bytes, "
        "1 outputs>"
    )
    assert repr(plan.schedule) == "<Schedule: 3 runs of 3 ops, 2 frees>"
