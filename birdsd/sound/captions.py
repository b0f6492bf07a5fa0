"""Captions from what is known of a clip: species, type of sound, environment and loudness."""

from __future__ import annotations

import re
from collections.abc import Sequence

from birdsd.randomness import generator

# Weather surrounds a bird ("in loud rain"); anything else sounds beside it ("with waves in the background").
_AROUND = frozenset({"rain", "drizzle", "wind", "storm", "thunderstorm", "thunder", "snow", "hail", "fog"})
_NO_BIRD = ("no bird", "a recording without birds", "a place where no bird sings", "no birds to be heard")
_NOT_A_SOUND = frozenset({"male", "female", "adult", "juvenile", "immature", "nestling", "uncertain"})
_LOUD_DB, _FAINT_DB = -20.0, -50.0
_LOUD_SNR_DB, _QUIET_SNR_DB = 6.0, 18.0


def prompt_for(species: str | Sequence[str], environment: str = "") -> str:
    """The canonical wording, e.g. 'an American Robin' or 'an American Robin in loud rain'."""
    names = [species] if isinstance(species, str) else list(species)
    if not names:
        return _joined(_NO_BIRD[0], environment)
    return _joined(_listed([with_article(name) for name in names]), environment)


def captions(
    species: Sequence[str],
    *,
    sound_type: str = "",
    environment: str = "",
    loudness_db: float | None = None,
    count: int = 1,
    key: tuple[int | str, ...] = (),
) -> list[str]:
    """Up to `count` distinct captions; the same `key` gives the same ones.

    The first is the canonical wording (`prompt_for`), so that a plain prompt always has been seen, and the
    second adds the type of sound where it is known; the others come in random order. loudness_db: level of
    the clip in dBFS, worded only at its extremes.
    """
    names = list(dict.fromkeys(species))
    if not names:
        pool = [_joined(text, environment) for text in _NO_BIRD]
        if environment:
            pool += [f"the sound of {environment}", f"{environment}, and no bird", f"{environment} alone"]
        return _drawn(pool, count, key, pool[:1])
    birds, bare = _listed([with_article(name) for name in names]), _listed(names)
    nouns = sound_nouns(sound_type)
    action = " and ".join(action_words(noun, many=len(names) > 1) for noun in nouns)
    first = f"{birds} {action}".strip()
    what = " and ".join(nouns) or "sound"
    word = _loudness_word(loudness_db)
    pool = [
        _joined(f"the {what} of {birds}", environment),
        _joined(f"a recording of {first}", environment),
        _joined(f"field recording of {first}", environment),
        _joined(f"{bare} {action}".strip(), environment),
        ", ".join(filter(None, (bare, " and ".join(nouns) or "bird sound", word, environment))),
        f"{environment}, and {first}" if environment else f"hear {first}",
    ]
    if word:
        loud = f"{_listed([with_article(f'{word} {name}') for name in names])} {action}".strip()
        pool += [_joined(loud, environment), _joined(f"the {word} {what} of {birds}", environment)]
    return _drawn(pool, count, key, [prompt_for(names, environment), _joined(first, environment)])


def says_no_bird(prompt: str, environments: Sequence[str] = ()) -> bool:
    """Whether a prompt asks for a place without birds: in words, or by naming nothing but an environment."""
    words = re.sub(r"[^\w\s]+", " ", prompt.casefold())
    if re.search(r"\bno birds?\b|\bwithout (any )?birds?\b", words):
        return True
    before = words
    for name in sorted(environments, key=len, reverse=True):
        words = words.replace(name.casefold(), " ")
    scenery = {
        "a",
        "an",
        "the",
        "of",
        "sound",
        "sounds",
        "recording",
        "loud",
        "light",
        "faint",
        "quiet",
        "alone",
    }
    return words != before and set(words.split()) <= scenery | {"in", "and", "with", "background"}


def environment_phrase(name: str, snr_db: float | None = None) -> str:
    """An environment with how loud it is against the bird: 'rain' -> 'loud rain' at an SNR of 6 dB or less,
    'light rain' at 18 dB or more ('faint' for what is no weather)."""
    name = " ".join(name.replace("_", " ").replace("-", " ").split()).lower()
    if not name or snr_db is None or _LOUD_SNR_DB < snr_db < _QUIET_SNR_DB:
        return name
    if snr_db <= _LOUD_SNR_DB:
        return f"loud {name}"
    return f"light {name}" if name.split()[-1] in _AROUND else f"faint {name}"


def with_article(name: str) -> str:
    """'American Robin' -> 'an American Robin', 'Eurasian Wren' -> 'a Eurasian Wren'."""
    lower = name.lower()
    vowel = lower[:1] in "aeiou" and not lower.startswith(("eu", "uni", "one", "use"))
    return f"{'an' if lower and vowel else 'a'} {name}"


def sound_nouns(sound_type: str) -> list[str]:
    """'adult, male, dawn song' -> ['dawn song']: xeno-canto's types hold sex and age too."""
    parts = dict.fromkeys(sound_type.lower().replace("_", " ").split(","))
    return [
        " ".join(part.split()) for part in parts if part.strip() and _NOT_A_SOUND.isdisjoint(part.split())
    ]


def action_words(noun: str, many: bool = False) -> str:
    """What the bird does: 'song' -> 'singing', 'alarm call' -> 'giving an alarm call'."""
    plain = {"song": "singing", "call": "calling", "calls": "calling", "songs": "singing"}
    if noun in plain:
        return plain[noun]
    if noun.endswith("ing"):
        return noun
    if noun.endswith("song"):
        return f"singing {'their' if many else 'its'} {noun}"
    return f"giving {with_article(noun)}"


def _joined(text: str, environment: str) -> str:
    """'an American Robin' + 'loud rain' -> 'an American Robin in loud rain'."""
    if not environment:
        return text
    if environment.split()[-1].lower() in _AROUND:
        return f"{text} in {environment}"
    return f"{text} with {environment} in the background"


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _loudness_word(loudness_db: float | None) -> str:
    if loudness_db is None or _FAINT_DB < loudness_db < _LOUD_DB:
        return ""
    return "loud" if loudness_db >= _LOUD_DB else "faint"


def _drawn(pool: Sequence[str], count: int, key: tuple[int | str, ...], fixed: Sequence[str]) -> list[str]:
    """The fixed wordings, then others at random; each once."""
    order = generator("captions", *key).permutation(len(pool))
    return list(dict.fromkeys([*fixed, *(pool[at] for at in order)]))[: max(0, count)]
