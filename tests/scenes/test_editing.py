"""A scene as rows to edit: what was not changed stays, and what cannot be read is said row by row."""

from __future__ import annotations

import pytest

from birdsd.errors import BadValue, Mismatch, NotSet, UnknownName, UserError
from birdsd.scenes.editing import (
    BIRDS,
    ENVIRONMENT,
    FROM,
    LEVEL,
    LOUDNESS,
    ONSET,
    SOUND,
    SPECIES,
    TIMES,
    TO,
    edited,
    possible,
    read_seed,
    rows_of,
)
from birdsd.scenes.prose.parse import understood
from birdsd.scenes.schedule import solve
from birdsd.scenes.store import from_yaml
from birdsd.scenes.vocabulary import Vocabulary
from tests.scenes.sentences import UNDERSTOOD, VOCABULARY
from tests.support.errors import refuses

KNOWN = Vocabulary(
    ("American Robin", "Great Tit"), ("rain", "forest"), {"American Robin": ("song", "call")}, rate_hz=16000,
    clip_s=3.0,
)  # fmt: skip
PROSE = "an American Robin singing in loud rain followed by a Great Tit in quiet rain"
SCENE = possible(understood(PROSE, KNOWN), KNOWN)


def rows(scene=SCENE) -> tuple[list[list[str]], list[list[str]]]:
    told = rows_of(scene, KNOWN)
    return [list(row) for row in told.events], [list(row) for row in told.backgrounds]


def after(scene=SCENE, **cells: dict[int, str]):
    """The scene with cells changed: e1={ONSET: "7"}, b0={LEVEL: "-30"}."""
    events, backgrounds = rows(scene)
    for name, changes in cells.items():
        for column, text in changes.items():
            (events if name.startswith("e") else backgrounds)[int(name[1:])][column] = text
    return edited(scene, KNOWN, events, backgrounds, "", "0")


def error_of(found) -> UserError:
    assert found.scene is None
    (error,) = found.problems
    return error


def problem(found) -> str:
    return str(error_of(found))


def test_rows_show_what_was_understood():
    events, backgrounds = rows()
    assert [row[:5] for row in events] == [
        ["e0", "1", "", "American Robin", "song"],
        ["e1", events[1][ONSET], "after e0", "Great Tit", ""],
    ]
    assert events[1][ONSET][0] == "~" and float(events[1][ONSET][1:]) > 3.0, (
        "after a song of the usual length"
    )
    assert [row[LOUDNESS] for row in events] == ["6 dB SNR", "24 dB SNR"]
    assert [row[ENVIRONMENT] for row in backgrounds] == ["rain", "rain"]
    assert backgrounds[0][TO] == backgrounds[1][FROM] == "before e1"


@pytest.mark.parametrize("text", UNDERSTOOD, ids=range(len(UNDERSTOOD)))
def test_rows_that_nobody_touched_are_the_same_scene(text):
    scene = possible(understood(text, VOCABULARY), VOCABULARY)
    told = rows_of(scene, VOCABULARY)
    duration = "" if scene.duration_s is None else f"{scene.duration_s:g}"
    assert edited(scene, VOCABULARY, told.events, told.backgrounds, duration, scene.seed).scene == scene


def test_an_onset_of_its_own_replaces_what_the_event_followed_and_the_rest_stays():
    scene = after(e1={ONSET: "7.5"}).scene
    assert (scene.event("e1").onset_s, scene.event("e1").after) == (7.5, ())
    assert scene.event("e0") == SCENE.event("e0") and scene.backgrounds == SCENE.backgrounds
    assert after(scene, e1={ONSET: ""}).scene.event("e1").after == ("e0",), "emptied, it follows again"
    assert after(e1={ONSET: "1:02.5"}).scene.event("e1").onset_s == 62.5
    # The first moves, and the other goes with it.
    moved = after(e0={ONSET: "4"}).scene
    assert moved.event("e1").after == ("e0",)
    assert solve(moved).events[1].onset_s == pytest.approx(solve(SCENE).events[1].onset_s + 3)


