"""`make gpu-check`: nothing is lost when it is killed, it goes on where it was, and its rehearsal runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu_check import course, data, learning, memory, place, speed, tests, verify
from bench.gpu_check.__main__ import WEIGHTS, stages
from bench.gpu_check.course import Item, Stage, carry_out, run
from bench.gpu_check.record import DONE, FAILED, LINES, TABLES, TIMED_OUT, Record, read_lines
from bench.gpu_check.settings import Settings
from birdsd.config import compose
from birdsd.errors import AlreadyThere, BadValue, NotFound
from birdsd.method_facts import known
from tests.gpu.test_machine import Hungry
from tests.support.errors import refuses
from tests.support.toy import make_shards, toy_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(minutes=10, cpu=True, out=str(tmp_path / "out"), data=str(tmp_path / "none"))


def told(settings: Settings) -> list[dict[str, Any]]:
    return list(read_lines(settings.folder / LINES))


# -- the record -------------------------------------------------------------------------------------------


def test_every_row_is_on_disk_at_once_and_a_later_one_takes_its_place(tmp_path: Path) -> None:
    record = Record(tmp_path, "a card")
    record.add("speed", "full", {"table": "beside", "what": "birdsd", "samples/s": 10.0, "MFU": "41%"})
    record.add("speed", "full", {"table": "beside", "what": "bare", "samples/s": 9.0, "note": "a|b"})
    record.add("speed", "full", {"outcome": TIMED_OUT, "why": "its 5 s were up"})
    record.add("speed", "full", {"table": "beside", "what": "birdsd", "samples/s": 12.5})
    assert len(list(read_lines(tmp_path / LINES))) == 4
    text = (tmp_path / TABLES).read_text()
    assert "a card" in text and "| full | birdsd | 12.5 |" in text and "a\\|b" in text
    assert "10" not in text and "full: **timed out** its 5 s were up" in text


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    Record(tmp_path).add("facts", "machine", {"what": "card", "value": "H100"})
    with open(tmp_path / LINES, "a") as stream:
        stream.write('{"stage": "facts", "item": "mach')
    record = Record(tmp_path)
    assert [line["value"] for line in record.lines] == ["H100"]
    record.add("facts", "machine", {"outcome": DONE})
    assert Record(tmp_path).outcome("facts", "machine") == DONE


# -- the course -------------------------------------------------------------------------------------------


class Fake:
    """Items that take as long as they say, by a clock of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, takes: dict[str, float], fails: tuple[str, ...] = ()):
        self.now, self.takes, self.fails = 0.0, takes, fails
        self.seen: list[tuple[str, int]] = []
        monkeypatch.setattr(course, "carry_out", self.carry_out)

    def carry_out(
        self, stage: str, item: str, limit_s: float, settings: Settings, record: Record
    ) -> tuple[str, str]:
        self.seen.append((item, round(limit_s)))
        self.now += min(self.takes[item], limit_s)
        if item in self.fails:
            return FAILED, "no"
        return (DONE, "") if self.takes[item] <= limit_s else (TIMED_OUT, "")

    def run(self, settings: Settings, *found: Stage) -> bool:
        record = Record(settings.folder)
        return run(found, settings, record, lambda line: None, lambda: self.now)


def stage(name: str, weight: float, *items: Item) -> Stage:
    return Stage(name, weight, items)


def test_what_a_stage_leaves_goes_to_those_after_it(settings, monkeypatch) -> None:
    fake = Fake(monkeypatch, {"a": 20, "b": 1000, "c": 30})
    first, second, third = (stage(name, 1, Item(name)) for name in "abc")
    assert not fake.run(settings, first, second, third)
    # 600 s: a third of them; half of the 580 that are left; all that is left; and again for what was cut off.
    assert fake.seen == [("a", 200), ("b", 290), ("c", 290), ("b", 260)]
    assert fake.now == 600, "and no longer"


def test_items_share_the_time_of_their_stage(settings, monkeypatch) -> None:
    fake = Fake(monkeypatch, {"a": 100, "b": 10, "c": 1})
    assert fake.run(settings, stage("s", 1, Item("a", 3), Item("b", 6), Item("c", 1)))
    assert fake.seen == [("a", 180), ("b", 429), ("c", 490)]


def test_again_it_goes_on_and_tries_what_failed(settings, monkeypatch) -> None:
    both = stage("one", 1, Item("a"), Item("b")), stage("two", 1, Item("c"))
    fake = Fake(monkeypatch, {"a": 1, "b": 1, "c": 1}, fails=("b",))
    assert not fake.run(settings, *both)
    assert [item for item, _ in fake.seen] == ["a", "b", "c"], "what failed is not tried twice in one call"
    fake = Fake(monkeypatch, {"b": 1})
    assert fake.run(settings, *both)
    assert [item for item, _ in fake.seen] == ["b"]
    assert Fake(monkeypatch, {}).run(settings, *both)


