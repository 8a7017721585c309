"""Graphs are split the same way by every version of torch."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from autockpt.torch_private import graphs


def _two_pieces(x: torch.Tensor) -> torch.Tensor:
    return (x.sin() + 1).cos()


@pytest.mark.parametrize("makes_tuples", {False, graphs._MAKES_TUPLES})
def test_pieces_return_tuples(monkeypatch: pytest.MonkeyPatch, makes_tuples: bool) -> None:
    """torch 2.11 has no option for it, so autockpt changes the pieces itself."""
    monkeypatch.setattr(graphs, "_MAKES_TUPLES", makes_tuples)
    traced = fx.symbolic_trace(_two_pieces)
    numbers = {node: int(node.target == "cos") for node in traced.graph.nodes}
    whole = graphs.split_in_pieces(traced, numbers.__getitem__)
    x = torch.linspace(0, 1, 5)
    pieces = [whole.get_submodule(str(n.target)) for n in whole.graph.find_nodes(op="call_module")]
    assert len(pieces) == 2
    assert all(isinstance(piece(x), tuple) for piece in pieces)
    assert torch.equal(whole(x), _two_pieces(x))
