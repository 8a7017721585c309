"""The versions and the machine that results of experiments belong to."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch


def environment() -> dict[str, str]:
    """Returns what decides results beside their arguments, by name."""
    return {
        "autockpt": version("autockpt"),
        "torch": str(torch.__version__),
        "OR-Tools": version("ortools"),
        "Python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }
