"""What receivers make of sound from a place: stereo pairs, first-order ambisonics, arrays of recorders.

Directions are as in AmbiX: azimuth counter-clockwise from straight ahead (90 degrees is left), elevation up.
Vectors are [x ahead, y left, z up]. Ambisonics are W, Y, Z, X (ACN) in SN3D. All receivers are ideal: a real
microphone's capsules bend these directivities above some kHz.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from birdsd.errors import BadValue, Mismatch, unknown_name
from birdsd.sound.space.air import Air

MONO, ORTF, MS, FOA, ARRAY = "mono", "ortf", "ms", "foa", "array"
LAYOUTS = (MONO, ORTF, MS, FOA, ARRAY)
ORTF_ANGLE_DEG, ORTF_WIDTH_M = 55.0, 0.17
NEAREST_M = 1.0  # a bird nearer than this is no louder
FARTHEST_M = 5000.0


@dataclass(frozen=True)
class Position:
    """Where a bird sings, seen from the listening point. Elevation and azimuth in degrees."""

    azimuth_deg: float = 0.0
    elevation_deg: float = 0.0
    distance_m: float = 10.0

    def __post_init__(self) -> None:
        for name, least, most, unit in (
            ("azimuth_deg", -180.0, 180.0, "degrees"), ("elevation_deg", -90.0, 90.0, "degrees"),
            ("distance_m", 0.1, FARTHEST_M, "m"),
        ):  # fmt: skip
            value = getattr(self, name)
            if not math.isfinite(value) or not least <= value <= most:
                raise BadValue(
                    f"{name} is {value:g}", f"a number from {least:g} to {most:g} {unit} is expected"
                )

    @property
    def unit(self) -> np.ndarray:
        """float64 [3]: the direction."""
        return unit_vector(self.azimuth_deg, self.elevation_deg)

    def towards(self, other: Position, share: float) -> Position:
        """A `share` of the way to another, linear in angles and distance."""
        mine, theirs = (np.array([p.azimuth_deg, p.elevation_deg, p.distance_m]) for p in (self, other))
        return Position(*map(float, mine + share * (theirs - mine)))


def unit_vector(azimuth_deg: float, elevation_deg: float = 0.0) -> np.ndarray:
    """float64 [x ahead, y left, z up] of length 1."""
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    flat = math.cos(elevation)
    return np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)])


def compass_deg(azimuth_deg: float, heading_deg: float = 0.0) -> float:
    """The compass bearing of an azimuth, where straight ahead is `heading_deg`: clockwise, 0 to 360."""
    return (heading_deg - azimuth_deg) % 360.0 % 360.0


@dataclass(frozen=True)
class Paths:
    """How one source reaches each channel, float64 [channels]: directivity (without the distance), delay
    against the listening point, and distance."""

    gains: np.ndarray
    delays_s: np.ndarray
    distances_m: np.ndarray


@dataclass(frozen=True)
class Recorder:
    """One of an array: metres east, north and up of the listening point."""

    name: str
    east_m: float
    north_m: float
    up_m: float = 0.0


@dataclass(frozen=True)
class Layout:
    """Receivers. `heading_deg`: the compass bearing of straight ahead."""

    name: str
    recorders: tuple[Recorder, ...] = ()
    heading_deg: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in LAYOUTS:
            raise unknown_name("layout", self.name, LAYOUTS)
        if not math.isfinite(self.heading_deg) or not 0 <= self.heading_deg <= 360:
            raise BadValue(
                f"heading_deg is {self.heading_deg:g}", "a compass bearing from 0 to 360 degrees is expected"
            )
        if (self.name == ARRAY) != bool(self.recorders):
            raise Mismatch(
                f"layout={self.name} and {len(self.recorders)} recorders",
                "an array has recorders, and no other",
            )

    @property
    def channels(self) -> int:
        """Of the sound that is written."""
        return {MONO: 1, ORTF: 2, MS: 2, FOA: 4, ARRAY: len(self.recorders)}[self.name]

    @property
    def rendered(self) -> int:
        """Channels as rendered; `matrix` makes the written ones of them."""
        return 4 if self.name == MS else self.channels

    @property
    def matrix(self) -> np.ndarray | None:
        """float32 [rendered, channels], or None where they are the same. Mid-side: L, R = (W +- Y) / 2."""
        if self.name != MS:
            return None
        return np.array([[0.5, 0.5], [0.5, -0.5], [0, 0], [0, 0]], np.float32)

    @property
    def one_point(self) -> bool:
        """Whether all channels lie at one place, so that only their gains differ."""
        return self.name in (MONO, MS, FOA)

    def paths(self, position: Position, air: Air) -> Paths:
        """How a bird there reaches each rendered channel."""
        unit, count = position.unit, self.rendered
        far, none = np.full(count, position.distance_m), np.zeros(count)
        if self.name in (MS, FOA):
            return Paths(np.array([1.0, unit[1], unit[2], unit[0]]), none, far)
        if self.name == ORTF:
            sides = np.array([unit_vector(ORTF_ANGLE_DEG), unit_vector(-ORTF_ANGLE_DEG)])
            delay = 0.5 * ORTF_WIDTH_M * unit[1] / air.speed_m_s
            return Paths(0.5 + 0.5 * sides @ unit, np.array([-delay, delay]), far)
        if self.name == ARRAY:
            distances = np.linalg.norm(self.places() - position.distance_m * self.compass @ unit, axis=1)
            return Paths(np.ones(count), (distances - position.distance_m) / air.speed_m_s, distances)
        return Paths(np.ones(1), none, far)

    @property
    def compass(self) -> np.ndarray:
        """float64 [3, 3]: [ahead, left, up] to [east, north, up]."""
        heading = math.radians(self.heading_deg)
        sin, cos = math.sin(heading), math.cos(heading)
        return np.array([[sin, -cos, 0.0], [cos, sin, 0.0], [0.0, 0.0, 1.0]])

    def places(self) -> np.ndarray:
        """float64 [recorders, 3]: metres east, north and up."""
        return np.array([[one.east_m, one.north_m, one.up_m] for one in self.recorders])

    @property
    def diffuse(self) -> np.ndarray:
        """float64 [rendered]: the amplitude of each channel in a diffuse field whose pressure has 1."""
        third = math.sqrt(1 / 3)
        return {
            MONO: np.ones(1), ORTF: np.full(2, third), MS: np.array([1, third, third, third]),
            FOA: np.array([1, third, third, third]), ARRAY: np.ones(len(self.recorders)),
        }[self.name]  # fmt: skip

    def reference(self, paths: Paths | None = None) -> np.ndarray:
        """float32 [channels]: weights of the sum on which loudness and labels are measured. That is W where
        there is one; else the channel in which the bird is heard best, or the first."""
        if self.name == MS:
            return np.ones(2, np.float32)
        found = np.zeros(self.channels, np.float32)
        best = 0
        if self.name in (ORTF, ARRAY) and paths is not None:
            best = int(np.argmax(paths.gains / np.maximum(paths.distances_m, NEAREST_M)))
        found[best] = 1.0
        return found
