"""The labels of a scene in the formats that others read: all of the same measured events."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from birdsd.files import put_text
from birdsd.format import table
from birdsd.scenes.compose.record import Asked, CameOut, Composed, Trail
from birdsd.scenes.placed import PlacedEvent
from birdsd.scenes.space.written import (
    COORDINATES,
    DETECTIONS,
    columns,
    coordinates,
    detections,
    recorder_files,
    seld,
    write_sidecar,
)
from birdsd.sound.labels.annotation import Label
from birdsd.sound.labels.audacity import audacity_text
from birdsd.sound.labels.raven import raven_text
from birdsd.sound.species.names import clean_name

FOLDER = "tables"
AUDIBLE = 0.2  # of an event's frames at least as strong as the background, for it to count as audible


def write_tables(done: Composed, folder: Path, sound: str) -> None:
    """Raven beside the sound; in tables/ what came out (Audacity, CSV, JAMS, DCASE), what was asked for, and
    whom to name. Of a space also its conventions, DCASE SELD, and what belongs to an array."""
    from birdsd.sound.audio.recordings import NOT_RECORDINGS

    tables = folder / FOLDER
    tables.mkdir(exist_ok=True)
    files = recorder_files(done.space, folder, done.name) if done.space else []
    for number, path in enumerate(files):
        rows = [_delayed(one, done.from_where[one.key], number, done.duration_s) for one in done.came_out]
        _put(raven_path(path), raven_table(rows, path.name, done.from_where))
    if not files:
        _put(raven_path(folder / sound), raven_table(done.came_out, sound, done.from_where))
    for place in (tables, folder / "stems"):
        if place == tables or place.is_dir():
            _put(place / NOT_RECORDINGS, "Parts and tables of the scene that lies above.\n")
    _put(tables / "audacity.txt", audacity_text(_labels(done.came_out)))
    where = list(next(iter(done.from_where.values()), ()))
    rows_of = [one.to_json() | done.from_where.get(one.key, {}) for one in done.came_out]
    names = [*(field.name for field in fields(CameOut)), *where]
    _put(tables / "came_out.csv", as_csv(CameOut, rows_of, names))
    if done.space:
        labels, classes = seld(done.came_out, done.from_where)
        _put(tables / "seld.csv", labels)
        _put(tables / "seld_classes.csv", classes)
        write_sidecar(done.space, folder / f"{done.name}.json", done.from_where)
    if files and done.space:
        _put(folder / COORDINATES, coordinates(done.space, files))
        _put(tables / DETECTIONS, detections(done.came_out, done.from_where, files))
    _put(tables / "asked.csv", as_csv(Asked, [_flat(one) for one in done.asked], _asked_columns()))
    _put(tables / "attribution.csv", as_csv(Trail, [dict(vars(one)) for one in done.trail]))
    _put(tables / "strong.tsv", dcase_strong(sound, done.came_out))
    _put(tables / "durations.tsv", f"filename\tduration\n{sound}\t{done.duration_s:.3f}\n")
    _put(tables / f"{done.name}.jams", json.dumps(jams(done, sound), ensure_ascii=False) + "\n")


def raven_path(sound: Path) -> Path:
    """Where the selection table of a sound lies."""
    return sound.with_name(f"{sound.stem}.Table.1.selections.txt")


def sounds_of(done: Composed, folder: Path, format: str) -> list[Path]:
    """The sound files of a scene: one, or one for each recorder."""
    files = recorder_files(done.space, folder, done.name) if done.space else []
    return files or [folder / f"{done.name}.{format}"]


def _delayed(event: CameOut, where: Mapping[str, Any], number: int, end_s: float) -> CameOut:
    """As recorder `number` hears it so much later, within its recording."""
    times = (event.onset_s + where["delays_s"][number], event.offset_s + where["delays_end_s"][number])
    onset_s, offset_s = (round(min(max(0.0, one), end_s), 6) for one in times)
    return replace(event, onset_s=onset_s, offset_s=offset_s)


def raven_table(
    events: Sequence[CameOut], sound: str, from_where: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """A selection table with a row for each event, in order of time."""
    further = {
        "SNR (dB)": ["" if one.snr_db is None else f"{one.snr_db:.2f}" for one in events],
        "Audible": [_yes(one.audible >= AUDIBLE) for one in events],
        "Verified": [_yes(one.verified) for one in events],
        "Heard": ["" if one.mix_heard is None else _yes(one.mix_heard) for one in events],
        "Heard Score": ["" if one.mix_score is None else f"{one.mix_score:.4f}" for one in events],
        "Individual": [str(one.individual) for one in events],
        "Event Id": [one.key for one in events],
    }
    if from_where:
        further |= columns(from_where, [one.key for one in events])
    return raven_text(_labels(events), begin_file=sound, further=further)


def _labels(events: Sequence[CameOut]) -> list[Label]:
    return [
        Label(one.species, one.onset_s, one.offset_s, one.low_hz, one.high_hz, one.sound_type)
        for one in events
    ]


def dcase_strong(sound: str, events: Iterable[CameOut]) -> str:
    """filename, onset, offset, event_label: as the DCASE tasks have strong labels."""
    rows = [
        f"{sound}\t{one.onset_s:.3f}\t{one.offset_s:.3f}\t{clean_name(one.species)}"
        for one in sorted(events, key=lambda e: (e.onset_s, e.key))
    ]
    return "\n".join(["filename\tonset\toffset\tevent_label", *rows]) + "\n"


def as_csv(kind: type, rows: Sequence[dict[str, Any]], columns: Sequence[str] = ()) -> str:
    """Rows of a dataclass as CSV, its fields as columns; None is an empty cell."""
    buffer = io.StringIO()
    names = list(columns) or [field.name for field in fields(kind)]
    cells = ([row.get(name, "") for name in names] for row in rows)
    csv.writer(buffer, lineterminator="\n").writerows([names, *cells])
    return buffer.getvalue()


def jams(done: Composed, sound: str) -> dict[str, Any]:
    """JAMS with an annotation in Scaper's namespace and one of plain tags; our own fields in sandboxes."""
    events = sorted(done.came_out, key=lambda one: (one.onset_s, one.key))
    scaper = [
        {
            "time": one.onset_s,
            "duration": round(one.offset_s - one.onset_s, 6),
            "confidence": one.score if one.score is not None else 1.0,
            "value": {
                "label": one.species,
                "source_file": one.stem or one.clip,
                "source_time": 0.0,
                "event_time": one.onset_s,
                "event_duration": round(one.offset_s - one.onset_s, 6),
                "snr": one.snr_db if one.snr_db is not None else 0.0,
                "role": "foreground",
                "pitch_shift": None,
                "time_stretch": None,
            },
        }
        for one in events
    ]
    scaper = [_jams_background(one) for one in done.backgrounds] + scaper
    tags = [
        {
            "time": one.onset_s,
            "duration": round(one.offset_s - one.onset_s, 6),
            "value": one.species,
            "confidence": one.score,
        }
        for one in events
    ]
    about = {"annotation_tools": "birdsd", "data_source": "generated", "validation": done.gate}
    box = {
        "duration": done.duration_s,
        "sr": done.rate_hz,
        "n_channels": done.channels,
        "fg_spec": [],
        "bg_spec": [],
        "n_events": len(events),
        "polyphony_max": polyphony(events),
        "isolated_events_audio_path": [one.stem for one in events if one.stem],
    }
    annotations = [
        {
            "namespace": "scaper",
            "time": 0,
            "duration": done.duration_s,
            "data": scaper,
            "annotation_metadata": about,
            "sandbox": {"scaper": box, "birdsd": done.to_json()},
        },
        {
            "namespace": "tag_open",
            "time": 0,
            "duration": done.duration_s,
            "data": tags,
            "annotation_metadata": about,
            "sandbox": {},
        },
    ]
    meta = {
        "title": done.name,
        "artist": "",
        "release": "",
        "duration": done.duration_s,
        "identifiers": {},
        "jams_version": "0.3.5",
    }
    return {"file_metadata": meta, "annotations": annotations, "sandbox": {"sound": sound}}


