"""A trial of a program: trained eagerly and optimized, and everything compared to the bit."""

from __future__ import annotations

import copy
import dataclasses
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from fuzz_loops import (
    EXPECTED,
    MAY_DIFFER,
    MAY_EXCEED,
    is_plain,
    loop_peak_bytes,
    older_bytes,
    tensors_in,
    train_by_loop,
)
from fuzz_programs import Program, batch, build, loss_of
from training import Record, differing, gradient_bytes, peak_bytes, resting_bytes, train_on

import autockpt

_TIME_LIMIT_S = 0.2
# An unverified plan promises what it predicts; verified ones are held to the byte.
_PREDICTION_TOLERANCE = 0.05
# Each rung of the ladder names a least, and a new one once verification has measured or refused it.
_MAX_BUDGETS = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of a trial.

    ``passed`` and ``refused`` (a clear error, and the model trained on as eager) are well, and so
    is ``told``: a warning said that a step of this kind of loop exceeds the budget, or that bits of
    the first one may differ. ``invalid`` is a program that eager PyTorch itself cannot train.
    """

    kind: str
    detail: str = ""

    @property
    def is_failure(self) -> bool:
        return self.kind not in ("passed", "refused", "told", "invalid")


class TrialError(Exception):
    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def run_trial(program: Program) -> Verdict:
    """Train a program eagerly and optimized, and judge."""
    torch._dynamo.reset()
    try:
        eager = build(program)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = copy.deepcopy(eager)
            fresh = _Training(program, copy.deepcopy(eager))
            eager_peak_bytes = fresh.eager_peak_bytes()
            expected = _Training(program, eager).run()
    except Exception as error:  # noqa: BLE001 - any program that eager cannot train
        return Verdict(kind="invalid", detail=f"{type(error).__name__}: {error}")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            refusal = _optimized(program, model, eager_peak_bytes, expected, caught)
        said = [w for w in caught if _is_unexpected(w)]
        if said:
            return Verdict(kind="warning", detail=str(said[0].message))
    except TrialError as failure:
        return Verdict(kind=failure.kind, detail=str(failure))
    except Exception as error:  # noqa: BLE001 - a crash is what is looked for
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{place.filename.rpartition('/')[2]}:{place.lineno}"
        return Verdict(kind="crash", detail=f"{type(error).__name__} at {where}: {error}")
    if refusal:
        return Verdict(kind="refused", detail=refusal)
    return Verdict(kind="told" if _said(caught, MAY_DIFFER, MAY_EXCEED) else "passed")


def _said(caught: list[warnings.WarningMessage], *texts: str) -> bool:
    return any(text in str(w.message) for w in caught for text in texts)


def _is_unexpected(warning: warnings.WarningMessage) -> bool:
    text = str(warning.message)
    is_ours = "autockpt" in warning.filename or "plan" in text
    expected = ("falls back to the rung", MAY_EXCEED, *EXPECTED)
    return is_ours and not any(one in text for one in expected)


def _optimized(
    program: Program,
    model: torch.nn.Module,
    eager_peak_bytes: int,
    expected: Record,
    caught: list[warnings.WarningMessage],
) -> str:
    """Train optimized; an empty text, or the error by which the program was refused."""
    training = _Training(program, copy.deepcopy(model))
    fixed_bytes = training.resting_bytes() + training.gradient_bytes()
    fixed_bytes += older_bytes(model, program)
    budget = max(1, fixed_bytes + int(program.share * (eager_peak_bytes - fixed_bytes)))
    if program.share == 0:
        budget = 1
    refusal, got = "", None
    for attempt in range(_MAX_BUDGETS):
        try:
            # A plan made at the first call may fail there as well.
            got = training.run(budget)
        except autockpt.BudgetError as error:
            if attempt == _MAX_BUDGETS - 1 or error.minimum_peak_bytes <= budget:
                raise TrialError(
                    "budget", f"the least that was named does not do: {error}"
                ) from error
            budget = error.minimum_peak_bytes
            training = _Training(program, copy.deepcopy(model))
            continue
        except autockpt.VerificationError as error:
            kind = "verified difference" if error.differing else "verified budget"
            raise TrialError(kind, str(error)) from error
        except autockpt.AutockptError as error:
            refusal = f"{type(error).__name__}: {error}"
            if "forward" in training.model.__dict__:
                raise TrialError("after error", "the model was not restored") from error
            training = _Training(program, copy.deepcopy(model))
            got = training.run()
        break
    names = differing(expected, got)
    if names and not _said(caught, MAY_DIFFER):
        kind = "after error" if refusal else "difference"
        raise TrialError(kind, f"{len(names)} of {len(expected)}: {', '.join(names[:4])}")
    if not refusal:
        training.check_budget(budget, is_told=lambda: _said(caught, MAY_EXCEED))
    return refusal


class _Training:
    """A model and how its program trains it."""

    def __init__(self, program: Program, model: torch.nn.Module) -> None:
        self._program = program
        self.model = model

    def context(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self._program.autocast)

    def _make(self, parameters: Any, **options: Any) -> torch.optim.Optimizer:
        kinds = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
        return kinds[self._program.optimizer](parameters, **options)

    def _optimize(self, budget: int) -> None:
        program = self._program
        args, kwargs = batch(program, 0) if program.sampled else ((), {})
        is_outside = program.output in ("values", "value")
        autockpt.optimize(
            self.model,
            budget,
            sample_args=args,
            sample_kwargs=kwargs,
            loss_fn=loss_of if program.names_loss and is_outside else None,
            optimizer=program.optimizer,
            time_limit_s=_TIME_LIMIT_S,
            verify=program.verify,
        )

    def run(self, budget: int | None = None) -> Record:
        """Everything that a few steps give, optimized for a budget if there is one."""

        def plan() -> None:
            if budget is not None:
                with self.context():
                    self._optimize(budget)

        if not is_plain(self._program):
            return train_by_loop(self.model, self._program, self._make, self.context, plan)
        plan()
        batches = (batch(self._program, number) for number in range(self._program.num_steps))
        return train_on(self.model, batches, loss_fn=loss_of, make=self._make, context=self.context)

    def gradient_bytes(self) -> int:
        return gradient_bytes(self.model)

    def resting_bytes(self) -> int:
        """Parameters, buffers, a batch, and the optimizer's state."""
        optimizer = self._program.optimizer
        inputs = tuple(tensors_in(batch(self._program, 0)))
        return resting_bytes(self.model, inputs, optimizer=optimizer)

    def eager_peak_bytes(self) -> int:
        """Measured peak of a step of the loop."""
        if is_plain(self._program):
            return self.peak_bytes(0, steps=False)
        return loop_peak_bytes(self.model, self._program, self._make, self.context)

    def peak_bytes(self, number: int, *, steps: bool) -> int:
        """Measured peak of a step on a batch, with the optimizer's step or without."""
        return peak_bytes(
            self.model,
            *batch(self._program, number),
            loss_fn=loss_of,
            context=self.context,
            optimizer=self._program.optimizer,
            make=self._make if steps else None,
        )

    def check_budget(self, budget: int, *, is_told: Callable[[], bool]) -> None:
        """Hold the plan's own measurement, and one of ours, against the budget."""
        plan = autockpt.get_plan(self.model)
        if plan is None:
            raise TrialError("bypass", "trained without a plan, and without a word")
        if is_told():
            return
        if plan.predicted_peak_bytes > budget and plan.recompute_ns:
            raise TrialError("budget", f"predicted {plan.predicted_peak_bytes} over {budget}")
        if plan.measured_peak_bytes is not None and plan.measured_peak_bytes > budget:
            raise TrialError("budget", f"measured {plan.measured_peak_bytes} over {budget}")
        is_outside = self._program.output in ("values", "value")
        if is_outside and not self._program.names_loss:
            return  # What the loss outside needs cannot be known.
        if is_plain(self._program):
            total_bytes = self.peak_bytes(1, steps=True)
        else:
            total_bytes = loop_peak_bytes(self.model, self._program, self._make, self.context)
        tolerance_bytes = 0 if self._program.verify else int(_PREDICTION_TOLERANCE * budget)
        # Steps of this loop that training did not have may be told of while they are measured.
        if total_bytes > budget + tolerance_bytes and not is_told():
            raise TrialError(
                "budget",
                f"a step was measured at {total_bytes}, {total_bytes - budget} over {budget} "
                f"(predicted {plan.predicted_peak_bytes}, measured {plan.measured_peak_bytes})",
            )


def shrunk(program: Program, verdict: Verdict) -> Iterator[Program]:
    """Ever smaller programs that fail in the same way; the last is the smallest found."""
    plain = {
        field.name: field.default
        for field in dataclasses.fields(Program)
        if field.default is not dataclasses.MISSING and field.name not in ("verify", "share")
    }
    progress = True
    while progress:
        progress = False
        candidates = [
            dataclasses.replace(program, nodes=program.nodes[:i] + program.nodes[i + 1 :])
            for i in reversed(range(len(program.nodes)))
        ]
        candidates += [
            dataclasses.replace(program, inputs=tuple(k for k in program.inputs if k != kind))
            for kind in program.inputs
            if len(program.inputs) > 1
        ]
        candidates += [
            dataclasses.replace(program, **{name: value})
            for name, value in plain.items()
            if getattr(program, name) != value
        ]
        for candidate in candidates:
            if run_trial(candidate).kind == verdict.kind:
                program, progress = candidate, True
                yield program
                break
