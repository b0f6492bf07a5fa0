"""The whole way, with real processes and a real kill, only shorter than `make demo`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from birdsd.config import compose
from birdsd.files import sha256_file, write_json
from birdsd.studies import demo_results
from birdsd.studies.demo_results import _most_believed, what_it_rests_on, written_before
from birdsd.studies.demo_stages import Demo


def test_the_aviary_is_cut_less_often_than_recordings_of_ones_own(tmp_path: Path) -> None:
    """Its recordings are many: as many cuts of them would make thousands of clips, and a demo is short."""

    def cuts(*settings: str) -> int:
        return Demo(compose("demo", [f"out={tmp_path}", *settings])).cuts_per_song

    assert cuts(f"recordings={tmp_path}") == 16 > cuts() > 1
    # What somebody asks for holds, for both, also where it is the other's.
    for asked in (1, 5, 16):
        assert (
            cuts(f"cuts_per_song={asked}")
            == cuts(f"recordings={tmp_path}", f"cuts_per_song={asked}")
            == asked
        )


def test_a_report_is_made_again_where_anything_changed_that_it_rests_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, kept, sound, picture = (tmp_path / name for name in ("report.html", "kept.json", "1.wav", "1.png"))
    for path in (page, sound, picture):
        path.write_text(path.name)
    clip = {"prompt": "a Robin", "species": ["Robin"], "sound": str(sound), "picture": str(picture)}
    index, run, config = SimpleNamespace(fingerprint="s"), SimpleNamespace(signature="r"), compose("demo")

    def rests_on(config=config, index=index, run=run, clip=clip) -> str:
        return what_it_rests_on(config, index, [run], {"clips": [clip]})

    first = rests_on()
    assert rests_on() == first and written_before(kept, first, page) is None
    told = {"rests_on": first, "page": sha256_file(page), "words": "w", "told": {"a": 1}}
    write_json(kept, told)
    found = written_before(kept, first, page)
    assert found is not None and (found.page, found.text, found.facts) == (page, "w", {"a": 1})
    others = [
        rests_on(config=compose("demo", ["guidance=2"])),
        rests_on(index=SimpleNamespace(fingerprint="t")),
        rests_on(run=SimpleNamespace(signature="q")),
        rests_on(clip={**clip, "prompt": "another"}),
    ]
    for path in (sound, picture):
        path.write_text("other")
        others.append(rests_on())
    monkeypatch.setattr(demo_results, "available_judge", lambda: (None, "it is gone"))
    others.append(rests_on())
    monkeypatch.setattr(demo_results, "code_fingerprint", lambda: "edited")
    others.append(rests_on())
    assert len({first, *others}) == 1 + len(others)
    assert all(written_before(kept, other, page) is None for other in others)
    page.write_text("of another demo")
    assert written_before(kept, first, page) is None
    kept.write_text("{torn")
    assert written_before(kept, first, page) is None


def test_the_scene_takes_the_birds_that_were_believed_most() -> None:
    def verdicts(**right: str):
        return [
            SimpleNamespace(species=name, known=name != "Unknown", right=mark == "+")
            for name, marks in right.items()
            for mark in marks
        ]

    def chosen(heard, weak=None):
        staircase = SimpleNamespace(credit="BirdNET (CC)") if heard else None
        check = SimpleNamespace(generated=SimpleNamespace(per_species=weak)) if weak else None
        return _most_believed(check, SimpleNamespace(verdicts=lambda stage: heard, staircase=staircase))

    heard = verdicts(Wren="+--", Robin="+++", Tit="++-", Unknown="+++")
    assert chosen(heard)[0] == ["Robin", "Tit"] and "BirdNET (CC)" in chosen(heard)[1]
    # Where the judge knows fewer than two, the weak check is asked.
    assert chosen(verdicts(Unknown="++"), {"A": 0.2, "B": 0.9, "C": None, "D": 0.9})[0] == ["B", "D"]
    assert "weak check" in chosen(None, {"A": 0.2, "B": 0.9})[1]
    assert chosen(None) == chosen(verdicts(Robin="+")) == ([], "")


def test_a_scene_that_cannot_be_made_does_not_end_the_demo(tmp_path: Path) -> None:
    demo = Demo(compose("demo", [f"out={tmp_path}"]))
    scene = demo.scene(SimpleNamespace(folder=tmp_path / "nothing"), tmp_path)
    assert scene.folder is None and str(tmp_path / "nothing") in scene.why


@pytest.mark.slow
def test_the_demo_walks_the_whole_way_through_a_kill(tmp_path: Path) -> None:
    short = ["autoencoder_samples=32", "diffusion_samples=160", "clips_per_species=1", "steps=2"]
    command = [
        sys.executable,
        "-m",
        "birdsd.cli",
        "run",
        "demo",
        f"out={tmp_path / 'demo'}",
        *short,
        "--json",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    facts = json.loads(done.stdout)  # and nothing but JSON
    page = Path(facts["report"]).read_text(encoding="utf-8")
    work = Path(facts["shards"]).parent
    # The kill is real, it came before the end, and the steps done twice had the same losses.
    steps = r"Of the (\d+) steps that had to be recomputed, (\d+) gave a bitwise identical loss"
    said = re.search(steps, page)
    records = [json.loads(path.read_text()) for path in (work / "stages").glob("*.json")]
    killed = next(record for record in records if record["stage"] == "full, killed half-way")
    assert killed["pieces"][0]["disturbed"]
    assert said is not None
    assert said[1] == said[2]
    # One picture, sound, table and recipe for each of the eight species, and the page shows them all.
    for ending in ("png", "wav", "selections.txt", "json"):
        assert len(list((work / "generated").glob(f"*.{ending}"))) == 8
    assert page.count("<audio") == 16 + 1
    # It ends with a scene, whose labels are measured.
    scenes = [json.loads(path.read_text()) for path in (work / "scenes").glob("*/*/labels.json")]
    assert len(scenes) == 1 and len(scenes[0]["asked"]) == 2 and len(scenes[0]["backgrounds"]) == 2
    assert re.search(
        r"in loud synthetic rain followed by .* in quiet synthetic rain", page[page.rindex("<section") :]
    )
    assert page[page.rindex("<section") :].count('class="box') == len(scenes[0]["came_out"])
    assert facts["check"]["generated"]["clips"] == 8
    assert facts["check"]["chance"] == 1 / 8
    # Again: what is done is not done twice.
    checkpoints = sorted((work / "runs").glob("*/checkpoints/*/COMMIT.json"))
    written = [path.stat().st_mtime_ns for path in checkpoints]
    made = (work.parent / "report.html").stat().st_mtime_ns
    again = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert [path.stat().st_mtime_ns for path in checkpoints] == written
    assert (work.parent / "report.html").stat().st_mtime_ns == made and json.loads(again.stdout) == facts
