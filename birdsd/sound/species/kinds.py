"""Whether words in the place of a species' name name one: a species, no bird, or a unidentified bird."""

from __future__ import annotations

import re
import unicodedata

from birdsd.sound.species.wordlists import (
    EMPTY,
    NO_BIRD,
    NOISE_HEADS,
    NOISE_WORDS,
    QUALIFIERS,
    SOUND_TYPES,
    UNKNOWN,
    UNKNOWN_ANYWHERE,
    UNKNOWN_FIRST,
    UNKNOWN_LAST,
)

# Same-length replacements, so that positions in a prompt stay what they are.
TYPOGRAPHIC = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201b\u02bc\u02b9\u2032\u00b4`\uff07", "'")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d", "-")
    | dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb\uff02", '"')
    | {ord("\uff1f"): "?", ord("\uff1b"): ";", ord("\uff0c"): ","}
    | dict.fromkeys("\u00a0\u2007\u2009\u202f", " ")
)
NOT_GIVEN = EMPTY | {
    *("nat", "x", "true", "false", "yes", "no", "present", "presence", "positive"),
    *("unlabeled", "unlabelled", "no label"),
}
# A number is a measurement or a mark, unless it is as long as the numbers of taxa.
_NUMBER = re.compile(r"-?\d{1,4}|-?\d*\.\d+|-\d+|#.*")
_FAMILY = re.compile(r"[a-z]+(?:idae|iformes|inae)")


def folded(name: str) -> str:
    """'Human_non-vocal.' -> 'human non vocal': a phrase as the word lists have it."""
    text = unicodedata.normalize("NFC", name.translate(TYPOGRAPHIC)).casefold()
    return " ".join(re.sub(r"[_\-.()\[\]]+", " ", text).split())


def kind_of(part: str) -> str:
    """'species', 'no_bird', 'unknown', 'sound_types', or '' where nothing is said."""
    part = " ".join(part.translate(TYPOGRAPHIC).split()).strip("\"'")
    phrase = folded(part)
    if "?" in part:
        return "unknown"
    if part.casefold() in NOT_GIVEN or _NUMBER.fullmatch(part) or not any(c.isalnum() for c in part):
        return ""
    if "/" in part:  # one of two: known only where both are noises
        kinds = {kind_of(name) for name in part.split("/") if name.strip()}
        return "no_bird" if kinds == {"no_bird"} else "unknown"
    # 'Noise 1' and 'unk2' are what they are without their numbers; 'Species 1' is somebody's name for a bird.
    bare = " ".join(filter(None, (re.sub(r"\d+$", "", word) for word in phrase.split())))
    words = phrase.split()
    if _is_no_bird(phrase) or _is_no_bird(bare):
        return "no_bird"
    if is_sound_type(phrase):
        return "sound_types"
    if re.search(r"\.(txt|csv|tsv|wav|mp3|flac)$", phrase.replace(" ", ".")):
        return ""  # a file's name
    return "unknown" if _is_unknown(part, phrase, bare, words) else "species"


def is_sound_type(phrase: str) -> bool:
    """Whether a folded phrase says what kind of sound it is, and not whose: 'call 2', 'male song'."""
    bare = re.sub(r"(?<=\w)\s*\d+$| [a-z]$", "", phrase)
    words = bare.split()
    return bare in SOUND_TYPES or (len(words) > 1 and words[-1] in SOUND_TYPES and words[0] in QUALIFIERS)


def _is_no_bird(phrase: str) -> bool:
    words = phrase.split()
    if not words:
        return False
    noises = all(word in NOISE_WORDS for word in words) and any(word in NO_BIRD for word in words)
    return phrase in NO_BIRD or words[-1] in NOISE_HEADS or words[0] == "human" or noises


def _is_unknown(part: str, phrase: str, bare: str, words: list[str]) -> bool:
    # A code in capitals ('SP') is somebody's code, where it is not one of the words in full.
    if part.isupper() and phrase in ("sp", "spp"):
        return False
    if phrase in UNKNOWN or (bare in UNKNOWN and bare not in ("species", "bird", "birds")):
        return True
    if _FAMILY.fullmatch(phrase) or UNKNOWN_ANYWHERE.intersection(words):
        return True
    return len(words) > 1 and (words[0] in UNKNOWN_FIRST or words[-1] in UNKNOWN_LAST)
