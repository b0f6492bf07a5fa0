"""From settings to a space: what receivers hear of the songs and backgrounds of a scene."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.errors import BadValue, NotFound, clipped, unknown_name
from birdsd.randomness import generator
from birdsd.scenes.backgrounds.render import Layer
from birdsd.scenes.backgrounds.spool import Piece, SeenPiece, Spool, WidePiece
from birdsd.scenes.heard.boundaries import Measured
from birdsd.scenes.placed import PlacedEvent
from birdsd.schema import SpaceConfig
from birdsd.sound.labels.annotation import read_text
from birdsd.sound.labels.sheets import separated
from birdsd.sound.space.air import REFERENCE_M, Air
from birdsd.sound.space.diffuse import bed, round_and_round
from birdsd.sound.space.layouts import (
    ARRAY,
    MONO,
    Layout,
    Position,
    Recorder,
    compass_deg,
)
from birdsd.sound.space.propagate import Reverberation, render

AHEAD = Position(0.0, 0.0, REFERENCE_M)  # of a bird of which nothing is said
HEARD, SOURCE = "heard", "source"
_SQUARE_M = 25.0  # half the side of the array that stands where none is named
_MOST_RECORDERS, _WIDEST_M = 64, 5000.0


@dataclass(frozen=True)
class Heard:
    """A song as the receivers hear it, and from where. `weights`: of the channels, what is measured;
    `softer_db`: what the way took from it there. Delays of an array in seconds, against that channel, at the
    onset and at the end."""

    wide: WidePiece
    weights: np.ndarray
    place: Position
    place_end: Position | None
    travel_s: float
    delays_s: tuple[float, ...]
    delays_end_s: tuple[float, ...]
    softer_db: float = 0.0

    def to_json(self, space: Space) -> dict[str, Any]:
        """What labels say of it."""
        heading = space.layout.heading_deg
        told: dict[str, Any] = {
            "azimuth_deg": self.place.azimuth_deg, "elevation_deg": self.place.elevation_deg,
            "distance_m": self.place.distance_m,
            "bearing_deg": round(compass_deg(self.place.azimuth_deg, heading), 3),
            "azimuth_end_deg": self.place_end.azimuth_deg if self.place_end else None,
            "travel_s": round(self.travel_s, 6),
        }  # fmt: skip
        if space.layout.name == ARRAY:
            east, north, up = space.layout.compass @ self.place.unit * self.place.distance_m
            told |= {"east_m": round(east, 3), "north_m": round(north, 3), "up_m": round(up, 3)}
            told["delays_s"] = [round(one, 6) for one in self.delays_s]
            told["delays_end_s"] = [round(one, 6) for one in self.delays_end_s]
        return told


@dataclass(frozen=True)
class Space:
    """Receivers, and what lies between them and the birds. `loudness`: `heard`, where an SNR is what arrives,
    or `source`, where it is that of the bird 10 m away."""

    layout: Layout
    air: Air
    reverberation: Reverberation
    loudness: str = HEARD

    def heard(
        self, event: PlacedEvent, sound: np.ndarray, measured: Measured, rate_hz: int, spool: Spool, seed: int
    ) -> Heard:
        """A mono song from its event's place, into the spool."""
        place, end = self.places(event)
        span = (round(measured.onset_s * rate_hz), round(measured.offset_s * rate_hz))
        draw = generator(seed, "space", event.key)
        wide = render(
            sound, rate_hz, (place, end or place), self.layout, self.air, self.reverberation, draw, span
        )
        paths = self.layout.paths(place, self.air)
        weights = self.layout.reference(paths)
        return Heard(
            spool.add_wide([wide], self.layout.channels), weights, place, end,
            place.distance_m / self.air.speed_m_s, self._delays(place, weights),
            self._delays(end or place, weights),
        )  # fmt: skip

    def _delays(self, place: Position, weights: np.ndarray) -> tuple[float, ...]:
        """Seconds after the channel that is measured, of an array; nothing of other layouts."""
        if self.layout.name != ARRAY:
            return ()
        delays = self.layout.paths(place, self.air).delays_s
        return tuple(map(float, delays - delays[int(np.argmax(weights))]))

    def places(self, event: PlacedEvent) -> tuple[Position, Position | None]:
        """Where an event begins, and where it ends if it moves."""
        given = (event.bearing_deg, event.elevation_deg, event.distance_m)
        usual = (AHEAD.azimuth_deg, AHEAD.elevation_deg, AHEAD.distance_m)
        place = Position(*(u if g is None else g for g, u in zip(given, usual, strict=True)))
        if event.bearing_end_deg is None:
            return place, None
        return place, replace(place, azimuth_deg=event.bearing_end_deg)

    def asked(self, event: PlacedEvent, heard: Heard) -> PlacedEvent:
        """The event as loud as it is to arrive."""
        if self.loudness == HEARD:
            return event
        if event.snr_db is not None:
            return replace(event, snr_db=event.snr_db + heard.softer_db)
        return replace(event, level_db=(event.level_db or 0.0) + heard.softer_db)

    def around(
        self, layer: Layer, rate_hz: int, spool: Spool, seed: int, number: int, seamless: bool
    ) -> Layer:
        """A background from everywhere, as loud as it was asked for."""
        assert isinstance(layer.piece, Piece)
        read, length = round_and_round(layer.piece.read, layer.samples, rate_hz, seamless)
        draw = generator(seed, "space", "background", number)
        parts = bed(read, length, layer.samples, rate_hz, self.layout, draw)
        wide = spool.add_wide(parts, self.layout.channels)
        level_db = SeenPiece(wide, self.layout.reference()).active_db()
        return replace(layer, piece=wide, gain=10 ** ((layer.told.level_db - level_db) / 20))

    def to_json(self) -> dict[str, Any]:
        """The conventions, for the file beside the sound and for the recipe."""
        told: dict[str, Any] = {
            "format": "birdsd-space/1", "layout": self.layout.name,
            "channels": list(channel_names(self.layout)),
            "heading_deg": self.layout.heading_deg, "loudness": self.loudness,
            "speed_of_sound_m_s": round(self.air.speed_m_s, 3), "reference_m": REFERENCE_M,
            "air": asdict(self.air), "reverberation": asdict(self.reverberation),
            "angles": "azimuth counter-clockwise from ahead, elevation up, degrees (AmbiX); "
            "bearing: compass, clockwise, (heading - azimuth) mod 360",
            "receivers": "ideal: a real microphone's capsules bend directions above some kHz",
        }  # fmt: skip
        if self.layout.name == "foa":
            told |= {"order": "ACN", "normalisation": "SN3D"}
        if self.layout.name == ARRAY:
            told["recorders"] = [asdict(one) for one in self.layout.recorders]
        return told


