"""The kinds of memory of a training step, in the order of the ledger."""

from __future__ import annotations

# The names of ops that stand for what a training loop does.
CLEARED_GRADIENTS = "gradients of an earlier backward"
OPTIMIZER_STEP = "optimizer step"

# What a step itself has in memory.
STORAGE_KINDS = (
    "gradients",
    "outputs",
    "saved activations",
    "recomputed activations",
    "forward values",
    "backward values",
    "loss outside of the model",
    "cleared gradients",
)
# What an op has in memory only while it runs.
WORKSPACE = "workspace"
OPTIMIZER_WORKSPACE = "optimizer's step"
STEP_KINDS = (*STORAGE_KINDS, WORKSPACE, OPTIMIZER_WORKSPACE)
OLDER_GRADIENTS = "gradients of an earlier backward"
EAGER_ALONE = "in eager PyTorch alone"
OTHER_CALLS = "other calls"
