"""`autockpt bench peers`: autockpt beside other ways to train in less memory."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch

from autockpt.command.grammar.usage_error import TargetError
from autockpt.command.running.files import write
from autockpt.command.targets.environment import environment
from autockpt.experiments.peers.measure import Race, Rules, chosen_ways, race
from autockpt.experiments.peers.models import PEER_MODELS
from autockpt.experiments.peers.page import PeerResults, to_markdown
from autockpt.experiments.results import Results, key_of

_LOGGER = logging.getLogger("autockpt")


def run_peers(folder: Path, names: str | None, rules: Rules) -> PeerResults:
    """Runs the races that have no result yet, and writes the page after each model.

    Args:
        folder: The folder for results.
        names: Names of models, separated by commas; None for all.
        rules: How to run them.

    Raises:
        TargetError: There is no such model.
        ExperimentError: The folder cannot be used.
    """
    chosen = list(PEER_MODELS) if names is None else [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in PEER_MODELS:
            raise TargetError(f"unknown model {name!r}; peers has {', '.join(PEER_MODELS)}")
    results = Results(folder, Race)
    versions = environment()
    torch.set_num_threads(1)
    races: list[Race] = []
    for name in chosen:
        model = PEER_MODELS[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the library and of the compiler, in each copy
            for way in chosen_ways(model):
                key = key_of(
                    model=name, way=way.name, environment=versions, num_rounds=rules.num_rounds
                )
                found = results.find(Race, key)
                if found is None:
                    _LOGGER.info("%s: %s", model.title, way.name)
                    found = race(model, way, rules, key)
                    results.add(found)
                races.append(found)
        page = to_markdown(races, versions, num_rounds=rules.num_rounds)
        write(folder / "peers.md", page)
    return PeerResults(environment=versions, num_rounds=rules.num_rounds, races=tuple(races))