def test_an_onset_that_follows_is_not_fixed_by_rows_that_are_older_than_the_scene():
    """Edits may overtake each other: the table still shows where an event lay before the other was moved."""
    events, backgrounds = rows()
    events[0][ONSET] = "5"
    once = edited(SCENE, KNOWN, events, backgrounds, "", "0").scene
    again = edited(once, KNOWN, events, backgrounds, "", "0").scene
    assert again == once and again.event("e1").after == ("e0",) and again.event("e1").onset_s is None


def test_species_sound_number_and_times_are_edited():
    assert after(e1={SPECIES: "american robin"}).scene.event("e1").species == "American Robin"
    assert after(e0={SOUND: "call"}).scene.event("e0").sound_type == "call"
    assert after(e0={BIRDS: "3"}).scene.event("e0").count == 3
    assert after(e0={TIMES: "4"}).scene.event("e0").repeat == 4
    assert after(e0={TIMES: "until 20 s"}).scene.event("e0").until_s == 20
    assert after(e0={TIMES: "for 9 s"}).scene.event("e0").lasting_s == 9
    other = after(e0={TIMES: "until e1 ends"}).scene
    assert other is None, "which follows it: a circle"
    twice = after(after(e0={TIMES: "until 20 s"}).scene, e0={TIMES: "2"}).scene
    assert (twice.event("e0").repeat, twice.event("e0").until_s) == (2, None)


@pytest.mark.parametrize(
    ("text", "snr_db", "level_db"),
    [
        ("9", 9, None),
        ("9 dB", 9, None),
        ("-3 dB SNR", -3, None),
        ("-27 dBFS", None, -27),
        ("\u22123.5", -3.5, None),
    ],
)
def test_a_level_is_against_the_background_or_by_itself(text, snr_db, level_db):
    event = after(e0={LOUDNESS: text}).scene.event("e0")
    assert (event.snr_db, event.level_db) == (snr_db, level_db)


def test_a_number_alone_keeps_its_unit():
    alone = possible(understood("a Great Tit", KNOWN), KNOWN)
    assert after(alone, e0={LOUDNESS: "-30"}).scene.event("e0").level_db == -30


def test_backgrounds_are_edited():
    scene = after(b0={LEVEL: "-30 dBFS"}, b1={ENVIRONMENT: "Forest"}).scene
    assert scene.backgrounds[0].level_db == -30 and scene.backgrounds[1].environment == "forest"
    assert scene.backgrounds[0].to_event == "e1"
    cut = after(b0={TO: "5"}, b1={FROM: "5"}).scene.backgrounds
    assert (cut[0].to_s, cut[0].to_event, cut[1].from_s, cut[1].from_event) == (5, "", 5, "")


def test_rows_come_and_go():
    events, backgrounds = rows()
    new = edited(
        SCENE, KNOWN, [*events, ["", "9", "", "Great Tit"], [""] * 8, [None]], backgrounds, "", 0
    ).scene
    assert [event.id for event in new.events] == ["e0", "e1", "e2"] and new.event("e2").onset_s == 9
    assert new.event("e2").snr_db == 12, "over a background where there is one"
    alone = edited(SCENE, KNOWN, [events[0], ["", "", "", "Great Tit", "", "", "", "-20 dBFS"]], [], "", 0)
    assert type(error_of(alone)) is Mismatch, "an SNR, and the backgrounds are gone"
    assert "6 dB" in error_of(alone).problem and "level_db" in error_of(alone).hint
    silent = after(e0={LOUDNESS: "-20 dBFS"}).scene
    events, _ = rows(silent)
    gone = edited(silent, KNOWN, [events[0], ["", "", "", "Great Tit"]], [], "30", "5").scene
    assert (gone.seed, gone.duration_s, gone.backgrounds) == (5, 30, ())
    assert gone.events[1].id == "e2" and gone.events[1].after == ("e0",) and gone.events[1].level_db == -27


