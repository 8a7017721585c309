"""What the other choice costs is what the simulator says of it; plain checkpointing too."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re

import pytest
import torch
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import autockpt
from autockpt.choices.explain import DROPPED, RECOMPUTED, SAVED, explain
from autockpt.choices.levels import levels_of
from autockpt.choices.modules import named_ops
from autockpt.choices.plain import nearest_plain
from autockpt.report.plan import Plan
from autockpt_solvers import (
    Problem,
    baseline_schedule,
    minimum_budget,
    simulate,
    with_frees,
)
from tests.small_plans import FIXED, MIB, planned


def _with_order(plan: Plan, order: list[int]) -> Plan:
    assert plan.graph is not None
    return dataclasses.replace(plan, schedule=with_frees(plan.graph, order))


def _baseline(plan: Plan) -> Plan:
    assert plan.graph is not None
    return dataclasses.replace(plan, schedule=baseline_schedule(plan.graph))


def test_names_mean_modules_folded_modules_and_operations() -> None:
    plan = planned(0.5)
    graph = plan.graph
    assert graph is not None

    def names(name: str) -> list[str]:
        return [graph.ops[at].name for at in named_ops(graph, name)]

    assert names("gelu_3") == ["gelu_3"]
    assert names("layer.2.mlp") == ["gelu_2", "addmm_2"]
    assert names("layer.2") == names("layer.2.mlp")
    assert names("layer.[0-1,4].mlp") == names("layer.0") + names("layer.1") + names("layer.4")
    assert len(names("layer")) == 12
    with pytest.raises(ValueError, match=r"'dx_1' is an operation of the backward"):
        named_ops(graph, "dx_1")
    with pytest.raises(ValueError, match=r"no operation 'gelu_33' .* did you mean 'gelu_3'"):
        named_ops(graph, "gelu_33")
    with pytest.raises(ValueError, match=r"there is no module and no operation 'layer.\[x\]'"):
        named_ops(graph, "layer.[x]")


def test_what_is_saved_can_be_recomputed_instead() -> None:
    plan = _baseline(planned(0.5))
    graph = plan.graph
    assert graph is not None
    (gelu,) = named_ops(graph, "gelu_2")
    explanation = explain(plan, (gelu,))
    assert [each.choice for each in explanation.choices] == [SAVED]
    assert explanation.at_peak_bytes == 16 * MIB
    (other,) = explanation.others
    assert other.choice == RECOMPUTED
    assert other.more_ns == graph.ops[gelu].runtime_ns
    # The order that anyone would write down: again just before the first backward op that reads it.
    order = list(baseline_schedule(graph).compute_order)
    order.insert(
        order.index(next(at for at, op in enumerate(graph.ops) if op.name == "dw_2")), gelu
    )
    then = simulate(graph, with_frees(graph, order))
    assert other.peak_bytes == FIXED.total_bytes + then.peak_bytes
    now = simulate(graph, baseline_schedule(graph))
    assert other.more_bytes == then.peak_bytes - now.peak_bytes < 0


def test_what_is_recomputed_can_be_saved_instead_and_what_only_served_it_is_left_out() -> None:
    plan = planned(0.5)
    graph = plan.graph
    assert graph is not None
    ops = {op.name: at for at, op in enumerate(graph.ops)}
    order = list(baseline_schedule(graph).compute_order)
    # Both operations of layer 2 run again; the first only for the second, which dx_3 reads.
    place = order.index(ops["dw_3"])
    order[place:place] = [ops["gelu_2"], ops["addmm_2"]]
    both = _with_order(plan, order)
    explanation = explain(both, (ops["addmm_2"],))
    (other,) = explanation.others
    assert other.choice == SAVED
    assert other.more_ns <= -graph.ops[ops["addmm_2"]].runtime_ns
    # Saving it and running gelu_2 once is the schedule without repeats up to that.
    whole = explain(both, (ops["gelu_2"], ops["addmm_2"]))
    saved = next(other for other in whole.others if other.choice == SAVED)
    assert saved.more_ns == -sum(graph.ops[ops[name]].runtime_ns for name in ("gelu_2", "addmm_2"))
    assert saved.peak_bytes == FIXED.total_bytes + (
        simulate(graph, baseline_schedule(graph)).peak_bytes
    )


def test_what_no_backward_needs_and_what_cannot_run_again_have_no_other_choice() -> None:
    x = torch.ones(8, 4)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Softmax(-1))
    plan = autockpt.plan(model, "200%", sample_args=(x,), loss_fn=torch.sum, method="none")
    assert plan.graph is not None
    explanation = explain(plan, named_ops(plan.graph, "0"))
    assert {each.choice for each in explanation.choices} == {DROPPED}
    assert explanation.others == ()
    plan = _baseline(planned(0.5))
    graph = plan.graph
    assert graph is not None
    (embed,) = explain(plan, named_ops(graph, "embed")).choices
    assert (embed.choice, embed.can_run_again) == (SAVED, False)
    assert explain(plan, named_ops(graph, "embed")).others == ()


def test_a_plan_that_runs_the_model_as_it_is_has_nothing_to_explain() -> None:
    plan = dataclasses.replace(planned(0.5), schedule=None)
    with pytest.raises(ValueError, match="the model runs as it is"):
        explain(plan, (0,))


class _Layers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.h = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Linear(32, 128), torch.nn.GELU(), torch.nn.Linear(128, 32))
            for _ in range(4)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.h:
            x = x + layer(x)
        return x.sum()


def _code(lines: tuple[str, ...], **names: object) -> dict[str, object]:
    """What is defined once the lines to paste have run."""
    exec("\n".join(lines), names)  # noqa: S102 - it is what somebody pastes
    return names


def test_the_lines_to_paste_checkpoint_the_layers_and_need_what_is_said() -> None:
    x = torch.ones(512, 32)
    torch.manual_seed(0)
    model = _Layers()
    plan = autockpt.plan(model, "55%", sample_args=(x,), optimizer="sgd", method="greedy")
    (way,) = nearest_plain(plan)
    assert way.fits
    assert way.peak_bytes <= plan.budget_bytes
    assert way.name.startswith("checkpoint ")
    eager_bytes = autockpt.measure_peak_bytes(lambda: model(x).backward())
    model.zero_grad(set_to_none=True)
    _code(way.code, model=model)
    assert isinstance(model.h[0].forward, functools.partial)
    assert model.h[0].forward.func is checkpoint
    measured_bytes = autockpt.measure_peak_bytes(lambda: model(x).backward())
    fixed_bytes = plan.fixed.total_bytes
    assert measured_bytes < eager_bytes
    # torch keeps a little beside tensors, such as the state of random generators.
    assert measured_bytes == pytest.approx(way.peak_bytes - fixed_bytes, rel=0.1)


class _Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(32, 128), torch.nn.Linear(128, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


class _Stack(torch.nn.Module):
    """Lists in two parts, and in one of them a list in each item of a list."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.ModuleDict(
            {"layer": torch.nn.ModuleList(_Block() for _ in range(3))}
        )
        self.decoder = torch.nn.ModuleList(
            torch.nn.ModuleList(_Block() for _ in range(2)) for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in itertools.chain(self.encoder["layer"], *self.decoder):
            x = block(x)
        return x.sum()


def test_layers_of_several_and_of_nested_lists_are_checkpointed() -> None:
    """Only the outermost lists were looked at: here that is a list of lists, which never runs."""
    x = torch.ones(512, 32)
    torch.manual_seed(0)
    model = _Stack()
    plan = autockpt.plan(model, "60%", sample_args=(x,), optimizer="sgd", method="greedy")
    (way,) = nearest_plain(plan, model)
    assert way.fits
    assert "of 7 layers" in way.name
    assert not any("itself a list" in line for line in way.code)
    fixed_bytes = plan.fixed.total_bytes
    _code(way.code, model=model)
    chosen = [m for m in model.modules() if isinstance(m.forward, functools.partial)]
    assert {type(m) for m in chosen} == {_Block}
    assert way.name == f"checkpoint {len(chosen)} of 7 layers"
    measured_bytes = autockpt.measure_peak_bytes(lambda: model(x).backward())
    assert measured_bytes == pytest.approx(way.peak_bytes - fixed_bytes, rel=0.1)


def test_a_file_does_not_say_whether_layers_are_lists() -> None:
    plan = planned(0.5)
    assert plan.graph is not None
    ops = tuple(
        dataclasses.replace(op, segment=op.segment.replace(".mlp", ".0")) for op in plan.graph.ops
    )
    nested = dataclasses.replace(plan, graph=dataclasses.replace(plan.graph, ops=ops))
    (way,) = nearest_plain(nested)
    is_outer = any(re.fullmatch(r"for layer in model\.layer.*", line) for line in way.code)
    assert is_outer == any("itself a list" in line for line in way.code)
    assert is_outer


@pytest.mark.parametrize(
    ("segments", "levels"),
    [
        (["a", "h.0.x", "h.1.x"], [("h.0", "h.1")]),
        (
            ["e.layer.0.x", "d.layer.0", "d.layer.1.y"],
            [("e.layer.0", "d.layer.0", "d.layer.1")],
        ),
        (
            ["down.0.res.0.conv", "down.0.res.1.conv", "down.0.up", "mid.res.0"],
            [("down.0", "mid.res.0"), ("down.0.res.0", "down.0.res.1", "mid.res.0")],
        ),
        (["b.0.0", "b.0.1", "b.1.0"], [("b.0", "b.1"), ("b.0.0", "b.0.1", "b.1.0")]),
        (["", "embed"], []),
    ],
)
def test_levels_of_lists(segments: list[str], levels: list[tuple[str, ...]]) -> None:
    assert list(levels_of(segments)) == levels
    lists = {"b.0", "b.1"}
    inner = [level for level in levels if not lists & set(level)]
    assert list(levels_of(segments, lambda path: path not in lists)) == inner


def test_a_model_that_is_a_list_is_cut_by_checkpoint_sequential_too() -> None:
    x = torch.ones(512, 32)
    model = torch.nn.Sequential(
        *itertools.chain.from_iterable((torch.nn.Linear(32, 32), torch.nn.GELU()) for _ in range(6))
    )
    plan = autockpt.plan(
        model, "70%", sample_args=(x,), loss_fn=torch.sum, optimizer="sgd", method="greedy"
    )
    ways = nearest_plain(plan)
    assert [way.name.split()[0] for way in ways] == ["checkpoint", "checkpoint_sequential"]
    sequential = ways[1]
    names = _code(sequential.code, model=model, x=x.requires_grad_())
    assert names["checkpoint_sequential"] is checkpoint_sequential
    assert torch.equal(names["output"], model(x))  # type: ignore[arg-type]


def test_without_layers_or_a_graph_there_is_no_plain_way() -> None:
    plan = planned(0.5, segment="layer")
    assert plan.graph is not None
    ops = tuple(dataclasses.replace(op, segment="") for op in plan.graph.ops)
    bare = dataclasses.replace(plan, graph=dataclasses.replace(plan.graph, ops=ops))
    assert nearest_plain(bare) == ()
    with pytest.raises(ValueError, match="no graph"):
        nearest_plain(
            dataclasses.replace(plan, graph=None, schedule=None, places=type(plan.places)())
        )


def test_if_no_choice_of_layers_fits_the_leanest_is_told() -> None:
    plan = planned(0.5)
    assert plan.graph is not None
    problem = Problem(graph=plan.graph, budget_bytes=1)
    least_bytes = minimum_budget(problem.graph, method="greedy").peak_bytes
    tight = dataclasses.replace(plan, budget_bytes=FIXED.total_bytes + least_bytes)
    (way,) = nearest_plain(tight)
    assert way.fits == (way.peak_bytes <= tight.budget_bytes)
    assert way.peak_bytes <= nearest_plain(plan)[0].peak_bytes
