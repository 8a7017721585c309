"""autockpt's own errors: what is, what must be, and what you can do about it.

An argument of the wrong type or value raises an ordinary `TypeError` or `ValueError`. The errors
here carry the numbers and names that a program may want to act on as attributes.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from autockpt.budget import format_bytes, sufficient_budget
from autockpt.user_signals import handlers_code, is_by_a_handler
from autockpt_solvers import SolveStatus

BEYOND = "more than was predicted"  # a part of a measured peak


class AutockptError(Exception):
    """Base of autockpt's own errors."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The constructors take keywords only, which the default protocol cannot replay; errors
        # cross processes in data loaders, launchers and test runners.
        return _restore, (type(self), self.args, {**self.__dict__})


def _restore(
    cls: type[AutockptError], args: tuple[Any, ...], state: dict[str, Any]
) -> AutockptError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


def drop_frames(error: BaseException | None) -> None:
    """Drop the tracebacks of an error that was dealt with, and of those that led to it.

    Their frames hold the tensors of the caller, and often the error itself. In such a cycle all of
    that would stay in memory until Python collects garbage. What was caught outside of autockpt
    keeps its traceback: the caller may be handling it.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        trace = error.__traceback__
        if trace is not None:
            if trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] != "autockpt":
                return
            error.__traceback__ = None
        error = error.__cause__ or error.__context__


class BudgetError(AutockptError, ValueError):
    """No plan was found for the budget: none exists, the search missed it, or it ran out of time.

    Attributes:
        budget_bytes: The budget.
        minimum_peak_bytes: The smallest workable budget: the least peak of the plans that the
            method found, everything counted.
        lower_bound_bytes: No budget below this one can be met; 0 if nothing is proven.
        status: Why there is no plan: INFEASIBLE if the budget is below `lower_bound_bytes`,
            NOT_FOUND if the search ended without one, OUT_OF_TIME if its time limit ended it.
        time_limit_s: The time limit, in seconds; 0 if nothing was searched.
        peak_node: What runs at that peak, such as `"the backward of layers.3.mlp"`.
        composition: What is in memory at that peak: bytes by kind (`"parameters"`, `"gradients"`,
            ...).
        silent_method: The name of a method of yours that returned None; empty otherwise.
        split: Where Dynamo split the forward, and why, if that is why so much is needed.
    """

    split = ""

    def __init__(
        self,
        *,
        budget_bytes: int,
        minimum_peak_bytes: int,
        lower_bound_bytes: int = 0,
        status: SolveStatus = SolveStatus.NOT_FOUND,
        time_limit_s: float = 0.0,
        peak_node: str = "",
        composition: Mapping[str, int] | None = None,
        silent_method: str = "",
    ) -> None:
        self.budget_bytes = budget_bytes
        self.silent_method = silent_method
        self.lower_bound_bytes = lower_bound_bytes
        self.status = status
        self.time_limit_s = time_limit_s
        self.minimum_peak_bytes = minimum_peak_bytes
        self.peak_node = peak_node
        self._composition = dict(composition or {})
        detail = []
        if peak_node:
            detail.append(f"peak at {peak_node}")
        parts = [f"{format_bytes(size)} {kind}" for kind, size in self._composition.items() if size]
        if parts:
            detail.append(f"made of {_enumerate(parts)}")
        at_peak = f" ({'; '.join(detail)})" if detail else ""
        super().__init__(self._text(at_peak))

    def _text(self, at_peak: str) -> str:
        budget, bound = format_bytes(self.budget_bytes), format_bytes(self.lower_bound_bytes)
        found = f"autockpt found is {format_bytes(self.minimum_peak_bytes)}{at_peak}"
        raise_to = f'"{sufficient_budget(self.minimum_peak_bytes)}"'
        if self.silent_method:
            return (
                f"method {self.silent_method!r} returned None, so there is no plan for budget "
                f"{budget}: it must return a Schedule if there is one. Return one, use "
                f"method='auto', or raise budget to {raise_to}: the smallest workable budget that "
                f"{found}."
            )
        if self.is_proven:
            return (
                f"budget {budget} is too small: it is proven that no plan needs less than {bound}. "
                f"The smallest workable budget that {found}, after a short search. Raise budget to "
                f"{raise_to} or use a smaller batch."
            )
        if self.status is SolveStatus.OUT_OF_TIME:
            return (
                f"autockpt ran out of time and found no plan for budget {budget} within "
                f"time_limit_s={self.time_limit_s:g}; there may be one. The smallest workable "
                f"budget that {found}; it is proven that none is below {bound}. Raise "
                f"time_limit_s, or raise budget to {raise_to}, or use a smaller batch."
            )
        proven = f"; it is proven that none is below {bound}" if self.lower_bound_bytes else ""
        return (
            f"budget {budget} is too small: the smallest workable budget that {found}{proven}. "
            f"Raise budget to {raise_to} or use a smaller batch."
        )

    @property
    def is_proven(self) -> bool:
        """Whether it is proven that no plan fits."""
        return self.status is SolveStatus.INFEASIBLE

    def measured(self, budget_bytes: int, peak_bytes: int) -> BudgetError:
        """The error of a plan that was found, but whose step takes more than it predicts.

        Args:
            budget_bytes: The budget.
            peak_bytes: The measured peak.
        """
        parts = {kind: size for kind, size in self._composition.items() if kind != BEYOND}
        return BudgetError(
            budget_bytes=budget_bytes,
            minimum_peak_bytes=peak_bytes,
            lower_bound_bytes=min(self.lower_bound_bytes, budget_bytes),
            time_limit_s=self.time_limit_s,
            peak_node=self.peak_node,
            composition=parts | {BEYOND: max(0, peak_bytes - sum(parts.values()))},
        )

    def of_budget(self, budget_bytes: int) -> BudgetError:
        """The same error for another budget."""
        return self._with(budget_bytes=budget_bytes)

    def of_silent(self, method: str) -> BudgetError:
        """The same error of a method that returned None.

        Args:
            method: Its name.
        """
        return self._with(silent_method=method)

    def _with(self, **changed: Any) -> BudgetError:
        given: dict[str, Any] = {
            "budget_bytes": self.budget_bytes,
            "minimum_peak_bytes": self.minimum_peak_bytes,
            "lower_bound_bytes": self.lower_bound_bytes,
            "status": self.status,
            "time_limit_s": self.time_limit_s,
            "peak_node": self.peak_node,
            "composition": self._composition,
            "silent_method": self.silent_method,
        }
        return BudgetError(**given | changed)

    @property
    def composition(self) -> Mapping[str, int]:
        """Bytes by kind at that peak."""
        return MappingProxyType(self._composition)


class CaptureError(AutockptError, RuntimeError):
    """The model could not be captured as graphs; the cause is chained.

    Attributes:
        where: The module or the line of code at which the capture stopped.
        reason: Why it stopped.
        fails_alone: Whether the step fails without autockpt too, so that nothing else can run it.
    """

    def __init__(
        self, *, where: str, reason: str, advice: str = "", fails_alone: bool = False
    ) -> None:
        self.where = where
        self.reason = reason
        self.fails_alone = fails_alone
        end = f" {advice}" if advice else ""
        super().__init__(
            f"cannot capture {where}: {reason.rstrip('.')}. The model is unchanged.{end}"
        )


class NotTrainableError(AutockptError, ValueError):
    """There is no backward to plan for.

    Attributes:
        reason: What is missing.
    """

    def __init__(
        self,
        reason: str,
        *,
        advice: str = "autockpt plans a forward and a backward; give it a model of which at least "
        "one parameter requires grad, or inputs that do.",
    ) -> None:
        self.reason = reason
        super().__init__(f"the model does not train: {reason.rstrip('.')}. {advice}")


class VerificationError(AutockptError, RuntimeError):
    """The optimized step does not do what its plan promises; the model is restored.

    Attributes:
        what: The check that failed.
        differing: Names of the tensors that differ from eager's, if that is what failed.
    """

    def __init__(self, what: str, *, differing: tuple[str, ...] = ()) -> None:
        self.what = what
        self.differing = differing
        names = ""
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            names = f" ({', '.join(differing[:3])}{more})"
        super().__init__(
            f"verification failed: {what.rstrip('.')}{names}. The model has been restored to its "
            "own forward. Please report this with the model and the versions in use."
        )


class PlanMismatchError(AutockptError, ValueError):
    """The given plan is for another step.

    Attributes:
        difference: The first thing that differs, in words.
    """

    def __init__(self, difference: str) -> None:
        self.difference = difference
        super().__init__(
            f"the given plan is for another step: {difference}. Plan again, or give the plan that "
            "was made for this model, these inputs and this loss."
        )


class CostError(AutockptError, ValueError):
    """A cost model of yours raised, or returned something that is no cost.

    Attributes:
        model: The name of the cost model.
        operation: The name of the operation that it failed on.
    """

    def __init__(
        self, *, model: str, operation: str, operator: str, module: str, problem: str, advice: str
    ) -> None:
        self.model = model
        self.operation = operation
        at = f" of {module}" if module else ""
        super().__init__(
            f"the cost model {model} {problem} for {operation} ({operator}{at}); {advice}"
        )


class InternalError(AutockptError, RuntimeError):
    """A bug in autockpt, not in the model; the original exception is chained.

    Attributes:
        stage: What autockpt was doing, such as `"capture"`.
        reason: The original exception, by its type and message.
    """

    def __init__(self, *, stage: str, cause: BaseException) -> None:
        self.stage = stage
        self.reason = f"{type(cause).__name__}: {cause}".rstrip(": ")
        super().__init__(
            f"a bug in autockpt: the {stage} stage failed with {self.reason.rstrip('.')}. The "
            "model is unchanged. Please report it with the model and the whole traceback "
            f"({', '.join(_versions())})."
        )


class TorchVersionError(AutockptError, ImportError):
    """The installed torch lacks private names that autockpt uses.

    Attributes:
        installed: The version of the installed torch.
        missing: The names, as dotted paths; with a parameter if only that is missing.
    """

    def __init__(
        self, *, installed: str, oldest: str, newest: str, missing: tuple[str, ...]
    ) -> None:
        self.installed = installed
        self.missing = missing
        more = f" and {len(missing) - 3} more names" if len(missing) > 3 else ""
        lacks = f"{', '.join(missing[:3])}{more}"
        super().__init__(
            f"{_own_version()} was tested with torch {oldest} to {newest}; this is torch "
            f"{installed}, which lacks {lacks}. Install a tested version: pip install "
            f"'torch=={newest}.*'"
        )


@contextlib.contextmanager
def internal_errors(stage: str) -> Iterator[None]:
    """Raise whatever a stage of autockpt's own code does not expect as an `InternalError`.

    autockpt's errors pass unchanged, and so does what is nobody's bug: running out of memory, a
    warning that your filters turn into an error, and what a signal handler of yours raises.
    """
    import torch

    handlers = handlers_code()
    try:
        yield
    except (AutockptError, MemoryError, torch.OutOfMemoryError, Warning):
        raise
    except Exception as error:
        if is_by_a_handler(error, handlers):
            raise
        raise InternalError(stage=stage, cause=error) from error


def _versions() -> tuple[str, ...]:
    torch_version = importlib.metadata.version("torch")
    return (_own_version(), f"torch {torch_version}", f"Python {platform.python_version()}")


def _own_version() -> str:
    try:
        return f"autockpt {importlib.metadata.version('autockpt')}"
    except importlib.metadata.PackageNotFoundError:
        return "autockpt (not installed)"


class PeerError(AutockptError, RuntimeError):
    """Planning failed on another rank of a distributed run.

    Attributes:
        rank: The rank that failed; None if it is unknown.
        reason: The error of that rank.
    """

    def __init__(self, *, rank: int | None, reason: str) -> None:
        self.rank = rank
        self.reason = reason
        who = "another rank" if rank is None else f"rank {rank}"
        super().__init__(
            f"{who} failed while planning: {reason.rstrip('.')}. All ranks follow one plan, so "
            f"none continues; see the output of {who} for the cause."
        )


class DoubleBackwardError(AutockptError, RuntimeError):
    """A captured graph cannot be differentiated twice; nothing of the backward has run."""

    def __init__(self) -> None:
        super().__init__(
            "the backward of an optimized model is to be differentiated again (create_graph=True), "
            "and its plan is a fixed program that cannot be differentiated twice. Nothing of the "
            "backward has run. Run the step again: from now on calls like this one checkpoint "
            "modules instead, or run as they are if that fits, which can be differentiated twice. "
            "Or call autockpt.restore(model) before such a step."
        )


def _enumerate(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
