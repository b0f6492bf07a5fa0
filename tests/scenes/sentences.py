"""Sentences and what they mean, written down before the grammar was: a wrong reading is worse than none.

An understood sentence has its whole scene beside it. A refused one has the words that its error must hold:
the
word that is not understood, and something that is.
"""

from __future__ import annotations

from typing import Any

from birdsd.errors import BadValue, Mismatch, NotSet, UnknownName, UserError
from birdsd.scenes.scene import Background, Event, Scene
from birdsd.scenes.vocabulary import Vocabulary

VOCABULARY = Vocabulary(
    species=(
        "American Goldfinch", "American Robin", "Black Phoebe", "Black-and-white Warbler", "Cassin's Finch",
        "Chipping Sparrow", "Downy Woodpecker", "Great Tit", "House Sparrow", "Laughing Gull",
        "Lesser Goldfinch",
        "Little Owl", "Marsh Wren", "Mourning Dove", "Rock Pigeon", "Snow Bunting", "Song Sparrow",
    ),
    environments=("crackling fire", "forest", "rain", "sea waves", "wind"),
    sound_types={
        "American Robin": ("alarm call", "call", "song"),
        "Downy Woodpecker": ("call", "drumming"),
    },
    scientific={"Turdus migratorius": "American Robin", "Parus major": "Great Tit"},
)  # fmt: skip

PAUSE, SOON, REPEATED = (2.0, 5.0), (0.05, 0.05), (2.0, 8.0)


def bird(species: str, sound_type: str = "", **fields: Any) -> dict[str, Any]:
    """An event over a background: 12 dB above it where nothing else is said."""
    loud = {} if "level_db" in fields or "snr_db" in fields else {"snr_db": 12.0}
    return {"species": species, "sound_type": sound_type, **loud, **fields}


def lone(species: str, sound_type: str = "", **fields: Any) -> dict[str, Any]:
    """An event with nothing behind it: -27 dBFS where nothing else is said."""
    return bird(species, sound_type, **{"level_db": -27.0, **fields})


def scene(events: list[dict[str, Any]], *backgrounds: Background, duration_s: float | None = None) -> Scene:
    """A scene whose events are e0, e1, ...; those without a time follow the one before."""
    made = []
    for number, fields in enumerate(events):
        when = {"onset_s", "after", "together"} & set(fields)
        if not when:
            fields = {**fields, **({"after": (f"e{number - 1}",)} if number else {"onset_s": 1.0})}
        made.append(Event(id=f"e{number}", **fields))
    return Scene(tuple(made), backgrounds, duration_s)


def place(environment: str, level_db: float = -39.0, **fields: Any) -> Background:
    """A background; -39 dBFS where no word says otherwise."""
    return Background(environment, level_db, **fields)


