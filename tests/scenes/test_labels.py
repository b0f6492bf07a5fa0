"""The course of a recording, sung anew from its label table."""

from __future__ import annotations

from pathlib import Path

import pytest

from birdsd.config import compose
from birdsd.errors import BadValue, Mismatch, NotFound, UnknownName
from birdsd.remarks import Remark
from birdsd.scenes.compose.source import FOR_TABLES, scenes_of
from birdsd.scenes.labels import parts, scene_of_labels
from birdsd.scenes.scene import Scene
from birdsd.scenes.schedule import solve
from birdsd.scenes.vocabulary import Vocabulary
from birdsd.schema import SceneConfig
from birdsd.sound.labels.annotation import Label
from birdsd.sound.labels.audacity import write_audacity
from birdsd.sound.labels.raven import write_raven
from tests.scenes.sentences import VOCABULARY
from tests.support.errors import refuses
from tests.support.remarks import remarked

LABELS = [
    Label("Great Tit", 1.0, 2.5, 2000.0, 6000.0, "song"),
    Label("Little Owl", 4.0, 4.5, 500.0, 1500.0),
    Label("Great Tit", 6.25, 7.0, 2000.0, 6000.0, "song"),
]


@pytest.mark.parametrize("kind", ["raven", "audacity"])
def test_the_same_course_of_events(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "afternoon.txt"
    if kind == "raven":
        write_raven(path, LABELS)
    else:
        write_audacity(path, LABELS)
    scene = scene_of_labels(path, VOCABULARY, environment="rain", seed=3)
    placed = solve(scene)
    assert [(e.species, e.onset_s, e.duration_s) for e in placed.events] == [
        ("Great Tit", 1.0, 1.5), ("Little Owl", 4.0, 0.5), ("Great Tit", 6.25, 0.75),
    ]  # fmt: skip
    assert [e.sound_type for e in placed.events] == (
        ["song", "", "song"] if kind == "raven" else ["", "", ""]
    )
    assert placed.duration_s == 9.0 and placed.backgrounds[0].environment == "rain"
    assert {e.snr_db for e in placed.events} == {12.0}


def test_other_birds_sing_the_parts_and_who_sings_whose_is_said(tmp_path: Path) -> None:
    path = tmp_path / "afternoon.txt"
    write_raven(path, [*LABELS, Label("Kakapo", 8.0, 9.0)])
    with refuses("Kakapo", kind=UnknownName):
        scene_of_labels(path, VOCABULARY)
    given = scene_of_labels(path, VOCABULARY, birds={"kakapo": "marsh wren"})
    assert [e.species for e in given.events] == ["Great Tit", "Little Owl", "Great Tit", "Marsh Wren"]
    said = remarked(given.assumptions, "another-sings")
    assert (
        said.facts == {"bird": "Marsh Wren", "part": "Kakapo"} and "Marsh Wren" in said and "Kakapo" in said
    )
    drawn = scene_of_labels(path, VOCABULARY, others=True, seed=5)
    assert drawn == scene_of_labels(path, VOCABULARY, others=True, seed=5)
    parts = [e.species for e in drawn.events]
    assert parts[0] == parts[2] != "Great Tit" and parts[1] != "Little Owl" and len(set(parts)) == 3
    with refuses("Robin", kind=NotFound):
        scene_of_labels(path, VOCABULARY, birds={"Robin": "Great Tit"})


def test_the_job_lets_other_birds_sing_the_parts(tmp_path: Path) -> None:
    """The errors name settings of the job: `birds`, `others`, `recording`."""
    path = tmp_path / "afternoon.txt"
    write_raven(path, [*LABELS, Label("Kakapo", 8.0, 9.0)])

    def sung(*settings: str) -> Scene:
        config = compose("scene", [f"scene={path}", *settings])
        return scenes_of(config, VOCABULARY).of(0)

    with refuses("Kakapo", "birds={", kind=UnknownName):
        sung()
    given = sung("birds={Kakapo: marsh wren}", "environment=rain", "seed=4")
    assert [e.species for e in given.events] == ["Great Tit", "Little Owl", "Great Tit", "Marsh Wren"]
    assert given.backgrounds[0].environment == "rain" and given.seed == 4
    drawn = sung("others=true", "seed=5").events
    assert drawn[0].species == drawn[2].species != "Great Tit" and len({e.species for e in drawn}) == 3
    with refuses("c.wav", kind=NotFound):
        sung("recording=c.wav", "others=true")
    for settings in (
        {"prompt": "a Great Tit", "others": True}, {"distribution": "d.yaml", "recording": "a.wav"},
    ):  # fmt: skip
        with refuses(next(name for name in settings if name in FOR_TABLES), "label table", kind=Mismatch):
            scenes_of(SceneConfig(**settings), VOCABULARY)
    (tmp_path / "scene.yaml").write_text("events:\n  - {species: Great Tit, onset_s: 1}\n")
    with refuses(("birds", "scene.yaml"), "label table", kind=Mismatch):
        scenes_of(SceneConfig(scene=str(tmp_path / "scene.yaml"), birds={"a": "b"}), VOCABULARY)


def test_who_could_sing_whose_part(tmp_path: Path) -> None:
    path = tmp_path / "afternoon.txt"
    write_raven(path, [*LABELS, Label("Kakapo", 8.0, 9.0)])
    found = parts(path, VOCABULARY)
    assert list(found) == ["Great Tit", "Little Owl", "Kakapo"]
    assert found["Great Tit"] == "Great Tit" and found["Kakapo"] in VOCABULARY.species
    assert len(set(found.values())) == 3 and found == parts(path, VOCABULARY)
    assert parts(path, VOCABULARY, others=True)["Great Tit"] != "Great Tit"
    assert [e.species for e in scene_of_labels(path, VOCABULARY, birds=found).events][3] == found["Kakapo"]


def test_what_the_scene_has_not_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("1.0\t2.0\tGreat Tit\n3.0\t4.0\tunknown\n5.0\t6.0\train\n7.0\t7.0\tGreat Tit\n")
    said = [one for one in scene_of_labels(path, VOCABULARY).assumptions if isinstance(one, Remark)]
    assert [(one.code, one.facts) for one in said if one.code.startswith("labels-")] == [
        ("labels-of-nobody", {"labels": 1}), ("labels-of-no-bird", {"labels": 1}),
        ("labels-too-short", {"labels": 1}),
    ]  # fmt: skip
    assert all(one.startswith("1 labels ") for one in said) and "0.02 s" in said[-1]


def test_a_type_that_the_singer_was_never_taught_is_left_out_and_said(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    write_raven(path, [Label("Great Tit", 1.0, 2.0, sound_type="drumming")])
    scene = scene_of_labels(path, VOCABULARY, birds={"Great Tit": "American Robin"})
    assert scene.events[0].sound_type == ""
    said = remarked(scene.assumptions, "type-not-taught")
    assert said.facts == {"type": "drumming", "bird": "American Robin"} and "'drumming'" in said


def test_a_long_box_is_a_bout_of_songs(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    write_audacity(path, [Label("Great Tit", 2.0, 32.0)])
    placed = solve(scene_of_labels(path, VOCABULARY))
    assert len(placed.events) > 5 and 31.0 <= placed.events[-1].end_s <= 32.25


def test_of_several_recordings_one_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("file,start,end,species\na.wav,1,2,Great Tit\nb.wav,3,4,Little Owl\n")
    with refuses("a.wav", kind=BadValue):
        scene_of_labels(path, VOCABULARY)
    assert scene_of_labels(path, VOCABULARY, recording="b.wav").events[0].species == "Little Owl"
    with refuses("c.wav", kind=NotFound):
        scene_of_labels(path, VOCABULARY, recording="c.wav")


def test_a_table_without_a_bird_or_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    for text, kind in (
        ("1.0\t2.0\train\n", NotFound), ("hello\n", BadValue), ("Great Tit\n", BadValue),
    ):  # fmt: skip
        path.write_text(text)
        with refuses("labels.txt", kind=kind):
            scene_of_labels(path, VOCABULARY)
    with refuses("none.txt", kind=NotFound):
        scene_of_labels(tmp_path / "none.txt", Vocabulary(("Great Tit",)))
