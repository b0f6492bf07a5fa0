"""A scene in which everything is a number: what a composer turns into sound."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlacedEvent:
    """One song of one bird. `key` is unique in its scene and does not depend on durations.

    `onset_s` is where the sound's measured onset is to lie. `measured`: `duration_s` is that of a clip, not a
    wish or a typical length. Exactly one of `snr_db` and `level_db` is set. `voice_seed` is the same for all
    songs of an individual; `take` numbers them from 0.
    """

    key: str  # "e0", or "e0.v1.t2": second individual, third song
    event: str  # id of the event in the scene
    species: str
    sound_type: str
    prompt: str
    onset_s: float
    duration_s: float
    measured: bool = False
    snr_db: float | None = None
    level_db: float | None = None
    pitch_semitones: float = 0.0
    rate: float = 1.0
    distance_m: float | None = None
    bearing_deg: float | None = None
    bearing_end_deg: float | None = None
    elevation_deg: float | None = None
    individual: int = 0
    take: int = 0
    voice_seed: int = 0

    @property
    def end_s(self) -> float:
        return self.onset_s + self.duration_s


@dataclass(frozen=True)
class PlacedBackground:
    """A stretch of background from `from_s` to `to_s`, fades included; a fade of 0 is a hard end (the scene's
    own). Where two stretches meet, both reach over the join by half of their fade."""

    environment: str
    prompt: str
    level_db: float
    from_s: float
    to_s: float
    fade_in_s: float = 0.0
    fade_out_s: float = 0.0
    source: str = "generate"
    path: str = ""
    seed: int = 0

    @property
    def duration_s(self) -> float:
        return self.to_s - self.from_s


@dataclass(frozen=True)
class PlacedScene:
    """Numbers only. Events are sorted by onset, backgrounds by where they begin. `notes` are sentences for
    the user: what was assumed, what was left out."""

    name: str
    seed: int
    duration_s: float
    rate_hz: int
    events: tuple[PlacedEvent, ...]
    backgrounds: tuple[PlacedBackground, ...]
    channels: int = 1
    loop: bool = False
    notes: tuple[str, ...] = ()

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Keys of the events whose clips' durations are not known yet."""
        return tuple(event.key for event in self.events if not event.measured)
