"""Bearings of birds in first-order ambisonics: for every box of a label table, or, where there is
none, for whatever stands out. Sound that comes from nowhere gets no bearing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import soundfile

from birdsd.errors import BadValue
from birdsd.files import explained_write
from birdsd.sound.audio.recordings import AudioInfo, blocks, probe, read
from birdsd.sound.labels.annotation import Label
from birdsd.sound.space.apart import apart_in_blocks
from birdsd.sound.space.azigram import Azigram
from birdsd.sound.space.intensity import (
    APART_DEG,
    DIRECT,
    Bearing,
    Field,
    bearing_of,
    bearings_of,
    field_of,
    turned_deg,
    window_and_hop,
)
from birdsd.sound.space.layouts import compass_deg
from birdsd.sound.space.orders import AUTO, as_foa, check_order, energies, told_apart

UNNAMED = "unknown sound"
_BLOCK_S = 20.0
_WINDOW_S, _STEP_S = 0.5, 0.25
_BESIDE_S = 0.1  # of a box
_NEAR_DEG, _PAUSE_S = 12.0, 0.5  # what belongs to one track
_MOST_DIRECTIONS = 6
_SHORTEST = 5  # frames: a drop of rain that clicks is no song


@dataclass(frozen=True)
class Placed:
    """A label and its bearing; None: it comes from nowhere."""

    label: Label
    bearing: Bearing | None


@dataclass
class Located:
    """What was found in one recording, and its azigram."""

    path: Path
    info: AudioInfo
    order: str
    placed: list[Placed] = field(default_factory=list)
    azigram: Azigram | None = None

    @property
    def directions(self) -> list[float]:
        """The azimuths in which somebody was heard, those heard longest first, each `APART_DEG` from the
        others."""
        found: list[float] = []
        known = [one for one in self.placed if one.bearing]
        for one in sorted(known, key=lambda p: -((p.label.end_s or 0) - (p.label.start_s or 0))):
            assert one.bearing is not None
            azimuth = one.bearing.azimuth_deg
            if all(turned_deg(azimuth, other) >= APART_DEG for other in found):
                found.append(azimuth)
        return found[:_MOST_DIRECTIONS]


def locate(
    path: Path,
    labels: Sequence[Label] = (),
    *,
    order: str = AUTO,
    band_hz: tuple[float, float] = (500.0, 12000.0),
    picture: bool = True,
) -> Located:
    """Bearings in one recording: of the boxes among `labels`, else of what stands out in `band_hz`, named
    after the one species that the whole file holds, if that is known.

    `UserError` for a file of other than four channels, and for one whose order cannot be told. Read in
    blocks: memory does not grow with the recording.
    """
    check_order(order)
    info = probe(path)
    if info.channels != 4:
        raise BadValue(
            f"{path} has {info.channels} channel{'s' * (info.channels != 1)}",
            "first-order ambisonics have four: W and three gradients",
        )
    if not 0 <= band_hz[0] < band_hz[1]:
        raise BadValue(f"low_hz={band_hz[0]:g} high_hz={band_hz[1]:g}", "the lower one comes first")
    found = Located(path, info, order if order != AUTO else _order_of(info))
    boxes = [one for one in labels if one.start_s is not None and one.end_s is not None]
    found.placed = _of_boxes(found, boxes, band_hz)
    if picture or not boxes:
        names = {one.label for one in labels}
        name = names.pop() if len(names) == 1 else UNNAMED
        tracks = _Tracks(name)
        for start_s, field_ in _fields(found):
            if picture:
                found.azigram = found.azigram or _empty(found, field_)
                found.azigram.add(field_)
            if not boxes:
                tracks.listen(start_s, field_, band_hz)
        if not boxes:
            found.placed = tracks.finished()
    return found


def write_directions(found: Located, folder: Path, name: str) -> list[Path]:
    """A mono WAV (float) for each direction in which somebody was heard, and one of the rest; together
    they are the omnidirectional channel."""
    azimuths = found.directions
    if not azimuths:
        return []
    heading = [f"azimuth{round(one):+04d}" for one in azimuths]
    paths = [folder / f"{name}.{kind}.wav" for kind in ("rest", *heading)]
    parts = (foa for _, foa in _foa_blocks(found))
    with explained_write(folder):
        unfinished = [one.with_name(one.name + ".part") for one in paths]
        rate_hz = found.info.rate_hz
        with ExitStack() as stack:
            files = [
                stack.enter_context(soundfile.SoundFile(one, "w", rate_hz, 1, format="WAV", subtype="FLOAT"))
                for one in unfinished
            ]
            for part in apart_in_blocks(parts, rate_hz, azimuths, round(_BLOCK_S * rate_hz)):
                for file, channel in zip(files, part, strict=True):
                    file.write(channel)
        for one, path in zip(unfinished, paths, strict=True):
            one.replace(path)
    return paths


def cells_of(placed: Sequence[Placed], heading_deg: float = 0.0) -> dict[str, list[str]]:
    """Further columns of a Raven table; blank where there is no bearing."""
    rows: list[tuple[str, ...]] = []
    for one in placed:
        if one.bearing is None:
            rows.append(("", "", "", ""))
            continue
        azimuth = one.bearing.azimuth_deg
        values = (azimuth, one.bearing.elevation_deg, compass_deg(azimuth, heading_deg))
        rows.append((*(f"{value:.1f}" for value in values), f"{one.bearing.diffuseness:.2f}"))
    titles = ("Azimuth (deg)", "Elevation (deg)", "Bearing (deg)", "Diffuseness")
    return {title: [row[at] for row in rows] for at, title in enumerate(titles)}


def _order_of(info: AudioInfo) -> str:
    total = np.zeros(4)
    for _, part in blocks(info.path, info.rate_hz, _BLOCK_S, 4):
        total += energies(part)
    return told_apart(total, str(info.path))


def _foa_blocks(found: Located) -> Iterator[tuple[float, np.ndarray]]:
    for start_s, part in blocks(found.path, found.info.rate_hz, _BLOCK_S, 4):
        yield start_s, as_foa(part, found.order)


def _fields(found: Located) -> Iterator[tuple[float, Field]]:
    """(start in s, field) of blocks; the last frame of one is the first of the next, and left out."""
    hop = window_and_hop(found.info.rate_hz)[1]
    for start_s, foa in _foa_blocks(found):
        whole = field_of(foa, found.info.rate_hz)
        yield start_s, whole.part(0, max(1, foa.shape[1] // hop))


def _empty(found: Located, first: Field) -> Azigram:
    hop = window_and_hop(found.info.rate_hz)[1]
    return Azigram(round(found.info.duration_s * found.info.rate_hz / hop), first.energy.shape[1])


def _of_boxes(found: Located, boxes: Sequence[Label], band_hz: tuple[float, float]) -> list[Placed]:
    """The bearing of every box. Where birds sing into each other's boxes, those that have most of theirs to
    themselves are located first, and the others in what is left: a mean of two birds would be neither."""
    areas = [_area(one, band_hz) for one in boxes]
    others, crowded = _neighbours(areas)
    bearings: dict[int, Bearing | None] = {}
    for own in sorted(range(len(boxes)), key=lambda number: crowded[number]):
        start_s, band = _within(found, areas[own])
        if band is None or not others[own]:
            bearings[own] = None if band is None else bearing_of(band)
            continue
        taken = [one for at in others[own] if (one := bearings.get(at)) is not None]
        alone = _silenced(band, start_s, areas[own], [areas[at] for at in others[own]])
        heard = [*bearings_of(alone), *bearings_of(band)]
        free = [
            one for one in heard
            if all(turned_deg(one.azimuth_deg, other.azimuth_deg) >= APART_DEG for other in taken)
        ]  # fmt: skip
        bearings[own] = next(iter(free or heard), None) or bearing_of(band)
    return [Placed(box, bearings[number]) for number, box in enumerate(boxes)]


@dataclass(frozen=True)
class _Area:
    """A box of time and frequency."""

    start_s: float
    end_s: float
    low_hz: float
    high_hz: float

    @property
    def size(self) -> float:
        """Of a box without extent, next to nothing."""
        return max(1e-9, (self.end_s - self.start_s) * (self.high_hz - self.low_hz))


def _area(box: Label, band_hz: tuple[float, float]) -> _Area:
    assert box.start_s is not None and box.end_s is not None
    low_hz = box.low_hz if box.low_hz is not None else band_hz[0]
    return _Area(box.start_s, box.end_s, low_hz, box.high_hz or band_hz[1])


def _neighbours(areas: Sequence[_Area]) -> tuple[list[list[int]], list[float]]:
    """For each box those that share some of it, and how much they share, in boxes."""
    start, end, low, high = np.array(
        [(one.start_s, one.end_s, one.low_hz, one.high_hz) for one in areas], np.float64
    ).reshape(-1, 4).T  # fmt: skip
    others, crowded = [], []
    for own, area in enumerate(areas):
        seconds = np.minimum(end, area.end_s) - np.maximum(start, area.start_s)
        hz = np.minimum(high, area.high_hz) - np.maximum(low, area.low_hz)
        shared = np.maximum(seconds, 0) * np.maximum(hz, 0)
        shared[own] = 0
        others.append(np.flatnonzero(shared).tolist())
        crowded.append(float(shared.sum()) / area.size)
    return others, crowded


def _within(found: Located, area: _Area) -> tuple[float, Field | None]:
    """Where a box's field begins, in s, and the field in its band; None beyond the end of the recording."""
    start = max(0.0, area.start_s - _BESIDE_S)
    length = min(area.end_s + _BESIDE_S, found.info.duration_s, start + _BLOCK_S) - start
    if length <= 0:
        return start, None
    sound = read(found.path, found.info.rate_hz, start_s=start, duration_s=length, channels=4)
    whole = field_of(as_foa(sound, found.order), found.info.rate_hz)
    return start, whole.band(area.low_hz, area.high_hz)