UNDERSTOOD: dict[str, Scene] = {
    # The seed's own sentence, and places.
    "an American Robin singing in a loud forest followed by an American Goldfinch in a quiet forest": scene(
        [bird("American Robin", "song", snr_db=6.0), bird("American Goldfinch", snr_db=24.0)],
        place("forest", -33.0, to_event="e1"), place("forest", -51.0, from_event="e1"),
    ),
    "a Black Phoebe in a loud forest followed by a House Sparrow in a quiet forest": scene(
        [bird("Black Phoebe", snr_db=6.0), bird("House Sparrow", snr_db=24.0)],
        place("forest", -33.0, to_event="e1"), place("forest", -51.0, from_event="e1"),
    ),
    "an American Robin in rain followed by a Great Tit": scene(
        [bird("American Robin"), bird("Great Tit")], place("rain")
    ),
    "an American Robin followed by a Great Tit in rain": scene(
        [bird("American Robin"), bird("Great Tit")], place("rain")
    ),
    "a House Sparrow in rain and wind": scene([bird("House Sparrow", snr_db=9.0)], place("rain"),
    place("wind")),
    "a House Sparrow with sea waves in the background": scene([bird("House Sparrow")], place("sea waves")),
    "a Little Owl in rain, then a Great Tit without rain": scene(
        [bird("Little Owl"), lone("Great Tit")], place("rain", to_event="e1")
    ),
    "a Marsh Wren in rain then a Great Tit in wind": scene(
        [bird("Marsh Wren"), bird("Great Tit")], place("rain", to_event="e1"), place("wind", from_event="e1")
    ),
    "a Great Tit in silence": scene([lone("Great Tit")]),
    "30 s of rain": scene([], place("rain"), duration_s=30.0),
    "1 minute of loud wind": scene([], place("wind", -33.0), duration_s=60.0),
    "a Great Tit; rain from 10 s to 20 s": scene([lone("Great Tit")], place("rain", from_s=10.0, to_s=20.0)),
    # Names that hold words of the grammar, other names, and names cut short.
    "a Song Sparrow then a Laughing Gull": scene([lone("Song Sparrow"), lone("Laughing Gull")]),
    "a Black-and-white Warbler and a Mourning Dove": scene(
        [lone("Black-and-white Warbler"), lone("Mourning Dove", together="e0")]
    ),
    "a Great Tit and a Little Owl, then a Rock Pigeon": scene(
        [lone("Great Tit"), lone("Little Owl", together="e0"), lone("Rock Pigeon", after=("e0", "e1"))]
    ),
    "Turdus migratorius singing": scene([lone("American Robin", "song")]),
    "AMRO followed by HOSP": scene([lone("American Robin"), lone("House Sparrow")]),
    "a robin": scene([lone("American Robin")]),
    "a goldfinch": scene([lone("American Goldfinch")]),  # the first of two, and said
    "A CASSIN’S FINCH": scene([lone("Cassin's Finch")]),
    # Kinds of sound.
    "a Downy Woodpecker drumming": scene([lone("Downy Woodpecker", "drumming")]),
    "an American Robin giving an alarm call": scene([lone("American Robin", "alarm call")]),
    "the song of an American Robin": scene([lone("American Robin", "song")]),
    "an American Robin's call": scene([lone("American Robin", "call")]),
    "An American Robin sings. Then a Great Tit calls.": scene(
        [lone("American Robin", "song"), lone("Great Tit", "call")]
    ),
    # How loud.
    "a loud American Robin in loud rain": scene([bird("American Robin", snr_db=12.0)], place("rain", -33.0)),
    "an American Robin singing softly in rain": scene([bird("American Robin", "song", snr_db=6.0)],
    place("rain")),
    "a Great Tit at -3 dB in wind": scene([bird("Great Tit", snr_db=-3.0)], place("wind")),
    "a Great Tit at -20 dBFS": scene([lone("Great Tit", level_db=-20.0)]),
    "a Great Tit in the distance in rain": scene(
        [bird("Great Tit", snr_db=0.0, distance_m=80.0)], place("rain")
    ),
    # How many, how often.
    "three House Sparrows": scene([lone("House Sparrow", count=3)]),
    "a House Sparrow calling three times": scene([lone("House Sparrow", "call", repeat=3)]),
    "a Great Tit twice, then another Great Tit": scene(
        [lone("Great Tit", repeat=2), lone("Great Tit", individual=1)]
    ),
    "a Great Tit, then a Little Owl, then the same Great Tit again": scene(
        [lone("Great Tit"), lone("Little Owl"), lone("Great Tit")]
    ),
    "20 s: a Great Tit every 5 seconds": scene(
        [lone("Great Tit", every_s=5.0, until="end")], duration_s=20.0
    ),
    "a Great Tit alternating with a Little Owl three times": scene(
        [lone("Great Tit"), lone("Little Owl")] * 3
    ),
    # In which order.
    "a Great Tit before a Little Owl": scene([lone("Great Tit"), lone("Little Owl")]),
    "a Great Tit after a Little Owl": scene([lone("Little Owl"), lone("Great Tit")]),
    "after a Little Owl, a Great Tit": scene([lone("Little Owl"), lone("Great Tit")]),
    "a Great Tit while a Little Owl calls": scene(
        [lone("Great Tit", until="e1"), lone("Little Owl", "call", together="e0")]
    ),
    "a Great Tit at the same time as a Little Owl": scene(
        [lone("Great Tit"), lone("Little Owl", together="e0")]
    ),
    "At the same time a Great Tit and a Little Owl": scene(
        [lone("Great Tit"), lone("Little Owl", together="e0")]
    ),
    "At the same time, a Great Tit and a Little Owl call twice": scene(
        [lone("Great Tit", "call", repeat=2), lone("Little Owl", "call", repeat=2, together="e0")]
    ),
    "a Great Tit, then at the same time a Little Owl and a Marsh Wren": scene(
        [lone("Great Tit"), lone("Little Owl", after=("e0",)), lone("Marsh Wren", together="e1")]
    ),
    "At the same time as a Great Tit, a Little Owl": scene(
        [lone("Great Tit"), lone("Little Owl", together="e0")]
    ),
    "At the same time as a Great Tit, a Little Owl at 5 s": scene(
        [lone("Great Tit", onset_s=5.0), lone("Little Owl", together="e0")]
    ),
    "a Great Tit and a Little Owl at 5 s at the same time": scene(
        [lone("Great Tit", onset_s=5.0), lone("Little Owl", together="e0")]
    ),
    "a Great Tit, a Little Owl and a Marsh Wren sing": scene(
        [
            lone("Great Tit", "song"),
            lone("Little Owl", "song", together="e0"),
            lone("Marsh Wren", "song", together="e0"),
        ]
    ),
    # When.
    "a Great Tit, and after 2 seconds a Little Owl": scene(
        [lone("Great Tit"), lone("Little Owl", gap_s=(2.0, 2.0))]
    ),
    "a Great Tit followed 5 s later by a Little Owl": scene(
        [lone("Great Tit"), lone("Little Owl", gap_s=(5.0, 5.0))]
    ),
    "a Great Tit immediately followed by a Little Owl": scene(
        [lone("Great Tit"), lone("Little Owl", gap_s=SOON)]
    ),
    "a Great Tit, and later a Little Owl at 9 s": scene(
        [lone("Great Tit"), lone("Little Owl", onset_s=9.0)]
    ),
    "a Great Tit in the distance at 6 dB in rain": scene(
        [bird("Great Tit", snr_db=6.0, distance_m=80.0)], place("rain")
    ),
    "a Great Tit, and later a Little Owl": scene([lone("Great Tit"), lone("Little Owl", gap_s=PAUSE)]),
    "a Great Tit at 0:12 and a Little Owl at 1:02.5": scene(
        [lone("Great Tit", onset_s=12.0), lone("Little Owl", onset_s=62.5)]
    ),
    "a Great Tit singing from 5 s to 20 s in rain": scene(
        [bird("Great Tit", "song", onset_s=5.0, until_s=20.0)], place("rain")
    ),
    "a Great Tit singing for a minute": scene([lone("Great Tit", "song", lasting_s=60.0)]),
    "at 2 min 5 s a Great Tit": scene([lone("Great Tit", onset_s=125.0)]),
    "2 minutes of an American Robin singing in a forest followed by a Great Tit in rain": scene(
        [
            bird("American Robin", "song", onset_s=1.0, until_s=59.0, repeat_gap_s=REPEATED),
            bird("Great Tit", onset_s=61.0, until_s=119.0, repeat_gap_s=REPEATED),
        ],
        place("forest", to_event="e1"), place("rain", from_event="e1"),
        duration_s=120.0,
    ),
    "a 30 second soundscape: rain throughout, a Great Tit at 10 s": scene(
        [bird("Great Tit", onset_s=10.0)], place("rain"), duration_s=30.0
    ),
    # Where from.
    "a Great Tit at 30 degrees, 20 metres": scene([lone("Great Tit", bearing_deg=30.0, distance_m=20.0)]),
    "a Great Tit 45 degrees to the right": scene([lone("Great Tit", bearing_deg=-45.0)]),
    "a Great Tit from the left to the right": scene(
        [lone("Great Tit", bearing_deg=45.0, bearing_end_deg=-45.0)]
    ),
    "a Great Tit on the left, 12 m away, 20 degrees up": scene(
        [lone("Great Tit", bearing_deg=45.0, distance_m=12.0, elevation_deg=20.0)]
    ),
    "a Great Tit on the left and a Little Owl on the right": scene(
        [lone("Great Tit", bearing_deg=45.0), lone("Little Owl", bearing_deg=-45.0, together="e0")]
    ),
}  # fmt: skip

