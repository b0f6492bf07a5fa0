"""`make bench`: every area runs, and one that does not is told of without taking the others' rows along."""

import json
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.__main__ import AREAS, main, measure, smoke
from bench.common import LeftOut, Row, Size

ROOT = Path(__file__).resolve().parents[1]


def area(monkeypatch: pytest.MonkeyPatch, name: str, run) -> str:
    module = types.ModuleType(f"bench.{name}")
    module.run = run
    monkeypatch.setitem(sys.modules, f"bench.{name}", module)
    return name


def good(size: Size) -> list[Row]:
    return [Row("good", "a ratio", 2.0, 1.0)]


def slow(size: Size) -> list[Row]:
    return [Row("slow", "too slow", size.of(0.5, 0.6, 0.7), 1.0)]


def breaks_off(size: Size) -> Iterator[Row]:
    yield Row("broken", "before it broke", 2.0, 1.0)
    raise AttributeError("'NoneType' object has no attribute 'count'")


def absent(size: Size) -> list[Row]:
    raise LeftOut("the judge is not installed")


def test_what_an_area_measured_before_it_failed_is_kept_and_so_are_the_others(monkeypatch, tmp_path, capsys):
    areas = [area(monkeypatch, run.__name__, run) for run in (breaks_off, absent, good)]
    into = tmp_path / "rows.json"
    assert measure(areas, Size.QUICK, into) == 1
    told = capsys.readouterr()
    for said in ("before it broke", "FAILED: AttributeError: 'NoneType'", "left out: the judge", "a ratio"):
        assert said in told.out
    assert "failed: breaks_off" in told.out and "Traceback" in told.err
    kept = json.loads(into.read_text())
    assert [list(row)[1] for row in kept] == ["what", "failed", "left_out", "what"]


def test_rows_are_printed_as_they_come(monkeypatch, tmp_path, capsys):
    into, seen = tmp_path / "rows.json", []

    def watched(size: Size) -> Iterator[Row]:
        yield Row("watched", "the first row", 2.0, 1.0)
        seen.append((capsys.readouterr().out, len(json.loads(into.read_text()))))
        yield Row("watched", "the second row", 2.0, 1.0)

    assert measure([area(monkeypatch, "watched", watched)], Size.QUICK, into) == 0
    assert "the first row" in seen[0][0] and seen[0][1] == 1


def test_a_missed_floor_fails_unless_all_was_as_small_as_can_be(monkeypatch, capsys):
    name = area(monkeypatch, "slow", slow)
    assert measure([name], Size.FULL) == 1 and "0.50 >=  1.00   MISSED" in capsys.readouterr().out
    assert measure([name], Size.QUICK) == 1 and "0.60" in capsys.readouterr().out
    assert measure([name], Size.SMOKE) == 0 and "MISSED" not in capsys.readouterr().out
    assert measure([area(monkeypatch, "good", good)], Size.FULL) == 0


def test_an_area_that_there_is_not_is_refused():
    with pytest.raises(SystemExit):
        main(["memroy"])


@pytest.mark.parametrize("python", [sys.executable, "/bin/false"])
def test_the_smallest_run_has_what_starts_processes_beside_the_rest(monkeypatch, tmp_path, python):
    into = tmp_path / "rows.json"
    run = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda words, **more: run([python, *words[1:]], **more))
    told = smoke(["resampling", "status"], into)
    rows = json.loads(into.read_text())
    assert {row["area"] for row in rows} == {"resampling", "status"}
    broken = [row for row in rows if "failed" in row]
    assert (told, len(broken)) == ((1, 1) if python == "/bin/false" else (0, 0))


@pytest.mark.slow
def test_every_area_runs(tmp_path):
    """In a process of its own, since the areas choose their threads; as CI runs it."""
    into = tmp_path / "rows.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--smoke", "--json", str(into)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = json.loads(into.read_text())
    assert not [row for row in rows if "failed" in row]
    names = {"checkpoint": "save", "zero": "loop"}  # what their rows say
    assert {row["area"] for row in rows} == {names.get(name, name) for name in AREAS}
