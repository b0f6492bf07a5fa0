"""A scene as it was asked for: backgrounds, events, and the links between them.

A scene may leave onsets open ("after e0", "together with e0") and holds ranges where a draw is wanted;
`schedule.solve` turns it into a `PlacedScene`, in which everything is a number.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# A closed range that one number is drawn from uniformly; both ends equal: that number.
Span = tuple[float, float]

FIRST_ONSET_S = 1.0  # of the first event, where nothing says when it begins
TAIL_S = 2.0  # a scene without a duration ends so long after its last event
GAP_S: Span = (0.3, 1.5)  # between an event and the one after it
TOGETHER_S: Span = (0.0, 0.3)  # between the onsets of two events that sound together
REPEAT_GAP_S: Span = (0.5, 1.5)  # between two songs of one bird
DEFAULT_SNR_DB = 12.0
DEFAULT_BACKGROUND_DB = -39.0
FADE_S = 2.0
SOURCES = ("generate", "pool", "file", "none")
TO_THE_END = "end"  # as `until` of an event: repeated until the scene ends


@dataclass(frozen=True)
class Background:
    """A stretch of background. `level_db` is its active level in dBFS.

    It runs from `from_s` or, with `from_event`, from the middle of the gap before that event; to `to_s`, to
    the middle of the gap before `to_event`, or to the end. `source` none is silence.
    """

    environment: str
    level_db: float = DEFAULT_BACKGROUND_DB
    from_s: float | None = None
    to_s: float | None = None
    from_event: str = ""
    to_event: str = ""
    fade_s: float = FADE_S
    source: str = "generate"
    path: str = ""  # of `source` file


@dataclass(frozen=True)
class Event:
    """One bird, or several of a species, that sing once or several times.

    When: exactly one of `onset_s` (of the sound itself, not of its clip), `after` (ids of events: `gap_s`
    behind the last end of theirs) and `together` (an event's id: `gap_s` behind its onset, and before its
    end).
    How often: `count` individuals at once, each `repeat` times, `every_s` apart from onset to onset, or with
    `repeat_gap_s` between two songs; as often as fits: until `until_s`, until `until` ends (an event's id, or
    "end" for the scene), or for `lasting_s` from its onset.
    How loud: exactly one of `snr_db` (against the background, in the event's own band) and `level_db`
    (active level in dBFS). `pitch_semitones` and `rate` are ranges that every song draws from.
    `bearing_deg` is 0 ahead and positive to the left; a movement ends at `bearing_end_deg`.
    """

    id: str
    species: str
    sound_type: str = ""
    onset_s: float | None = None
    after: tuple[str, ...] = ()
    together: str = ""
    gap_s: Span | None = None  # None: GAP_S or TOGETHER_S
    duration_s: float | None = None  # a wish; None: as long as the clip's sound is
    count: int = 1
    repeat: int = 1
    every_s: float | None = None
    repeat_gap_s: Span = REPEAT_GAP_S
    until_s: float | None = None
    until: str = ""
    lasting_s: float | None = None
    individual: int = 0  # same species, type and individual: same voice
    snr_db: float | None = None
    level_db: float | None = None
    pitch_semitones: Span = (0.0, 0.0)
    rate: Span = (1.0, 1.0)
    distance_m: float | None = None
    bearing_deg: float | None = None
    bearing_end_deg: float | None = None
    elevation_deg: float | None = None
    prompt: str = ""  # "": made of species and type


@dataclass(frozen=True)
class Scene:
    """A soundscape as it was asked for. `duration_s` None: `TAIL_S` behind the last event; `rate_hz` None:
    the codec's. `max_overlap`: so many events may sound at once. `assumptions`: what was decided for the
    user, in sentences."""

    events: tuple[Event, ...] = ()
    backgrounds: tuple[Background, ...] = ()
    duration_s: float | None = None
    rate_hz: int | None = None
    seed: int = 0
    name: str = ""
    channels: int = 1
    loop: bool = False
    max_overlap: int | None = None
    assumptions: tuple[str, ...] = field(default=(), compare=False)

    def event(self, name: str) -> Event:
        """The event of this id."""
        return next(event for event in self.events if event.id == name)
