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

import torch

from autockpt.budget import format_bytes, sufficient_budget


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


class BudgetError(AutockptError, ValueError):
    """The budget is smaller than any that a plan was found for.

    Attributes:
        budget_bytes: The budget.
        minimum_peak_bytes: The smallest workable budget: the least peak of the plans that the
            method found, everything counted.
        peak_node: What runs at that peak, such as `"the backward of layers.3.mlp"`.
        composition: What is in memory at that peak: bytes by kind (`"parameters"`, `"gradients"`,
            ...).
    """

    def __init__(
        self,
        *,
        budget_bytes: int,
        minimum_peak_bytes: int,
        peak_node: str = "",
        composition: Mapping[str, int] | None = None,
    ) -> None:
        self.budget_bytes = budget_bytes
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
        super().__init__(
            f"budget {format_bytes(budget_bytes)} is too small: the smallest workable budget that "
            f"autockpt found is {format_bytes(minimum_peak_bytes)}{at_peak}. "
            f'Raise budget to "{sufficient_budget(minimum_peak_bytes)}" or use a smaller batch.'
        )

    def of_budget(self, budget_bytes: int) -> BudgetError:
        """The same error for another budget."""
        return BudgetError(
            budget_bytes=budget_bytes,
            minimum_peak_bytes=self.minimum_peak_bytes,
            peak_node=self.peak_node,
            composition=self._composition,
        )

    @property
    def composition(self) -> Mapping[str, int]:
        """Bytes by kind at that peak."""
        return MappingProxyType(self._composition)


class CaptureError(AutockptError, RuntimeError):
    """The model could not be captured as graphs; the cause is chained.

    Attributes:
        where: The module or the line of code at which the capture stopped.
        reason: Why it stopped.
    """

    def __init__(self, *, where: str, reason: str, advice: str = "") -> None:
        self.where = where
        self.reason = reason
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
        "one parameter requires grad.",
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

    autockpt's errors pass unchanged, and so does what is nobody's bug: running out of memory, and a
    warning that the user's filters turn into an error.
    """
    try:
        yield
    except (AutockptError, MemoryError, torch.OutOfMemoryError, Warning):
        raise
    except Exception as error:
        raise InternalError(stage=stage, cause=error) from error


def _versions() -> tuple[str, ...]:
    return (_own_version(), f"torch {torch.__version__}", f"Python {platform.python_version()}")


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
    """An optimized model was differentiated twice."""

    def __init__(self) -> None:
        super().__init__(
            "an optimized model cannot be differentiated twice (create_graph=True, "
            "torch.func.hessian and the like): its backward is a fixed program. Call "
            "autockpt.restore(model) before such a step."
        )


def _enumerate(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
