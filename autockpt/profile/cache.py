"""Measured costs on disk: one SQLite file per user, which several processes can share.

The file contains only integers keyed by text, so reading it executes nothing. If it is corrupt, of
another program or on a full disk, autockpt warns and measures again; the plan does not fail.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import torch

from autockpt.user_warnings import warn_user

PROFILE_VERSION = 3
# Ten minutes and a terabyte. Rows above that are ignored: the engine could not add up a graph of
# such operations.
MAX_RUNTIME_NS = 600 * 10**9
MAX_BYTES = 2**40


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCost:
    """Run time of a node, its workspace beyond inputs and outputs, and the bytes it returns.

    ``output_bytes`` has one entry per returned tensor, the size of the storage under it: a few
    operators return more than their shapes show (``mse_loss`` keeps the unreduced squares). It is
    empty if nothing was measured.
    """

    runtime_ns: int
    workspace_bytes: int
    output_bytes: tuple[int, ...] = ()


def cache_folder() -> Path:
    """``$AUTOCKPT_CACHE_DIR``, or autockpt's folder among the user's caches."""
    return Path(os.environ.get("AUTOCKPT_CACHE_DIR") or platformdirs.user_cache_dir("autockpt"))


def folder_obstacle() -> str:
    """Why the cache folder cannot be used, in words; empty if it can, or can be made."""
    folder = cache_folder()
    existing = next((place for place in (folder, *folder.parents) if place.exists()), None)
    if existing is None or not existing.is_dir():
        return f"{existing or folder} is not a folder"
    if not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
        return f"you may not read and write in {existing}"
    return ""


def profile_file() -> Path:
    """Where measured costs are."""
    return cache_folder() / f"profile-v{PROFILE_VERSION}.sqlite"


def device_name(device: torch.device) -> str:
    """The kind of device, as far as costs depend on it."""
    if device.type == "cpu":
        return f"cpu:{torch.backends.cpu.get_cpu_capability()}:{torch.get_num_threads()}"
    if device.type == "meta":
        return "meta"
    return str(torch.get_device_module(device).get_device_name(device))


class ProfileCache:
    """Stores costs by signature, for one device and torch version."""

    def __init__(self, path: Path, scope: str) -> None:
        self._path = path
        self._scope = scope

    @classmethod
    def open_default(cls, device: torch.device) -> ProfileCache:
        """Opens the cache in ``$AUTOCKPT_CACHE_DIR`` or the user's cache folder."""
        return cls(profile_file(), f"{torch.__version__}|{device_name(device)}")

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self._path, timeout=10.0)) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS cost (scope TEXT, signature TEXT, runtime_ns INTEGER,"
                " workspace_bytes INTEGER, output_bytes TEXT, PRIMARY KEY (scope, signature))"
            )
            yield connection

    def load(self, signatures: Iterable[str]) -> dict[str, NodeCost]:
        """Returns the known costs of these signatures; none if the file cannot be read."""
        wanted = set(signatures)
        try:
            with self._connection() as connection:
                rows = connection.execute(
                    "SELECT signature, runtime_ns, workspace_bytes, output_bytes FROM cost"
                    " WHERE scope = ?",
                    (self._scope,),
                ).fetchall()
        except (sqlite3.Error, OSError) as error:
            self._warn("read", error)
            return {}
        costs = {key: _checked(*values) for key, *values in rows if key in wanted}
        return {key: cost for key, cost in costs.items() if cost is not None}

    def store(self, costs: Mapping[str, NodeCost]) -> None:
        """Stores these costs; warns if the file cannot be written.

        They replace rows that `load` ignored. If two processes store a cost, the last one stays.
        """
        rows = [
            (self._scope, key, c.runtime_ns, c.workspace_bytes, json.dumps(c.output_bytes))
            for key, c in costs.items()
        ]
        try:
            with self._connection() as connection, connection:
                connection.executemany("INSERT OR REPLACE INTO cost VALUES (?, ?, ?, ?, ?)", rows)
        except (sqlite3.Error, OSError) as error:
            self._warn("write", error)

    def _warn(self, action: str, error: Exception) -> None:
        warn_user(
            f"cannot {action} the profile cache {self._path} ({error}); measuring without it. "
            "Delete the file or set AUTOCKPT_CACHE_DIR to another folder."
        )


def _checked(runtime_ns: Any, workspace_bytes: Any, output_bytes: Any) -> NodeCost | None:
    """Returns a row as a cost, or None if another program wrote it."""
    try:
        sizes = json.loads(output_bytes)
    except (TypeError, ValueError, RecursionError):
        return None
    if not isinstance(sizes, list):
        return None
    if not all(_is_count(v, MAX_BYTES) for v in (workspace_bytes, *sizes)):
        return None
    if not _is_count(runtime_ns, MAX_RUNTIME_NS):
        return None
    return NodeCost(
        runtime_ns=runtime_ns, workspace_bytes=workspace_bytes, output_bytes=tuple(sizes)
    )


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most
