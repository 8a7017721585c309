"""Measured costs on disk: one SQLite file per user, safe for several processes at once.

The file holds plain integers keyed by text; reading it executes nothing. A file that is corrupt,
foreign or on a full disk costs a warning and a fresh measurement, never a failed plan.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import platformdirs
import torch

_SCHEMA_VERSION = 1


class ProfileCache:
    """Runtime (ns) and workspace (bytes) by signature, for one device and torch version."""

    def __init__(self, path: Path, scope: str) -> None:
        self._path = path
        self._scope = scope

    @classmethod
    def open_default(cls, device: torch.device) -> ProfileCache:
        """The cache in ``$AUTOCKPT_CACHE_DIR`` or the user's cache folder."""
        folder = os.environ.get("AUTOCKPT_CACHE_DIR") or platformdirs.user_cache_dir("autockpt")
        if device.type == "cpu":
            name = f"cpu:{torch.backends.cpu.get_cpu_capability()}:{torch.get_num_threads()}"
        else:
            name = torch.get_device_module(device).get_device_name(device)
        path = Path(folder) / f"profile-v{_SCHEMA_VERSION}.sqlite"
        return cls(path, f"{torch.__version__}|{name}")

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self._path, timeout=10.0)) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS cost (scope TEXT, signature TEXT, runtime_ns INTEGER,"
                " workspace_bytes INTEGER, PRIMARY KEY (scope, signature))"
            )
            yield connection

    def load(self, signatures: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Known costs among these signatures; nothing when the file cannot be read."""
        wanted = set(signatures)
        try:
            with self._connection() as connection:
                rows = connection.execute(
                    "SELECT signature, runtime_ns, workspace_bytes FROM cost WHERE scope = ?",
                    (self._scope,),
                ).fetchall()
        except (sqlite3.Error, OSError) as error:
            self._warn("read", error)
            return {}
        return {
            signature: (runtime_ns, workspace_bytes)
            for signature, runtime_ns, workspace_bytes in rows
            if signature in wanted
            and isinstance(runtime_ns, int)
            and isinstance(workspace_bytes, int)
            and runtime_ns >= 0
            and workspace_bytes >= 0
        }

    def store(self, costs: dict[str, tuple[int, int]]) -> None:
        """Keep these costs; a cache that cannot be written costs a warning only."""
        try:
            with self._connection() as connection, connection:
                connection.executemany(
                    "INSERT OR IGNORE INTO cost VALUES (?, ?, ?, ?)",
                    [(self._scope, key, *values) for key, values in costs.items()],
                )
        except (sqlite3.Error, OSError) as error:
            self._warn("write", error)

    def _warn(self, action: str, error: Exception) -> None:
        warnings.warn(
            f"cannot {action} the profile cache {self._path} ({error}); measuring without it. "
            "Delete the file or set AUTOCKPT_CACHE_DIR to another folder.",
            stacklevel=4,
        )
