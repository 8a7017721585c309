"""Private names of torch: all in one folder, all in its table, and missing ones named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from private_names import private_attributes, private_paths

import autockpt
from autockpt.errors import TorchVersionError
from autockpt.torch_private import needed
from autockpt.torch_private.needed import DISTRIBUTED, NEEDED, OF_INSTANCES, missing_names

PACKAGE = Path(autockpt.__file__).parent
FENCE = PACKAGE / "torch_private"
TABLE = NEEDED | DISTRIBUTED
LAST_NAMES = frozenset(path.rpartition(".")[2] for path in TABLE) | OF_INSTANCES


def sources_outside() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if FENCE not in path.parents]


def sources_inside() -> list[Path]:
    return [path for path in sorted(FENCE.glob("*.py")) if path.name != "needed.py"]


@pytest.mark.parametrize("path", sources_outside(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_private_name_of_torch_is_used_outside_of_its_folder(path: Path) -> None:
    source = path.read_text()
    assert [*private_paths(source), *private_attributes(source)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch._dynamo", "torch._dynamo"),
        ("from torch.utils._pytree import tree_map", "torch.utils._pytree.tree_map"),
        ("from torch import _dynamo as d\nd.reset()", "torch._dynamo.reset"),
        ("import torch\ntorch._C._get_tracing_state()", "torch._C._get_tracing_state"),
        ("import torch\naten = torch.ops.aten\naten._to_copy", "torch.ops.aten._to_copy"),
        (
            "from torch.fx.experimental.proxy_tensor import is_sym_node",
            "torch.fx.experimental.proxy_tensor.is_sym_node",
        ),
        ("import torch\ngetattr(torch.nn, '_hidden')", "torch.nn._hidden"),
        ("def key(tensor): return tensor.untyped_storage()._cdata", "_cdata"),
        ("def f(module): return module._buffers", "_buffers"),
        ("def f(p): return getattr(p, '_post_accumulate_grad_hooks', None)",
         "_post_accumulate_grad_hooks"),
    ],
)  # fmt: skip
def test_the_scan_finds_private_names(source: str, found: str) -> None:
    names = {name for _, name in [*private_paths(source), *private_attributes(source)]}
    assert found in names


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.nn.Linear(1, 1).weight.grad_fn",
        "import torch\ntorch.__version__",
        "class Own:\n    def f(self): return self._buffers",
        "def f(other): return other._request",
    ],
)
def test_the_scan_passes_over_other_names(source: str) -> None:
    assert [*private_paths(source), *private_attributes(source)] == []


def test_the_table_has_every_name_that_the_folder_uses() -> None:
    unlisted = []
    for path in sources_inside():
        source = path.read_text()
        for line, name in private_paths(source):
            if not any(_is_covered(name, listed) for listed in TABLE):
                unlisted.append((path.name, line, name))
        for line, name in private_attributes(source, every=True):
            if name not in LAST_NAMES:
                unlisted.append((path.name, line, name))
    assert unlisted == []


def _is_covered(name: str, listed: str) -> bool:
    """Whether a name is listed, leads to what is listed, or is a public part of it."""
    if listed == name or listed.startswith(f"{name}."):
        return True
    beyond = name.removeprefix(f"{listed}.")
    return beyond != name and not any(part.startswith("_") for part in beyond.split("."))


def test_the_table_has_no_name_that_the_folder_does_not_use() -> None:
    text = "\n".join(path.read_text() for path in sources_inside())
    used = {name for path in sources_inside() for _, name in private_paths(path.read_text())}
    unused = [
        path
        for path in TABLE
        if path not in used
        and not any(name.startswith(f"{path}.") for name in used)
        and path.rpartition(".")[2] not in text
    ]
    assert unused == []


def test_the_installed_torch_has_all_of_them() -> None:
    assert missing_names(TABLE) == ()


def test_missing_names_and_parameters_are_named() -> None:
    table = {
        "torch.utils._pytree.tree_map": (),
        "torch.utils._pytree.tree_mapp": (),
        "torch._gone.name": (),
        "torch.nn.Module._buffers": (),
        "torch.nn.Module._puffers": (),
        "torch._functorch.partitioners.classify_nodes": ("joint_module", "gone"),
    }
    assert missing_names(table) == (
        "torch.utils._pytree.tree_mapp",
        "torch._gone.name",
        "torch.nn.Module._puffers",
        "torch._functorch.partitioners.classify_nodes(gone=...)",
    )


def test_the_error_says_what_is_missing_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needed, "NEEDED", {"torch._gone": (), "torch.utils._pytree": ()})
    with pytest.raises(TorchVersionError) as caught:
        needed.check_torch()
    assert caught.value.missing == ("torch._gone",)
    message = str(caught.value)
    assert "was tested with torch 2.11 to 2.15; this is torch " + torch.__version__ in message
    assert "which lacks torch._gone. Install a tested version: pip install 'torch==2.15" in message


def test_importing_autockpt_with_a_torch_that_lacks_a_name_says_so() -> None:
    """The check runs before anything imports the name."""
    code = (
        "import torch, torch._functorch.partitioners as p\n"
        "del p._extract_fwd_bwd_modules\n"
        "from autockpt import optimize\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "TorchVersionError: autockpt" in run.stderr
    assert "which lacks torch._functorch.partitioners._extract_fwd_bwd_modules." in run.stderr
