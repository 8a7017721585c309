"""Compiled code is kept apart for every state of the sources, in a folder that you may choose."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import autockpt_solvers
from autockpt_solvers.kernels.compiling import cache_folder

SCRIPT = """
import numba
import pytest
numba.config.CACHE_DIR = {cache!r}
from autockpt_solvers import ComputeGraph, Op, Storage, orders
from autockpt_solvers.orders.facts import GraphFacts
from autockpt_solvers.kernels.compiling import cache_folder
graph = ComputeGraph(
    ops=(Op(name="f", runtime_ns=1, reads=(), writes=(0,)),),
    storages=(Storage(name="s", size_bytes=5),),
    outputs=(0,),
)
print(GraphFacts(graph).evaluate([0])[0])
print(cache_folder())
assert numba.config.CACHE_DIR == {cache!r}
"""


def run(package: Path, cache: Path) -> tuple[int, Path]:
    """The peak that compiled code gives, and where that is kept."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(cache=str(cache))],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(package.parent)},
    )
    peak, folder = done.stdout.split()
    return int(peak), Path(folder)


def test_changed_code_in_another_file_is_compiled_anew(tmp_path: Path) -> None:
    """numba looks at the file of the outermost function only: what that calls stayed stale."""
    package = tmp_path / "autockpt_solvers"
    shutil.copytree(Path(autockpt_solvers.__file__).parent, package)
    helper = package / "orders" / "helper.py"
    helper.write_text(
        "from autockpt_solvers.kernels.compiling import compiled_within\n"
        "@compiled_within\n"
        "def more(peak):\n"
        "    return peak\n"
    )
    tally = package / "orders" / "tally.py"
    text = tally.read_text()
    returned = "    return {}, recompute\n\n\n"
    text = text.replace(returned.format("peak"), returned.format("more(peak)"))
    assert text.count("more(peak)") == 1
    tally.write_text(text.replace("\nclass ", "\nfrom .helper import more\n\nclass ", 1))
    cache = tmp_path / "cache"
    first, folder = run(package, cache)
    assert first == 5
    assert folder.parent == cache
    assert any(folder.rglob("*.nbc"))
    helper.write_text(helper.read_text().replace("return peak", "return peak + 100"))
    second, other = run(package, cache)
    assert second == 105
    assert other != folder


def test_the_setting_of_numba_stays_as_it_was() -> None:
    folder = cache_folder()
    assert folder is None or str(folder) != numba.config.CACHE_DIR


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A package, and a cache with what it has compiled."""
    folder = tmp_path_factory.mktemp("kept")
    shutil.copytree(Path(autockpt_solvers.__file__).parent, folder / "autockpt_solvers")
    run(folder / "autockpt_solvers", folder / "cache")
    return folder / "autockpt_solvers", folder / "cache"


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("left", [0, 20])
def test_a_truncated_file_is_compiled_again(kept: tuple[Path, Path], kind: str, left: int) -> None:
    """A full disk left a part of a file, and every later search failed with an error of pickle."""
    package, cache = kept
    (folder,) = cache.iterdir()
    files = list(folder.rglob(f"*.{kind}"))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:left])
    assert run(package, cache) == (5, folder)
    # What was compiled anew is kept.
    assert all(file.stat().st_size > left for file in files)
