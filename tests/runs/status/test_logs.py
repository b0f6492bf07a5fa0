"""`birdsd logs` shows the end of what a rank said, and follows it into the next allocation."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from birdsd.errors import BadValue, NotFound, UnknownName
from birdsd.runs.status import logs
from birdsd.runs.status.logs import show, tail
from tests.support.errors import refuses
from tests.support.histories import T0, History
from tests.support.remarks import codes

WORK = {"start": 0.1, "train": 1.0}


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path)


def shown(history: History, **options: object) -> tuple[str, list[str]]:
    """What goes to stdout, and what is said about it."""
    out, said = io.StringIO(), list[str]()
    show(history.run, out=out, say=said.append, **options)  # type: ignore[arg-type]
    return out.getvalue(), said


def allocation(history: History, name: str, at: float, log: bytes, rank: int = 0, **more: object) -> Path:
    folder = history.folder / "allocations" / name
    if not folder.is_dir():
        history.ran(name, at, took=WORK, to=100, **more)  # type: ignore[arg-type]
    (folder / f"rank-{rank:05d}.log").write_bytes(log)
    return folder


# -- the end of a file -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "lines", "expected"),
    [
        (b"", 3, b""),
        (b"one", 3, b"one"),
        (b"one\n", 1, b"one\n"),
        (b"one\ntwo\nthree\n", 2, b"two\nthree\n"),
        (b"one\ntwo\nthree", 2, b"two\nthree"),
        (b"\n\n\n", 2, b"\n\n"),
        (b"one\ntwo\n", 0, b""),
        (b"a\rb\rc\nlast\n", 2, b"a\rb\rc\nlast\n"),  # the states of a progress bar are one line
    ],
)
def test_the_last_lines(tmp_path: Path, content: bytes, lines: int, expected: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    assert tail(path, lines) == (expected, len(content))


def test_lines_that_reach_over_blocks_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = [b"%d " % k + b"x" * (k * 977 % 100_000) + b"\n" for k in range(40)]
    path.write_bytes(b"".join(lines))
    for count in (1, 2, 7, 39, 40, 41):
        assert tail(path, count)[0] == b"".join(lines[-count:])


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"")
    os.truncate(path, 1 << 40)  # a tebibyte of nothing: to read it would take until tomorrow
    with open(path, "ab") as stream:
        stream.write(b"\nlast but one\nlast\n")
    assert tail(path, 2)[0] == b"last but one\nlast\n"
    # One endless line is cut.
    assert len(tail(path, 5)[0]) <= logs._LONGEST + logs._BLOCK


# -- which log -------------------------------------------------------------------------------------------


def test_the_newest_allocation_and_the_rank_that_is_asked_for(history: History) -> None:
    allocation(history, "12.0", 1, b"old\n")
    allocation(history, "12.1", 3, b"first\nsecond\n")
    allocation(history, "12.1", 3, b"of rank three\n", rank=3)
    text, said = shown(history)
    assert text == "first\nsecond\n"
    assert len(said) == 1 and "allocation 12.1, rank 0, n1, began" in said[0]
    assert shown(history, lines=1)[0] == "second\n"
    assert shown(history, rank=3)[0] == "of rank three\n"
    assert shown(history, allocation="12.0")[0] == "old\n"
    with refuses("'12.7'", "12.0, 12.1", kind=UnknownName):
        shown(history, allocation="12.7")
    with refuses(("'12'", "12.0, 12.1"), kind=BadValue):
        shown(history, allocation="12")
    with refuses("12.1", "0, 3", kind=NotFound):
        shown(history, rank=2, allocation="12.1")


def test_bytes_that_are_no_text_and_torn_characters_are_shown_all_the_same(history: History) -> None:
    allocation(history, "12.0", 1, b"\xff\xfe caf\xc3\xa9 \xc3")
    assert shown(history)[0] == "\ufffd\ufffd caf\xe9 \ufffd"


def test_errors_before_birdsd_took_over_are_in_the_launchers_logs(history: History) -> None:
    with refuses("tiny-full-0123456789ab", "birdsd status tiny-full-0123456789ab", kind=NotFound):
        shown(history)
    history.submitted(0, ["12"])
    folder = history.folder / "submitit"
    folder.mkdir()
    (folder / "12_0_log.out").write_text("submitit: starting\n")
    (folder / "12_0_log.err").write_text("ModuleNotFoundError: birdsd\n")
    (folder / "12_1_log.err").write_text("of rank one\n")
    text, said = shown(history)
    assert text == "submitit: starting\nModuleNotFoundError: birdsd\n"
    assert "launcher" in said[0] and "allocation" not in said[0]
    assert shown(history, rank=1)[0] == "of rank one\n"
    # An allocation that has no log of its own yet, of a job that has one with the launcher.
    history.ran("12.0", 1, took={}, end=None, last=1.01)
    text, said = shown(history)
    assert (
        text.endswith("ModuleNotFoundError: birdsd\n")
        and "launcher" in said[0]
        and "allocation 12.0" in said[0]
    )
    allocation(history, "12.0", 1, b"our own\n")
    assert shown(history)[0] == "our own\n"


def test_where_a_rank_hung(history: History) -> None:
    folder = allocation(history, "12.0", 1, b"")
    text, said = shown(history, stacks=True)
    assert text == "" and codes(said) == ["no-stacks"]
    (folder / "rank-00000.stacks").write_text("")
    (folder / "rank-00001.stacks").write_text("Timeout!\nFile loop.py, line 7\n")
    allocation(history, "12.1", 3, b"")
    text, said = shown(history, stacks=True)
    assert text == "Timeout!\nFile loop.py, line 7\n"
    assert len(said) == 1 and said[0].startswith("== allocation 12.0, rank-00001: ")
    assert shown(history, stacks=True, rank=1)[0] == text
    assert shown(history, stacks=True, rank=2)[0] == ""


# -- following -------------------------------------------------------------------------------------------


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_following_goes_on_into_the_next_allocation_and_ends_with_the_run(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_LOOK_S", 0.01)
    monkeypatch.setattr(logs, "_LOOK_FOR_NEW_S", 0.01)
    log = allocation(history, "12.0", 1, b"one\ntwo\nthree\n", end=None) / "rank-00000.log"
    out, said = io.StringIO(), list[str]()
    follower = threading.Thread(
        target=lambda: show(history.run, None, None, True, 1, out=out, say=said.append), daemon=True
    )
    follower.start()
    until(lambda: out.getvalue() == "three\n")
    with open(log, "ab") as stream:
        stream.write(b"caf\xc3")
        stream.flush()
        until(lambda: out.getvalue().endswith("caf"))
        stream.write(b"\xa9\n")  # a character that two writes tore comes out whole
    until(lambda: out.getvalue() == "three\ncaf\xe9\n")
    allocation(history, "12.1", 3, b"from its beginning\n", end=None)
    until(lambda: out.getvalue().endswith("from its beginning\n"))
    history.finished(100)
    follower.join(60)
    assert not follower.is_alive()
    assert out.getvalue() == "three\ncaf\xe9\n" + "from its beginning\n"
    assert [line for line in said if "allocation" in line][-1].startswith("== allocation 12.1, rank 0")
    assert said[-1] == f"== {history.folder.name}: finished =="


def test_following_a_run_that_failed_says_so_and_ends(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_LOOK_S", 0.01)
    message = "the disk is full"
    allocation(history, "12.0", 1, b"one\n", end="error", message=message, submission="", job_id="")
    text, said = shown(history, follow=True)
    assert text == "one\n" and said[-1] == f"== {history.folder.name}: failed: {message} =="


def test_following_a_run_that_has_not_begun_waits_for_its_first_word(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_LOOK_S", "_LOOK_FOR_NEW_S", "_ASK_S"):
        monkeypatch.setattr(logs, name, 0.01)
    # Only just submitted: no Slurm is asked for a job that this machine's own process is to begin.
    history.submitted((time.time() - T0) / 3600, ["1"], executor="local")
    out, said = io.StringIO(), list[str]()
    follower = threading.Thread(
        target=lambda: show(history.run, follow=True, out=out, say=said.append), daemon=True
    )
    follower.start()
    until(lambda: any("queued: submitted" in line for line in said))
    allocation(history, "local-s1-000", 1, b"hello\n", end="finished")
    history.finished(100)
    follower.join(60)
    assert out.getvalue() == "hello\n" and not follower.is_alive()
