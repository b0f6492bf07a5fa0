"""A scene turned into sound and labels, in a folder of its own that is published whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from birdsd.errors import UnknownName
from birdsd.scenes.backgrounds.birds import BirdCheck
from birdsd.scenes.backgrounds.render import Backgrounds, Layer
from birdsd.scenes.backgrounds.spool import Spool
from birdsd.scenes.bank.clip import RECORDED
from birdsd.scenes.bank.licences import licence_of
from birdsd.scenes.compose.around import folded_rows
from birdsd.scenes.compose.draft import Draft, Drafting
from birdsd.scenes.compose.mixdown import FORMATS, Written, write_mix
from birdsd.scenes.compose.place_and_level import EventStem, Song, Songs, louder
from birdsd.scenes.compose.record import (
    BEYOND,
    DID_NOT_COME_OUT,
    MIX,
    NOT_HEARD,
    PLACED,
    SONG,
    Asked,
    CameOut,
    Composed,
    Trail,
    why_not,
)
from birdsd.scenes.heard.in_mix import NOBODY, MixEar
from birdsd.scenes.placed import PlacedEvent, PlacedScene
from birdsd.scenes.scene import Scene
from birdsd.scenes.space.stage import AHEAD, Space
from birdsd.scenes.space.written import recorder_files

_MOST_OF_FLAC = 8  # channels


@dataclass(frozen=True)
class Look:
    """What a scene's folder holds besides mix and labels."""

    format: str = "flac"
    stems: bool = True
    picture: bool = True

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UnknownName(
                f"format={self.format}", f"valid: {', '.join(FORMATS)}", "leave it out for flac"
            )


@dataclass(frozen=True)
class Composer:
    """Songs, backgrounds, and the rate of scenes that name none. `gate`: who judged the songs; `birds`: who
    hears whether there are birds in the backgrounds, if anybody does; `space`: from where the scene is heard,
    None for mono; `ear`: who listens to the mix. Where `confirm` is MIX, a song that is not heard there is
    swapped for the next one, up to `tries`, and then left out."""

    songs: Songs
    backgrounds: Backgrounds
    rate_hz: int
    gate: str
    birds: BirdCheck | None = None
    space: Space | None = None
    ear: MixEar | None = None
    confirm: str = SONG
    tries: int = 1

    def compose(self, scene: Scene, name: str, folder: Path, look: Look) -> Composed:
        """Write the sound of a scene into `folder` (see `stem_path`, and NAME.flac), and say what came out.

        A function of the scene, the songs, the backgrounds and who listens alone; memory does not grow with
        its duration.
        """
        with Spool(folder / ".spool") as spool:
            draft = Drafting(
                scene, self.rate_hz, self.songs, self.backgrounds, spool, self.space, self.ear, self.confirm,
                self.tries,
            ).settled()  # fmt: skip
            placed = draft.placed
            done = Composed(
                name, placed.duration_s, placed.rate_hz,
                self.space.layout.channels if self.space else placed.channels,
                came_out=draft.came_out, backgrounds=list(placed.backgrounds),
                notes=[*placed.notes, *draft.notes], gain_db=draft.gain_db, gate=self.gate,
                ear=self.ear.judge.title if self.ear else NOBODY, confirm=self.confirm,
                space=self.space, from_where=draft.from_where,
            )  # fmt: skip
            done.asked = _asked(scene, draft)
            done.notes += [
                f"{one.placed.key} ({one.placed.species}) is left out: {one.why}"
                for one in done.asked
                if one.fate in (DID_NOT_COME_OUT, NOT_HEARD)
            ]
            done.notes += _unrendered(placed) if self.space is None else _nowhere(placed)
            done.notes += self._unasked(done) if self.confirm == MIX else []
            if self.birds is not None:
                for number, layer in enumerate(draft.layers):
                    done.notes += self.birds.notes(f"background{number}", layer, placed.rate_hz)
            done.trail = _trail(done.came_out, draft.songs, draft.layers, self.backgrounds)
            # Whether generated sound inherits the terms of what a model learnt from is unsettled: the trail
            # lists them, and only recordings bind the mix.
            done.licence = licence_of(one.licence for one in done.trail if one.kind == RECORDED)
            _write(done, folder, draft, look)
            return done

    def _unasked(self, done: Composed) -> list[str]:
        """Of whom nobody can say whether they are heard in the mix."""
        species = sorted({one.species for one in done.came_out if one.mix_heard is None})
        if not species:
            return []
        why = f"{done.ear} does not know" if self.ear else "there is no judge of mixes for"
        return [f"nobody confirmed in the mix: {why} {', '.join(species)}; kept all the same"]


def stem_path(folder: Path, number: int, role: str, label: str, suffix: str) -> Path:
    """Where a stem lies: stems/background0_rain.flac, stems/event003_House_Sparrow.flac."""
    from birdsd.files import safe_name

    count = f"{number:03d}" if role == "event" else str(number)
    return folder / "stems" / f"{role}{count}_{safe_name(label, 40)}.{suffix}"


def _write(done: Composed, folder: Path, draft: Draft, look: Look) -> None:
    """The mix and its stems, turned down together where the mix would not fit."""
    stems: list[Layer | EventStem] = [*draft.layers, *draft.stems]
    heard, samples, written = draft.heard(), draft.samples, []
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
    louder_ones = [louder(event, done.gain_db) for event in done.came_out]
    done.came_out = [
        replace(event, stem=name) if name else event for event, name in zip(louder_ones, names, strict=True)
    ]
    if draft.placed.loop:
        songs = [one for one, stem in zip(heard, stems, strict=True) if isinstance(stem, EventStem)]
        done.came_out = [
            row
            for event, one in zip(done.came_out, songs, strict=True)
            for row in folded_rows(event, one, done.duration_s, samples)
        ]
    if done.gain_db:
        done.notes.append(f"everything was turned down by {-done.gain_db:.1f} dB, so that nothing is cut off")


def _asked(scene: Scene, draft: Draft) -> list[Asked]:
    """What was asked for, and what became of each: songs that failed stand where they would have been."""
    placed, clips = draft.placed, draft.clips
    asked = []
    for event in placed.events:
        if event.key not in draft.songs:
            asked.append(Asked(event, DID_NOT_COME_OUT, why_not(clips[event.key])))
        elif event.key in draft.left_out:
            asked.append(Asked(event, NOT_HEARD, draft.left_out[event.key]))
        else:
            asked.append(Asked(event, PLACED))
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
