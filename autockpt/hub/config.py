"""Reads the configuration of a model: a file, a folder, or a name on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FILE = "config.json"


class HubError(ValueError):
    """A configuration cannot be read, or does not describe a model that can be built."""


def reason_of(error: Exception) -> str:
    """Returns what a library says of a configuration, on one line."""
    reason = " ".join(str(error).split())
    tells = isinstance(error, ValueError) or len(reason.split()) > 2
    return reason if tells else f"{type(error).__name__}: {reason}"


def read_config(place: str) -> dict[str, Any]:
    """Returns the configuration at a place.

    Args:
        place: A `config.json`, a folder with one, or the name of a model on the Hugging Face hub,
            from which nothing but the configuration is loaded.

    Raises:
        HubError: There is none, or it is not JSON.
    """
    if not place.strip():
        raise HubError("write hf:PLACE with a config.json, a folder with one, or a name on the hub")
    path = Path(place).expanduser()
    if path.is_dir():
        path = path / _FILE
        if not path.exists():
            raise HubError(f"there is no {_FILE} in {place}")
    if not path.exists():
        if place.startswith((".", "/", "~")) or place.endswith(".json"):
            raise HubError(f"there is no file {place}")
        path = _loaded(place)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HubError(f"{path} is not a configuration in JSON: {error}") from error
    if not isinstance(config, dict):
        raise HubError(f"{path} is not a configuration: it must be a JSON object")
    return config


def _loaded(name: str) -> Path:
    """The configuration of a model on the hub.

    Raises:
        HubError: There is no such model, or no network.
    """
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError as error:
        raise HubError(
            f'{name} is no folder or file, and the hub needs: pip install "autockpt[experiments]"'
        ) from error
    try:
        return Path(hf_hub_download(name, _FILE))
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise HubError(
            f"{name} is no folder or file here, and the hub gives no {_FILE} for it: {lines[0]}"
        ) from error
