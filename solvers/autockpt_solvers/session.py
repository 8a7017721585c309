"""What all searches of one graph with one seed share, so that each thing is made only once.

A solve asks a method several times, for budgets that it picks itself. Facts about the graph, bounds
and most of what a method prepares do not depend on the budget. The session keeps them: the first
search that needs one makes it, and later searches find it here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from autockpt_solvers.clock import Clock
from autockpt_solvers.orders.facts import GraphFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autockpt_solvers.attempt import Attempt
    from autockpt_solvers.graph import ComputeGraph
    from autockpt_solvers.methods.greedy import DropCurve
    from autockpt_solvers.methods.ilp.method import Windows
    from autockpt_solvers.methods.mincut import PriceCurve
    from autockpt_solvers.orders.reordered import Moved
    from autockpt_solvers.problem import Problem


@dataclass(slots=True, kw_only=True)
class Session:
    """Everything that searches of one graph with one seed share.

    Attributes:
        graph: The graph.
        seed: Random seed of all searches.
        clock: The time of the search.
        facts: Facts about the graph.
        order_bounds_ns: By order of the backward ops and available bytes, a lower bound on the
            recompute time, and whether more time would not raise it.
        bounds_ns: Lower bounds on recompute time, by bound and budget in bytes.
        drops: What `greedy` drops, step by step.
        prices: The plans of `mincut`, by price.
        windows: The windows of `ilp`, and the options to run each.
        revolved: The plans of `revolve` that no other one of them beats.
        least: The leanest plan that is known before a search; see `search.least`.
        reordered: The graph in a better order of its backward, if there is one, and its session.
    """

    graph: ComputeGraph
    seed: int
    clock: Clock = field(default_factory=Clock)
    facts: GraphFacts = field(init=False)
    order_bounds_ns: dict[tuple[tuple[int, ...], int], tuple[int, bool]] = field(
        default_factory=dict
    )
    bounds_ns: dict[tuple[Callable[..., int], int], int] = field(default_factory=dict)
    drops: DropCurve | None = None
    prices: PriceCurve | None = None
    windows: Windows | None = None
    revolved: tuple[Sequence[int], ...] | None = None
    least: Sequence[int] | None = None
    reordered: tuple[Moved | None, Session] | None = None

    def __post_init__(self) -> None:
        self.facts = GraphFacts(self.graph)

    def of_same_search(self, graph: ComputeGraph) -> Session:
        """A session for the graph in another order of its backward ops, in the same search."""
        return Session(
            graph=graph,
            seed=self.seed,
            clock=self.clock,
            order_bounds_ns=self.order_bounds_ns,
        )


class BuiltIn(Protocol):
    """A method of the engine: unlike a user's callable, it gets the session."""

    def __call__(self, problem: Problem, session: Session, *, time_limit_s: float) -> Attempt:
        """Offer plans for `problem`, whose graph is the session's."""
