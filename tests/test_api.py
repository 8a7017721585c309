"""What the package offers is there under the names that the documentation shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_API_PAGE = Path(__file__).parents[1] / "docs" / "api.md"
_NAMES = re.findall(r"^\.\. auto\w+:: (\S+)$", _API_PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_page_lists_the_calls() -> None:
    assert {"autockpt.optimize", "autockpt.plan", "autockpt.FixedBytes"} <= set(_NAMES)


def test_names_of_the_api_page_are_reached_as_they_are_written() -> None:
    """`autockpt.plan` was a function and a module, so `autockpt.plan.FixedBytes` failed."""
    code = "\n".join(("import autockpt", *(f"assert callable({name})" for name in _NAMES)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
