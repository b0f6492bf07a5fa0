"""Sentences: every one of the list is understood as it was meant, or refused by name; and back again."""

from __future__ import annotations

import random

import pytest

from birdsd.errors import BadValue, Mismatch, NotSet, UnknownName, UserError
from birdsd.scenes.prose.parse import understood
from birdsd.scenes.prose.sentence import MORE, sentence, told
from birdsd.scenes.scene import Event, Scene
from birdsd.scenes.schedule import solve
from birdsd.scenes.vocabulary import Vocabulary
from tests.scenes.sentences import DECIDED, REFUSED, UNDERSTOOD, VOCABULARY
from tests.support.errors import refuses


def test_the_list_has_sixty_sentences() -> None:
    assert len(UNDERSTOOD) + len(REFUSED) >= 60


@pytest.mark.parametrize("text", UNDERSTOOD, ids=range(len(UNDERSTOOD)))
def test_a_sentence_is_understood_as_it_was_meant(text: str) -> None:
    assert understood(text, VOCABULARY) == UNDERSTOOD[text]


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_a_sentence_is_refused_by_name(text: str) -> None:
    kind, *words = REFUSED[text]
    with pytest.raises(kind) as refused:
        solve(understood(text, VOCABULARY))
    assert [one for one in words if one not in str(refused.value)] == []


@pytest.mark.parametrize("text", UNDERSTOOD, ids=range(len(UNDERSTOOD)))
def test_the_sentence_of_a_scene_is_understood_as_that_scene(text: str) -> None:
    meant = UNDERSTOOD[text]
    assert understood(sentence(meant), VOCABULARY) == meant
    assert MORE not in told(meant, VOCABULARY)


def test_a_sentence_that_cannot_say_everything_says_so() -> None:
    scene = Scene((Event("e0", "Great Tit", onset_s=1.0, level_db=-27.0, pitch_semitones=(-1.0, 1.0)),))
    assert told(scene, VOCABULARY).endswith(MORE)


@pytest.mark.parametrize(("text", "named"), DECIDED)
def test_what_was_decided_is_said(text: str, named: tuple[str, ...]) -> None:
    """In words that stand in tests/golden/texts.json."""
    assert any(all(one in said for one in named) for said in understood(text, VOCABULARY).assumptions)


def test_what_is_said_behind_a_list_with_a_verb_is_said_of_all_of_it() -> None:
    first, second = understood("a Great Tit and a Little Owl call twice in rain", VOCABULARY).events
    assert (first.sound_type, first.repeat) == (second.sound_type, second.repeat) == ("call", 2)


def test_of_alternatives_one_is_drawn_by_seed_and_keeps_what_is_said_of_all() -> None:
    text = "a Great Tit, a Little Owl or a Marsh Wren singing twice in rain"
    drawn = {seed: understood(text, VOCABULARY, seed) for seed in range(12)}
    assert {one.events[0].species for one in drawn.values()} == {"Great Tit", "Little Owl", "Marsh Wren"}
    assert all(one == understood(text, VOCABULARY, seed) for seed, one in drawn.items())
    for seed, one in drawn.items():
        (event,) = one.events
        assert (event.sound_type, event.repeat, one.backgrounds[0].environment) == ("song", 2, "rain")
        assert f"the {event.species} " in one.assumptions[0] and one.assumptions[0].endswith(f" seed {seed}")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a Great Tit singing and calling", BadValue),  # two sounds at once
        ("a Great Tit in rain in wind", Mismatch),
        ("Great Tits", BadValue),  # how many?
        ("silence, then a Great Tit", Mismatch),
        ("30 s: a Great Tit in rain and no bird in wind", Mismatch),
        ("30 s of rain and a Great Tit in loud rain", Mismatch),
        ("a Great Tit while a Little Owl while a Marsh Wren", Mismatch),
        ("a Great Tit, a Little Owl and the same Great Tit", Mismatch),
        ("a Great Tit with pauses of 1 s", Mismatch),
        ("a Great Tit at 6 dB", Mismatch),  # above nothing
        ("a Great Tit at 99:99", BadValue),
        ("a Great Tit at -5 s", BadValue),
        ("a very Great Tit", UnknownName),
        ("the same Great Tit", Mismatch),
        ("another Great Tit", Mismatch),
        ("a Great Tit 1000000 metres away", BadValue),
        ("1000000 Great Tits", BadValue),
        ("2.5 Great Tits", BadValue),
        ("rain", NotSet),
        ("a Great Tit " * 2000, BadValue),
    ],
)
def test_what_has_no_reading_is_refused(text: str, kind: type[UserError]) -> None:
    with pytest.raises(kind):
        understood(text, VOCABULARY)


