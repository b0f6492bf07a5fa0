"""The threads that wait for the disk are kept, and a forked process gets its own."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from birdsd.files import fsync_all, fsync_soon, put_text


def _threads() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name.startswith("fsync")}


def test_threads_are_started_once_and_errors_come_through(tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.txt" for number in range(20)]
    for path in paths:
        put_text(path, "Amsel, grün\n")
    fsync_all([tmp_path, *paths])
    before = _threads()
    for _ in range(5):
        fsync_all(paths)
    assert before and _threads() >= before and len(_threads()) <= 8
    assert paths[3].read_text(encoding="utf-8") == "Amsel, grün\n"
    try:
        fsync_all([*paths, tmp_path / "missing"])
    except FileNotFoundError as error:
        assert "missing" in str(error)
    else:
        raise AssertionError("a file that is not there was waited for")


def test_a_forked_process_waits_too(tmp_path):
    put_text(tmp_path / "one", "1")
    fsync_all([tmp_path / "one"])
    child = os.fork()
    if not child:
        fsync_all([tmp_path, tmp_path / "one"])
        os._exit(7)
    for _ in range(1000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        threading.Event().wait(0.02)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        raise AssertionError("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 7


def test_what_is_begun_is_waited_for_later_and_says_then_what_went_wrong(tmp_path: Path) -> None:
    put_text(tmp_path / "one", "text")
    fsync_soon([tmp_path / "one", tmp_path])()
    wait = fsync_soon([tmp_path / "missing"])
    with pytest.raises(FileNotFoundError):
        wait()
