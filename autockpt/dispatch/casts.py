"""Casts that several calls share because they are in one block of autocast.

Autocast casts a parameter once in a block and keeps the copy until the block ends. Two calls in the
block (a discriminator's on real and fake images, a model's on chosen and rejected answers) share
it: their gradients are added in the lower precision, and cast back once. A captured graph casts by
itself, so the gradients of two graphs are added behind their casts, and round differently.
"""

from __future__ import annotations

from typing import Any

import torch

from autockpt.dispatch.key import PlanKey
from autockpt.dispatch.store import PlanStore
from autockpt.user_warnings import warn_user


class SharedCasts:
    """Sees whether a call shares casts with calls before it, and lets autocast make these."""

    def __init__(self) -> None:
        self._weight: torch.Tensor | None = None
        self._cast: Any = None
        self._keys: dict[PlanKey, None] = {}

    def keys_with(self, key: PlanKey, device_type: str) -> list[PlanKey]:
        """The calls in this block of autocast up to a call, this one included; empty if alone.

        Args:
            key: The call.
            device_type: Where the model is.
        """
        if not torch.is_autocast_enabled(device_type) or not torch.is_autocast_cache_enabled():
            self._cast = None
            return []
        if self._weight is None or self._weight.device.type != device_type:
            # Without elements, so that it takes no memory beside the step's.
            self._weight = torch.empty(0, 0, device=device_type, requires_grad=True)
        # Autocast casts this weight as it does the model's: one cast is one node of autograd.
        product: Any = torch.mm(self._weight, self._weight.detach())
        cast = product.grad_fn.next_functions[0][0]
        if cast.name().endswith("AccumulateGrad"):  # autocast to float32 casts nothing
            self._cast = None
            return []
        if cast is not self._cast:
            self._cast, self._keys = cast, {key: None}
            return []
        self._keys[key] = None
        return list(self._keys)

    def leave_to_autocast(
        self, key: PlanKey, device_type: str, name: str, store: PlanStore
    ) -> None:
        """Run calls that share casts with a call by plans that leave these to autocast.

        Args:
            key: The call.
            device_type: Where the model is.
            name: The class of the model.
            store: Its plans.
        """
        keys = self.keys_with(key, device_type)
        planned = [key for key in keys if not store.needs_eager_graph(key)]
        if not planned:
            return
        warn_user(
            f"calls of {name} share one block of autocast, which casts each "
            "parameter once for all of them. From now on such calls checkpoint modules, because "
            "captured graphs cast by themselves: gradients of this step may differ from eager's "
            "in their last bits. To train by graphs, give each call a block of its own."
        )
        for each in planned:
            store.require_eager_graph(each.layout.kind)
