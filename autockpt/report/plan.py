"""The plan: what is decided for a model, as a value to print, to keep and to apply again."""

from __future__ import annotations

from dataclasses import dataclass, replace

from autockpt.report import json_text as plan_text
from autockpt.report import tables as report
from autockpt.report.parts import FixedBytes, ModuleRow, check_not_negative
from autockpt_solvers import ComputeGraph, Schedule, ScheduleError, SolveStatus, simulate

_FORMAT = "autockpt plan"
_VERSION = 1
COST_SOURCES = ("measured", "roofline")
RUNGS = ("whole", "blocks", "checkpoint", "eager")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A decided training step; `str(plan)` is the report.

    All peaks are totals: parameters, buffers, gradients, optimizer state, inputs, activations,
    transients and workspace.

    Attributes:
        budget_bytes: The budget.
        predicted_peak_bytes: Peak of a step under this plan, by simulation.
        baseline_peak_bytes: Peak of the step as eager PyTorch runs it, by simulation.
        minimum_peak_bytes: Least peak that the method found: a budget of this much is enough.
        baseline_step_ns: Time of all operations of a step, each run once.
        recompute_ns: Time of the operations that run again.
        lower_bound_ns: No plan of the bound's class recomputes less within the budget.
        status: Whether the plan is proven optimal (in the bound's class).
        method: Name of the solver's method.
        solve_time_s: Time the solver took.
        measured_peak_bytes: Peak of a real step, once there was one; else None.
        fixed: What stands in memory whatever the plan.
        gradients_bytes: All gradients together, as they stand when the backward is done.
        optimizer_name: The optimizer whose state is counted.
        optimizer_assumed: True where nobody named the optimizer.
        cost_source: Where times come from: `"measured"` on the device, or a `"roofline"` estimate.
        device: The device planned for.
        num_graphs: Number of graphs that the model was captured in.
        rung: How the step is run: `"whole"` as captured graphs of the forward, `"blocks"` with its
            blocks captured one by one, `"checkpoint"` with calls of modules checkpointed, nothing
            captured, `"eager"` as it was.
        rows: What happens to each module, in the order of the forward.
        notes: Anything else worth knowing, one sentence each.
        graph: The graph that was planned; with `schedule`, what applying the plan again needs.
        schedule: What runs when, and when memory is let go.
    """

    budget_bytes: int
    predicted_peak_bytes: int
    baseline_peak_bytes: int
    minimum_peak_bytes: int
    baseline_step_ns: int
    recompute_ns: int
    lower_bound_ns: int
    status: SolveStatus
    method: str
    solve_time_s: float
    fixed: FixedBytes
    gradients_bytes: int
    optimizer_name: str
    optimizer_assumed: bool
    cost_source: str
    device: str
    num_graphs: int
    rows: tuple[ModuleRow, ...]
    rung: str = "whole"
    measured_peak_bytes: int | None = None
    notes: tuple[str, ...] = ()
    graph: ComputeGraph | None = None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        check_not_negative(self)
        for name, known in (("cost_source", COST_SOURCES), ("rung", RUNGS)):
            if getattr(self, name) not in known:
                names = " or ".join(map(repr, known))
                raise ValueError(f"{name} must be {names}, got {getattr(self, name)!r}")
        if self.schedule is not None and self.graph is None:
            raise ValueError("a plan with a schedule must have the graph that it schedules")

    @property
    def overhead(self) -> float:
        """Time of recomputation as a share of the baseline step."""
        return self._share_of_step(self.recompute_ns)

    @property
    def lower_bound(self) -> float:
        """Overhead that no plan of the bound's class gets below."""
        return self._share_of_step(self.lower_bound_ns)

    @property
    def gap(self) -> float:
        """Share of the recomputation that a better plan of the bound's class might save, 0 to 1."""
        if self.recompute_ns <= self.lower_bound_ns:
            return 0.0
        return (self.recompute_ns - self.lower_bound_ns) / self.recompute_ns

    @property
    def leaves_the_model(self) -> bool:
        """Whether the model fits as it is, so that nothing is rewritten."""
        return self.recompute_ns == 0 and self.budget_bytes >= self.baseline_peak_bytes

    def as_it_is(self) -> Plan:
        """The plan with the peak of the model as it is: eager writes in place less than a plan."""
        peak_bytes = max(self.predicted_peak_bytes, self.baseline_peak_bytes)
        return replace(self, predicted_peak_bytes=peak_bytes)

    @property
    def num_recomputed_ops(self) -> int:
        """Number of operations that run again."""
        return sum(row.num_recomputed_ops for row in self.rows)

    def _share_of_step(self, time_ns: int) -> float:
        return time_ns / self.baseline_step_ns if self.baseline_step_ns else 0.0

    def __str__(self) -> str:
        return report.text(self)

    def to_json(self) -> str:
        """Returns the plan as JSON text made for diffs: sorted keys, one row per line."""
        document = plan_text.encode(self)
        return plan_text.dumps({"format": _FORMAT, "version": _VERSION, **document})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Reads what `to_json` wrote, checking all of it.

        A schedule is replayed by the simulator, so that a file changed by hand cannot ask for a
        step that does not work.

        Raises:
            ValueError: If the text is no plan, is of another version, or is damaged.
        """
        document = plan_text.loads(text)
        if document.pop("format", None) != _FORMAT:
            raise ValueError(f'this is not a plan: it must say "format": "{_FORMAT}"')
        version = document.pop("version", None)
        if version != _VERSION:
            raise ValueError(
                f"this plan is of version {version!r}, this autockpt reads version {_VERSION}; "
                "make the plan again"
            )
        plan = plan_text.decode(cls, document, (FixedBytes, ModuleRow))
        if plan.graph is not None and plan.schedule is not None:
            try:
                simulate(plan.graph, plan.schedule)
            except ScheduleError as error:
                raise ValueError(f"this plan is damaged: its schedule fails: {error}") from error
        return plan
