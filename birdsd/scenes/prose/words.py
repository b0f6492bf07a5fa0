"""The closed list of words that the grammar knows; everything else is a name, a number, or an error."""

from __future__ import annotations

from birdsd.scenes import loudness

NUMBERS = {
    word: value
    for value, word in enumerate(
        (
            "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
            "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
            "twenty",
        )
    )
} | {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "ninety": 90}  # fmt: skip
TIMES = {"once": 1, "twice": 2, "thrice": 3}
UNITS_S = {
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), 0.001),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("day", "days"), 86400.0),
}
METRES = {
    **dict.fromkeys(("m", "metre", "metres", "meter", "meters"), 1.0),
    **dict.fromkeys(("km", "kilometre", "kilometres", "kilometer", "kilometers"), 1000.0),
}
DEGREES = frozenset(("degree", "degrees", "deg", "°"))
DECIBELS = frozenset(("db", "decibel", "decibels"))
ARTICLES = frozenset(("a", "an", "the", "some"))
# What a bird does -> the type of its sound.
ACTIONS = {
    **dict.fromkeys(("singing", "sings", "sing"), "song"),
    **dict.fromkeys(("calling", "calls", "call"), "call"),
    **dict.fromkeys(("drumming", "drums", "drum"), "drumming"),
}
GIVING = frozenset(("giving", "gives", "give", "making", "makes", "make", "singing", "sings", "sing"))
LOUDNESS = frozenset((*loudness.EVENT_DB, *loudness.SAME)) - {""}
FAR = frozenset(("distant", "far-off", "faraway"))
NEAR = frozenset(("nearby", "near", "close"))
PLACE = frozenset(("in", "amid", "amidst", "under", "during", "near", "beside", "by", "against"))
WHOLE_SCENE = frozenset(("throughout",))
MOVING = frozenset(("flying", "flies", "fly", "moving", "moves", "move", "passing", "passes", "pass"))
SIDES = {"left": 45.0, "right": -45.0}
SCENE_NOUNS = frozenset(("soundscape", "scene", "recording", "clip"))
# Words for a number of birds that are none.
VAGUE = frozenset(("several", "many", "few", "some", "various", "multiple", "numerous", "lots", "dozens"))
# What may follow a name, for the messages.
KNOWN = (
    "known behind a bird are what it does (singing, calling, drumming), when (at 12 s, from 5 s to 20 s, "
    "for 10 s, twice), where (in ENVIRONMENT, on the left, at 30 degrees, 20 metres away), and what joins "
    "clauses (and, then, while, before, after, followed by)"
)
_OTHERS = """
degrees distance away up down ahead behind overhead bearing at from to between and for until till every times
again another same followed then next afterwards later before after preceded while as with together alongside
over alternating immediately pause pauses without no silence background start beginning middle end time of or
pair song call heard simultaneously
"""
ALL = sorted(
    {
        *NUMBERS, *TIMES, *UNITS_S, *METRES, *ARTICLES, *ACTIONS, *GIVING, *LOUDNESS, *FAR, *NEAR, *PLACE,
        *SIDES, *MOVING, *loudness.ADVERBS, *SCENE_NOUNS, *WHOLE_SCENE, *_OTHERS.split(),
    }
)  # fmt: skip
