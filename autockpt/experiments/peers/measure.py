"""Measures a peer and autockpt at the peer's peak: memory, processor time, and bits.

Steps of eager PyTorch, of the peer and of autockpt are run in turns in one process, so that other
load on the machine meets all three alike, and their processor time is compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import statistics
import time
from collections.abc import Callable

import msgspec
import torch

from autockpt.api import get_plan, optimize
from autockpt.dispatch.kept import none_kept
from autockpt.errors import BudgetError
from autockpt.experiments.peers.models import PeerModel, built
from autockpt.experiments.peers.ways import Way, copied, ways_of
from autockpt.experiments.side_by_side import Trainer
from autockpt.verify.bits import same_bits
from autockpt.zoo.example import Example

_NUM_STEPS = 3  # before bits are compared


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a race.

    Attributes:
        peak_bytes: The measured peak of a step, everything counted.
        times: Its processor time over that of eager PyTorch, for each round.
        is_same: Whether losses, gradients, parameters and buffers match eager's bit for bit.
        max_difference: The largest difference of a loss from eager's, relative to it.
        what_differs: The first kind of tensor that differs.
    """

    peak_bytes: int
    times: tuple[float, ...]
    is_same: bool
    max_difference: float = 0.0
    what_differs: str = ""

    @property
    def ratio(self) -> float:
        """The median of `times`."""
        return statistics.median(self.times)


