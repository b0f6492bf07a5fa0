"""What a label says, however it was typed: species, no bird, or a bird that nobody identified."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdsd.sound.species.names import read_environment, read_names, read_types, species_key, tidy_name
from birdsd.sound.species.vocabulary import Vocabulary, near_equal
from tests.support.remarks import codes, remarked

TOWNSEND = (
    "Townsend's Warbler",
    "Townsend\u2019s Warbler",
    "townsend's warbler",
    "TOWNSEND'S WARBLER",
    "Townsend's_warbler",
    "townsend_s_warbler",
    "Setophaga townsendi_Townsend's Warbler",
    "Townsends Warbler",
    " Townsend`s  Warbler ",
)


def test_one_species_has_one_key_however_it_is_spelled():
    assert len({species_key(name) for name in TOWNSEND}) == 1
    assert (
        species_key("R\u00fcppell's Warbler")
        == species_key("Ru\u0308ppell\u2019s warbler")
        == "ruppellswarbler"
    )
    assert species_key("Eastern Bluebird") != species_key("Western Bluebird")


@pytest.mark.parametrize(
    "text",
    [
        "Black Phoebe;House Sparrow",
        "Black Phoebe | House Sparrow",
        "['Black Phoebe', 'House Sparrow']",
        '["Black Phoebe", "House Sparrow"]',
        "['Black Phoebe' 'House Sparrow']",
        "('Black Phoebe', 'House Sparrow')",
        "{'Black Phoebe', 'House Sparrow'}",
        "Black Phoebe, House Sparrow",
        "Black Phoebe + House Sparrow",
        "Black Phoebe\nHouse Sparrow",
        "[Black Phoebe, House Sparrow]",
        "Black Phoebe & House Sparrow;",
    ],
)
def test_a_cell_may_hold_several_species(text):
    assert sorted(read_names(text).species) == ["Black Phoebe", "House Sparrow"]


def test_apostrophes_do_not_end_a_listed_name():
    assert read_names("[\"Townsend's Warbler\", 'Wren']").species == ("Townsend's Warbler", "Wren")
    assert read_names("['Townsend's Warbler' 'Wren']").species == ("Townsend's Warbler", "Wren")


def test_a_name_that_was_turned_round_stays_one_and_that_is_said():
    names = read_names("Sparrow, House")
    assert names.species == ("Sparrow, House",) and "write 'A;B'" in names.remarks[0]
    assert read_names("House Finch,black_phoebe", folder=True).species == ("House Finch", "Black Phoebe")


@pytest.mark.parametrize(
    "text",
    [
        "nocall",
        "Noise",
        "no_bird",
        "no-call",
        "Engine",
        "wind noise",
        "Human vocal",
        "Human non-vocal",
        "car",
        "DOG",
        "background",
        "Power tools",
        "insects",
        "road traffic",
        "non-bird",
        "Dog_Dog",
        "Power tools_Power tools",
        "Homo sapiens_Human",
        "Noise 1",
        "noise_2",
        "nocall_2",
        "Car passing",
        "rain drops",
        "plane overhead",
        "barking dog",
        "church bells",
        "wind/rain",
        "none detected",
        "other_sounds",
        "Ambient noise only",
        "Orthoptera",
    ],
)
def test_sounds_of_other_things_are_no_bird(text):
    names = read_names(text)
    assert names.no_bird and not names.species and not names.unknown


@pytest.mark.parametrize(
    "text",
    [
        "?",
        "??",
        "Unknown",
        "unknown bird",
        "unidentified warbler",
        "Empidonax sp.",
        "gull sp",
        "Wren?",
        "Robin (?)",
        "cf. Marsh Tit",
        "possible Merlin",
        "Identity unknown",
        "Mystery mystery",
        "Soundscape",
        "bird",
        "Bird",
        "Downy/Hairy Woodpecker",
        "various species",
        "Larus cf. argentatus",
        "Larus sp 1",
        "sp1",
        "Sp. 1",
        "Buteo sp. juvenile",
        "unk1",
        "UNKN-1",
        "unid. bird",
        "prob. Great Tit",
        "Great Tit (probable)",
        "No ID",
        "Robin/Wren",
        "AMRO/GRTI",
        "Great Tit\uff1f",
        "Corvidae",
        "bird song",
        "Passeriformes",
        "background birds",
    ],
)
def test_a_bird_that_nobody_identified_is_neither_a_species_nor_no_bird(text):
    names = read_names(text)
    assert names.unknown and not names.species and not names.no_bird


@pytest.mark.parametrize("text", ["", " ", "nan", "NA", "None", "-", "[]", "--", "."])
def test_nothing_is_nothing(text):
    assert not read_names(text).count


@pytest.mark.parametrize(
    "name",
    [
        "Rain Quail",
        "Gray Catbird",
        "Tawny Frogmouth",
        "Cape May Warbler",
        "Boat-tailed Grackle",
        "SP",
        "CRER",
        "AMRO",
        "Black-and-white Warbler",
        "Song Sparrow",
        "Horned Lark",
        "Common Nighthawk",
        "Cricket Warbler",
    ],
)
def test_birds_with_names_like_noises_are_birds(name):
    assert read_names(name).species == (name,)


def test_a_sound_type_is_no_species():
    assert read_names("song").sound_types == ("song",) and not read_names("song").species
    assert read_types("['call', 'song']") == "call, song" and read_types("call?") == read_types("?") == ""


@given(st.text(max_size=40))
def test_reading_is_idempotent_and_never_fails(text):
    names = read_names(text)
    for name in names.species:
        assert tidy_name(name) == name
        if not names.remarks:
            assert read_names(name).species == (name,) or "?" not in name


def test_a_set_gives_each_species_one_name_and_says_so():
    words = Vocabulary()
    for name in map(tidy_name, TOWNSEND):
        words.add(name)
    for name in (
        "Black Phoebe",
        "Black Phoebe",
        "Black Pheobe",
        "AMRO",
        "American Robin",
        "Turdus merula",
        "Blackbird",
    ):
        words.add(name)
    words.equate("Turdus merula", "Blackbird")
    names = words.names()
    assert {names[tidy_name(name)] for name in TOWNSEND} == {"Townsend's Warbler"}
    assert names["Turdus merula"] == "Blackbird" and names["Black Pheobe"] == "Black Pheobe"
    told = words.findings()
    assert codes(told).count("one-species") >= 2
    assert remarked(told, "nearly-equal-names").facts == {"names": ["Black Pheobe", "Black Phoebe"]}
    assert remarked(told, "name-or-code").facts == {"names": ["AMRO", "American Robin"]}


def test_a_scientific_name_that_two_species_share_equates_nothing():
    words = Vocabulary()
    for name in ("Setophaga coronata", "Myrtle Warbler", "Audubon's Warbler"):
        words.add(name)
    words.equate("Setophaga coronata", "Myrtle Warbler")
    words.equate("Setophaga coronata", "Audubon's Warbler")
    assert set(words.names().values()) == {"Setophaga coronata", "Myrtle Warbler", "Audubon's Warbler"}


def test_nearly_equal_is_one_slip_of_the_finger():
    names = [
        "Black Phoebe",
        "Black Pheobe",
        "Grey Heron",
        "Gray Heron",
        "Eastern Bluebird",
        "Western Bluebird",
        "Species 1",
        "Species 2",
        "Northern Flicker",
        "Northern Flickr",
    ]
    assert near_equal(names) == [
        ("Black Pheobe", "Black Phoebe"),
        ("Gray Heron", "Grey Heron"),
        ("Northern Flicker", "Northern Flickr"),
    ]


@pytest.mark.parametrize(
    ("text", "species", "types"),
    [
        ("Parus major_song", ("Parus major",), ("song",)),
        ("Great tit_call", ("Great tit",), ("call",)),
        ("Great Tit_song", ("Great Tit",), ("song",)),
        ("GWWA_song", ("GWWA",), ("song",)),
        ("Robin (call)", ("Robin",), ("call",)),
        ("Turdus merula (Common Blackbird)", ("Common Blackbird",), ()),
        ("House sparrow_01", ("House sparrow",), ()),
        ("Parus major_XC1234", ("Parus major",), ()),
        ("Turdus merula_juvenile", ("Turdus merula",), ()),
        ("Great Tit (Parus major)", ("Great Tit",), ()),
        ("Parus major, Great Tit", ("Great Tit",), ()),  # BirdNET's labels for Audacity
        ("Parus major, Turdus merula", ("Parus major", "Turdus merula"), ()),
        ("Swainson&#39;s Thrush", ("Swainson's Thrush",), ()),
        ("TURMER,PARMAJ", ("TURMER", "PARMAJ"), ()),
    ],
)
def test_labels_that_hold_more_than_a_name(text, species, types):
    names = read_names(text)
    assert names.species == species and names.sound_types == types


@pytest.mark.parametrize("text", ["1", "0", "0.5", "-55.2", "True", "#N/A", "n.a.", "-999", "x", "present"])
def test_marks_and_measurements_are_no_names(text):
    assert read_names(text) == read_names("")


def test_letters_of_other_scripts_are_letters():
    assert species_key("\u092e\u094b\u0930") != species_key("\u092e\u093e\u0930\u093e")
    assert species_key("\u30d2\u30ac\u30e9") != species_key("\u30d3\u30ac\u30e9")
    assert read_names("1139490").species == ("1139490",)  # a taxon's number, as BirdCLEF has them


def test_an_environment_cell_may_hold_several_too():
    assert read_environment("['rain', 'wind']") == read_environment("rain;wind") == "rain and wind"
    assert (
        read_environment("light rain") == "light rain"
        and read_environment("nan") == read_environment("?") == ""
    )
