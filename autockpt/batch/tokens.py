"""`max_tokens_per_batch`: for sequences of several lengths, the largest number of tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from autockpt.batch.answer import BatchSize
from autockpt.batch.largest import max_batch_size
from autockpt.budget import Budget
from autockpt_solvers.graph import check_integer


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensPerBatch:
    """The largest number of tokens for which batches of every length fit a budget.

    Attributes:
        num_tokens: A batch of `num_tokens // length` sequences fits, for each of the lengths.
        by_length: The largest batch of each length.
    """

    num_tokens: int
    by_length: Mapping[int, BatchSize]

    @property
    def limiting_length(self) -> int:
        """The length that allows the fewest tokens."""
        return min(self.by_length, key=lambda length: _tokens(length, self.by_length[length]))

    def __str__(self) -> str:
        lines = [f"largest number of tokens  {self.num_tokens}"]
        for length, answer in self.by_length.items():
            note = "  <- allows the fewest tokens" if length == self.limiting_length else ""
            lines.append(f"length {length}: a batch of {answer.batch_size} at most{note}")
        return "\n".join(lines)


def max_tokens_per_batch(
    make_inputs: Callable[[int, int], Any],
    model: torch.nn.Module,
    budget: int | str | Budget,
    lengths: Iterable[int],
    **options: Any,
) -> TokensPerBatch:
    """Find the largest number of tokens, for batches that take as many sequences as it allows.

    The memory of a step does not depend on the number of tokens alone: attention may grow with the
    square of the length. So the largest batch is found for each length.

    Args:
        make_inputs: Returns the inputs of a batch size and a length, as in :func:`max_batch_size`.
        model: The model.
        budget: The memory for a training step, in bytes or as ``"8GB"``.
        lengths: The lengths to consider, such as those of your buckets.
        **options: As for :func:`max_batch_size`.

    Raises:
        BudgetError: Not even one sequence of some length fits.
        ValueError: There is no length, or one is below 1. Otherwise as :func:`max_batch_size`.
    """
    asked = sorted(set(lengths))
    for length in asked:
        check_integer(length, "a length")
    if not asked or asked[0] < 1:
        raise ValueError(f"lengths is {asked}; it must have one or more lengths, each 1 or more")
    found = {
        length: max_batch_size(
            functools.partial(_inputs, make_inputs, length), model, budget, **options
        )
        for length in asked
    }
    return TokensPerBatch(
        num_tokens=min(_tokens(length, answer) for length, answer in found.items()),
        by_length=found,
    )


def _inputs(make_inputs: Callable[[int, int], Any], length: int, size: int) -> Any:
    return make_inputs(size, length)


def _tokens(length: int, answer: BatchSize) -> int:
    """The most tokens of which one more would allow a larger batch of a length."""
    return (answer.batch_size + 1) * length - 1
