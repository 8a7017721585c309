"""Lowering: captured graphs and costs as the engine's torch-free graph."""
