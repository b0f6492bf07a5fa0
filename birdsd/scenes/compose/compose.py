"""A scene turned into sound and labels, in a folder of its own that is published whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from birdsd.errors import UserError
from birdsd.scenes.backgrounds.birds import BirdCheck
from birdsd.scenes.backgrounds.looped import goes_round
from birdsd.scenes.backgrounds.render import Backgrounds, Layer
from birdsd.scenes.backgrounds.spool import Spool
from birdsd.scenes.bank.clip import RECORDED, EventClip
from birdsd.scenes.compose.around import folded, folded_rows
from birdsd.scenes.compose.licences import licence_of
from birdsd.scenes.compose.mixdown import FORMATS, Stem, Written, fitting_gain_db, true_peak, write_mix
from birdsd.scenes.compose.place_and_level import (
    EventStem,
    Song,
    Songs,
    louder,
    place,
    song_of,
    spaced,
    wanted_of,
)
from birdsd.scenes.compose.record import (
    BEYOND,
    DID_NOT_COME_OUT,
    PLACED,
    Asked,
    CameOut,
    Composed,
    Trail,
    why_not,
)
from birdsd.scenes.placed import PlacedEvent, PlacedScene
from birdsd.scenes.scene import Scene
from birdsd.scenes.schedule import solve
from birdsd.scenes.space.stage import AHEAD, Space
from birdsd.scenes.space.written import recorder_files

_MOST_OF_FLAC = 8  # channels
_ROUNDS = 50  # of solving again: each round measures what the one before brought in


@dataclass(frozen=True)
class Look:
    """What a scene's folder holds besides mix and labels."""

    format: str = "flac"
    stems: bool = True
    picture: bool = True

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UserError(f"format={self.format}", f"valid: {', '.join(FORMATS)}", "leave it out for flac")


@dataclass(frozen=True)
class Composer:
    """Songs, backgrounds, and the rate of scenes that name none. `gate`: who judged the songs; `birds`: who
    hears whether there are birds in the backgrounds, if anybody does; `space`: from where the scene is heard,
    None for mono."""

    songs: Songs
    backgrounds: Backgrounds
    rate_hz: int
    gate: str
    birds: BirdCheck | None = None
    space: Space | None = None

    def compose(self, scene: Scene, name: str, folder: Path, look: Look) -> Composed:
        """Write the sound of a scene into `folder` (see `stem_path`, and NAME.flac), and say what came out.

        A function of the scene, the songs and the backgrounds alone; memory does not grow with its duration.
        """
        with Spool(folder / ".spool") as spool:
            placed, songs, clips = self._sung(scene, spool)
            rate_hz = placed.rate_hz
            samples = round(placed.duration_s * rate_hz)
            done = Composed(
                name, placed.duration_s, rate_hz,
                self.space.layout.channels if self.space else placed.channels,
                notes=list(placed.notes), gate=self.gate, space=self.space,
            )  # fmt: skip
            done.backgrounds = list(placed.backgrounds)
            layers = self._layers(placed, spool, scene.seed)
            stems: list[EventStem] = []
            for event in placed.events:
                if event.key not in songs:
                    continue
                song, asked = songs[event.key], event
                if self.space is not None and song.heard is not None:
                    asked = self.space.asked(event, song.heard)
                    done.from_where[event.key] = song.heard.to_json(self.space)
                stem, came_out, note = place(asked, song, layers, rate_hz, samples)
                stems.append(stem)
                done.came_out.append(replace(came_out, asked_snr_db=event.snr_db))
                done.notes += [note] if note else []
            done.asked = _asked(scene, placed, clips, songs)
            done.notes += [
                f"{one.placed.key} ({one.placed.species}) is left out: {one.why}"
                for one in done.asked
                if one.fate == DID_NOT_COME_OUT
            ]
            done.notes += _unrendered(placed) if self.space is None else _nowhere(placed)
            if self.birds is not None:
                for number, layer in enumerate(layers):
                    done.notes += self.birds.notes(f"background{number}", layer, rate_hz)
            done.trail = _trail(done.came_out, songs, layers, self.backgrounds)
            # Whether generated sound inherits the terms of what a model learnt from is unsettled: the trail
            # lists them, and only recordings bind the mix.
            done.licence = licence_of(one.licence for one in done.trail if one.kind == RECORDED)
            _write(done, folder, [*layers, *stems], samples, look, placed.loop)
            return done

    def _layers(self, placed: PlacedScene, spool: Spool, seed: int) -> list[Layer]:
        """The backgrounds at their levels; those of a space from everywhere."""
        rate_hz, loop_s = placed.rate_hz, placed.duration_s if placed.loop else 0.0
        layers = []
        for number, told in enumerate(placed.backgrounds):
            layer = self.backgrounds.layer(told, rate_hz, spool, loop_s)
            if layer is not None and self.space is not None:
                seamless = bool(loop_s) and goes_round(told, loop_s)
                layer = self.space.around(layer, rate_hz, spool, seed, number, seamless)
            layers += [layer] if layer is not None else []
        return layers

    def _sung(self, scene: Scene, spool: Spool) -> tuple[PlacedScene, dict[str, Song], dict[str, EventClip]]:
        """The scene solved with measured songs: those, and every clip that was asked for."""
        lengths: dict[str, float] = {}
        songs: dict[str, Song] = {}
        clips: dict[str, EventClip] = {}
        # Before a song is measured it counts as short: what would fit must not be left out unheard.
        typical_s = self.songs.shortest_s()
        placed = solve(scene, rate_hz=self.rate_hz, typical_s=typical_s, overrun="leave_out")
        for _ in range(_ROUNDS):
            new = [event for event in placed.events if event.key in placed.unmeasured]
            if not new:
                return placed, songs, clips
            made = self.songs.clips([wanted_of(event) for event in new])
            for event in new:
                # Its sound waits in the spool: memory does not grow with the number of events.
                clips[event.key] = replace(made[event.key], samples=np.zeros(0, np.float32))
                song = song_of(event, made[event.key], placed.rate_hz, spool)
                if song is not None and self.space is not None:
                    song = spaced(event, song, self.space, placed.rate_hz, spool, scene.seed)
                if song is not None:
                    songs[event.key] = song
                # One that did not come out keeps its place, so that the others keep theirs.
                lengths[event.key] = song.duration_s if song else event.duration_s
            placed = solve(
                scene, rate_hz=self.rate_hz, durations=lengths, typical_s=typical_s, overrun="leave_out"
            )
        raise UserError(
            f"after {_ROUNDS} rounds the scene still asks for further songs",
            "its repeats do not end",
            "give them a number (repeat) instead of an end",
        )


