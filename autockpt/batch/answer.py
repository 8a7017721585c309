"""The answer of `max_batch_size`: a value, as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass

from autockpt.budget import format_bytes
from autockpt.report.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSize:
    """The largest batch whose training step fits a budget; `str(answer)` is the report.

    Attributes:
        batch_size: The largest batch size that a plan was found for.
        plan: Its plan, from a capture of that size.
        limit: Why the next size is not planned: the text of its `BudgetError`; empty if
            `at_most` ended the search.
        limit_is_proven: Whether it is proven that no plan of the next size fits. Otherwise the
            search found none.
        next_minimum_bytes: The smallest budget that a plan of the next size is known for; 0 if
            `at_most` ended the search.
        num_captures: How many sizes were captured.
        is_affine: Whether the bytes of a captured size were those that two others predict, so that
            sizes in between needed no capture.
        verified_peak_bytes: Measured peak of a real step of that size; None if none ran.
        eager_batch_size: The largest batch size without autockpt, estimated from the captures; 0 if
            not even 1 fits. None if it is not known.
        checkpointed_batch_size: The same with checkpoints at regular cuts of the forward (the
            method `uniform`), simulated. None if it is not known.
        notes: Anything else that you should know, one sentence each.
    """

    batch_size: int
    plan: Plan
    limit: str
    limit_is_proven: bool
    next_minimum_bytes: int
    num_captures: int
    is_affine: bool
    verified_peak_bytes: int | None = None
    eager_batch_size: int | None = None
    checkpointed_batch_size: int | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be 1 or more")

    def __str__(self) -> str:
        plan, budget = self.plan, format_bytes(self.plan.budget_bytes)
        rows = [
            ("largest batch", f"{self.batch_size}  (budget {budget}, {plan.device})"),
            ("peak", f"{format_bytes(plan.predicted_peak_bytes)} predicted{self._measured()}"),
            ("recomputed", f"+{plan.overhead:.1%} of the step's operation time"),
            (f"batch {self.batch_size + 1}", self._next()),
        ]
        if self.eager_batch_size is not None:
            rows.append(("without autockpt", f"{self.eager_batch_size}  (estimated)"))
        if self.checkpointed_batch_size is not None:
            text = f"{self.checkpointed_batch_size}  (checkpoints at regular cuts, simulated)"
            rows.append(("checkpointed", text))
        how = "bytes grow along a straight line" if self.is_affine else "sizes were tried"
        rows.append(("captures", f"{self.num_captures}  ({how})"))
        rows += [("note", note) for note in self.notes]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)

    def _measured(self) -> str:
        if self.verified_peak_bytes is None:
            return ""
        return f", {format_bytes(self.verified_peak_bytes)} measured"

    def _next(self) -> str:
        if not self.limit:
            return f"not tried: the search ends at {self.batch_size}; at_most sets another end"
        how = "proven: no plan fits" if self.limit_is_proven else "the search found no plan"
        return f"{how} (least known: {format_bytes(self.next_minimum_bytes)})"

    def to_json(self) -> str:
        """Returns all fields but the plan's as JSON text; `plan.save` writes the plan."""
        plan = self.plan
        return (
            json.dumps(
                {
                    "batch_size": self.batch_size,
                    "budget_bytes": plan.budget_bytes,
                    "device": plan.device,
                    "predicted_peak_bytes": plan.predicted_peak_bytes,
                    "verified_peak_bytes": self.verified_peak_bytes,
                    "overhead": plan.overhead,
                    "limit": self.limit,
                    "limit_is_proven": self.limit_is_proven,
                    "next_minimum_bytes": self.next_minimum_bytes,
                    "num_captures": self.num_captures,
                    "is_affine": self.is_affine,
                    "eager_batch_size": self.eager_batch_size,
                    "checkpointed_batch_size": self.checkpointed_batch_size,
                    "notes": list(self.notes),
                },
                indent=1,
            )
            + "\n"
        )
