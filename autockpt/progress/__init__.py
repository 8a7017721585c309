"""Progress: which stage planning is in, how far it is, and what came out."""

from autockpt.progress.current import (
    advance,
    finish,
    planning,
    stage,
    stop_search,
    was_stopped,
)
from autockpt.progress.terminal import line_set_aside

__all__ = [
    "advance",
    "finish",
    "line_set_aside",
    "planning",
    "stage",
    "stop_search",
    "was_stopped",
]