@pytest.mark.parametrize(
    ("cells", "kind", "words"),
    [
        ({"e0": {ONSET: "soon"}}, BadValue, ["event e0 (American Robin)", "onset_s is soon"]),
        ({"e0": {ONSET: "-1"}}, BadValue, ["onset_s is -1", "from 0"]),
        ({"e0": {ONSET: ".nan"}}, BadValue, ["onset_s is nan"]),
        ({"e0": {SPECIES: "Great Tot"}}, UnknownName, ["event e0", "'Great Tot'", "Great Tit"]),
        ({"e0": {SPECIES: ""}}, NotSet, ["event e0 ()", "species"]),
        ({"e0": {SOUND: "drumming"}}, UnknownName, ["event e0", "'drumming'", "American Robin", "song"]),
        ({"e0": {LOUDNESS: "loud"}}, BadValue, ["loudness", "'loud'", "-27 dBFS"]),
        ({"e0": {LOUDNESS: "99 dB"}}, BadValue, ["snr_db is 99", "from -30 to 60 dB"]),
        ({"e0": {BIRDS: "0"}}, BadValue, ["count is 0", "from 1"]),
        ({"e0": {BIRDS: "many"}}, BadValue, ["birds", "'many'", "whole"]),
        ({"e0": {TIMES: "often"}}, BadValue, ["times", "'often'"]),
        ({"e0": {TIMES: "until e1 ends"}}, Mismatch, ["e0 -> e1", "onset_s"]),
        ({"b0": {ENVIRONMENT: "cave"}}, UnknownName, ["environment", "'cave'", "forest, rain"]),
        ({"b0": {LEVEL: "loud"}}, BadValue, ["background rain", "level_db is loud"]),
        ({"b0": {LEVEL: "3"}}, BadValue, ["level_db is 3", "from -90 to 0"]),
        ({"b1": {FROM: "before e9"}}, UnknownName, ["e9"]),
        ({"b0": {TO: "0"}}, BadValue, ["background rain", "from 0 s to 0 s"]),
        ({"e1": {SPECIES: "<script>alert(1)</script>"}}, UnknownName, ["<script>"]),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_words_and_changes_nothing(cells, kind, words):
    error = error_of(after(**cells))
    assert type(error) is kind and all(word in str(error) for word in words), error


def test_every_row_that_cannot_be_read_is_said():
    found = after(e0={ONSET: "soon"}, e1={LOUDNESS: "x"}, b0={LEVEL: "y"})
    assert found.scene is None and len(found.problems) == 3
    assert [str(one)[:8] for one in found.problems] == ["event e0", "event e1", "backgrou"]


def test_an_event_beyond_the_duration_is_refused_and_the_frame_is_checked():
    events, backgrounds = rows()
    events[1][ONSET] = "29.9"
    assert "30 s" in problem(edited(SCENE, KNOWN, events, backgrounds, "30", 0))
    for duration, word in (("0", "lasts from 0.1 s"), ("long", "duration_s is long"), ("999999", "6 hours")):
        assert word in problem(edited(SCENE, KNOWN, *rows(), duration, 0))
    for seed in ("-1", "1.5", "nan", "x", "1" * 30):
        assert "seed is" in problem(edited(SCENE, KNOWN, *rows(), "", seed))
        with refuses("seed is", kind=BadValue):
            read_seed(seed)
    assert read_seed(None) == 0 and read_seed(7.0) == 7


def test_a_name_that_stands_twice_and_a_link_into_nothing_are_refused():
    events, backgrounds = rows()
    assert "'e0'" in problem(edited(SCENE, KNOWN, [events[0], *events], backgrounds, "", 0))
    assert "e0" in problem(edited(SCENE, KNOWN, events[1:], backgrounds, "", 0)), "which e1 followed"


def test_a_scene_from_a_file_keeps_what_no_cell_shows():
    text = """
duration_s: 40
backgrounds: [{environment: rain, fade_s: 5}]
events:
  - {id: one, species: Great Tit, onset_s: 3.123456, repeat: 3, every_s: 4, bearing_deg: 30, rate: [0.9, 1.1]}
"""
    scene = possible(from_yaml(text), KNOWN)
    found = edited(scene, KNOWN, *rows(scene), "40", 0).scene
    assert found == scene
    louder = rows(scene)
    louder[0][0][LOUDNESS] = "20"
    changed = edited(scene, KNOWN, *louder, "40", 0).scene.event("one")
    assert (changed.every_s, changed.bearing_deg, changed.onset_s, changed.snr_db) == (4, 30, 3.123456, 20)