def stem_path(folder: Path, number: int, role: str, label: str, suffix: str) -> Path:
    """Where a stem lies: stems/background0_rain.flac, stems/event003_House_Sparrow.flac."""
    from birdsd.files import safe_name

    count = f"{number:03d}" if role == "event" else str(number)
    return folder / "stems" / f"{role}{count}_{safe_name(label, 40)}.{suffix}"


def _write(
    done: Composed, folder: Path, stems: list[Layer | EventStem], samples: int, look: Look, loop: bool
) -> None:
    """The mix and its stems, turned down together where the mix would not fit."""
    heard: list[Stem] = [folded(stem, samples) if loop else stem for stem in stems]
    done.gain_db = fitting_gain_db(true_peak(heard, samples))
    written = []
    if look.stems:
        (folder / "stems").mkdir()
    counts = {"background": 0, "event": 0}
    apart = recorder_files(done.space, folder, done.name) if done.space else []
    kept_as = "wav" if done.channels > _MOST_OF_FLAC else look.format
    for stem, sound in zip(stems, heard, strict=True):
        role = "event" if isinstance(stem, EventStem) else "background"
        label = stem.song.clip.species if isinstance(stem, EventStem) else stem.told.environment
        path = stem_path(folder, counts[role], role, label, kept_as) if look.stems else None
        counts[role] += 1
        written.append(Written(sound, path))
    write_mix(
        folder / f"{done.name}.{look.format}",
        written,
        samples,
        done.rate_hz,
        channels=done.channels,
        gain_db=done.gain_db,
        apart=apart,
    )
    names = [
        f"stems/{one.path.name}" if one.path else ""
        for one, stem in zip(written, stems, strict=True)
        if isinstance(stem, EventStem)
    ]
    done.came_out = [
        replace(louder(event, done.gain_db), stem=name)
        for event, name in zip(done.came_out, names, strict=True)
    ]
    if loop:
        songs = [one for one, stem in zip(heard, stems, strict=True) if isinstance(stem, EventStem)]
        done.came_out = [
            row
            for event, one in zip(done.came_out, songs, strict=True)
            for row in folded_rows(event, one, done.duration_s, samples)
        ]
    if done.gain_db:
        done.notes.append(f"everything was turned down by {-done.gain_db:.1f} dB, so that nothing is cut off")


def _asked(
    scene: Scene, placed: PlacedScene, clips: dict[str, EventClip], songs: dict[str, Song]
) -> list[Asked]:
    """What was asked for, and what became of each: songs that failed stand where they would have been."""
    asked = [
        Asked(event, PLACED)
        if event.key in songs
        else Asked(event, DID_NOT_COME_OUT, why_not(clips[event.key]))
        for event in placed.events
    ]
    there = {event.key for event in placed.events}
    for key, clip in clips.items():
        if key in there or not any(note.startswith(f"{key} (") for note in placed.notes):
            continue  # a repeat for which, once the others were measured, there was no time
        told = scene.event(key.split(".")[0])
        ghost = PlacedEvent(
            key,
            told.id,
            told.species,
            told.sound_type,
            clip.origin.prompt,
            told.onset_s or 0.0,
            0.0,
            snr_db=told.snr_db,
            level_db=told.level_db,
        )
        asked.append(Asked(ghost, BEYOND, "once measured, it would end behind the scene"))
    return asked


def _nowhere(placed: PlacedScene) -> list[str]:
    """Of whom nobody says where they sing."""
    keys = [one.key for one in placed.events if one.bearing_deg is None and one.elevation_deg is None]
    if not keys:
        return []
    said = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
    return [
        f"no direction was given for {said}: placed straight ahead, {AHEAD.distance_m:g} m away unless a "
        "distance was given"
    ]


def _unrendered(placed: PlacedScene) -> list[str]:
    carried = any(event.bearing_deg is not None or event.distance_m is not None for event in placed.events)
    return ["bearing and distance stand in the tables and are not rendered in the sound"] if carried else []


def _trail(
    came_out: list[CameOut], songs: dict[str, Song], layers: list[Layer], backgrounds: Backgrounds
) -> list[Trail]:
    """Whom to name for every part."""
    trail = []
    for event in came_out:
        origin = songs[event.key].clip.origin
        trail.append(
            Trail(event.key, origin.kind, origin.source, origin.identity, origin.licence, origin.attribution)
        )
    for number, layer in enumerate(layers):
        part = f"background{number}"
        if not layer.files and backgrounds.model is not None:
            model = backgrounds.model
            licence = "; ".join(sorted(model.training.get("licences") or ()))
            trail.append(Trail(part, "generated", str(model.folder), model.identity, licence, ""))
        trail += [
            Trail(part, "recorded", file.path.name, file.sha256, file.licence, file.recordist)
            for file in layer.files
        ]
    return trail
