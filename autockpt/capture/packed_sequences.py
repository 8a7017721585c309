"""Branches that a model library takes only while it is traced, replaced by eager's branch.

A library that asks "am I being traced?" before it reads a tensor's values takes another path when
traced. If eager's answer is known without reading values, this module gives it. Everything else is
left to the comparison with eager.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from autockpt.torch_private.tensors import storage_key

_SEARCH = "find_packed_sequence_indices"


class PackedSequences:
    """Answers transformers' search for several sequences packed into one as eager would.

    The search looks for gaps in ``position_ids``. When traced, it cannot look, and builds an
    explicit attention mask. Positions that the model counts itself have no gaps. Positions among
    the inputs may have some, and then nothing is replaced.

    Attributes:
        is_counted: Whether all positions seen so far were made by the model itself.
    """

    def __init__(self, inputs: list[Any]) -> None:
        self.is_counted = True
        self._module = sys.modules.get("transformers.masking_utils")
        self._original = getattr(self._module, _SEARCH, None)
        self._inputs = {_storage(t) for t in inputs if isinstance(t, torch.Tensor)}

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Answer in code that runs without Dynamo, and note where positions come from."""
        original = self._original
        if original is None:
            yield
            return

        def search(position_ids: torch.Tensor) -> Any:
            if _storage(position_ids) in self._inputs:
                self.is_counted = False
                return original(position_ids)
            return None

        setattr(self._module, _SEARCH, search)
        try:
            yield
        finally:
            setattr(self._module, _SEARCH, original)


def eager_answers(*, positions_are_counted: bool) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Functions of loaded libraries, each with the function that Dynamo traces instead."""
    original = getattr(sys.modules.get("transformers.masking_utils"), _SEARCH, None)
    if original is None or not positions_are_counted:
        return {}
    return {original: _no_packed_sequences}


def _no_packed_sequences(position_ids: Any) -> None:
    return None


def _storage(tensor: torch.Tensor) -> int:
    # Sparse tensors have no storage; positions are never sparse.
    address: int = storage_key(tensor) if tensor.layout is torch.strided else id(tensor)
    return address
