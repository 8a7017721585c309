"""Where progress is shown: on a terminal, in a notebook, or else in the log."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Protocol

import torch.distributed as dist

from autockpt.progress.stages import Stage
from autockpt.progress.terminal import Terminal

logger = logging.getLogger("autockpt")
logger.addHandler(logging.NullHandler())

_LOG_FROM_S = 2.0  # a stage that takes less is not logged
_LOG_AGAIN_S = 10.0


class Display(Protocol):
    """Shows the stages of one run of planning, and what came out of it."""

    interval_s: float

    def show(self, name: str, stage: Stage, now_s: float) -> None:
        """Show the stage that planning is in; called every `interval_s` seconds."""

    def close(self, name: str, outcome: str, *, is_slow: bool) -> None:
        """Show what came out, unless that is empty: planning failed, or made no plan."""


def display_here() -> Display:
    """The display for this process and thread.

    Of several ranks, only the first draws on the terminal that they share.
    """
    shell = _notebook_shell()
    if shell is not None:
        return Notebook()
    terminal = Terminal.open() if _is_first_rank() else None
    return terminal or Log()


class Log:
    """Records of the logger ``autockpt`` at level INFO."""

    interval_s = 0.5

    def __init__(self) -> None:
        self._logged = (0.0, 0.0)  # when the stage of the last record began, and when it was logged

    def show(self, name: str, stage: Stage, now_s: float) -> None:
        """Log a stage once it is slow, and again from time to time."""
        began_s, logged_s = self._logged
        is_news = stage.began_s != began_s and now_s - stage.began_s >= _LOG_FROM_S
        if is_news or (stage.began_s == began_s and now_s - logged_s >= _LOG_AGAIN_S):
            self._logged = stage.began_s, now_s
            logger.info("%s: %s", name, stage.text(now_s))

    def close(self, name: str, outcome: str, *, is_slow: bool) -> None:
        """Log what came out, quick or slow."""
        if outcome:
            logger.info("%s %s", name, outcome)


class Notebook:
    """One output of a notebook's cell, which renews itself."""

    interval_s = 0.5

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, name: str, stage: Stage, now_s: float) -> None:
        """Replace the text of the output."""
        self._put(f"autockpt {name}: {stage.text(now_s)}")

    def close(self, name: str, outcome: str, *, is_slow: bool) -> None:
        """Replace the text by what came out."""
        if outcome and is_slow:
            self._put(f"autockpt: {name} {outcome}")
        elif self._handle is not None:
            self._put("")

    def _put(self, text: str) -> None:
        bundle = {"text/plain": text}
        if self._handle is None:
            display = sys.modules["IPython.display"].display
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def _notebook_shell() -> Any:
    """The shell of a notebook's kernel, if this process is one."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell if getattr(shell, "kernel", None) is not None else None


def _is_first_rank() -> bool:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return os.environ.get("RANK", "0") == "0"
