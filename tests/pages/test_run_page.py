"""The page of a run: it stands alone, says what happened, and cannot be broken by what users name things."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from birdsd.config import settings_as_typed
from birdsd.errors import BadValue
from birdsd.files import append_bytes, write_json
from birdsd.pages.run.page import report, write
from birdsd.pages.run.previews import Budget, caption, listen, pieces
from birdsd.pages.run.timeline import _Axis, time_line
from birdsd.runs.allocations import Submission
from birdsd.runs.status.timing import time_breakdown, traces
from birdsd.sound.audio.recordings import write_wav
from birdsd.sound.codec.codec import SpectrogramCodec
from tests.support.errors import refuses
from tests.support.histories import HOUR, T0, History
from tests.support.imports import imported_by
from tests.support.pages import HOSTILE, _addresses, _Checker

WORK = {"start": 0.1, "imports": 0.05, "restore": 0.02, "train": 1.0, "validate": 0.05, "save": 0.01}
CODEC = SpectrogramCodec(name="test", rate_hz=16000, bands=32, fmin_hz=200, fmax_hz=8000, frames=64)
NOW = T0 + 20 * HOUR


@pytest.fixture
def history(tmp_path: Path) -> History:
    """A run that was killed once, handed over once, and stopped; with curves and previews."""
    history = History(tmp_path / "runs")
    history.submitted(0, ["12"])
    history.ran("12.0", 1, took=WORK, to=3000, end=None)
    history.ran("12.1", 3, took=WORK, start=2500, to=5000, message="SIGUSR2")
    history.ran("12.2", 5, took=WORK, start=5000, to=8000, message="stop.json")
    history.saved(8000)
    history.event(3, event="began", allocation="12.1", birdsd="0.1.0")
    history.event(
        3, event="training", parameters=1234567, precision="bf16", precision_reason="the GPU has it"
    )
    history.event(4, event="checkpoint set aside", checkpoint="000000002800", reason="block 7")
    lines = [
        {
            "kind": "train",
            "position": p,
            "loss": 1 / (1 + p / 500),
            "learning_rate": 1e-4,
            "samples_per_s": 50.0,
        }
        for p in range(0, 8000, 20)
    ]
    lines += [{"kind": "validation", "position": p, "loss": 0.3} for p in range(1000, 8001, 1000)]
    lines += [{"kind": "resume", "position": p} for p in (2500, 5000)]
    append_bytes(
        history.folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode()
    )
    for position in (2000, 4000, 6000):
        preview(history.folder, position, ["00-a_wren", "01-a_b_robin_b"])
    write_json(history.folder / "export" / "codec.json", CODEC.to_json())
    return history


def preview(folder: Path, position: int, names: list[str], stacked: int = 1) -> None:
    """As methods write it: a grid with white gaps, and a sound for each picture."""
    target = folder / "previews" / f"{position:012d}"
    target.mkdir(parents=True)
    random = np.random.default_rng(position)
    pictures = [random.integers(0, 200, (CODEC.bands, CODEC.frames), dtype=np.uint8) for _ in names]
    rows = [np.concatenate(pictures[k : k + stacked]) for k in range(0, len(pictures), stacked)]
    gap = np.full((4, CODEC.frames), 255, np.uint8)
    grid = np.concatenate([piece for row in rows for piece in (row, gap)][:-1])
    Image.fromarray(np.repeat(grid[..., None], 3, axis=2)).save(target / "grid.png")
    for name in names:
        write_wav(target / f"{name}.wav", np.zeros((1, 4000), np.float32), CODEC.rate_hz)


def read(path: Path) -> tuple[str, _Checker]:
    text = path.read_text(encoding="utf-8")
    return text, _Checker(text)


def test_the_page_stands_alone_and_says_what_happened(history: History, tmp_path: Path) -> None:
    written = write(history.run, tmp_path / "page.html", price=2.0, currency="CHF", now=NOW)
    text, page = read(written.path)
    for address in _addresses(page):
        assert address.startswith(("data:", "#")), f"the page refers to {address[:80]}"
    assert not re.search(r"@import|url\((?!['\"]?data:)", text)
    policy = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv")]
    assert len(policy) == 1 and "default-src 'none'" in (policy[0] or "")
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    assert all(attrs.get("aria-label") for tag, attrs in page.tags if tag in {"audio", "svg"})
    words = " ".join(page.text)
    for said in ("67%", "of 12,000 samples", "effective ", "CHF", "allocations", "killed",
                 "handed over", "500 (10 min)", "2,500 \u2192 5,000", "checkpoint set aside", "1,234,567",
                 "bf16 (the GPU has it)", "birdsd submit train model=tiny", "model.name=tiny",
                 f"birdsd resume {history.folder.name}"):  # fmt: skip
        assert said in words, said
    spent = time_breakdown(
        traces(history.folder), NOW, saved=8000, submission=Submission.read(history.folder)
    )
    assert written.facts["cost"] == round(2.0 * spent.gpu_hours, 2)
    assert f"{2.0 * spent.gpu_hours:,.2f}" in words
    assert json.loads(json.dumps(written.facts))["bytes"] == written.path.stat().st_size


def test_a_preview_that_was_turned_down_says_so(history: History, tmp_path: Path) -> None:
    newest = sorted((history.folder / "previews").iterdir())[-1]
    text, _ = read(write(history.run, tmp_path / "page.html", now=NOW).path)
    assert "turned down" not in text and "6.0 dB" not in text
    write_wav(newest / "00-a_wren.wav", np.full((1, 4000), 2.0, np.float32), CODEC.rate_hz)
    text, _ = read(write(history.run, tmp_path / "page.html", now=NOW).path)
    assert text.count("turned down") == text.count("6.0 dB") == 1


def test_where_the_page_goes(history: History, tmp_path: Path) -> None:
    assert report(history.run) == history.folder / "report.html"
    assert report(history.run, tmp_path) == tmp_path / f"{history.folder.name}.html"
    with refuses("--price -1", kind=BadValue):
        report(history.run, price=-1.0)


def test_the_page_needs_nothing_heavy(history: History) -> None:
    # No size of FFT is given: to choose one the codec would ask scipy.
    write_json(history.folder / "export" / "codec.json", {**CODEC.to_json(), "n_fft": 0})
    script = """
