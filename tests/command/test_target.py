from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from autockpt.command.grammar.options import ModelOptions, Size
from autockpt.command.targets.target import TargetError, load, load_loss

_MODELS = """
import torch
import beside

def _model():
    return torch.nn.Linear(3, 1)

def three():
    return _model(), [torch.ones(2, 3)], {}

def with_tensor():
    return _model(), torch.ones(2, 3)

def with_tuple():
    return _model(), (torch.ones(2, 3),)

def with_dict():
    return _model(), {"input": torch.ones(2, 3)}

def nothing():
    return None

def no_model():
    return 1, torch.ones(2, 3)

def broken():
    raise KeyError("mine")

def a_loss(output):
    return output.sum() * beside.FACTOR

not_a_function = 3
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script with a module beside it; what importing it leaves behind is undone."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("my_models", "beside"):
        monkeypatch.setitem(sys.modules, name, sys)
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "beside.py").write_text("FACTOR = 2\n")
    path = tmp_path / "my_models.py"
    path.write_text(_MODELS)
    return path


@pytest.mark.parametrize("name", ["three", "with_tensor", "with_tuple", "with_dict"])
def test_what_a_function_may_return(models: Path, name: str) -> None:
    example = load(f"{models}:{name}")
    assert isinstance(example.model, torch.nn.Linear)
    assert example.model(*example.args, **example.kwargs).shape == (2, 1)


def test_modules_are_found_from_the_current_folder(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models.parent)
    assert load("my_models:three").args[0].shape == (2, 3)
    with pytest.raises(TargetError, match=r"there is no module 'my_models\.deeper'"):
        load("my_models.deeper:f")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "must return .*; it returned NoneType"),
        ("no_model", r"it returned \(int, Tensor\)"),
        ("missing", "has no 'missing'"),
        ("not_a_function", "has no function 'not_a_function'"),
    ],
)
def test_what_a_function_may_not_return(models: Path, name: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        load(f"{models}:{name}")


@pytest.mark.parametrize("target", ["", "model", ":f", "model.py", "model.py:", "zoo"])
def test_what_is_no_target(target: str) -> None:
    with pytest.raises(TargetError, match=r"is no target; .*write file\.py:function"):
        load(target)


def test_missing_files_and_modules() -> None:
    with pytest.raises(TargetError, match=r"there is no file nowhere\.py"):
        load("nowhere.py:f")
    with pytest.raises(TargetError, match="there is no module 'nowhere'"):
        load("nowhere:f")


def test_errors_of_the_users_own_code_have_their_line(models: Path) -> None:
    with pytest.raises(TargetError, match=r"my_models\.py:27: KeyError: 'mine'"):
        load(f"{models}:broken")
    models.write_text("import surely_not_installed")
    with pytest.raises(TargetError, match=r"my_models\.py:1: ModuleNotFoundError: no module 'sur"):
        load(f"{models}:three")


def test_zoo_models_come_in_a_size_and_on_a_device() -> None:
    example = load("zoo:sequential", device="meta")
    assert example.args[0].is_meta
    with pytest.raises(TargetError, match="unknown model 'x'; the zoo has gpt2"):
        load("zoo:x")
    with pytest.raises(TargetError, match="--device and --size are for zoo"):
        ModelOptions(size=Size.FULL).check("math:sqrt")


def test_losses_are_named_or_targets(models: Path) -> None:
    output = torch.tensor([1.0, 5.0])
    assert load_loss("sum")(output) == 6
    assert load_loss("mean")(output) == 3
    assert load_loss(f"{models}:a_loss")(output) == 12
