"""The items of lists of modules that a model runs, level by level: `down_blocks.0.resnets.1`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from autockpt.fitting.layers import above


def levels_of(
    segments: Iterable[str], runs: Callable[[str], bool] = lambda _: True
) -> tuple[tuple[str, ...], ...]:
    """Returns choices of items to checkpoint, the outermost first; in one, none is inside another.

    The first has the outermost items, the second has the items of lists inside of them, and so on.
    An item without a list inside it stands in the deeper choices too.

    Args:
        segments: Paths of modules, in forward order.
        runs: Whether the module of a path has a forward.
    """
    known = [[at for at in _items(segment) if runs(at)] for segment in dict.fromkeys(segments)]
    chains = [chain for chain in known if chain]
    deepest = max(map(len, chains), default=0)
    levels: dict[tuple[str, ...], None] = {}
    for depth in range(deepest):
        chosen = dict.fromkeys(chain[min(depth, len(chain) - 1)] for chain in chains)
        outer = {path for item in chosen for path in above(item.rpartition(".")[0])}
        # What an item runs beside the lists inside it is not checkpointed with those.
        levels.setdefault(tuple(item for item in chosen if item not in outer))
    return tuple(levels)


def _items(segment: str) -> list[str]:
    """The items of lists that a module is, or is in, the outermost first."""
    found = [path for path in above(segment) if path.rpartition(".")[2].isdecimal()]
    return found[::-1]