# What each error must hold.
REFUSED: dict[str, tuple[type[UserError] | str, ...]] = {
    "a Dodo singing": (UnknownName, "Dodo", "Rock Pigeon"),
    "an American Robbin": (UnknownName, "Robbin", "American Robin"),
    "a Great Tit in a jungle": (UnknownName, "jungle", "forest"),
    "a Great Tit warbling loudly": (BadValue, "warbling", "singing"),
    "a Great Tit drumming on an American Robin": (BadValue, "on", "word 5"),
    "an American Robin drumming": (UnknownName, "drumming", "alarm call, call, song"),
    "a Great Tit at 12": (BadValue, "12", "12 s", "12 minutes"),
    "no Great Tit": (BadValue, "no Great Tit", "leave it out"),
    "a Great Tit in Spain": (UnknownName, "Spain", "forest"),
    "a Great Tit in the morning": (
        UnknownName,
        "morning",
    ),
    "several Great Tits": (BadValue, "several", "how many"),
    "a bird singing": (BadValue, "bird", "species"),
    "a Great Tit at 10 s followed by a Little Owl at 5 s": (Mismatch, "10 s", "5 s", "before"),
    "10 s: a Great Tit at 12 s": (Mismatch, "12 s", "10 s"),
    # Two things of which only one could act: none is dropped.
    "two loud Great Tits at 6 dB in rain": (Mismatch, "loud", "6 dB", "level"),
    "a faint Great Tit at -20 dBFS": (Mismatch, "faint", "-20 dBFS"),
    "a loud Great Tit, a Little Owl and a Marsh Wren sing at 6 dB in rain": (Mismatch, "loud", "6 dB"),
    "a Great Tit twice every 5 seconds with pauses of 2 s to 8 s": (Mismatch, "every 5 seconds", "pauses"),
    "20 s: a Great Tit in the middle at 5 s": (Mismatch, "in the middle", "at 5 s", "onset"),
    "a Great Tit, then a Little Owl at 9 s after 3 s": (Mismatch, "after 3 s", "at 9 s"),
    "a Great Tit immediately followed by a Little Owl at 9 s": (Mismatch, "immediately", "at 9 s"),
    "20 s: a Great Tit, then a Little Owl throughout": (Mismatch, "then", "throughout"),
    "at the same time a Great Tit": (Mismatch, "the Great Tit alone", "two birds"),
    "at the same time a Great Tit then a Little Owl": (Mismatch, "the Great Tit alone", "two birds"),
    "a Great Tit at 3 s at the same time as a Little Owl at 30 s": (Mismatch, "3 s", "30 s", "one time"),
    "a Great Tit at 3 s and a Little Owl at 30 s at the same time": (Mismatch, "3 s", "30 s", "one time"),
    "at the same time as a Great Tit": (BadValue, "a comma", "another clause"),
    "a Great Tit at the end": (BadValue, "at the end", "at 25 s"),
    "a Great Tit every 5 seconds": (NotSet, "every 5 s", "length"),
    "a Great Tit; rm -rf / #": (
        UnknownName,
        "rm",
    ),
    "a Great Tit zero times": (BadValue, "zero", "once"),
    "0 s of rain": (
        BadValue,
        "0 s",
    ),
    "a day of rain": (
        BadValue,
        "day",
    ),
    "": (
        NotSet,
        "empty",
    ),
    "a Great Tit followed by": (BadValue, "followed by", "nothing"),
    "a Great Tit from 20 s to 5 s": (BadValue, "20 s", "5 s"),
    "a Great Tit at 400 degrees": (BadValue, "400", "180"),
    "an American Robin after": (
        BadValue,
        "after",
    ),
    "a loud": (
        BadValue,
        "loud",
    ),
    "a Great Tit two metres up": (
        BadValue,
        "two metres up",
    ),
    "a Great Tit at NaN s": (
        BadValue,
        "NaN",
    ),
    "a Great Tit at 10 s at 20 s": (Mismatch, "10 s", "20 s"),
    "a Great Tit <script>": (
        BadValue,
        "script",
    ),
}


# Sentences of which something had to be assumed, and what the assumption names.
DECIDED = (
    ("a goldfinch", ("American Goldfinch, Lesser Goldfinch",)),
    ("an American Robin followed by a Great Tit in rain", ("rain ",)),
    ("a Great Tit then a Great Tit", ("Great Tit", "'another'")),
    ("a Great Tit, at 10 s, a Little Owl", ("'at 10 s'", "Great Tit")),
    ("a Great Tit and a Little Owl at 5 s", ("'at 5 s'", "Little Owl")),
    ("a Great Tit and a Little Owl calling at 5 s", ("'call', 'at 5 s'",)),
    ("a Great Tit in rain and a Little Owl in wind", ("rain and wind",)),
    ("a Great Tit. A Little Owl.", ("one after",)),
    ("a Great Tit alternating with a Little Owl", ("twice",)),
    ("a Great Tit in loud rain until 20 s", ("'until 20 s'", "Great Tit", "rain")),
    ("a Great Tit and a Little Owl at 5 s at the same time", ("'at 5 s'", "all")),
)