def polyphony(events: Sequence[CameOut]) -> int:
    """How many events sound at once at most."""
    edges = sorted([(one.onset_s, 1) for one in events] + [(one.offset_s, -1) for one in events])
    most = now = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


def came_out_text(done: Composed) -> str:
    """For a terminal: what came out, and what did not."""
    rows: list[tuple[str, ...]] = [
        ("event", "species", "onset", "offset", "low Hz", "high Hz", "SNR dB", "judge", "in the mix")
    ]
    rows += [
        (
            one.key,
            one.species,
            f"{one.onset_s:.2f}",
            f"{one.offset_s:.2f}",
            f"{one.low_hz:.0f}",
            f"{one.high_hz:.0f}",
            "-" if one.snr_db is None else f"{one.snr_db:.1f}",
            one.judge
            + (f" {one.score:.2f}" if one.score is not None else "")
            + ("" if one.verified else " (unconfirmed)"),
            _in_mix(one),
        )
        for one in sorted(done.came_out, key=lambda e: (e.onset_s, e.key))
    ]
    if done.from_where:
        ordered = sorted(done.came_out, key=lambda e: (e.onset_s, e.key))
        places = [_place(done.from_where[one.key]) for one in ordered]
        rows = [(*row, place) for row, place in zip(rows, ("direction", *places), strict=True)]
    lines = table(rows, left=range(len(rows[0])))
    return "\n".join([*lines, *(f"note: {note}" for note in done.notes)])


def _in_mix(event: CameOut) -> str:
    """Whether it is heard in the mix, for a terminal."""
    if event.mix_heard is None:
        return "-"
    score = "" if event.mix_score is None else f" {event.mix_score:.2f}"
    instead = f", as {event.mix_named}" if event.mix_named != event.species else ""
    return ("heard" if event.mix_heard else "not heard") + score + instead


def _place(where: Mapping[str, Any]) -> str:
    """For a terminal."""
    end = where["azimuth_end_deg"]
    turned = f"{where['azimuth_deg']:g}" + ("" if end is None else f" to {end:g}")
    raised = f", {where['elevation_deg']:g} up" if where["elevation_deg"] else ""
    return f"{turned} deg{raised}, {where['distance_m']:g} m"


def _jams_background(one: Any) -> dict[str, Any]:
    length = round(one.to_s - one.from_s, 6)
    return {
        "time": one.from_s,
        "duration": length,
        "confidence": 1.0,
        "value": {
            "label": one.environment,
            "source_file": one.path,
            "source_time": 0.0,
            "event_time": one.from_s,
            "event_duration": length,
            "snr": 0.0,
            "role": "background",
            "pitch_shift": None,
            "time_stretch": None,
        },
    }


def _asked_columns() -> list[str]:
    return [*(field.name for field in fields(PlacedEvent)), "fate", "why"]


def _flat(one: Asked) -> dict[str, Any]:
    return one.to_json()


def _put(path: Path, text: str) -> None:
    """Into a folder that is published whole, and whose labels.json is what lasts: no wait for the disk."""
    put_text(path, text)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
