"""The ladder of fallbacks: whole graphs, blocks, checkpointed calls, eager."""
