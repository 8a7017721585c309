"""The names of ops that stand for what a training loop does."""

from __future__ import annotations

CLEARED_GRADIENTS = "gradients of an earlier backward"
INCOMING_GRADIENTS = "incoming gradients"
OPTIMIZER_STEP = "optimizer step"