def test_without_time_nothing_begins(settings, monkeypatch) -> None:
    fake = Fake(monkeypatch, {"a": 595, "b": 1})
    assert not fake.run(settings, stage("one", 99, Item("a")), stage("two", 1, Item("b")))
    assert [item for item, _ in fake.seen] == ["a"]


# -- an item, in a process of its own ---------------------------------------------------------------------

_WORK = """
import os, pathlib, subprocess, sys, time
def run(item, settings, limit_s):
    yield {"what": "first", "value": 1}
    print("what a library says")
    if item == "long":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        yield {"what": "child", "value": child.pid}
        time.sleep(600)
    if item == "broken":
        raise ValueError("as it had to be")
    yield {"what": "second", "value": 2}
REHEARSED = ("short", "shorter")
"""


@pytest.fixture
def fake_stage() -> Iterator[str]:
    path = ROOT / "bench" / "gpu_check" / "of_a_test.py"
    path.write_text(_WORK)
    yield path.stem
    path.unlink()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except OSError:
        return True


def wait_for(check, limit_s: float = 120) -> None:
    end = time.monotonic() + limit_s
    while not check():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_rows_outlive_an_item_that_fails_or_is_cut_off(settings, fake_stage) -> None:
    record = Record(settings.folder)
    assert carry_out(fake_stage, "short", 60, settings, record) == (DONE, "")
    outcome, why = carry_out(fake_stage, "broken", 60, settings, record)
    assert outcome == FAILED and "as it had to be" in why
    outcome, why = carry_out(fake_stage, "long", 5, settings, record)
    assert outcome == TIMED_OUT and "5 s" in why
    assert [(x["item"], x["what"]) for x in record.lines if x["what"] != "child"] == [
        ("short", "first"), ("short", "second"), ("broken", "first"), ("long", "first"),
    ]  # fmt: skip
    (child,) = [x["value"] for x in record.lines if x["what"] == "child"]
    wait_for(lambda: gone(child))
    assert carry_out(fake_stage, "rehearsal", 60, settings, record) == (DONE, "")
    assert [x["item"] for x in record.lines[-4:]] == ["short", "short", "shorter", "shorter"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_it_leaves_what_it_had_and_nothing_behind(settings, fake_stage, number) -> None:
    code = f"""
import signal, sys
from bench.gpu_check import course
from bench.gpu_check.record import Record
from bench.gpu_check.settings import Settings
signal.signal(signal.SIGTERM, signal.default_int_handler)
settings = Settings.from_json({settings.to_json()!r})
stage = course.Stage({fake_stage!r}, 1, (course.Item("long"),))
try:
    course.run([stage], settings, Record(settings.folder), lambda line: None)
except KeyboardInterrupt:
    sys.exit(130)
"""
    started = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    wait_for(lambda: any(line["what"] == "child" for line in told(settings)))
    os.kill(started.pid, number)
    assert started.wait() == (130 if number == signal.SIGTERM else -signal.SIGKILL)
    lines = told(settings)
    assert [line["what"] for line in lines[:2]] == ["first", "child"]
    wait_for(lambda: gone(lines[1]["value"]))
    if number == signal.SIGTERM:
        assert lines[-1]["outcome"] == "stopped"


# -- what the stages ask for ------------------------------------------------------------------------------


def test_every_stage_has_its_items_and_a_rehearsal() -> None:
    found = stages(Settings(), list(WEIGHTS))
    assert [one.name for one in found] == ["facts", "tests", "memory", "speed", "learning", "verify"]
    assert all(one.items for one in found)
    names = {one.name: {item.name for item in one.items} for one in found}
    assert names["tests"] == set(tests.FILES) - {"all"}, "every file of tests/gpu"
    for module in (memory, speed, learning, verify):
        own = names[module.__name__.rpartition(".")[2]]
        assert set(module.REHEARSED) <= own | {verify.ZERO}
    assert all(
        [item.name for item in one.items] == ["rehearsal"] for one in stages(Settings(cpu=True), ["speed"])
    )


def test_the_memory_of_every_method_that_trains_is_measured() -> None:
    assert set(memory.ORDER) == set(memory.METHODS)
    said = {word for words in memory.METHODS.values() for word in words}
    assert {f"method={facts.name}" for facts in known() if facts.trains} <= said
    for words in memory.METHODS.values():
        on = [] if words[0] in memory.FROM_SCRATCH else ["model.init=pretrained", "model.source=base"]
        compose("train", ["model=sd15", *memory.LAPTOP, "data.shards=shards", *words, *on])


def test_a_borrowed_card_without_shards_is_told_how_to_make_them(tmp_path: Path) -> None:
    with refuses(str(tmp_path / "none"), "bench.gpu_check.data RECORDINGS", kind=NotFound):
        learning.shards_of(Settings(data=str(tmp_path / "none")))


def test_without_a_gpu_it_says_so() -> None:
    words = [sys.executable, "-m", "bench.gpu_check", "--stages", "facts"]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode == 2 and "--cpu" in done.stderr


def test_shards_for_the_journey_stay_within_their_limit(tmp_path: Path, monkeypatch) -> None:
    """A song of 1 MB gives a clip of 1 MB, however many are cut; other songs as many as are asked for."""
    asked = []

    def prepare(recordings: Path, out: Path, codec: str, cuts: int) -> None:
        asked.append(cuts)
        out.mkdir(parents=True)
        (out / "train-000000.tar").write_bytes(b"x" * (1_000_000 + 1_000_000 * cuts))

    class Index:
        species = ("a", "b")
        open = classmethod(lambda cls, folder: cls())

        def count(self, split: str) -> int:
            return 3

    monkeypatch.setattr(data, "_prepare", prepare)
    monkeypatch.setattr(data, "ShardIndex", Index)
    said = data.pack(tmp_path / "recordings", tmp_path / "out", limit_mb=9.5)
    assert asked[0] == 1 and "5.0 MB" in said and " 4 of " in said
    assert data.megabytes(tmp_path / "out") <= 9.5
    with refuses(str(tmp_path / "out"), "rm -r", kind=AlreadyThere):
        data.pack(tmp_path / "recordings", tmp_path / "out")
    with refuses("more than 1", "--codec birdsong-3s", kind=BadValue):
        data.pack(tmp_path / "recordings", tmp_path / "other", limit_mb=1)
    assert not (tmp_path / "other").exists()


def test_a_size_that_does_not_fit_is_no_timing(tmp_path: Path, monkeypatch) -> None:
    """The trainer would go on in smaller pieces, and be timed with those."""
    monkeypatch.setattr(Hungry, "too_many_bytes", 2**46)
    monkeypatch.setattr(place, "make_method", lambda config, index: Hungry(config, index))
    config = toy_config(data__shards=str(make_shards(tmp_path / "shards")), machine__micro_batch=5)
    steps = place.steps_of(config, tmp_path)
    with pytest.raises(torch.OutOfMemoryError, match="with 5 samples at a time"):
        for _ in range(9):
            next(steps)
    steps = place.steps_of(config, tmp_path, whole=False)
    assert all(next(steps) > 0 for _ in range(9))
    steps.close()


@pytest.mark.slow
def test_every_stage_runs_on_the_cpu(tmp_path: Path) -> None:
    """`make gpu-check ARGS=--cpu`: what a borrowed GPU will run, tiny, so that no typing error is left."""
    words = [
        sys.executable,
        "-m",
        "bench.gpu_check",
        "--cpu",
        "--minutes",
        "60",
        "--out",
        str(tmp_path / "out"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    lines = list(read_lines(tmp_path / "out" / LINES))
    assert done.returncode == 0, done.stderr[-3000:] + json.dumps([x for x in lines if x.get("why")])[-3000:]
    ended = {line["stage"]: line["outcome"] for line in lines if "outcome" in line}
    assert ended == dict.fromkeys(WEIGHTS, DONE)
    rows = {name: [x for x in lines if x["stage"] == name and "outcome" not in x] for name in WEIGHTS}
    results = [row["result"] for row in rows["tests"]]
    assert "failed" not in results and results.count("passed") > 40
    skipped = {row["why"] for row in rows["tests"] if row["result"] == "skipped"}
    assert all("GPUs only" in why or "nothing to move" in why for why in skipped), skipped
    ratios = [row["predicted / measured"] for row in rows["memory"] if "predicted / measured" in row]
    assert len(ratios) == 4 and all(0.8 < ratio < 1.25 for ratio in ratios[:3])
    speeds = {str(row["what"]): row for row in rows["speed"] if row["table"].startswith("beside")}
    assert speeds["birdsd"]["samples/s"] > 0 and speeds["bare diffusers loop"]["samples/s"] > 0
    assert not [row for row in rows["speed"] if row["table"] in ("ways", "samples at once") and "why" in row]
    assert [row["finished"] for row in rows["learning"] if row["table"] == "learning"] == ["true", "true"]
    assert (tmp_path / "out" / "clips.zip").is_file() and (tmp_path / "out" / "profile-lora.txt").is_file()
    assert all(row["passed"] == "yes" for row in rows["verify"] if row["what"] != "trial")
    text = (tmp_path / "out" / TABLES).read_text()
    assert all(f"## {name}" in text for name in WEIGHTS) and "birdsd judge clips/" in text
