"""The labels of a scene in the formats that others read: all of the same measured events."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from birdsd.format import table
from birdsd.scenes.compose.record import Asked, CameOut, Composed, Trail
from birdsd.scenes.placed import PlacedEvent
from birdsd.sound.labels.annotation import Label
from birdsd.sound.labels.audacity import audacity_text
from birdsd.sound.labels.raven import raven_text
from birdsd.sound.species.names import clean_name

AUDIBLE = 0.2  # of an event's frames at least as strong as the background, for it to count as audible


def write_tables(done: Composed, folder: Path, sound: str) -> None:
    """Raven beside the sound; in tables/ what came out (Audacity, CSV, JAMS, DCASE), what was asked for, and
    whom to name."""
    from birdsd.sound.audio.recordings import NOT_RECORDINGS

    _put(folder / f"{done.name}.Table.1.selections.txt", raven_table(done.came_out, sound))
    tables = folder / "tables"
    for place in (tables, folder / "stems"):
        if place == tables or place.is_dir():
            _put(place / NOT_RECORDINGS, "Parts and tables of the scene that lies above.\n")
    _put(tables / "audacity.txt", audacity_text(_labels(done.came_out)))
    _put(tables / "came_out.csv", as_csv(CameOut, [one.to_json() for one in done.came_out]))
    _put(tables / "asked.csv", as_csv(Asked, [_flat(one) for one in done.asked], _asked_columns()))
    _put(tables / "attribution.csv", as_csv(Trail, [dict(vars(one)) for one in done.trail]))
    _put(tables / "strong.tsv", dcase_strong(sound, done.came_out))
    _put(tables / "durations.tsv", f"filename\tduration\n{sound}\t{done.duration_s:.3f}\n")
    _put(tables / f"{done.name}.jams", json.dumps(jams(done, sound), ensure_ascii=False) + "\n")


def raven_table(events: Sequence[CameOut], sound: str) -> str:
    """A selection table with a row for each event, in order of time."""
    further = {
        "SNR (dB)": ["" if one.snr_db is None else f"{one.snr_db:.2f}" for one in events],
        "Audible": [_yes(one.audible >= AUDIBLE) for one in events],
        "Verified": [_yes(one.verified) for one in events],
        "Individual": [str(one.individual) for one in events],
        "Event Id": [one.key for one in events],
    }
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
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
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
    rows = [("event", "species", "onset", "offset", "low Hz", "high Hz", "SNR dB", "judge")]
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
        )
        for one in sorted(done.came_out, key=lambda e: (e.onset_s, e.key))
    ]
    lines = table(rows, left=range(len(rows[0])))
    return "\n".join([*lines, *(f"note: {note}" for note in done.notes)])


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
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _yes(value: bool) -> str:
    return "yes" if value else "no"