import sys
from pathlib import Path
from birdsd.pages.run.page import report
from birdsd.runs.run import RunStore
report(RunStore(Path(sys.argv[1])).runs()[0])
"""
    assert imported_by(script, str(history.folder.parent)) == []
    assert (history.folder / "report.html").read_text(encoding="utf-8").count("<audio") == 2


def test_hostile_names_are_words_and_nothing_else(history: History, tmp_path: Path) -> None:
    config = history.run.config
    config["save"]["preview_prompts"] = [HOSTILE.replace("\udcff", ""), "</script><script>alert(2)</script>"]
    config["name"] = "<img src=x onerror=alert(3)>"
    write_json(history.folder / "config.json", config)
    history.event(6, event="error", message="<script>alert(4)</script>", allocation="<b>x</b>")
    history.ran("<i>12.9", 7, took=WORK, start=8000, to=8100, end="error", message="</pre><script>alert(5)")
    log = history.folder / "allocations" / "<i>12.9" / "rank-00000.log"
    log.write_bytes(
        b"\x1b[31mred\x1b[0m </code></pre><script>alert(6)</script>\xff\n 10%|# | 1/9\r 20%|## | 2/9\n"
    )
    text, page = read(report(history.run, tmp_path / "page.html"))
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not any(tag in {"i", "b"} and not attrs for tag, attrs in page.tags if tag == "i")
    assert not any(key.startswith("on") for _, attrs in page.tags for key in attrs)
    assert "\x1b" not in text and "\u202e" not in text and "\x00" not in text
    words = " ".join(page.text)
    for number in range(2, 7):
        assert f"alert({number})" in words  # shown, as text
    assert "red" in words and "20%|## | 2/9" in words and "10%|" not in words


def test_a_run_of_which_there_is_nothing_yet(tmp_path: Path) -> None:
    history = History(tmp_path)
    _, page = read(report(history.run, tmp_path / "page.html"))
    assert "never begun" in " ".join(page.text)
    shutil.rmtree(history.folder)
    history.folder.mkdir()
    (history.folder / "signature.json").write_text('{"signature": "0", "job": "prepare"}')
    read(report(history.run, tmp_path / "page.html"))


# -- sounds ----------------------------------------------------------------------------------------------


def test_the_pieces_of_a_preview_are_told_apart(tmp_path: Path) -> None:
    preview(tmp_path, 1, ["00-a", "01-b", "02-c"])
    found = pieces(tmp_path / "previews" / f"{1:012d}")
    assert [p.key for p in found] == ["00-a", "01-b", "02-c"]
    assert all(p.picture is not None and p.picture.shape == (32, 64, 3) for p in found)
    grid = np.asarray(Image.open(tmp_path / "previews" / f"{1:012d}" / "grid.png"))
    assert found[1].picture is not None and (found[1].picture == grid[36:68]).all()
    # Of an autoencoder: what was recorded above what is left of it, two by two.
    names = [f"{k:02d}-{kind}" for k in range(2) for kind in ("recorded", "reconstructed")]
    preview(tmp_path, 2, names, stacked=2)
    found = pieces(tmp_path / "previews" / f"{2:012d}")
    assert [p.key for p in found] == names
    grid = np.asarray(Image.open(tmp_path / "previews" / f"{2:012d}" / "grid.png"))
    for piece, top in zip(found, (0, 32, 68, 100), strict=True):
        assert piece.picture is not None and (piece.picture == grid[top : top + 32]).all()


def test_a_preview_that_is_half_written_is_shown_as_far_as_it_goes(history: History) -> None:
    newest = history.folder / "previews" / f"{6000:012d}"
    (newest / "grid.png").write_bytes(b"\x89PNG torn")
    (newest / "01-a_b_robin_b.wav").write_bytes(b"RIFF torn")
    blocks = "".join(listen(history.folder, {}, Budget()))
    assert blocks.count("<audio") == 1 and "a wren" in blocks
    shutil.rmtree(history.folder / "export")
    assert "<audio" in "".join(listen(history.folder, {}, Budget()))  # without a codec: no picture


def test_what_sounds_are_called() -> None:
    assert caption("00-an_American_Robin", []) == "an American Robin"
    assert caption("01-x", ["first", "the <second> prompt"]) == "the <second> prompt"
    assert caption("03-reconstructed", ["first"]) == "reconstructed, held-out clip 4"
    assert caption("odd_name", []) == "odd name"


def test_the_page_stays_small_and_says_what_it_left_out(history: History) -> None:
    full = write(history.run, now=NOW).facts["bytes"]
    # Room for one of the two sounds, and for no picture.
    budget = Budget(sound=12_000, picture=0)
    blocks = "".join(listen(history.folder, {}, budget))
    assert blocks.count("<audio") == 1 and "<img" not in blocks
    assert budget.left_out["sound"] == 1 and budget.left_out["picture"] > 1
    assert all(f"{count} {kind}" in blocks for kind, count in budget.left_out.items())
    assert full < 12_000_000


# -- the line of time ------------------------------------------------------------------------------------


def test_the_axis_of_time_is_straight_where_something_happens() -> None:
    axis = _Axis.over([(0.0, 10.0), (5.0, 20.0), (21.0, 30.0)])
    assert axis.gaps == ()
    assert [round(axis.share(t), 3) for t in (-5, 0, 15, 30, 99)] == [0, 0, 0.5, 1, 1]
    # A week in which nothing ran and nothing waited does not push the rest to the edges.
    axis = _Axis.over([(0.0, 10_000.0), (700_000.0, 710_000.0)])
    assert axis.gaps == ((10_000.0, 700_000.0),)
    assert axis.share(10_000) == pytest.approx(0.483, abs=0.01)
    assert axis.share(700_000) == pytest.approx(0.517, abs=0.01)
    shares = [share for share, _ in axis.ticks()]
    assert shares == sorted(shares) and all(0 <= s <= 1 for s in shares)
    assert not any(0.484 < s < 0.516 for s in shares)
    assert _Axis.over([(5.0, 5.0)]).share(5.0) in (0.0, 1.0)


def test_allocations_that_overlap_lie_below_each_other_and_many_are_counted(tmp_path: Path) -> None:
    history = History(tmp_path, "prepare-0123456789ab", job="prepare")
    history.submitted(0, ["20"], array=30)
    for part in range(30):
        history.ran(
            f"20_{part}.0", 1 + part / 100, took={}, last=2, end="finished", part=f"{part}/30", gpus=0
        )
    spent = time_breakdown(
        traces(history.folder), NOW, job="prepare", submission=Submission.read(history.folder)
    )
    drawn = str(time_line(spent, [], 0, NOW, "prepare"))
    tops = {float(y) for y in re.findall(r'class="k k-train" x="[\d.]+" y="([\d.]+)"', drawn)}
    assert len(tops) == 24 and 'data-left-out="6"' in drawn


def test_settings_are_written_as_they_would_be_typed() -> None:
    optim = {"learning_rate": 0.1, "decay": None}
    config = {"seed": 0, "optim": optim, "save": {"prompts": ["a", "b"]}, "model": {"unet": {}}}
    assert list(settings_as_typed(config)) == [
        "seed=0",
        "optim.learning_rate=0.1",
        "optim.decay=null",
        'save.prompts=["a", "b"]',
        "model.unet={}",
    ]
