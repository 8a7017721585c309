"""The method that `--method` names; torch is imported only for one of your own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autockpt_solvers import Method


def load_method(text: str) -> str | Method:
    """Returns a name of a method as it is, or the function of a target.

    Raises:
        TargetError: There is no such function.
    """
    if ":" not in text:
        return text
    from autockpt.command.targets.target import load_function

    return load_function(text)
