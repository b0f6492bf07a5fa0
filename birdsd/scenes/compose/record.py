"""What is known of a scene: what was asked for, and what came out, each a table of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from birdsd.scenes.bank.clip import EventClip
from birdsd.scenes.placed import PlacedBackground, PlacedEvent
from birdsd.scenes.space.stage import Space

PLACED, DID_NOT_COME_OUT, BEYOND = "placed", "did not come out", "ends behind the scene"
NOT_HEARD = "not heard in the mix"
SONG, MIX = CONFIRM = ("song", "mix")  # where a judge must hear a species, for its label to stand


@dataclass(frozen=True)
class CameOut:
    """An event as it is in the sound, measured on its own stem. Times in seconds of the scene. `start` and
    `samples`: where its stem lies. `snr_db` and `audible` as in `heard.ratio`; inf is written as None.
    `judge`, `confirmed`, `score` and `named` are of the song alone, `mix_...` of its label in the mix (see
    `heard.in_mix`)."""

    key: str
    event: str
    species: str
    sound_type: str
    onset_s: float
    offset_s: float
    low_hz: float
    high_hz: float
    snr_db: float | None
    asked_snr_db: float | None
    broadband_snr_db: float | None
    level_db: float
    audible: float
    judge: str
    confirmed: bool | None
    score: float | None
    named: str
    clip: str
    origin: str
    tries: int
    individual: int
    take: int
    start: int
    samples: int
    stem: str = ""
    mix_judge: str = ""
    mix_heard: bool | None = None
    mix_score: float | None = None
    mix_named: str = ""

    @property
    def verified(self) -> bool:
        return self.confirmed is True

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Asked:
    """An event as it was asked for, and what became of it."""

    placed: PlacedEvent
    fate: str
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**vars(self.placed), "fate": self.fate, "why": self.why}


@dataclass(frozen=True)
class Trail:
    """Who is to be named for a part of the scene."""

    part: str
    kind: str
    source: str
    identity: str
    licence: str
    attribution: str


@dataclass
class Composed:
    """A scene after it was composed. `gain_db`: on everything, so that the mix stays below full scale."""

    name: str
    duration_s: float
    rate_hz: int
    channels: int
    asked: list[Asked] = field(default_factory=list)
    came_out: list[CameOut] = field(default_factory=list)
    backgrounds: list[PlacedBackground] = field(default_factory=list)
    trail: list[Trail] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gain_db: float = 0.0
    gate: str = ""
    ear: str = ""  # who listened to the mix
    confirm: str = SONG
    licence: str = ""
    space: Space | None = None
    from_where: dict[str, dict[str, Any]] = field(default_factory=dict)  # by an event's key

    def to_json(self) -> dict[str, Any]:
        """Everything, plain values only; what the files beside it hold is made of this."""
        told = {
            "format": "birdsd-scene-labels/1", "generated": True, "name": self.name,
            "duration_s": self.duration_s, "rate_hz": self.rate_hz, "channels": self.channels,
            "gain_db": self.gain_db, "gate": self.gate, "ear": self.ear, "confirm": self.confirm,
            "licence": self.licence,
            "asked": [one.to_json() for one in self.asked],
            "came_out": [one.to_json() for one in self.came_out],
            "backgrounds": [dict(vars(one)) for one in self.backgrounds],
            "trail": [dict(vars(one)) for one in self.trail], "notes": self.notes,
        }  # fmt: skip
        if self.space is not None:
            told["space"] = {**self.space.to_json(), "events": self.from_where}
        return told


def why_not(clip: EventClip) -> str:
    """Why an event is left out, in words."""
    if clip.measured is None:
        return f"nothing sounded in {clip.origin.tries} tries"
    named, score = clip.verdict.named, clip.verdict.score
    heard = f", which heard {named}" if named else ""
    if named == clip.species and score is not None:
        heard = f", whose best score for it was {score:.2f}"
    return f"not confirmed in {clip.origin.tries} tries by {clip.verdict.judge}{heard}"


def not_heard(event: CameOut, songs: int) -> str:
    """Why an event is left out that was not heard in the mix, in words."""
    named = f", which heard {event.mix_named}" if event.mix_named != event.species else ""
    count = "1 song" if songs == 1 else f"any of {songs} songs"
    return f"{NOT_HEARD} with {count} by {event.mix_judge}{named}"
