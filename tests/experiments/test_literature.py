"""The experiments of the literature: their files, and the networks that they are about."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from autockpt.command.targets.experiment import Names
from autockpt.experiments.spec import read_experiment

_FOLDER = Path(__file__).parents[2] / "examples" / "experiments"
_FILES = sorted(_FOLDER.glob("*.toml"))


@pytest.mark.parametrize("file", _FILES, ids=lambda file: file.stem)
def test_an_experiment_is_ready_to_run(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    experiment = read_experiment(file)
    sources = Names(folder=_FOLDER).checked(experiment)
    assert set(sources.methods) == set(experiment.methods)
    assert experiment.published
    for published in experiment.published:
        assert "20" in published.source  # a paper and its year
    readme = (_FOLDER / "README.md").read_text()
    assert f"`{file.name}`" in readme


def test_there_is_an_experiment_for_each_paper() -> None:
    names = {file.stem for file in _FILES}
    assert names == {"checkmate", "monet", "rockmate", "fastsa", "moccasin"}


def test_the_networks_are_those_of_the_papers() -> None:
    spec = importlib.util.spec_from_file_location("networks", _FOLDER / "networks.py")
    assert spec is not None
    assert spec.loader is not None
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    sizes = {"vgg16": 138_365_992, "unet": 31_043_586, "resnet50": 25_557_032}
    for name, num_parameters in sizes.items():
        model, inputs = getattr(networks, name)(batch=2)
        assert sum(p.numel() for p in model.parameters()) == num_parameters
        assert all(value.is_meta for value in inputs.values())
    with torch.device("meta"):
        assert networks.UNet()(torch.randn(1, 3, 64, 96)).shape == (1, 2, 64, 96)
