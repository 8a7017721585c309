"""Progress: which stage planning is in, how far it is, and what came out."""

from autockpt.progress.current import (
    advance,
    finish,
    is_stopping,
    planning,
    search,
    stage,
    stop_search,
)
from autockpt.progress.terminal import line_set_aside

__all__ = [
    "advance",
    "finish",
    "is_stopping",
    "line_set_aside",
    "planning",
    "search",
    "stage",
    "stop_search",
]
