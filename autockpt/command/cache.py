"""What autockpt keeps on disk: measured operators and plans."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import typer

from autockpt.budget import format_bytes
from autockpt.dispatch.kept import are_kept, plans_folder
from autockpt.profile.cache import cache_folder, profile_file

app = typer.Typer(no_args_is_help=True, help="Shows or clears what autockpt keeps on disk.")


@app.command()
def info() -> None:
    """Shows where autockpt keeps measured operators and plans, and how many."""
    typer.echo(f"folder     {cache_folder()}  (AUTOCKPT_CACHE_DIR names another)")
    typer.echo(f"operators  {_num_operators()} measured, {_size(_profile_files())}")
    plans = _plans()
    off = "" if are_kept() else "  (off: AUTOCKPT_PLAN_CACHE)"
    typer.echo(f"plans      {len(plans)} kept, {_size(plans)}{off}")


@app.command()
def clear() -> None:
    """Deletes measured operators and kept plans: the next planning measures and solves again."""
    files = [*_profile_files(), *_plans(), *_half_written()]
    size = _size(files)
    failed = [file for file in files if not _deleted(file)]
    typer.echo(f"deleted {len(files) - len(failed)} files, {size}, in {cache_folder()}")
    if failed:
        typer.echo(f"could not delete {failed[0]} and {len(failed) - 1} others", err=True)
        raise typer.Exit(1)


def _profile_files() -> list[Path]:
    file = profile_file()
    return [f for f in (file, *file.parent.glob(f"{file.name}-*")) if f.is_file()]


def _plans() -> list[Path]:
    return [file for file in plans_folder().glob("*.json") if file.is_file()]


def _half_written() -> list[Path]:
    """What processes left that ended while they wrote a plan."""
    return [file for file in plans_folder().glob(".autockpt-*.tmp") if file.is_file()]


def _num_operators() -> int:
    if not profile_file().is_file():
        return 0
    with contextlib.suppress(sqlite3.Error):
        url = f"{profile_file().absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(url, uri=True)) as connection:
            return int(connection.execute("SELECT COUNT(*) FROM cost").fetchone()[0])
    return 0


def _size(files: list[Path]) -> str:
    return format_bytes(sum(file.stat().st_size for file in files))


def _deleted(file: Path) -> bool:
    with contextlib.suppress(OSError):
        file.unlink()
        return True
    return False
