"""Files of experiments: what is read, and the one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from autockpt.experiments.spec import ExperimentError, read_experiment

_MODEL = '[[models]]\ntarget = "zoo:gpt2"\n'


def _written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "x.toml"
    file.write_text(text)
    return file


def test_a_file_with_one_model_has_defaults(tmp_path: Path) -> None:
    experiment = read_experiment(_written(tmp_path, _MODEL))
    assert experiment.methods == ("auto",)
    assert experiment.devices == ("cpu",)
    assert experiment.budgets == 8
    assert experiment.models[0].label == "zoo:gpt2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models = [", "is no TOML: Invalid value"),
        ("", "missing required field `models`"),
        ("models = []", "models is empty; give at least one"),
        (_MODEL + "widht = 3\n", "models[0]: unknown key 'widht'; known are target, name"),
        (_MODEL + "bach = 3\n", "models[0]: unknown key 'bach'; did you mean 'batch'?"),
        ('budget = "8GB"\n' + _MODEL, "unknown key 'budget'; did you mean 'budgets'?"),
        (_MODEL + 'batch = "8"\n', "models[0].batch: Expected `int"),
        (_MODEL + "batch = 0\n", "models[0].batch: Expected `int` >= 1"),
        ('budgets = ["much"]\n' + _MODEL, "'much' is not an amount of memory"),
        ("budgets = 0\n" + _MODEL, "budgets is 0; as a number it must be from 1 to 200"),
        ("budgets = []\n" + _MODEL, "budgets is empty"),
        ('budgets = ["80% of device"]\n' + _MODEL, "depends on a device"),
        ('methods = ["auto", "auto"]\n' + _MODEL, "methods has an entry twice"),
        ("time_limit_s = 0\n" + _MODEL, "time_limit_s: Expected `float` > 0"),
        (_MODEL + _MODEL, "two models are called 'zoo:gpt2'"),
        (
            _MODEL + '[[published]]\nmodel="x"\nwhat="w"\nvalue="1"\nsource="s"\n',
            "published is for the model 'x'; the models are 'zoo:gpt2'",
        ),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        read_experiment(_written(tmp_path, text))
    assert message in str(caught.value)
    assert "x.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="there is no file"):
        read_experiment(tmp_path / "none.toml")
