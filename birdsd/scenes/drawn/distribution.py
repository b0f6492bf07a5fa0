"""What scenes are drawn from: a YAML file of weights and distributions, checked before the first scene is
made."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from birdsd.errors import (
    BadValue,
    Mismatch,
    NotFound,
    NothingLeft,
    Unsupported,
    clipped,
    unknown_name,
)
from birdsd.scenes.checks import RANGES, check_duration
from birdsd.scenes.drawn.draws import Draw, read_draw, read_weights
from birdsd.scenes.scene import DEFAULT_BACKGROUND_DB, FADE_S
from birdsd.scenes.store import load_document
from birdsd.scenes.vocabulary import Vocabulary
from birdsd.sound.labels.annotation import read_text
from birdsd.sound.species.names import clean_name

FORMAT = "birdsd-distribution/1"
NONE = "none"  # an environment: silence
TRIES = 100

Weights = Mapping[str, float]
_ONCE, _HALF_A_MINUTE, _TWO_SECONDS = Draw.of(1.0), Draw.of(30.0), Draw.of(2.0)
_SNR, _LEVEL = Draw("uniform", (3.0, 20.0)), Draw("uniform", (-36.0, -24.0))
_BACKGROUND = Draw.of(DEFAULT_BACKGROUND_DB)


@dataclass(frozen=True)
class Distribution:
    """Scenes to be drawn. Names are weighted, numbers are `Draw`s; see docs/scenes.md for each field.

    Exactly one of `events` (a count) and `events_per_minute` is set. With `gap_s` the events follow each
    other; without it they lie anywhere, at most `max_overlap` at once (None: any number).
    """

    name: str = "scene"
    seed: int = 0
    rate_hz: int | None = None
    duration_s: Draw = _HALF_A_MINUTE
    events: Draw | None = None
    events_per_minute: Draw | None = None
    event_s: Draw = _TWO_SECONDS
    species: Weights = field(default_factory=dict)
    sound_types: Mapping[str, Weights] = field(default_factory=dict)
    individuals: Draw = _ONCE
    snr_db: Draw = _SNR
    level_db: Draw = _LEVEL
    gap_s: Draw | None = None
    max_overlap: int | None = None
    same_species_gap_s: float = 0.3
    environments: Weights = field(default_factory=dict)
    environments_per_scene: Draw = _ONCE
    background_db: Draw = _BACKGROUND
    fade_s: float = FADE_S
    pitch_semitones: Draw | None = None
    rate: Draw | None = None
    distance_m: Draw | None = None
    bearing_deg: Draw | None = None
    elevation_deg: Draw | None = None


_DRAWS = {
    "duration_s", "events", "events_per_minute", "event_s", "individuals", "snr_db", "level_db", "gap_s",
    "environments_per_scene", "background_db", "pitch_semitones", "rate", "distance_m", "bearing_deg",
    "elevation_deg",
}  # fmt: skip
# Drawn fields -> the field of an event (or a background) whose range holds for them.
_RANGED = {
    "snr_db": "snr_db", "level_db": "level_db", "gap_s": "gap_s", "event_s": "duration_s",
    "background_db": "level_db",
    "pitch_semitones": "pitch_semitones", "rate": "rate", "distance_m": "distance_m",
    "bearing_deg": "bearing_deg",
    "elevation_deg": "elevation_deg",
}  # fmt: skip


def read_distribution(path: Path, vocabulary: Vocabulary) -> Distribution:
    """The distribution of a YAML file, its names as the vocabulary has them; `UserError` for one that
    cannot be,
    with the computation that shows it."""
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"the distribution {path} does not exist", "it is a YAML file")
    return distribution_of(load_document(read_text(path), str(path)), vocabulary, str(path))


def distribution_of(
    document: Mapping[str, Any], vocabulary: Vocabulary, place: str = "the distribution"
) -> Distribution:
    """`read_distribution` of what a file holds."""
    told = dict(document)
    if told.pop("format", FORMAT) != FORMAT:
        raise Unsupported(f"{place} is of another format", f"this version reads {FORMAT}")
    known = [item.name for item in fields(Distribution)]
    values: dict[str, Any] = {}
    for name, value in told.items():
        if name not in known:
            raise unknown_name(f"field of {place}", name, known)
        if value is not None:
            values[name] = _value(name, value)
    made = Distribution(**values)
    if made.events is not None and made.events_per_minute is not None:
        raise Mismatch(f"{place} has both events and events_per_minute", "one of them says how many")
    if made.events is None and made.events_per_minute is None:
        made = replace(made, events_per_minute=Draw("poisson", (10.0,)))
    made = checked_distribution(_with_names(made, vocabulary), vocabulary)
    _check_used(made, values)
    return made


def _check_used(made: Distribution, given: Collection[str]) -> None:
    """`UserError` for what is given and can act on no scene."""
    sounding = any(weight > 0 for name, weight in made.environments.items() if name != NONE)
    silent = made.environments.get(NONE, 0.0) > 0
    for name in ("snr_db", "background_db", "fade_s"):
        if name in given and not sounding:
            raise Mismatch(
                f"{name} is given, and no scene has a background", "it acts where an environment is heard",
                f"give environments, or leave {name} out",
            )  # fmt: skip
    if "level_db" in given and not silent:
        raise Mismatch(
            "level_db is given, and every scene has a background",
            "over a background an event is as loud as snr_db says",
            "leave level_db out, or give environments 'none' a weight",
        )
    for species in made.sound_types:
        if not made.species.get(species):
            raise Mismatch(
                f"sound_types names {clipped(species)}, and species does not",
                "a bird that is not drawn makes no sound",
                "add it to species, or leave it out of sound_types",
            )
    for name in ("events", "individuals", "environments_per_scene"):
        draw = getattr(made, name)
        if draw is not None and draw.least == draw.greatest != round(draw.least):
            raise BadValue(f"{name} is {draw.least:g}", "a whole number is expected")


def _value(name: str, value: Any) -> Any:
    if name in _DRAWS:
        return read_draw(value, name)
    if name in ("species", "environments"):
        return _weights(value, name)
    if name == "sound_types":
        if not isinstance(value, Mapping):
            raise BadValue(
                f"sound_types is {clipped(value)}",
                "it holds types for each species: 'American Robin: {song: 3, call: 1}'",
            )
        return {
            str(species): _weights(types, f"sound_types of {clipped(species)}")
            for species, types in value.items()
        }
    if name == "name":
        return clean_name(str(value))
    number = read_draw(value, name).values[0] if not isinstance(value, (Mapping, int)) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise BadValue(f"{name} is {clipped(value)}", "a number is expected, and no distribution")
    if name in ("seed", "rate_hz", "max_overlap"):
        if number != int(number) or number < 0:
            raise BadValue(f"{name} is {number:g}", "a whole number is expected")
        return int(number)
    return float(number)


def _weights(value: Any, place: str) -> Weights:
    """Names with weights; a list, or one name, is equally likely names. A name that stands twice weighs
    twice."""
    if isinstance(value, Mapping):
        return {str(name): weight for name, weight in zip(value, read_weights(value, place), strict=True)}
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        raise BadValue(f"{place} is {clipped(value)}", "names are expected, or names with weights")
    return {name: float(names.count(name)) for name in dict.fromkeys(names)}


def _with_names(made: Distribution, vocabulary: Vocabulary) -> Distribution:
    """Names as the model has them. Without species all are equally likely, without environments there is
    silence."""
    species: dict[str, float] = {}
    for name, weight in (made.species or dict.fromkeys(vocabulary.species, 1.0)).items():
        known = vocabulary.the_species(name, "species")
        species[known] = species.get(known, 0.0) + weight
    types: dict[str, Weights] = {}
    for name, weights in made.sound_types.items():
        known = vocabulary.the_species(name, "sound_types")
        types[known] = {
            vocabulary.the_type(known, one, "sound_types"): weight for one, weight in weights.items()
        }
    environments: dict[str, float] = {}
    for name, weight in made.environments.items():
        known = NONE if name == NONE else vocabulary.the_environment(name, "environments")[0]
        environments[known] = environments.get(known, 0.0) + weight
    return replace(made, species=species, sound_types=types, environments=environments or {NONE: 1.0})


def checked_distribution(made: Distribution, vocabulary: Vocabulary) -> Distribution:
    """The distribution, or a `UserError` where no scene, or hardly one, can come of it."""
    check_duration(made.duration_s.least, "the least duration_s")
    check_duration(made.duration_s.greatest, "the greatest duration_s")
    for name, of_event in _RANGED.items():
        draw = getattr(made, name)
        if draw is None:
            continue
        least, most, unit = RANGES[of_event]
        if draw.least < least or draw.greatest > most:
            ends = f"{draw.least:g} to {draw.greatest:g}"
            raise BadValue(
                f"{name} can be {ends}",
                f"from {least:g} to {most:g} {unit} is possible".replace("  ", " "),
                "use truncnormal: [mean, deviation, least, greatest]" if math.isinf(draw.least) else "",
            )
    for name, least in (
        ("events", 0.0),
        ("events_per_minute", 0.0),
        ("individuals", 1.0),
        ("environments_per_scene", 1.0),
    ):
        draw = getattr(made, name)
        if draw is not None and draw.least < least:
            raise BadValue(f"{name} can be {draw.least:g}", f"at least {least:g} is possible")
    if made.max_overlap is not None and made.max_overlap < 1:
        raise BadValue(f"max_overlap is {made.max_overlap}", "at least one event must be able to sound")
    if not vocabulary.species:
        raise NothingLeft("the model knows no species", "scenes are drawn from its species")
    _check_room(made)
    return made


def _check_room(made: Distribution) -> None:
    """Whether the fewest and shortest songs fit into the longest scene, and the usual number into the usual
    one."""
    cases = (("least", made.duration_s.greatest), ("mean", made.duration_s.mean))
    for which, duration_s in cases:
        count = getattr(made.events, which) if made.events is not None else 0.0
        if made.events_per_minute is not None:
            count = getattr(made.events_per_minute, which) * duration_s / 60
        count = round(count)
        song_s = max(getattr(made.event_s, which), 0.0)
        gap_s = max(getattr(made.gap_s, which), 0.0) if made.gap_s is not None else 0.0
        if count < 1:
            continue
        # So many birds there are, and each sings one song at a time.
        voices = sum(weight > 0 for weight in made.species.values()) * max(
            1, round(min(made.individuals.greatest, 1e6))
        )
        lanes = 1 if made.gap_s is not None else min(made.max_overlap or voices, voices)
        # Of `count` songs in `lanes` rows the fullest row has so many; between them lie the gaps.
        needed = math.ceil(count / lanes) * song_s + (count * gap_s if made.gap_s is not None else 0.0)
        if needed > duration_s + 1e-9:
            gaps = f" and {count} gaps of {gap_s:g} s" if made.gap_s is not None and gap_s else ""
            rows = f", {lanes} at once," if lanes > 1 else ""
            raise Mismatch(
                f"{count} songs of {song_s:g} s{gaps}{rows} take {needed:g} s (the {which} of each), and "
                "the scene lasts "
                f"{duration_s:g} s",
                "without more overlap they do not fit",
                "take fewer or shorter songs, a longer scene, or a higher max_overlap",
            )
