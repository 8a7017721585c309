"""Why a model has many plans: what the calls that they were made for differ in most."""

from __future__ import annotations

import collections
from collections.abc import Hashable, Iterable
from typing import Any

from autockpt.dispatch.key import PlanKey

# By what differs, what autockpt does and what to do about it.
_TEXTS = {
    "values": "it plans again for each new value of an argument that is no tensor. Pass what "
    "changes as a tensor",
    "sizes": "sizes of inputs change, and one plan cannot serve all of them. Pad the inputs to "
    "fewer sizes",
    "strides": "it plans again for each new layout of inputs whose strides are neither contiguous "
    "nor channels-last. Call contiguous() on them",
    "structures": "it plans again if the inputs have another number of tensors or other keys. Pass "
    "as many at each call",
    "types": "it plans again if tensors among the inputs have another dtype, device, requires_grad "
    "or memory format, or another dimension of size 0 or 1. Pass the same kind of tensors",
    "states": "it plans again if the training loop or the model changes: how many calls share a "
    "backward, which gradients are still there, which parameters are trained, train or eval mode. "
    "Keep these the same",
}


def why_many(keys: Iterable[PlanKey]) -> str:
    """Why there are so many plans, and what to do, as a sentence without its full stop.

    Args:
        keys: What was planned for.
    """
    seen: dict[str, set[Hashable]] = {name: set() for name in _TEXTS}
    per_kind: collections.Counter[Hashable] = collections.Counter()
    for key in keys:
        entries, structure, autocast = key.layout.kind
        if key.layout.family is None:
            seen["strides"].add(key.layout)
        else:
            seen["types"].add((tuple(entry for entry in entries if _is_tensor(entry)), autocast))
            per_kind[key.without_layout, key.layout.family] += 1
        seen["values"].add(tuple(entry for entry in entries if not _is_tensor(entry)))
        seen["structures"].add(structure)
        seen["states"].add(key.without_layout)
    counts = {name: len(those) for name, those in seen.items()}
    counts["sizes"] = max(per_kind.values(), default=0)
    return _TEXTS[max(counts, key=lambda name: counts[name])]


def _is_tensor(entry: Any) -> bool:
    return isinstance(entry, tuple)
