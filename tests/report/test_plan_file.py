"""Plans in files: written whole or not at all, and refused with one line that helps."""

from __future__ import annotations

import dataclasses
import os
import resource
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from plans import PLAN

from autockpt.report.plan import Plan


def test_a_plan_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    first, second = PLAN, dataclasses.replace(PLAN, notes=("für später",))
    first.save(file)
    assert Plan.load(str(file)) == first
    file.chmod(0o640)
    second.save(str(file))
    assert Plan.load(file) == second
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_link_stays_one_and_a_device_is_written_not_replaced(tmp_path: Path) -> None:
    target, link, fifo = tmp_path / "real.json", tmp_path / "link.json", tmp_path / "fifo"
    link.symlink_to(target)
    PLAN.save(link)
    assert link.is_symlink()
    assert Plan.load(target) == PLAN
    os.mkfifo(fifo)
    read: list[Plan] = []
    reader = threading.Thread(target=lambda: read.append(Plan.load(fifo)))
    reader.start()
    PLAN.save(fifo)
    reader.join()
    assert read == [PLAN]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_full_disk_leaves_the_older_file(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    PLAN.save(file)
    large = dataclasses.replace(PLAN, notes=("x" * 100_000,))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"cannot save the plan to .*plan.json: File too large\."):
            large.save(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert Plan.load(file) == PLAN
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_an_interrupt_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "plan.json"
    PLAN.save(file)

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dataclasses.replace(PLAN, budget_bytes=150).save(file)
    assert Plan.load(file) == PLAN
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_whoever_reads_while_others_write_reads_a_whole_plan(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    PLAN.save(file)
    stop = threading.Event()

    def save_often(budget_bytes: int) -> None:
        while not stop.is_set():
            dataclasses.replace(
                PLAN, budget_bytes=budget_bytes, notes=("x" * budget_bytes * 100,)
            ).save(file)

    writers = [threading.Thread(target=save_often, args=(size,)) for size in (120, 170)]
    for writer in writers:
        writer.start()
    try:
        seen = {Plan.load(file).budget_bytes for _ in range(50)}
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert seen <= {100, 120, 170}
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("no/plan.json", FileNotFoundError, r"there is no folder .*no\. Create it, or name"),
        (".", IsADirectoryError, r"it is a folder\. Name a file, such as .*plan\.json\."),
        ("x" * 300, OSError, r"File name too long\. Nothing was changed; name a file in another"),
        ("file/plan.json", NotADirectoryError, r"Not a directory\. Nothing was changed"),
    ],
)
def test_where_nothing_can_be_written_is_told(
    tmp_path: Path, name: str, kind: type[OSError], message: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(kind, match=r"^cannot save the plan to .*: " + message) as caught:
        PLAN.save(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_may_not_be_written_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write to the folder could replace it, and root may write to any file."""
    file = tmp_path / "plan.json"
    PLAN.save(file)
    file.chmod(0o400)
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match=r"you may not write there\. Name a file in a folder"):
        dataclasses.replace(PLAN, budget_bytes=150).save(file)
    assert Plan.load(file) == PLAN


def _half(text: str) -> bytes:
    return text[: len(text) // 2].encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda _: b"", r"this is not a plan: it is not JSON"),
        (_half, r"this is not a plan: it is not JSON"),
        (lambda _: b"\x80\x02plan", r"it is no text .* Name a file that Plan\.save wrote\."),
        (lambda _: b'{"model": "gpt2"}', r"this is not a plan: it must contain .*Plan\.save"),
        (
            lambda text: text.replace('"version": 2', '"version": 7').encode(),
            r"this plan is of version 7, this autockpt reads versions 1 and 2; make the plan again",
        ),
        (
            lambda text: text.replace('"budget_bytes": 100', '"budget_bytes": -1').encode(),
            r"this plan is damaged: .*budget_bytes.*; make the plan again",
        ),
    ],
)
def test_what_is_no_plan_is_refused(
    tmp_path: Path, content: Callable[[str], bytes], message: str
) -> None:
    file = tmp_path / "plan.json"
    file.write_bytes(content(PLAN.to_json()))
    with pytest.raises(ValueError, match=r"^cannot load a plan from .*plan\.json: " + message) as e:
        Plan.load(file)
    assert "\n" not in str(e.value)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no such file\. Name a file that Plan"):
        Plan.load(tmp_path / "plan.json")
    with pytest.raises(IsADirectoryError, match=r"it is a folder\. Name a file that Plan\.save"):
        Plan.load(tmp_path)
