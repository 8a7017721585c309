"""Every error that is ours: what is, what must be, and what to do about it.

Arguments of the wrong type or value are ordinary `TypeError` and `ValueError`; these here carry
what a program may want to act on as attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

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
    """The budget is below the least memory that a plan was found for.

    Attributes:
        budget_bytes: The budget asked for.
        minimum_peak_bytes: The least peak of the plans that the method found, everything counted: a
            budget of this much can be met.
        peak_node: What runs at that peak, as a person names it: `"the backward of layers.3.mlp"`.
        composition: What stands in memory at that peak, bytes by kind (`"parameters"`,
            `"gradients"`, ...), in the order given.
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
            f"budget {format_bytes(budget_bytes)} is below {format_bytes(minimum_peak_bytes)}, the "
            f"least that a plan was found for{at_peak}. "
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
        """Bytes by kind at that least peak."""
        return MappingProxyType(self._composition)


class CaptureError(AutockptError, RuntimeError):
    """The model could not be captured as graphs; the cause is chained.

    Attributes:
        where: The module or the line of code at which capture stopped.
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
    """The optimized step did not do what the plan promised; the model is restored.

    Attributes:
        what: What was checked and failed.
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


class PeerError(AutockptError, RuntimeError):
    """Planning failed on another rank of a distributed run.

    Attributes:
        rank: The rank that failed; None where that is not known.
        reason: What it raised.
    """

    def __init__(self, *, rank: int | None, reason: str) -> None:
        self.rank = rank
        self.reason = reason
        who = "another rank" if rank is None else f"rank {rank}"
        super().__init__(
            f"{who} failed while planning: {reason.rstrip('.')}. All ranks follow one plan, so "
            f"none goes on; see the output of {who} for the cause."
        )


class DoubleBackwardError(AutockptError, RuntimeError):
    """Gradients of gradients were asked of an optimized model."""

    def __init__(self) -> None:
        super().__init__(
            "an optimized model cannot be differentiated twice (create_graph=True, "
            "torch.func.hessian and the like): its backward is a fixed program. Call "
            "autockpt.restore(model) before such a step."
        )


def _enumerate(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
