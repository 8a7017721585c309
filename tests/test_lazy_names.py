"""What `import autockpt` costs, and that it has all of its names nevertheless."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import autockpt
import autockpt_solvers
from autockpt import zoo


def _imports_for_types(file: str) -> dict[str, str]:
    """The names that a package imports for type checkers, with their modules."""
    tree = ast.parse(Path(file).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            is_module = node.module == "autockpt"
            found[alias.name] = f"{node.module}.{alias.name}" if is_module else str(node.module)
    return found


@pytest.mark.parametrize("package", [autockpt, autockpt_solvers, zoo])
def test_type_checkers_and_programs_see_the_same_names(package: object) -> None:
    names = _imports_for_types(str(package.__file__))  # type: ignore[attr-defined]
    for name, module in names.items():
        value = getattr(package, name)
        home = sys.modules[module]
        assert value is (home if module.endswith(f".{name}") else getattr(home, name)), name
    assert {*names, "names"} >= set(package.__all__) >= set(names)  # type: ignore[attr-defined]
    assert set(package.__all__) <= set(dir(package))  # type: ignore[attr-defined]


def test_unknown_names_are_told_as_python_does() -> None:
    with pytest.raises(AttributeError, match="module 'autockpt' has no attribute 'optimise'"):
        autockpt.optimise  # type: ignore[attr-defined]  # noqa: B018


def test_the_command_line_starts_without_torch() -> None:
    """Help took three seconds, most of them for torch."""
    program = (
        "import sys; from autockpt.command import cli; "
        "slow = {'torch', 'numba', 'ortools'} & set(sys.modules); "
        "sys.exit(', '.join(slow) or None)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_zoo_builds_what_it_lists() -> None:
    from autockpt.zoo.registry import _BUILDERS

    assert zoo.names() == tuple(_BUILDERS)


def test_imports_and_plans_draw_from_no_generator() -> None:
    """rich draws from Python's generator while it is imported: augmentation changed."""
    program = """if True:
        import random
        import numpy as np
        import torch
        random.seed(1), np.random.seed(1)
        before = random.getstate(), repr(np.random.get_state())
        import autockpt
        autockpt.optimize
        assert before == (random.getstate(), repr(np.random.get_state())), "import"
        model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.GELU(), torch.nn.Linear(64, 8))
        plan = autockpt.plan(model, "90%", sample_args=(torch.randn(64, 8),), method="greedy")
        assert before == (random.getstate(), repr(np.random.get_state())), "plan"
        str(plan)
        autockpt.zoo.names()
        assert before == (random.getstate(), repr(np.random.get_state())), "report"
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
