"""The plan: what autockpt decides for a model, to print, to save and to apply again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from autockpt.budget import Budget
from autockpt.report.curve import search
from autockpt.report.curve.value import Curve
from autockpt.report.files import json_text, plan_file
from autockpt.report.terminal import tables
from autockpt.report.timeline.making import timelines
from autockpt.report.timeline.places import NO_PLACES, Places
from autockpt.report.timeline.value import StepTimelines
from autockpt.report.values import PlanValues
from autockpt.report.words.outcome import described
from autockpt_solvers import ComputeGraph, Method, Schedule

# Of the curve on a page.
_NUM_BUDGETS = 12
_CURVE_S = 4.0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan(PlanValues):
    """A planned training step; `str(plan)` is the report.

    All peaks are totals: parameters, buffers, gradients, optimizer state, inputs, activations,
    temporary tensors and workspace.

    Attributes:
        budget_bytes: The budget.
        predicted_peak_bytes: Simulated peak of a step under this plan.
        baseline_peak_bytes: Simulated peak of the step in eager PyTorch.
        minimum_peak_bytes: The smallest budget that a plan is known for. With the methods `"auto"`
            and `"ilp"` it is the same for every budget.
        minimum_bound_bytes: No plan of that plan's class has a lower peak. If it equals
            `minimum_peak_bytes`, that is proven to be the minimum. 0 if no search for the minimum
            was made: `minimum_peak_bytes` is then what this plan needs.
        cheaper_budgets: If this plan more than doubles the step: the nearest larger budgets for
            which much cheaper plans are known, each with their recomputation in ns.
        baseline_step_ns: Time of all operations of a step, each counted once.
        recompute_ns: Time of the recomputed operations.
        lower_bound_ns: Within the budget, no plan of the bound's class recomputes less.
        status: Whether the plan is proven optimal in the bound's class.
        method: Name of the solver's method.
        solve_time_s: Time the solver took.
        measured_peak_bytes: Peak of a real step; None before one has run, and for a plan that
            serves several sizes, where a note has the peak of the step that was tried.
        fixed: Memory in use for the whole step, whatever the plan.
        gradients_bytes: All gradients together, at the end of the backward.
        outputs_bytes: The outputs that the caller keeps through the backward, of all calls before
            it.
        older_gradients_bytes: Gradients of an earlier backward that this one adds to.
        peak_parts: What the step itself has in memory at the predicted peak, in bytes by kind, in
            pairs. `ledger` adds what is fixed, and sums to `predicted_peak_bytes`.
        context_bytes: What the device's driver takes beside the budget, as far as that is known.
        optimizer_name: The optimizer whose state is counted.
        optimizer_assumed: True if you named no optimizer.
        cost_source: Source of the times: `"measured"` on the device, a `"roofline"` estimate, or
            a cost `"model"` of yours.
        device: The device that the plan is for.
        num_graphs: Number of captured graphs.
        rung: How the step runs: `"whole"` as captured graphs of the forward, `"blocks"` with its
            blocks captured one by one, `"checkpoint"` with calls of modules checkpointed and
            nothing captured, `"eager"` unchanged.
        rows: What happens to each module, in forward order.
        notes: Anything else that you should know, one sentence each.
        graph: The planned graph; it and `schedule` are needed to apply the plan again.
        schedule: When each operation runs, and when each storage is freed.
        places: Where the graph's operations come from in your code.
    """

    graph: ComputeGraph | None = None
    schedule: Schedule | None = None
    places: Places = NO_PLACES

    def __post_init__(self) -> None:
        PlanValues.__post_init__(self)
        if self.schedule is not None and self.graph is None:
            raise ValueError("a plan with a schedule must have the graph that it schedules")
        self.places.check(self.graph)

    def __str__(self) -> str:
        timelines = None if self.schedule is None else self.timeline()
        return tables.text(self, tables.Surroundings(timelines=timelines))

    def __repr__(self) -> str:
        return f"<Plan: {described(self)}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the answer, the ledger and the memory over the step."""
        from autockpt.report.page.rendering import notebook_html

        planned = self.schedule is not None and bool(self.schedule.steps)
        return notebook_html(self, self.timeline() if planned else None)

    def timeline(self) -> StepTimelines:
        """Returns the memory of the step over time, in eager PyTorch and under this plan.

        Raises:
            ValueError: The plan has no schedule: the model runs as it is, and was not captured.
        """
        if self.graph is None or self.schedule is None:
            raise ValueError(
                "this plan has no timeline: nothing was captured, the model runs as it is"
            )
        return timelines(self, self.graph, self.schedule, self.places)

    def curve(
        self,
        budgets: int | Sequence[int | str | Budget] | None = None,
        *,
        method: str | Method = "auto",
        time_limit_s: float | None = None,
    ) -> Curve:
        """Returns what other budgets cost for the same step, from one search of the plan's graph.

        Args:
            budgets: The budgets, as for :func:`optimize`; or how many to choose between the
                smallest workable one and the eager peak, 20 by default.
            method: The solver's method.
            time_limit_s: When to end the search, in seconds, for all budgets together; 8 by
                default. It counts from when the smallest budget is known.

        Raises:
            TypeError: A budget has the wrong type.
            ValueError: The plan has no graph or is for several calls that share a backward, or a
                budget or the method is unknown.
        """
        return search.curve_of(self, self.graph, budgets, method=method, time_limit_s=time_limit_s)

    def to_html(
        self, path: str | os.PathLike[str] | None = None, *, curve: bool | Curve = True
    ) -> str:
        """Returns the plan as a page: one file of HTML that loads and sends nothing.

        The page shows the memory of the step over time, in eager PyTorch and under the plan, what
        is in memory at any moment, what other budgets cost, the modules, and the rewritten forward
        and backward as code. The plan and a trace for Perfetto can be downloaded from it.

        Args:
            path: A file to write the page to; it is written whole or not at all.
            curve: What other budgets cost, from `curve`; True searches for it, in about ten
                seconds. False leaves it out.

        Raises:
            OSError: The file cannot be written.
        """
        from autockpt.report.page.rendering import plan_html

        planned = self.schedule is not None and bool(self.schedule.steps)
        shown = curve if isinstance(curve, Curve) else None
        # Several calls that share a backward have none.
        if curve is True and planned and not self.fixed.other_calls_bytes:
            shown = self.curve(_NUM_BUDGETS, time_limit_s=_CURVE_S)
        page = plan_html(
            self,
            self.timeline() if planned else None,
            json_text=self.to_json(),
            curve=shown,
        )
        if path is not None:
            plan_file.write_whole(path, page, what="write the page to")
        return page

    def to_json(self) -> str:
        """Returns the plan as JSON text made for diffs: sorted keys, one row per line."""
        return json_text.dumps(self, self.graph, self.schedule, self.places)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote and checks all of it.

        The simulator replays the schedule, so that a file edited by hand cannot ask for a step that
        does not work.

        Raises:
            TypeError: If the text is not a str.
            ValueError: If the text is not a plan, is of another version, or is damaged.
        """
        return json_text.loads(text, cls)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan to a file that `load` reads; the file is written whole or not at all.

        Args:
            path: The file. An older file of that name is replaced.

        Raises:
            OSError: The file cannot be written: there is no such folder, it is a folder, you may
                not write there, the disk is full.
        """
        plan_file.write_whole(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a plan from a file, and checks all of it as `from_json` does.

        Args:
            path: A file that `save` wrote.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file is not a plan, is of another version, or is damaged.
        """
        text = plan_file.read_text(path)
        try:
            return cls.from_json(text)
        except ValueError as error:
            raise ValueError(f"cannot load a plan from {os.fspath(path)}: {error}") from error
