"""What stands beside a scene that comes from somewhere: columns, DCASE SELD, and an array's files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from birdsd.scenes.space.stage import Space
from birdsd.sound.space.layouts import ARRAY

SIDECAR = ".space.json"
COORDINATES = "aru_coords.csv"
DETECTIONS = "detections.csv"  # not beside the sounds, where it would be taken for their labels
_FRAME_S = 0.1
_MARGIN_S = 0.25
_MIDNIGHT = datetime(2000, 1, 1, tzinfo=timezone.utc)


class Came(Protocol):
    """What is read of an event that came out."""

    @property
    def key(self) -> str: ...

    @property
    def event(self) -> str: ...

    @property
    def species(self) -> str: ...

    @property
    def individual(self) -> int: ...

    @property
    def onset_s(self) -> float: ...

    @property
    def offset_s(self) -> float: ...


def columns(space: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> dict[str, list[str]]:
    """Further columns of a Raven table, a cell for each event: `space` is key -> `Heard.to_json`."""
    titles = {
        "Azimuth (deg)": "azimuth_deg", "Elevation (deg)": "elevation_deg", "Distance (m)": "distance_m",
        "Bearing (deg)": "bearing_deg", "Azimuth End (deg)": "azimuth_end_deg",
    }  # fmt: skip
    if not any(one["azimuth_end_deg"] is not None for one in space.values()):
        titles.pop("Azimuth End (deg)")
    return {title: [_cell(space[key][field]) for key in keys] for title, field in titles.items()}


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def seld(came: Sequence[Came], space: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """DCASE's CSV of sound event localisation and detection, and the names of its classes: a row for each
    100 ms in which an event sounds; frame, class, source of the class, azimuth, elevation, distance in cm."""
    species = sorted({one.species for one in came})
    sources: dict[tuple[str, str, int], int] = {}
    rows: set[tuple[int, ...]] = set()
    for one in sorted(came, key=lambda e: (e.onset_s, e.key)):
        bird = (one.species, one.event, one.individual)
        if bird not in sources:
            sources[bird] = sum(known[0] == one.species for known in sources)
        place, kind = space[one.key], species.index(one.species)
        first, last = int(one.onset_s / _FRAME_S), int(np.ceil(one.offset_s / _FRAME_S - 1e-9))
        for frame in range(first, max(last, first + 1)):
            azimuth = place["azimuth_deg"]
            if place["azimuth_end_deg"] is not None:
                middle = (frame + 0.5) * _FRAME_S - one.onset_s
                share = np.clip(middle / max(one.offset_s - one.onset_s, 1e-6), 0, 1)
                azimuth += float(share) * (place["azimuth_end_deg"] - azimuth)
            turned = (round(azimuth) + 180) % 360 - 180
            distance = round(100 * place["distance_m"])
            rows.add((frame, kind, sources[bird], turned, round(place["elevation_deg"]), distance))
    text = "\n".join(",".join(map(str, row)) for row in sorted(rows))
    classes = "\n".join(["class,species", *(f'{n},"{name}"' for n, name in enumerate(species))])
    return text + "\n" if text else "", classes + "\n"


def write_sidecar(space: Space, sound: Path, events: Mapping[str, Mapping[str, Any]]) -> None:
    """The conventions beside a sound, and where its events come from."""
    told = {**space.to_json(), "events": events}
    path = sound.with_name(sound.stem + SIDECAR)
    path.write_text(json.dumps(told, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def recorder_files(space: Space, folder: Path, name: str) -> list[Path]:
    """The WAVs of an array, one for each recorder; none for other layouts."""
    if space.layout.name != ARRAY:
        return []
    return [folder / f"{name}.{one.name}.wav" for one in space.layout.recorders]


def coordinates(space: Space, files: Sequence[Path]) -> str:
    """aru_coords.csv as opensoundscape's SynchronizedRecorderArray reads it."""
    rows = [
        f"{path.name},{one.east_m:.4f},{one.north_m:.4f},{one.up_m:.4f}"
        for path, one in zip(files, space.layout.recorders, strict=True)
    ]
    return "\n".join(["file,x,y,z", *rows]) + "\n"


def detections(came: Sequence[Came], space: Mapping[str, Mapping[str, Any]], files: Sequence[Path]) -> str:
    """Windows in which a species is heard, the same of every recorder, as opensoundscape's localisation takes
    them: file, start_time, end_time, start_timestamp, and a column of 0 and 1 for each species.

    A scene has no date, and OpenSoundscape 0.13 wants one: its seconds count from midnight (UTC), 2000.
    """
    species = sorted({one.species for one in came})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["file", "start_time", "end_time", "start_timestamp", *species])
    for one in sorted(came, key=lambda e: (e.onset_s, e.key)):
        delays = [*space[one.key]["delays_s"], *space[one.key]["delays_end_s"]]
        start = max(0.0, one.onset_s + min(delays) - _MARGIN_S)
        end = one.offset_s + max(delays) + _MARGIN_S
        at = (_MIDNIGHT + timedelta(seconds=round(start, 3))).isoformat()
        for path in files:
            there = [int(name == one.species) for name in species]
            writer.writerow([path.name, f"{start:.3f}", f"{end:.3f}", at, *there])
    return buffer.getvalue()
