"""What a training loop does around a call of a model, as far as a plan depends on it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OtherModels:
    """What other optimized models need in the same step, and other calls of the model itself.

    Attributes:
        beside_bytes: What they have in memory while the forward and the backward of the model run.
        between_bytes: The most that is needed beyond that between its forward and its backward, by
            them and by calls of the model itself without gradients.
        after_bytes: What they have in memory beyond that when an optimizer steps.
    """

    beside_bytes: int = 0
    between_bytes: int = 0
    after_bytes: int = 0


NO_OTHERS = OtherModels()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """One kind of step of a training loop.

    Attributes:
        accumulates: Whether the backward adds to gradients of an earlier one.
        clears_late: Whether gradients of an earlier backward are in memory during the forward, and
            freed before the backward begins.
        num_calls: How many calls of the model share one backward.
        freed_outputs: Positions among the leaves of the output. These tensors are freed before the
            backward begins. None for all of them but single numbers, such as a loss.
        used_outputs: Positions among the leaves of the output. The backward starts from these
            tensors, or from a loss that is made of them. None if that is not known.
        keeps_graph: Whether gradients come in several backwards, of which all but the last keep the
            graph for the next.
        others: What other optimized models need in the same step.
    """

    accumulates: bool = False
    clears_late: bool = False
    num_calls: int = 1
    freed_outputs: frozenset[int] | None = frozenset()
    used_outputs: frozenset[int] | None = None
    keeps_graph: bool = False
    others: OtherModels = NO_OTHERS

    def frees(self, position: int) -> bool:
        """Whether the leaf of the output at this position is freed."""
        return self.freed_outputs is None or position in self.freed_outputs

    @property
    def frees_any(self) -> bool:
        """Whether any output is freed."""
        return self.freed_outputs is None or bool(self.freed_outputs)

    @property
    def reason(self) -> str:
        """Why a step needs more memory than a plain one, in words."""
        if self.others.beside_bytes or self.others.after_bytes:
            return "other optimized models need memory in the same step"
        if self.others.between_bytes:
            return "the model is called without gradients between its forward and its backward"
        if self.num_calls > 1:
            return f"{self.num_calls} calls of the model share one backward"
        if self.keeps_graph:
            return "several backwards share one graph, which stays in memory until the last"
        if not self.accumulates and not self.clears_late:
            return "the loop uses other outputs than the model's loss"
        return "gradients of an earlier backward are in memory beside this step's"

    @property
    def needs_no_more(self) -> bool:
        """Whether a plan for a plain step serves it as well."""
        return dataclasses.replace(self, freed_outputs=PLAIN.freed_outputs) == PLAIN

    @property
    def alone(self) -> Loop:
        """The same without other models."""
        return dataclasses.replace(self, others=NO_OTHERS)

    @property
    def plain(self) -> Loop:
        """The same number of calls, with no older gradients and all outputs kept."""
        return Loop(num_calls=self.num_calls, used_outputs=self.used_outputs)


PLAIN = Loop()
