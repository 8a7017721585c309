"""Things that go wrong around planning: a clear message, nothing lost, and the next run works."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import random
import sqlite3
import threading
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import context
from torch import nn
from torch._dynamo.variables.torch import tracing_state_functions

import autockpt
from autockpt.command.tasks.graph_file import solve_file
from autockpt.profile import cache as profile_cache
from autockpt.profile.cache import NodeCost, ProfileCache
from autockpt.torch_private.dynamo_settings import tracing_config

X = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
_COST = NodeCost(runtime_ns=5, workspace_bytes=3, output_bytes=(8,))


def planned() -> autockpt.Plan:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(32, 32) for _ in range(4)])
    return autockpt.plan(model, "100%", sample_args=(X,))


@functools.cache
def planned_text() -> str:
    return planned().to_json()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test alone; the path of the file that will be in it."""
    monkeypatch.setenv("AUTOCKPT_CACHE_DIR", str(tmp_path))
    return ProfileCache.open_default(torch.device("cpu"))._path


def _plan(folder: Path, stops: str, link: Connection) -> None:
    """Plan in a process of its own, which stays where it is to stop."""
    os.environ["AUTOCKPT_CACHE_DIR"] = str(folder)
    torch.set_num_threads(1)

    def stop(*_: object) -> None:
        link.send("stopped")
        link.recv()

    class Stopping(sqlite3.Connection):
        def executemany(self, *args: Any) -> sqlite3.Cursor:
            cursor = super().executemany(*args)
            stop()
            return cursor

    if stops == "before it measures":
        ProfileCache.load = stop  # type: ignore[method-assign,assignment]
    elif stops == "in mid transaction":
        sqlite3.connect = functools.partial(sqlite3.connect, factory=Stopping)
    link.send(planned().predicted_peak_bytes)


def start(folder: Path, stops: str = "") -> tuple[BaseProcess, Connection]:
    """A process that plans with its cache in a folder, and what it sends."""
    ours, theirs = context.Pipe()
    process = context.Process(target=_plan, args=(folder, stops, theirs))
    process.start()
    theirs.close()
    return process, ours


@pytest.mark.row("killed in mid planning", "a process ended by SIGKILL while it plans")
@pytest.mark.parametrize("stops", ["before it measures", "in mid transaction"])
def test_killed_in_mid_planning(cache: Path, stops: str) -> None:
    process, link = start(cache.parent, stops)
    assert link.recv() == "stopped"
    process.kill()
    process.join()
    assert planned().predicted_peak_bytes > 0  # no warning: they are errors here
    with sqlite3.connect(cache) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.row("two processes on one cache", "both plan the same model at once")
def test_two_processes_on_one_cache(cache: Path) -> None:
    processes = [start(cache.parent) for _ in range(2)]
    peaks = [link.recv() for _, link in processes]
    for process, _ in processes:
        process.join()
        assert process.exitcode == 0
    assert peaks[0] == peaks[1]
    assert planned().predicted_peak_bytes > 0


