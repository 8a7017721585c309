"""What a TOML file of an experiment may contain, and one clear line for what it may not."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from autockpt.budget import parse_budget
from autockpt_solvers.near_names import meant

_MOST_BUDGETS = 200
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Budgets = int | tuple[int | str, ...]


class ExperimentError(ValueError):
    """A file of an experiment, or its results, cannot be used."""


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Model(_Table, frozen=True, kw_only=True):
    """A model of an experiment, with the options of the command line.

    Attributes:
        target: As on the command line. A path is relative to the file of the experiment.
        name: Its name in tables and plots; by default the target.
        budgets: Its own budgets, instead of those of the experiment.
        size: For ``zoo:`` targets.
        batch: The batch size.
        loss: How to compute a loss.
        optimizer: The optimizer, instead of that of the experiment.
        seq: As the option of the command line, and so are those that follow.
    """

    target: str
    name: str = ""
    budgets: Budgets | None = None
    size: Literal["small", "full"] = "small"
    batch: Positive | None = None
    loss: str | None = None
    optimizer: str | None = None
    seq: Positive | None = None
    dtype: str = "fp32"
    autocast: str | None = None
    attention: str | None = None
    lora: Positive | None = None

    @property
    def label(self) -> str:
        """Its name in tables and plots."""
        return self.name or self.target


class Published(_Table, frozen=True, kw_only=True):
    """A number that somebody published, to stand beside the results.

    Attributes:
        model: The name of a model of the experiment.
        what: What was measured, in words.
        value: The number, with its unit.
        source: Where it is printed: the paper, and its table, figure or page.
        budget: The budget that it is for, in the words of the source.
    """

    model: str
    what: str
    value: str
    source: str
    budget: str = ""


class Experiment(_Table, frozen=True, kw_only=True):
    """Models x budgets x methods x devices.

    Attributes:
        models: The models.
        budgets: Budgets as for ``plan``, or how many to choose between the smallest workable one
            and the eager peak.
        title: The title of the page of results.
        about: Text that goes before the results.
        methods: Names of methods, or ``file.py:function``.
        devices: ``"cpu"``, where operations are measured, or names of devices that need not be
            here, whose times are estimated.
        optimizer: The optimizer that counts; AdamW by default.
        cost: A cost model, by name or as ``file.py:function``.
        time_limit_s: Time limit of each search.
        published: Numbers of others, to stand beside.
    """

    models: tuple[Model, ...]
    budgets: Budgets = 8
    title: str = ""
    about: str = ""
    methods: tuple[str, ...] = ("auto",)
    devices: tuple[str, ...] = ("cpu",)
    optimizer: str | None = None
    cost: str | None = None
    time_limit_s: Seconds = 20.0
    published: tuple[Published, ...] = ()


_TABLES: dict[str, type[_Table]] = {"models": Model, "published": Published}
_UNKNOWN = re.compile(r"unknown field `(.*)`")


def read_experiment(file: Path) -> Experiment:
    """Read the file of an experiment.

    Raises:
        ExperimentError: It cannot be read, is no TOML, or has something that it may not have.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExperimentError(f"there is no file {file}; name the .toml file to run") from error
    except OSError as error:
        raise ExperimentError(f"cannot read {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{file} is no TOML: {error}") from error
    try:
        experiment = msgspec.convert(content, Experiment)
        _check(experiment)
    except ValueError as error:
        raise ExperimentError(f"{file}: {_in_words(str(error))}") from error
    return experiment


def _in_words(message: str) -> str:
    """A message of msgspec, with the place first and as TOML calls it."""
    what, separator, place = message.partition(" - at `$")
    place = place.strip("`").lstrip(".").replace("[...]", "") if separator else ""
    unknown = _UNKNOWN.search(what)
    if unknown is not None:
        known = _TABLES.get(place.partition("[")[0], Experiment).__struct_fields__
        what = f"unknown key {unknown[1]!r}; {meant(unknown[1], known)}known are {', '.join(known)}"
    return f"{place}: {what}" if place else what


def _check(experiment: Experiment) -> None:
    for name in ("models", "methods", "devices"):
        values = getattr(experiment, name)
        if not values:
            raise ExperimentError(f"{name} is empty; give at least one")
    for name in ("methods", "devices"):
        values = getattr(experiment, name)
        if len(set(values)) != len(values):
            raise ExperimentError(f"{name} has an entry twice")
    labels = [model.label for model in experiment.models]
    for label in labels:
        if labels.count(label) > 1:
            raise ExperimentError(f"two models are called {label!r}; give each a name of its own")
    for published in experiment.published:
        if published.model not in labels:
            raise ExperimentError(
                f"published is for the model {published.model!r}; the models are "
                f"{', '.join(map(repr, labels))}"
            )
    _check_budgets(experiment.budgets)
    for model in experiment.models:
        if model.budgets is not None:
            _check_budgets(model.budgets)


def _check_budgets(budgets: Budgets) -> None:
    if isinstance(budgets, int):
        if not 1 <= budgets <= _MOST_BUDGETS:
            raise ExperimentError(
                f"budgets is {budgets}; as a number it must be from 1 to {_MOST_BUDGETS}, or give "
                'a list such as ["40%", "8GB"]'
            )
        return
    if not budgets:
        raise ExperimentError("budgets is empty; give at least one")
    for budget in budgets:
        if parse_budget(budget).is_of_device:
            raise ExperimentError(
                f"the budget {budget!r} depends on a device; give bytes or a share of the eager "
                "peak"
            )
