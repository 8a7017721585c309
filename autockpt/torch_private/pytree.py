"""Nested containers of tensors, flattened and mapped as torch does.

Tested with torch 2.11 to 2.15.
"""

from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

__all__ = ["tree_flatten", "tree_leaves", "tree_map", "tree_unflatten"]