def channel_names(layout: Layout) -> tuple[str, ...]:
    """Of the written channels."""
    if layout.name == ARRAY:
        return tuple(one.name for one in layout.recorders)
    return {"mono": ("mono",), "foa": ("W", "Y", "Z", "X")}.get(layout.name, ("left", "right"))


def space_of(layout: str, settings: SpaceConfig) -> Space | None:
    """What the settings ask for; None for mono, as scenes always were. `UserError` for numbers that no air
    has, and recorders that cannot be."""
    if layout == MONO:
        return None
    recorders: tuple[Recorder, ...] = ()
    if layout == ARRAY:
        recorders = recorders_of(settings.recorders) if settings.recorders else _square()
    if settings.loudness not in (HEARD, SOURCE):
        raise unknown_name("loudness of a space", settings.loudness, (HEARD, SOURCE))
    air = Air(
        settings.temperature_c, settings.humidity_percent, settings.pressure_kpa, settings.foliage_db_per_m
    )
    return Space(
        Layout(layout, recorders, settings.heading_deg), air,
        Reverberation(settings.reverb_s, settings.direct_db), settings.loudness,
    )  # fmt: skip


def _square() -> tuple[Recorder, ...]:
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return tuple(Recorder(f"R{n}", _SQUARE_M * x, _SQUARE_M * y) for n, (x, y) in enumerate(corners, start=1))


