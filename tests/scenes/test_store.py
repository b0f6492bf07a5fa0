"""Scenes as files: what is written is read back; and what no file may do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from birdsd.errors import BadValue, Damaged, NotFound, UnknownName, Unsupported, UserError
from birdsd.scenes.picture import draw_timeline
from birdsd.scenes.prose.parse import understood
from birdsd.scenes.scene import Background, Event, Scene
from birdsd.scenes.schedule import solve
from birdsd.scenes.store import from_yaml, read_scene, to_yaml, write_scene
from birdsd.scenes.table import clock, table
from tests.scenes.sentences import UNDERSTOOD, VOCABULARY
from tests.support.errors import refuses

FULL = Scene(
    (
        Event(
            "e0", "Great Tit", "song", onset_s=0.1 + 0.2, duration_s=1 / 3, count=2, repeat=3, every_s=4.0,
            individual=5, level_db=-20.5, pitch_semitones=(-0.5, 0.5), rate=(0.9, 1.1), distance_m=12.0,
            bearing_deg=30.0, bearing_end_deg=-30.0, elevation_deg=10.0, prompt='a "Great" Tit, é; = #',
        ),
        Event("x1", "Little Owl", after=("e0",), gap_s=(0.0, 2.5), snr_db=-3.0, until="end"),
        Event("y-2", "Little Owl", together="e0", snr_db=3.0, lasting_s=7.0, repeat_gap_s=(1.0, 1.0)),
    ),
    (
        Background("rain", -33.0, from_s=0.0, to_s=50.0, fade_s=0.5),
        Background("my sea", source="file", path="sea waves/a b.wav", from_event="x1"),
        Background("", source="none", to_event="y-2"),
    ),
    60.0, 22050, 2**60 + 1, "a name, with: signs", 2, True, 3, ("one thing", "another thing"),
)  # fmt: skip


@pytest.mark.parametrize("suffix", [".yaml", ".csv"])
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    for number, scene in enumerate([FULL, *UNDERSTOOD.values()]):
        path = write_scene(tmp_path / f"{number}{suffix}", scene)
        assert read_scene(path) == scene
    assert read_scene(tmp_path / f"0{suffix}").assumptions == FULL.assumptions


def test_a_short_file_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "scene.yaml"
    path.write_text("events:\n- species: great tit\n- {species: LIOW, onset_s: 0:12.5}\n- species: AMRO\n")
    scene = read_scene(path, VOCABULARY)
    assert [(one.id, one.species, one.onset_s, one.after) for one in scene.events] == [
        ("e0", "Great Tit", 1.0, ()),
        ("e1", "Little Owl", 12.5, ()),
        ("e2", "American Robin", None, ("e1",)),
    ]
    assert {one.level_db for one in scene.events} == {-27.0}
    table_of_events = tmp_path / "scene.csv"
    table_of_events.write_text("species;onset_s\nGreat Tit;1.5\nLittle Owl;4\n")
    assert [one.onset_s for one in read_scene(table_of_events, VOCABULARY).events] == [1.5, 4.0]


BAD = [
    ("events:\n- {specie: x}", ("specie", "species"), UnknownName),
    ("durations_s: 3", ("durations_s", "duration_s"), UnknownName),
    ("events:\n- {id: e0}", ("e0", "species"), NotFound),
    ("events: 3", ("events",), BadValue),
    ("events:\n- {species: [a, b]}", ("text",), BadValue),
    ("events:\n- {species: x, onset_s: soon}", ("onset_s is soon", "number"), BadValue),
    ("events:\n- {species: x, onset_s: .nan}", ("onset_s is nan",), BadValue),
    ("events:\n- {species: x, onset_s: .inf}", ("onset_s is inf",), BadValue),
    ("events:\n- {species: x, count: 1.5}", ("count is 1.5", "whole"), BadValue),
    ("events:\n- {species: x, count: .inf}", ("count is inf",), BadValue),
    ("events:\n- {species: x, gap_s: [1, 2, 3]}", ("gap_s",), BadValue),
    ("events:\n- {species: x, repeat: true}", ("repeat is True",), BadValue),
    ("backgrounds:\n- {level_db: -30}", ("environment",), NotFound),
    ("loop: maybe\nevents: [{species: x}]", ("loop is maybe",), BadValue),
    ("duration_s: 0\nevents: [{species: x}]", ("0 s",), BadValue),
    ("duration_s: 86400\nevents: [{species: x}]", ("86400", "6 hours"), BadValue),
    ("format: scaper/1", ("format",), Unsupported),
    ("- a\n- b", ("key: value",), BadValue),
    ("events: [", ("line", "YAML"), Damaged),
    ("seed: 1\nseed: 2", ("twice",), Damaged),
    ("events: !!python/object/apply:os.system ['true']", ("YAML",), Damaged),
    ("a: &a [x, x]\nb: [*a, *a]", ("refers",), Unsupported),
    ("events:\n- {species: x, id: 'a b'}", ("a b",), BadValue),
    ("[" * 5000, ("YAML",), BadValue),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words", "kind"), BAD, ids=range(len(BAD)))
def test_a_file_that_is_no_scene_is_refused_by_name(
    tmp_path: Path, text: str, words: tuple[str, ...], kind: type[UserError]
) -> None:
    path = tmp_path / "scene.yaml"
    path.write_text(text)
    with pytest.raises(kind) as refused:
        read_scene(path)
    assert [one for one in words if one not in str(refused.value)] == []


def test_a_table_that_is_no_scene_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "scene.csv"
    for text, word, kind in (
        ("species,onset\nGreat Tit,1\n", "onset_s", UnknownName),
        ("role,species\nbird,Great Tit\n", "bird", UnknownName),
        ("role,duration_s\nscene,3\nscene,4\n", "2 rows", BadValue),
        ("species,onset_s\nGreat Tit,NaN\n", "NaN", BadValue),
        ('species,onset_s\nGreat Tit,"1,5"\n', "decimal point", BadValue),
    ):
        path.write_text(text)
        with pytest.raises(kind) as refused:
            read_scene(path)
        assert word in str(refused.value)
    for name, kind in (("missing.yaml", NotFound), ("scene.txt", BadValue)):
        with refuses(name, kind=kind):
            read_scene(tmp_path / name)
    with refuses("scene.json", kind=BadValue):
        write_scene(tmp_path / "scene.json", FULL)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    scene = Scene(
        (Event("e0", "\u202ea\x1b[31m${HOME}\n=1+1,\t'\"", onset_s=1.0, level_db=-20.0),), name=".."
    )
    assert from_yaml(to_yaml(scene)) == scene
    assert "\x1b" not in table(solve(scene)) and "\n=1" not in table(solve(scene))
    draw_timeline(solve(scene), tmp_path / "a.png")


def test_the_table_says_what_sounds_when_and_what_was_assumed() -> None:
    text = table(
        solve(
            understood("a robin singing on the left in rain, then a Great Tit at 1:02.5 in wind", VOCABULARY)
        )
    )
    lines = text.splitlines()
    assert lines[0].startswith("1:06.5 at 24000 Hz")
    robin = next(line for line in lines if "American Robin" in line)
    assert robin.split() == [
        "0:01.0",
        "~0:03.0",
        "e0",
        "American",
        "Robin",
        "song",
        "12",
        "dB",
        "SNR",
        "45",
        "deg",
        "left",
    ]
    assert any(line.startswith("1:02.5") and "Great Tit" in line for line in lines)
    assert any("rain" in line and "-39 dBFS" in line and "2 s out" in line for line in lines)
    assert any(line.startswith("- 'robin'") and "American Robin" in line for line in lines)
    assert [clock(value) for value in (0, 59.96, 3599.99, 3661.25)] == [
        "0:00.0",
        "1:00.0",
        "1:00:00.0",
        "1:01:01.2",
    ]


def test_pictures_show_where_it_sounds(tmp_path: Path) -> None:
    placed = solve(understood("30 s: a Great Tit at 2 s in rain, then a Little Owl at 20 s", VOCABULARY))
    picture = np.asarray(Image.open(draw_timeline(placed, tmp_path / "plan.png")).convert("RGB")).astype(int)
    blue = np.argwhere(abs(picture - np.array([0x00, 0x72, 0xB2])).sum(axis=2) < 30)
    orange = np.argwhere(abs(picture - np.array([0xD5, 0x5E, 0x00])).sum(axis=2) < 30)
    assert len(blue) > 50 and len(orange) > 50
    assert blue[:, 1].max() < orange[:, 1].min() and blue[:, 0].max() < orange[:, 0].min()
