"""Runs the cells of an experiment that have no result yet."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

import autockpt_solvers as engine
from autockpt.api import plan
from autockpt.budget import Budget, parse_budget
from autockpt.dispatch.kept import none_kept
from autockpt.errors import AutockptError
from autockpt.experiments.results import Captured, Cell, Results, key_of
from autockpt.experiments.spec import Budgets, Experiment, Model
from autockpt.profile.cost_model import CostModel
from autockpt.report.plan import Plan
from autockpt.zoo import Example

# The points of a number of budgets are closer together near the smallest, where a curve is steep.
_BEND = 1.5
_WARM_UP_S = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What names of an experiment stand for, and hashes of the files that they lead to.

    Attributes:
        build: Returns a model on a device, with its loss.
        methods: By the name in the experiment: the method.
        cost: The cost model.
        device: Returns what `autockpt.plan` takes as the device.
        version_of: Returns a hash of the code that a name leads to.
        environment: Versions of everything that decides a result.
    """

    build: Callable[[Model, str], Example]
    methods: dict[str, str | engine.Method]
    cost: CostModel | None
    device: Callable[[str], Any]
    version_of: Callable[[str], str]
    environment: dict[str, str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What the run does next.

    Attributes:
        what: In words.
        num_done: How many cells are done.
        num_all: How many there are, as far as is known.
    """

    what: str
    num_done: int
    num_all: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All results of an experiment that are known, in its order.

    Attributes:
        captured: The captured models.
        cells: The cells.
        problems: Models that could not be captured, and why.
        num_solved: How many cells were solved in this run; the others were known.
    """

    captured: tuple[Captured, ...]
    cells: tuple[Cell, ...]
    problems: tuple[str, ...]
    num_solved: int


class Run:
    """A run of an experiment."""

    def __init__(self, experiment: Experiment, sources: Sources, results: Results) -> None:
        self._experiment = experiment
        self._sources = sources
        self._results = results
        self._captured: list[Captured] = []
        self._cells: list[Cell] = []
        self._problems: list[str] = []
        self._num_solved = 0
        self._graph: engine.ComputeGraph | None = None

    @property
    def outcome(self) -> Outcome:
        """What is known so far."""
        return Outcome(
            captured=tuple(self._captured),
            cells=tuple(self._cells),
            problems=tuple(self._problems),
            num_solved=self._num_solved,
        )

    @property
    def num_cells(self) -> int:
        """How many cells the experiment has."""
        experiment = self._experiment
        budgets = sum(_count(model.budgets or experiment.budgets) for model in experiment.models)
        return budgets * len(experiment.methods) * len(experiment.devices)

    def steps(self) -> Iterator[Step]:
        """Run the experiment; yields before each thing that takes time.

        Raises:
            ExperimentError: A result cannot be written.
        """
        done, num_all = 0, self.num_cells
        for model in self._experiment.models:
            for device in self._experiment.devices:
                self._graph = None
                key = self._captured_key(model, device)
                captured = self._results.find(Captured, key)
                if captured is None:
                    where = f"{model.label} on {device}"
                    yield Step(what=f"{where}: capturing", num_done=done, num_all=num_all)
                    made = self._captured_plan(model, device)
                    if made is not None:
                        what = f"{where}: searching for the smallest budget"
                        yield Step(what=what, num_done=done, num_all=num_all)
                        captured = self._described(made, model, device, key)
                budgets = model.budgets or self._experiment.budgets
                if captured is None:
                    done += _count(budgets) * len(self._experiment.methods)
                    continue
                self._captured.append(captured)
                for method in self._experiment.methods:
                    for name, budget_bytes in _budgets(budgets, captured):
                        key = self._cell_key(captured, method, budget_bytes)
                        cell = self._results.find(Cell, key)
                        if cell is None:
                            what = f"{model.label} on {device}: {method} at {name}"
                            yield Step(what=what, num_done=done, num_all=num_all)
                            cell = self._solve(model, captured, method, name, budget_bytes, key)
                        if cell is not None:
                            self._cells.append(cell)
                        done += 1
        self._graph = None

    def _captured_key(self, model: Model, device: str) -> str:
        experiment, version_of = self._experiment, self._sources.version_of
        options = {
            name: getattr(model, name)
            for name in model.__struct_fields__
            if name not in ("budgets", "optimizer")
        }
        return key_of(
            model=options,
            optimizer=model.optimizer or experiment.optimizer,
            device=device,
            cost=experiment.cost,
            code=[version_of(name) for name in (model.target, model.loss, experiment.cost) if name],
            environment=self._sources.environment,
        )

    def _cell_key(self, captured: Captured, method: str, budget_bytes: int) -> str:
        return key_of(
            captured=captured.key,
            method=method,
            code=self._sources.version_of(method),
            budget_bytes=budget_bytes,
            time_limit_s=self._experiment.time_limit_s,
        )

    def _planned(self, model: Model, device: str) -> Plan:
        """The plan that recomputes nothing, for its graph."""
        example = self._sources.build(model, device)
        with none_kept():
            return plan(
                example.model,
                Budget(percent=100.0),
                sample_args=example.args,
                sample_kwargs=dict(example.kwargs),
                loss_fn=example.loss_fn,
                optimizer=model.optimizer or self._experiment.optimizer,
                method="none",
                cost=self._sources.cost,
                device=self._sources.device(device),
                progress=False,
            )

    def _captured_plan(self, model: Model, device: str) -> Plan | None:
        """The plan that recomputes nothing; None, and a problem more, if there is none."""
        try:
            made = self._planned(model, device)
        except (AutockptError, ModuleNotFoundError) as error:
            self._problems.append(f"{model.label} on {device}: {error}")
            return None
        if made.graph is None:
            self._problems.append(f"{model.label} on {device}: nothing of it could be captured")
            return None
        return made

    def _described(self, made: Plan, model: Model, device: str, key: str) -> Captured:
        """What is kept of a captured model, on disk too."""
        assert made.graph is not None
        self._graph = made.graph
        fixed_bytes = made.fixed.total_bytes + made.older_gradients_bytes
        least = engine.minimum_budget(made.graph, time_limit_s=self._experiment.time_limit_s)
        free = engine.simulate(made.graph, engine.baseline_schedule(made.graph)).peak_bytes
        captured = Captured(
            key=key,
            model=model.label,
            device=device,
            cost_source=made.cost_source,
            num_ops=len(made.graph.ops),
            fixed_bytes=fixed_bytes,
            eager_peak_bytes=made.baseline_peak_bytes,
            free_bytes=free + fixed_bytes,
            step_ns=made.baseline_step_ns,
            least_bytes=least.peak_bytes + fixed_bytes,
            least_bound_bytes=least.lower_bound_bytes + fixed_bytes,
        )
        self._results.add(captured)
        return captured

    def _solve(
        self,
        model: Model,
        captured: Captured,
        method: str,
        budget: str,
        budget_bytes: int,
        key: str,
    ) -> Cell | None:
        if self._graph is None:
            self._graph = self._planned(model, captured.device).graph
            assert self._graph is not None
            # What is compiled once per process is no time of the method.
            engine.minimum_budget(self._graph, time_limit_s=_WARM_UP_S)
        problem = engine.Problem(
            graph=self._graph, budget_bytes=budget_bytes, fixed_bytes=captured.fixed_bytes
        )
        asked = Cell(
            key=key,
            captured=captured.key,
            model=model.label,
            device=captured.device,
            method=method,
            budget=budget,
            budget_bytes=budget_bytes,
            status="",
        )
        began_cpu_s = time.process_time()
        try:
            result = engine.solve(
                problem,
                method=self._sources.methods[method],
                time_limit_s=self._experiment.time_limit_s,
            )
        except (engine.MethodError, ValueError) as error:
            # Not kept: the method may be mended, or a graph be small enough next time.
            self._problems.append(f"{asked.model}, {method} at {budget}: {error}")
            return None
        self._num_solved += 1
        step_ns = max(1, captured.step_ns)
        cell = msgspec.structs.replace(
            asked,
            status=result.status.value,
            peak_bytes=0 if result.schedule is None else result.peak_bytes,
            recompute_ns=result.recompute_ns,
            lower_bound_ns=result.lower_bound_ns,
            overhead=result.recompute_ns / step_ns,
            lower_bound=result.lower_bound_ns / step_ns,
            bound_class=result.bound_class,
            solve_s=result.solve_time_s,
            solve_cpu_s=time.process_time() - began_cpu_s,
        )
        self._results.add(cell)
        return cell


def _count(budgets: Budgets) -> int:
    return budgets if isinstance(budgets, int) else len(budgets)


def _budgets(budgets: Budgets, captured: Captured) -> Iterator[tuple[str, int]]:
    """The budgets for a model, each with its name."""
    eager_bytes, least_bytes = captured.eager_peak_bytes, captured.least_bytes
    if not isinstance(budgets, int):
        for budget in budgets:
            yield str(budget), parse_budget(budget).resolve(eager_bytes)
        return
    steps = max(1, budgets - 1)
    for k in range(budgets):
        share = (k / steps) ** _BEND
        budget_bytes = least_bytes + int((max(eager_bytes, least_bytes) - least_bytes) * share)
        yield f"{budget_bytes / eager_bytes:.1%}", budget_bytes
