"""Songs cut out of labelled recordings: the box says where, and who sings is what people wrote down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from birdsd.errors import NothingLeft
from birdsd.files import sha256_file
from birdsd.scenes.bank.clip import RECORDED, EventClip, Origin
from birdsd.scenes.bank.gate import PEOPLE, EventVerdict
from birdsd.scenes.heard.cutting import cut_out
from birdsd.sound.audio.recordings import read
from birdsd.sound.audio.source import RecordingError
from birdsd.sound.labels.annotation import Label, Recording
from birdsd.sound.labels.load import load_recordings
from birdsd.sound.song_finder import find_songs

_BESIDE_S = 0.1  # of a box: people draw them tight
_FOCAL_S = 3.0  # of a recording without boxes, around its loudest songs
_MOST_FOCAL = 3
_LONGEST_S = 30.0


def recordings_by_species(folder: Path) -> dict[str, list[Recording]]:
    """Recordings that name exactly one species each, by species; no derivatives allowed: left out.

    Raises `UserError` where nothing is labelled.
    """
    found: dict[str, list[Recording]] = {}
    for recording in load_recordings(folder).recordings:
        if len(recording.species) == 1 and not forbids_changes(recording.licence):
            found.setdefault(recording.species[0], []).append(recording)
    if not found:
        raise NothingLeft(
            f"no recording in {folder} can be cut into events",
            "each needs one species, and a licence that allows derivatives (no ND)",
        )
    return dict(sorted(found.items()))


def forbids_changes(licence: str) -> bool:
    """Whether a licence is one without derivatives: a mix is one."""
    return "ND" in licence.upper().replace("-", " ").split()


def songs_of(recording: Recording, rate_hz: int) -> Iterator[EventClip]:
    """The songs of a recording in order of time: its boxes, or what stands out where it has none."""
    species = recording.species[0]
    identity = ""
    for label in _boxes(recording):
        start = max(0.0, (label.start_s or 0.0) - _BESIDE_S)
        end = min(recording.duration_s, (label.end_s or recording.duration_s) + _BESIDE_S)
        try:
            part = read(
                recording.path,
                rate_hz,
                start_s=start,
                duration_s=min(end - start, _LONGEST_S),
                channel=label.channel,
            )[0]
        except RecordingError:
            return
        cut = cut_out(part, rate_hz)
        if cut is None:
            continue
        identity = identity or sha256_file(recording.path)[:16]
        origin = Origin(
            RECORDED,
            recording.path.name,
            identity,
            recording.licence,
            recording.recordist,
            at_s=round(start + cut.start_s + cut.measured.onset_s, 3),
        )
        yield EventClip(
            f"{recording.recording_id}@{start:.3f}",
            species,
            label.sound_type or recording.sound_type,
            rate_hz,
            origin,
            EventVerdict(PEOPLE, True, None, species),
            cut.measured,
            cut.samples,
        )


def _boxes(recording: Recording) -> list[Label]:
    timed = [label for label in recording.labels if label.start_s is not None and label.end_s is not None]
    if timed:
        return sorted(timed, key=lambda label: (label.start_s or 0.0, label.end_s or 0.0))
    songs = find_songs(recording.path, _FOCAL_S, _MOST_FOCAL)
    return [
        Label(
            recording.species[0],
            song.start_s,
            song.start_s + song.duration_s,
            sound_type=recording.sound_type,
        )
        for song in songs
    ]
