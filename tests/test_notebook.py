"""The notebook runs as it stands, and shows what it tells of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

from autockpt.report.plan import Plan

_NOTEBOOK = Path(__file__).parents[1] / "examples" / "plan_tour.ipynb"


# Of jupyter's own libraries.
@pytest.mark.filterwarnings("ignore")
def test_the_tour_of_a_plan(tmp_path: Path) -> None:
    notebook = nbformat.read(_NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [_shown(cell) for cell in cells]
    assert not any("stderr" in kinds for kinds in shown)
    plan, alive, report, curve = shown[1:5]
    assert "Fits" in plan["text/html"]
    assert "<svg" in plan["text/html"]
    assert plan["text/plain"].startswith("'<Plan: budget") or plan["text/plain"].startswith("<Plan")
    assert "cell:" in alive["stdout"]  # source lines are those of the notebook
    assert "Peak memory of a training step" in report["stdout"]
    assert "<svg" in curve["image/svg+xml"]
    assert "autockpt curve" in curve["text/plain"]
    assert "image/png" in shown[6]
    assert shown[-1]["stdout"].count("loss ") == 3
    assert "Fits" in shown[-1]["text/html"]
    assert "<h1>Fits" in (tmp_path / "plan.html").read_text(encoding="utf-8")
    assert Plan.load(tmp_path / "plan.json").rung == "whole"


def _shown(cell: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for output in cell.outputs:
        if output.output_type == "stream":
            found[output.name] = found.get(output.name, "") + output.text
        else:
            found.update(output.data)
    return found
