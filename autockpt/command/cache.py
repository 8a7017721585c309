"""`autockpt cache`: what autockpt keeps on disk, measured operators and plans."""

from __future__ import annotations

import contextlib
import json as json_module
import sqlite3
from pathlib import Path
from typing import Any

import typer

from autockpt.command.grammar.groups import spread
from autockpt.command.grammar.options import Json, Shown
from autockpt.command.grammar.usage_error import TargetError
from autockpt.command.running import exits
from autockpt.command.running.files import STANDARD_OUTPUT, check_writable, write
from autockpt.command.running.streams import say, tell
from autockpt.command.running.told import told

EXAMPLES = ("autockpt cache info", "autockpt cache clear")

app = typer.Typer(
    help="Show or clear what autockpt keeps on disk: measured operators and plans.",
    epilog="Examples:\n\n" + "\n\n".join(EXAMPLES),
    rich_markup_mode="rich",
)


@app.callback(invoke_without_command=True)
def _cache(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _info(shown: Shown, json: Json = None) -> None:
    """Show where autockpt keeps measured operators and plans, and how many."""
    with told(shown):
        check_writable(json)
        _check_folder()
        from autockpt.profile.cache import cache_folder

        found = kept()
        if json is not None:
            write(json, json_module.dumps(found, indent=1) + "\n")
        if json == STANDARD_OUTPUT:
            return
        from autockpt.budget import format_bytes

        off = "" if found["plans_are_kept"] else "  (off: AUTOCKPT_PLAN_CACHE)"
        operators, plans = (
            format_bytes(found["operators_bytes"]),
            format_bytes(found["plans_bytes"]),
        )
        say(f"folder     {cache_folder()}  (AUTOCKPT_CACHE_DIR names another)")
        say(f"operators  {found['num_operators']} measured, {operators}")
        say(f"plans      {found['num_plans']} kept, {plans}{off}")


def _clear(shown: Shown) -> None:
    """Delete measured operators and kept plans: the next planning measures and solves again."""
    with told(shown):
        _check_folder()
        from autockpt.budget import format_bytes
        from autockpt.profile.cache import cache_folder

        files = [*_profile_files(), *_plans(), *_half_written()]
        size = format_bytes(_size(files))
        failed = [file for file in files if not _deleted(file)]
        say(f"deleted {len(files) - len(failed)} files, {size}, in {cache_folder()}")
        if failed:
            tell(f"could not delete {failed[0]} and {len(failed) - 1} others")
            raise typer.Exit(exits.USAGE)


app.command("info", epilog="Example:\n\nautockpt cache info --json -")(spread(_info))
app.command("clear")(spread(_clear))


def kept() -> dict[str, Any]:
    """Returns what is kept, and where."""
    from autockpt.dispatch.kept import are_kept
    from autockpt.profile.cache import cache_folder

    plans = _plans()
    return {
        "folder": str(cache_folder()),
        "num_operators": _num_operators(),
        "operators_bytes": _size(_profile_files()),
        "num_plans": len(plans),
        "plans_bytes": _size(plans),
        "plans_are_kept": are_kept(),
    }


def _check_folder() -> None:
    from autockpt.profile.cache import cache_folder, folder_obstacle

    obstacle = folder_obstacle()
    if obstacle:
        raise TargetError(
            f"cannot use the cache folder {cache_folder()}: {obstacle}; name another with "
            "AUTOCKPT_CACHE_DIR"
        )


def _profile_files() -> list[Path]:
    from autockpt.profile.cache import profile_file

    file = profile_file()
    return [f for f in (file, *file.parent.glob(f"{file.name}-*")) if f.is_file()]


def _plans() -> list[Path]:
    from autockpt.dispatch.kept import plans_folder

    return [file for file in plans_folder().glob("*.json") if file.is_file()]


def _half_written() -> list[Path]:
    """What processes left that ended while they wrote a plan."""
    from autockpt.dispatch.kept import plans_folder

    return [file for file in plans_folder().glob(".autockpt-*.tmp") if file.is_file()]


def _num_operators() -> int:
    from autockpt.profile.cache import profile_file

    if not profile_file().is_file():
        return 0
    with contextlib.suppress(sqlite3.Error):
        url = f"{profile_file().absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(url, uri=True)) as connection:
            return int(connection.execute("SELECT COUNT(*) FROM cost").fetchone()[0])
    return 0


def _size(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _deleted(file: Path) -> bool:
    with contextlib.suppress(OSError):
        file.unlink()
        return True
    return False
