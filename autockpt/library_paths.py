"""Branches that a model library takes only while it is traced, and eager's branch in their place.

A library that asks "am I being traced?" before it reads a tensor's values takes another path then
than in eager. Where eager's answer is known without reading values, it is given here; everything
else is left to the comparison with eager.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def eager_answers(kwargs: Mapping[str, Any]) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Functions of libraries in use, with stand-ins that answer as eager would for these inputs.

    transformers looks for several sequences packed into one by gaps in ``position_ids``; traced, it
    cannot look and builds an explicit attention mask. Positions that the model counts itself have
    no gaps.
    """
    masking = sys.modules.get("transformers.masking_utils")
    find_packed = getattr(masking, "find_packed_sequence_indices", None)
    if find_packed is None or kwargs.get("position_ids") is not None:
        return {}
    return {find_packed: _no_packed_sequences}


def _no_packed_sequences(position_ids: Any) -> None:
    return None


@contextlib.contextmanager
def replaced(answers: Mapping[Callable[..., Any], Callable[..., Any]]) -> Iterator[None]:
    """Put the stand-ins into their modules, for code that runs without Dynamo."""
    places = [(sys.modules[f.__module__], f.__name__, f, g) for f, g in answers.items()]
    for module, name, _, stand_in in places:
        setattr(module, name, stand_in)
    try:
        yield
    finally:
        for module, name, original, _ in places:
            setattr(module, name, original)
