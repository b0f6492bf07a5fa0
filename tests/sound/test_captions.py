"""What captions say."""

from __future__ import annotations

import pytest

from birdsd.sound.captions import captions, environment_phrase, prompt_for, says_no_bird, with_article


def test_the_first_is_the_prompt_and_all_differ():
    found = captions(["American Robin"], sound_type="song", environment="loud rain", count=6, key=(7, "a"))
    assert found[0] == prompt_for("American Robin", "loud rain") == "an American Robin in loud rain"
    assert found[1] == "an American Robin singing in loud rain"
    assert len(set(found)) == 6
    assert all("American Robin" in text and "loud rain" in text for text in found)


def test_the_key_decides():
    def drawn(*key):
        return captions(["Wren"], sound_type="song", count=4, key=key)

    assert drawn(1, "x") == drawn(1, "x")
    assert len({tuple(drawn(1, n)) for n in range(20)}) > 3


@pytest.mark.parametrize(
    ("sound_type", "wording"),
    [
        ("song", "a Wren singing"),
        ("call", "a Wren calling"),
        ("alarm call", "a Wren giving an alarm call"),
        ("dawn song", "a Wren singing its dawn song"),
        ("drumming", "a Wren drumming"),
        ("adult, male, song", "a Wren singing"),
        ("song, call", "a Wren singing and calling"),
        ("adult, female", "a Wren"),
        ("", "a Wren"),
    ],
)
def test_the_type_of_sound_becomes_an_action(sound_type, wording):
    assert wording in captions(["Wren"], sound_type=sound_type, count=2)


def test_several_species_are_listed():
    assert (
        prompt_for(["House Finch", "Eurasian Wren", "Ibis"]) == "a House Finch, a Eurasian Wren and an Ibis"
    )
    assert captions(["A", "B"], sound_type="dawn song", count=2)[1] == "an A and a B singing their dawn song"


def test_without_birds_the_caption_says_so_and_names_the_place():
    assert captions([], count=1) == ["no bird"]
    assert all("wind" in text for text in captions([], environment="wind", count=9))
    assert prompt_for([]) == "no bird"


def test_loudness_is_worded_at_its_extremes_only():
    def words(loudness_db):
        return " ".join(captions(["Wren"], loudness_db=loudness_db, count=99))

    assert "loud" in words(-10) and "faint" in words(-60)
    assert "loud" not in words(-35) and "faint" not in words(-35)


def test_environments_are_put_into_words():
    assert environment_phrase("sea_waves") == "sea waves"
    assert environment_phrase("rain", 3.0) == "loud rain"
    assert environment_phrase("rain", 25.0) == "light rain"
    assert environment_phrase("sea-waves", 25.0) == "faint sea waves"
    assert prompt_for("Wren", "sea waves") == "a Wren with sea waves in the background"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("American Robin", "an"),
        ("Eurasian Wren", "a"),
        ("Unicolored Jay", "a"),
        ("Upland Goose", "an"),
        ("", "a"),
    ],
)
def test_articles(name, expected):
    assert with_article(name).split()[0] == expected


def test_counts_beyond_what_there_is_and_zero():
    assert len(captions(["Wren"], count=1000)) >= 6
    assert captions(["Wren"], count=0) == []


def test_a_prompt_may_ask_for_a_place_without_birds():
    asked = ("no bird", "No birds to be heard.", "a recording without birds in rain", "the sound of rain")
    for text in (*asked, "loud rain alone"):
        assert says_no_bird(text, ("rain",))
    for text in ("", "an Ivory Gull", "a bird in rain", "rain and thunder", "a loud forest"):
        assert not says_no_bird(text, ("rain",))
    assert not says_no_bird("the sound of rain")
