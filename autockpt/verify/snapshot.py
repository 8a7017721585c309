"""The values of tensors as they are now, written back later without a trace.

A graph that waits for its backward refuses to run it once a tensor that it has saved has another
version, even if the value is the same. A step on trial must not be the reason, so versions are
restored as well. The tensors themselves stay, with their addresses and with everything that refers
to them: views, other modules, guards of compiled code.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from autockpt.torch_private.tensors import set_write_counts, write_count


class Snapshot:
    """Values and versions of tensors."""

    def __init__(self, tensors: Iterable[torch.Tensor], *, on_host: bool = False) -> None:
        """Copy the values.

        Args:
            tensors: The tensors. Those that cannot be written are left out.
            on_host: Whether to keep the copies on the host, because they are large.
        """
        written = [tensor for tensor in tensors if _is_writable(tensor)]
        self._versions = [(tensor, write_count(tensor)) for tensor in written]
        self._values = [
            (t, t.detach().to("cpu", copy=True) if on_host else t.detach().clone()) for t in written
        ]

    def put_back(self) -> None:
        """Write the values back, and restore the versions."""
        with torch.no_grad():
            for tensor, value in self._values:
                tensor.copy_(value)
        # At the end: tensors that are views of each other share a version.
        set_write_counts(self._versions)


def _is_writable(tensor: torch.Tensor) -> bool:
    """Whether PyTorch writes into a tensor: not if it was made in inference mode, or repeats."""
    if tensor.is_inference():
        return False
    repeats = tensor.layout is torch.strided and any(
        size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return not repeats