@pytest.mark.parametrize(
    "text",
    [
        "a Great Tit and an American Robin at the same time",
        "a Great Tit and an American Robin together",
        "a Great Tit and an American Robin simultaneously",
        "a Great Tit at the same time as an American Robin",
    ],
)
def test_at_the_same_time_is_said_behind_the_birds_too(text: str) -> None:
    assert understood(text, VOCABULARY) == understood("a Great Tit and an American Robin", VOCABULARY)
    later = understood(f"{text}, then a Little Owl", VOCABULARY)
    assert [one.after for one in later.events] == [(), (), ("e0", "e1")]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a Great Tit at the same time", "at the same time"),
        ("a Great Tit before the Little Owl, the Little Owl before the Great Tit", "the Little Owl"),
        ("a Great Tit before the Little Owl and the Little Owl before the Great Tit", "the Little Owl"),
        ("a Great Tit after a Little Owl and the Little Owl after the Great Tit", "after the Great Tit"),
    ],
)
def test_times_that_go_round_in_a_circle_are_no_further_birds(text: str, named: str) -> None:
    with refuses(named, kind=Mismatch):
        understood(text, VOCABULARY)


def test_names_of_every_spelling_win_over_words_of_the_grammar() -> None:
    known = Vocabulary(("Then Bird", "Ünlü Kuş", "Song Sparrow (Red)", "At 5 s"), ("in the distance",))
    text = "a then bird, then an UNLU KUS, then a Song Sparrow (Red) in in the distance"
    scene = understood(text, known)
    assert [one.species for one in scene.events] == ["Then Bird", "Ünlü Kuş", "Song Sparrow (Red)"]
    assert scene.backgrounds[0].environment == "in the distance"


def test_any_words_are_understood_and_said_back_or_refused() -> None:
    """Sentences put together at random: no crash, and nothing that comes back as another scene."""
    source = random.Random(16)
    clauses = [part for text in UNDERSTOOD for part in text.split(" followed by ")]
    more = [
        "in rain",
        "at 12 s",
        "twice",
        "softly",
        "on the left",
        "for 10 s",
        "after 2 s",
        "calling",
        "again",
        "",
    ]
    joins = [" then ", ", ", " and ", " while ", " followed by ", " after ", "; ", " or ", " with "]
    read = 0
    for _ in range(150):
        text = source.choice(clauses)
        for _ in range(source.randint(0, 2)):
            text += f" {source.choice(more)} {source.choice(joins)} {source.choice(clauses)}"
        try:
            scene = understood(text, VOCABULARY)
        except UserError:
            continue
        read += 1
        assert understood(sentence(scene), VOCABULARY) == scene, text
    assert read > 50


@pytest.mark.parametrize(
    ("said", "first", "last"),
    [
        ("flying from left to right", 45.0, -45.0),
        ("from the right to the left", -45.0, 45.0),
        ("from 60 degrees to -60 degrees", 60.0, -60.0),
        ("passes from 10 degrees to 170 degrees", 10.0, 170.0),
        ("from 30 degrees", 30.0, None),
        ("behind", 180.0, None),
        ("to the left", 45.0, None),
    ],
)
def test_where_a_bird_is_and_how_it_moves_is_understood_and_said_again(said, first, last):
    scene = understood(f"an American Robin {said}, 20 metres away", VOCABULARY)
    (event,) = scene.events
    assert (event.bearing_deg, event.bearing_end_deg, event.distance_m) == (first, last, 20.0)
    (again,) = understood(sentence(scene), VOCABULARY).events
    assert (again.bearing_deg, again.bearing_end_deg, again.distance_m) == (first, last, 20.0)


@pytest.mark.parametrize(
    "said", ["flying", "from 60 degrees to 60 degrees", "from 60 degrees to 500 degrees"]
)
def test_a_movement_without_an_end_is_refused(said):
    with pytest.raises(BadValue):
        understood(f"an American Robin {said}", VOCABULARY)