class Race(msgspec.Struct, frozen=True, kw_only=True, tag="race"):
    """A peer, and autockpt with the peer's peak as its budget.

    Attributes:
        key: What it is found by.
        model: The model's title.
        way: The peer's name.
        eager_peak_bytes: The peak of eager PyTorch.
        eager_s: Processor seconds of an eager step.
        peer: The peer.
        ours: autockpt; None if no plan fits.
        least_bytes: The smallest budget that autockpt can meet, if the peer's peak is below it.
        note: What else there is to say.
    """

    key: str
    model: str
    way: str
    eager_peak_bytes: int
    eager_s: float
    peer: Measured
    ours: Measured | None
    least_bytes: int = 0
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How races are run.

    Attributes:
        num_rounds: How often each side runs a step.
        time_limit_s: Time limit of the search for a plan; None for the usual one.
    """

    num_rounds: int = 11
    time_limit_s: float | None = None


def chosen_ways(model: PeerModel) -> list[Way]:
    """The ways to compare with on a model; of a family whose best counts, the leanest one."""
    example = built(model)
    chosen: dict[str, Way] = {}
    peaks: dict[str, int] = {}
    for way in ways_of(model, example):
        if not way.is_best_of:
            chosen[way.name] = way
            continue
        peak_bytes = _peak_bytes(_trainer(model, way.apply, way.compiling))
        if peak_bytes < peaks.get(way.family, peak_bytes + 1):
            peaks[way.family] = peak_bytes
            chosen[way.family] = way
    return list(chosen.values())


def race(model: PeerModel, way: Way, rules: Rules, key: str) -> Race:
    """Run a race on a model."""
    eager = _trainer(model, copied)
    peer = _trainer(model, way.apply, way.compiling)
    expected = _trained(eager)
    peer_state = _trained(peer)
    eager_bytes, peer_bytes = eager.peak_bytes(), peer.peak_bytes()
    ours, note, least_bytes = _ours(model, peer_bytes, rules)
    sides = [eager, peer, *([] if ours is None else [ours])]
    our_state = None if ours is None else _trained(ours)
    our_bytes = 0 if ours is None else ours.peak_bytes()
    times = _in_turns(sides, rules.num_rounds)
    found = Race(
        key=key,
        model=model.title,
        way=way.name,
        eager_peak_bytes=eager_bytes,
        eager_s=statistics.median(times[0]),
        peer=_measured(peer_bytes, times[1], times[0], peer_state, expected),
        ours=None
        if our_state is None
        else _measured(our_bytes, times[2], times[0], our_state, expected),
        least_bytes=least_bytes,
        note=note,
    )
    del eager, peer, ours, sides
    torch.compiler.reset()
    gc.collect()
    return found


def _trainer(
    model: PeerModel,
    apply: Callable[[Example], Example],
    compiling: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> Trainer:
    """A trainer that has run one step, from the same weights for every way."""
    example = apply(built(model))
    trainer = Trainer(example)
    with compiling():
        trainer.step()
    _restore(trainer, model)
    return trainer


def _restore(trainer: Trainer, model: PeerModel) -> None:
    """Set parameters, buffers and the optimizer back; names may differ, but not the order."""
    fresh = built(model).model
    with torch.no_grad():
        for mine, first in (
            *zip(trainer.model.parameters(), fresh.parameters(), strict=True),
            *zip(trainer.model.buffers(), fresh.buffers(), strict=True),
        ):
            mine.copy_(first)
    trainer.optimizer = torch.optim.AdamW(trainer.model.parameters(), lr=1e-3)


_State = dict[str, list[torch.Tensor]]


def _trained(trainer: Trainer) -> _State:
    """Copies of the losses of a few steps, and of what they leave."""
    torch.manual_seed(0)
    left = {"losses": [trainer.step() for _ in range(_NUM_STEPS)]}
    parameters = list(trainer.model.parameters())
    left["gradients"] = [p.grad for p in parameters if p.grad is not None]
    left["parameters"] = [p.detach() for p in parameters]
    left["buffers"] = list(trainer.model.buffers())
    return {kind: [t.clone() for t in tensors] for kind, tensors in left.items()}


def _peak_bytes(trainer: Trainer) -> int:
    trainer.step()
    return trainer.peak_bytes()


def _ours(model: PeerModel, budget_bytes: int, rules: Rules) -> tuple[Trainer | None, str, int]:
    """Autockpt within a budget; else why not, and the smallest budget."""
    example = built(model)
    try:
        with none_kept():
            optimize(
                example.model,
                budget_bytes,
                sample_args=example.args,
                sample_kwargs=dict(example.kwargs),
                loss_fn=example.loss_fn,
                optimizer="adamw",
                time_limit_s=rules.time_limit_s,
                progress=False,
            )
    except BudgetError as error:
        return None, "", error.minimum_peak_bytes
    plan = get_plan(example.model)
    assert plan is not None
    note = f"planned +{plan.overhead:.1%}, at least +{plan.lower_bound:.1%}"
    return Trainer(example), note if plan.recompute_ns else "nothing recomputed", 0


def _in_turns(sides: list[Trainer], num_rounds: int) -> list[list[float]]:
    """Processor seconds of each side's steps, run in turns after one step that does not count."""
    for side in sides:
        side.step()
    gc.collect()
    seconds: list[list[float]] = [[] for _ in sides]
    for number in range(num_rounds):
        order = list(range(len(sides)))
        for k in order if number % 2 == 0 else reversed(order):
            seconds[k].append(_step_s(sides[k]))
    return seconds


def _step_s(trainer: Trainer) -> float:
    began_s = time.process_time()
    trainer.step()
    return time.process_time() - began_s


def _measured(
    peak_bytes: int,
    seconds: list[float],
    eager_seconds: list[float],
    state: _State,
    expected: _State,
) -> Measured:
    differing = (
        kind
        for kind, tensors in expected.items()
        if len(tensors) != len(state[kind]) or not all(map(same_bits, state[kind], tensors))
    )
    losses = zip(state["losses"], expected["losses"], strict=True)
    what = next(differing, "")
    return Measured(
        peak_bytes=peak_bytes,
        times=tuple(mine / theirs for mine, theirs in zip(seconds, eager_seconds, strict=True)),
        is_same=not what,
        what_differs=what,
        max_difference=max(float((a - b).abs() / b.abs()) for a, b in losses),
    )