def test_two_writers_wait_for_each_other(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process writes, a store waits instead of losing what was measured."""
    first, second = ProfileCache(cache, "a"), ProfileCache(cache, "b")
    first.store({"op": _COST})
    holder = sqlite3.connect(cache, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    writes = threading.Event()

    class Announcing(sqlite3.Connection):
        def executemany(self, *args: Any) -> sqlite3.Cursor:
            writes.set()
            return super().executemany(*args)

    connect = functools.partial(sqlite3.connect, factory=Announcing)
    monkeypatch.setattr(profile_cache.sqlite3, "connect", connect)

    def release() -> None:
        writes.wait()
        holder.rollback()

    thread = threading.Thread(target=release)
    thread.start()
    second.store({"op": _COST})
    thread.join()
    holder.close()
    assert second.load(["op"]) == {"op": _COST}


@pytest.mark.row("disk full while caching", "the cache cannot be written")
@pytest.mark.parametrize(
    "error",
    [sqlite3.OperationalError("database or disk is full"), OSError(28, "No space left on device")],
)
def test_disk_full_while_caching(
    cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(profile_cache.sqlite3, "connect", full)
    with pytest.warns(
        UserWarning, match=r"cannot (read|write) the profile cache .*AUTOCKPT_CACHE_DIR"
    ):
        assert planned().predicted_peak_bytes > 0
    monkeypatch.undo()
    monkeypatch.setenv("AUTOCKPT_CACHE_DIR", str(cache.parent))
    assert planned().predicted_peak_bytes > 0


def test_a_disk_that_fills_up_while_a_file_is_written_loses_nothing(cache: Path) -> None:
    """SQLite's own limit on pages stands in for the disk: the row before is still there."""
    store = ProfileCache(cache, "scope")
    store.store({"before": _COST})
    limit = ProfileCache(cache, "scope")
    inner = limit._connection

    @contextlib.contextmanager
    def limited() -> Iterator[sqlite3.Connection]:
        with inner() as connection:
            connection.execute("PRAGMA max_page_count = 4")
            yield connection

    limit._connection = limited  # type: ignore[method-assign]
    with pytest.warns(UserWarning, match="cannot write the profile cache .*full"):
        limit.store({f"op{i}" + "x" * 500: _COST for i in range(200)})
    assert store.load(["before"]) == {"before": _COST}
    store.store({"after": _COST})
    assert store.load(["after"]) == {"after": _COST}


_DAMAGED = {
    "text": b"this is no database",
    "random bytes": random.Random(0).randbytes(8192),
    "only a header": b"SQLite format 3",
}


@pytest.mark.row("a corrupt or foreign cache", "random bytes, another program's tables, odd rows")
@pytest.mark.parametrize("content", _DAMAGED.values(), ids=_DAMAGED)
def test_a_corrupt_cache(cache: Path, content: bytes) -> None:
    cache.write_bytes(content)
    with pytest.warns(UserWarning, match="Delete the file or set AUTOCKPT_CACHE_DIR"):
        assert planned().predicted_peak_bytes > 0
    assert cache.read_bytes() == content  # not ours to delete
    cache.unlink()
    assert planned().predicted_peak_bytes > 0


def test_an_empty_cache_file_is_a_new_one(cache: Path) -> None:
    cache.touch()
    assert planned().predicted_peak_bytes > 0


@pytest.mark.row("a corrupt or foreign cache", "random bytes, another program's tables, odd rows")
def test_a_cache_of_another_version(cache: Path) -> None:
    """Its table has other columns: a file under our name that we did not write."""
    with sqlite3.connect(cache) as connection:
        connection.execute("CREATE TABLE cost (key TEXT PRIMARY KEY, seconds REAL)")
        connection.execute("INSERT INTO cost VALUES ('mm', 0.5)")
    with pytest.warns(UserWarning, match=r"cannot (read|write) the profile cache"):
        assert planned().predicted_peak_bytes > 0
    with sqlite3.connect(cache) as connection:
        assert connection.execute("SELECT * FROM cost").fetchall() == [("mm", 0.5)]


@pytest.mark.parametrize(
    "row",
    [
        (-5, 0, "[]"), ("soon", 0, "[]"), (1.5, 0, "[]"), (5, None, "[]"), (5, 0, "{}"),
        (5, 0, "[-1]"), (5, 0, "[true]"), (5, 0, b"\x80\x04."), (5, 0, "[" * 100_000),
        (2**60, 0, "[]"), (5, 2**60, "[]"), (5, 0, "[8, 1152921504606846976]"),
    ],
)  # fmt: skip
def test_rows_that_something_else_wrote_are_passed_over(cache: Path, row: tuple) -> None:
    store = ProfileCache(cache, "scope")
    store.store({"good": _COST})
    with sqlite3.connect(cache) as connection:
        connection.execute("INSERT INTO cost VALUES ('scope', 'bad', ?, ?, ?)", row)
    assert store.load(["good", "bad"]) == {"good": _COST}
    # What is measured instead takes its place.
    store.store({"bad": _COST})
    assert store.load(["good", "bad"]) == {"good": _COST, "bad": _COST}


def test_absurd_rows_cost_a_measurement_once(cache: Path) -> None:
    planned()
    with sqlite3.connect(cache) as connection:
        connection.execute("UPDATE cost SET runtime_ns = ?, workspace_bytes = ?", (2**60, 2**60))
    assert planned().predicted_peak_bytes > 0
    with sqlite3.connect(cache) as connection:
        most = connection.execute("SELECT max(runtime_ns), max(workspace_bytes) FROM cost")
        assert max(most.fetchone()) < 2**40


@pytest.mark.row("a cache folder that cannot be written", "a read-only folder, a file in its place")
def test_a_cache_folder_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("not a folder")
    monkeypatch.setenv("AUTOCKPT_CACHE_DIR", str(tmp_path / "taken"))
    with pytest.warns(UserWarning, match=r"cannot (read|write) the profile cache"):
        assert planned().predicted_peak_bytes > 0


@pytest.mark.row("a cache folder that cannot be written", "a read-only folder, a file in its place")
def test_a_read_only_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened so that SQLite itself refuses to write, whoever runs the tests."""
    ProfileCache(cache, "scope").store({"op": _COST})
    connect = sqlite3.connect
    monkeypatch.setattr(
        profile_cache.sqlite3,
        "connect",
        lambda path, **options: connect(f"file:{path}?mode=ro", uri=True, **options),
    )
    with pytest.warns(UserWarning, match="cannot write the profile cache .*readonly"):
        assert planned().predicted_peak_bytes > 0
    assert ProfileCache(cache, "scope").load(["op"]) == {"op": _COST}


class _Malicious:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return Path.touch, (Path(self.path),)


@pytest.mark.row("untrusted plan and graph files", "pickles, odd types, deep nesting, cut files")
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_reading_a_plan_or_a_graph_executes_nothing(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "executed"
    payload = pickle.dumps(_Malicious(trap), protocol=protocol)
    pickle.loads(payload)
    assert trap.exists()  # the payload works
    trap.unlink()
    document = json.loads(planned_text())
    texts = [
        payload.decode("latin-1"),
        json.dumps({**document, "graph": payload.decode("latin-1")}),
    ]
    texts.append(json.dumps({**document, "__reduce__": ["os.system", "true"]}))
    texts.append(json.dumps({**document, "notes": [{"py/object": "pathlib.Path"}]}))
    for text in texts:
        with pytest.raises(ValueError, match="plan"):
            autockpt.Plan.from_json(text)
        with pytest.raises(ValueError, match=r".+"):
            solve_file(text, "50%", method="auto", time_limit_s=1)
    assert not trap.exists()


@pytest.mark.row("untrusted plan and graph files", "pickles, odd types, deep nesting, cut files")
def test_a_plan_that_was_cut_off_is_refused_wherever_it_was_cut() -> None:
    text = planned_text().rstrip()
    for end in range(0, len(text), max(1, len(text) // 60)):
        with pytest.raises(ValueError, match="not a plan"):
            autockpt.Plan.from_json(text[:end])


@pytest.mark.row("untrusted plan and graph files", "pickles, odd types, deep nesting, cut files")
@pytest.mark.parametrize(
    "value",
    [None, True, -1, 1e308, 10**400, "x", [], {}, [[]] * 3, {"a": {"b": []}}, "\ud800"],
    ids=lambda value: repr(value)[:20],
)
def test_a_plan_with_any_field_replaced_is_read_or_refused(value: object) -> None:
    document = json.loads(planned_text())
    for key in document:
        text = json.dumps({**document, key: value})
        try:
            plan = autockpt.Plan.from_json(text)
        except ValueError:
            continue
        assert isinstance(str(plan), str)


@pytest.mark.row("untrusted plan and graph files", "pickles, odd types, deep nesting, cut files")
def test_a_plan_with_any_number_of_400_digits_is_refused() -> None:
    document = json.loads(planned_text())
    document.pop("version")
    num_tried = 0
    stack: list[dict | list] = [document]
    while stack:
        node = stack.pop()
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(value, dict | list):
                stack.append(value)
            elif type(value) is int:
                node[key] = 10**399
                with pytest.raises(ValueError, match="this plan is damaged"):
                    autockpt.Plan.from_json(json.dumps({**document, "version": 2}))
                node[key] = value
                num_tried += 1
    assert num_tried > 50


@pytest.mark.row("untrusted plan and graph files", "pickles, odd types, deep nesting, cut files")
@pytest.mark.parametrize("opening", ["[", '{"a":', '{"graph":['])
def test_deep_nesting_is_refused(opening: str) -> None:
    text = opening * 100_000
    with pytest.raises(ValueError, match="not JSON"):
        autockpt.Plan.from_json(text)
    with warnings.catch_warnings(), pytest.raises(ValueError, match=r".+"):
        solve_file(text, "50%", method="auto", time_limit_s=1)
    document = json.loads(planned_text())
    document["graph"] = 0
    nested = json.dumps(document).replace('"graph": 0', f'"graph": {"[" * 900}{"]" * 900}')
    with pytest.raises(ValueError, match="plan"):
        autockpt.Plan.from_json(nested)


def test_settings_of_two_threads_leave_none_behind() -> None:
    """Each thread put back what it had found: the second one what the first one had set."""
    answers = tracing_state_functions()
    before = dict(answers)
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with tracing_config():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait()
    with tracing_config():
        leave.set()
        thread.join()
        assert answers[torch.compiler.is_exporting] is False
    assert answers == before