def recorders_of(text: str) -> tuple[Recorder, ...]:
    """The recorders of a CSV, or written out: "A=0,0 B=50,0,2", metres from the listening point."""
    if "=" not in text or text.lower().endswith((".csv", ".tsv")):
        return read_recorders(Path(text))
    found = []
    for number, word in enumerate(text.split(), start=1):
        name, _, numbers = word.partition("=")
        parts = numbers.split(",")
        if len(parts) not in (2, 3):
            raise BadValue(
                f"recorder '{clipped(word)}'", "it is written NAME=EAST,NORTH or NAME=EAST,NORTH,UP"
            )
        found.append(_recorder(name, [*parts, "0"][:3], "space.recorders", number))
    return _checked(found, "space.recorders")


def recorders_text(recorders: tuple[Recorder, ...]) -> str | None:
    """The same, written out; None without any."""
    words = [f"{one.name}={one.east_m!r},{one.north_m!r},{one.up_m!r}" for one in recorders]
    return " ".join(words) or None


def read_recorders(path: Path) -> tuple[Recorder, ...]:
    """The recorders of a CSV with columns file (or name), x, y and perhaps z: metres east, north and up, as
    opensoundscape's aru_coords.csv has them. They are moved so that their middle is the listening point."""
    if not path.is_file():
        raise NotFound(f"{path} does not exist", "recorders stand in a CSV with columns file, x, y[, z]")
    sheet = separated(read_text(path), path)
    header = [name.strip().lower() for name in sheet.header]
    names = next((name for name in ("file", "name") if name in header), None)
    if names is None or "x" not in header or "y" not in header:
        raise BadValue(
            f"{path} has the columns {', '.join(sheet.header)}",
            "file (or name), x, y and perhaps z are expected",
        )
    found = []
    for number, cells in sheet.rows:
        row = dict(zip(header, cells, strict=False))
        numbers = [row.get(axis) or "0" for axis in ("x", "y", "z")]
        found.append(_recorder(Path(row[names]).stem, numbers, str(path), number))
    middle = np.mean([[one.east_m, one.north_m] for one in found], axis=0) if found else np.zeros(2)
    moved = [
        Recorder(
            one.name,
            *(round(float(v), 4) for v in (one.east_m - middle[0], one.north_m - middle[1], one.up_m)),
        )
        for one in found
    ]
    return _checked(moved, str(path))


def _recorder(name: str, numbers: list[str], place: str, row: int) -> Recorder:
    if not name or not all(one.isalnum() or one in "-_" for one in name):
        raise BadValue(
            f"row {row} of {place} calls a recorder '{clipped(name)}'",
            "a name of letters, digits, '-' and '_' is expected",
        )
    return Recorder(name, *(_metres(text, place, row) for text in numbers))


def _checked(found: list[Recorder], place: str) -> tuple[Recorder, ...]:
    if not 2 <= len(found) <= _MOST_RECORDERS or len({one.name for one in found}) < len(found):
        raise BadValue(
            f"{place} names {len(found)} recorders",
            f"2 to {_MOST_RECORDERS} are possible, each with a name of its own",
        )
    widest = max(math.hypot(one.east_m, one.north_m, one.up_m) for one in found)
    if widest > _WIDEST_M:
        raise BadValue(
            f"the recorders of {place} lie {widest:.0f} m from their middle",
            f"{_WIDEST_M:.0f} m at most are possible", "x and y are metres, not degrees",
        )  # fmt: skip
    return tuple(found)


def _metres(text: str, place: str, row: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadValue(f"row {row} of {place} has '{clipped(text)}'", "a number of metres is expected")
    return value