def _silenced(band: Field, start_s: float, area: _Area, others: Sequence[_Area]) -> Field:
    """The field of a box, which begins at `start_s`, without the bins that are other boxes', too."""
    energy = band.energy.copy()
    seconds = start_s + np.arange(energy.shape[0]) * band.hop_s
    hz = max(1, int(area.low_hz / band.bin_hz)) * band.bin_hz + np.arange(energy.shape[1]) * band.bin_hz
    for other in others:
        times = (seconds >= other.start_s) & (seconds <= other.end_s)
        energy[np.ix_(times, (hz >= other.low_hz) & (hz <= other.high_hz))] = 0
    return replace(band, energy=energy)


@dataclass
class _Track:
    label: Label
    bearings: list[Bearing]


class _Tracks:
    """Bearings window by window, joined to what one bird sings from one place."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.open: list[_Track] = []
        self.done: list[_Track] = []

    def listen(self, start_s: float, whole: Field, band_hz: tuple[float, float]) -> None:
        """The next block."""
        band = whole.band(*band_hz)
        frames = len(band.energy)
        hop_s = band.hop_s
        size, step = round(_WINDOW_S / hop_s), round(_STEP_S / hop_s)
        for first in range(0, max(1, frames - size // 2), step):
            part = band.part(first, min(frames, first + size))
            for one in bearings_of(part):
                label = _heard(part, one, start_s + first * hop_s, max(1, int(band_hz[0] / band.bin_hz)))
                if label is not None:
                    self._add(replace(label, label=self.name), one)

    def _add(self, label: Label, bearing: Bearing) -> None:
        assert label.start_s is not None and label.end_s is not None
        for track in self.open:
            near = turned_deg(track.bearings[-1].azimuth_deg, bearing.azimuth_deg) < _NEAR_DEG
            was = track.label
            if near and label.start_s - (was.end_s or 0) <= _PAUSE_S:
                track.label = replace(
                    was, start_s=min(was.start_s or 0, label.start_s), end_s=max(was.end_s or 0, label.end_s),
                    low_hz=min(was.low_hz or 0, label.low_hz or 0),
                    high_hz=max(was.high_hz or 0, label.high_hz or 0),
                )  # fmt: skip
                track.bearings.append(bearing)
                break
        else:
            self.open.append(_Track(label, [bearing]))
        over = [one for one in self.open if label.start_s - (one.label.end_s or 0) > _PAUSE_S + _WINDOW_S]
        self.open = [one for one in self.open if one not in over]
        self.done += over

    def finished(self) -> list[Placed]:
        """All tracks in order of time."""
        tracks = sorted(self.done + self.open, key=lambda one: one.label.start_s or 0)
        return [Placed(one.label, _mean(one.bearings)) for one in tracks]


def _heard(part: Field, bearing: Bearing, start_s: float, first_bin: int) -> Label | None:
    """The box of what comes from there."""
    near = np.cos(part.azimuths - np.radians(bearing.azimuth_deg)) > np.cos(np.radians(_NEAR_DEG))
    mask = near & (part.diffuseness < DIRECT) & (part.energy >= 1e-3 * part.energy.max())
    energy = part.energy * mask
    frames, bins = np.flatnonzero(mask.sum(axis=1) >= 2), energy.sum(axis=0)
    if len(frames) < _SHORTEST:
        return None
    share = np.cumsum(bins) / bins.sum()
    low, high = first_bin + np.searchsorted(share, (0.01, 0.99))
    times = start_s + np.array([frames[0], frames[-1] + 1]) * part.hop_s
    numbers = (times[0], times[1], low * part.bin_hz, (high + 1) * part.bin_hz)
    begin_s, end_s, low_hz, high_hz = (round(float(one), 3) for one in numbers)
    return Label("", begin_s, end_s, low_hz, high_hz)


def _mean(bearings: Sequence[Bearing]) -> Bearing:
    weights = np.array([one.share for one in bearings])
    turned = np.radians([one.azimuth_deg for one in bearings])
    azimuth = np.degrees(np.arctan2((weights * np.sin(turned)).sum(), (weights * np.cos(turned)).sum()))
    others = [(one.elevation_deg, one.diffuseness, one.share) for one in bearings]
    return Bearing(float(azimuth), *map(float, np.average(others, axis=0, weights=weights)))
