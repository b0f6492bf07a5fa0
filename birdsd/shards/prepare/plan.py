"""What prepare is going to do, decided before any sound is decoded: which recordings go into which shard.

The plan is a function of the recordings, the codec and the data settings, so that running prepare again
finds the same shards and writes only those that are missing. It is kept in `prepare.json`.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from birdsd.errors import (
    AlreadyThere,
    BadValue,
    Mismatch,
    NothingLeft,
    NotSet,
    listed_names,
    unknown_name,
)
from birdsd.files import fingerprint, read_json
from birdsd.randomness import permutation
from birdsd.schema import DataConfig
from birdsd.shards.index import listed
from birdsd.shards.prepare.cuts import USUAL_LIMIT, most_songs, without_invisible
from birdsd.shards.prepare.splits import SPLITS, assign_splits
from birdsd.sound.audio.recordings import find_recordings
from birdsd.sound.codec.protocol import Codec
from birdsd.sound.labels.annotation import NOT_CHOSEN, OUT_OF_BAND, LabelledSet, Recording
from birdsd.sound.separation.clean import check_cleaning
from birdsd.sound.song_finder import windows
from birdsd.sound.species.names import species_key

FORMAT = "birdsd-plan-1"
PLAN_FILE = "prepare.json"
SEGMENTATIONS = ("song", "windows", "whole")
# A small set is still cut into several shards, so that processes share the work and the order of
# samples has shards to permute; below this size a shard is not worth its file.
_SHARDS_PER_SPLIT, _SMALLEST_SHARD = 16, 16
# Settings of DataConfig that decide no sample.
_NOT_SCIENTIFIC = {"name", "recordings", "labels", "environment", "shards"}
# Younger than sets that are to stay what they are: noted only where they are not what they were without them.
_YOUNGER = ("cuts_per_song", "cut_gain_db", "background_mixtures", "clean", "clean_db")
# Those that choose recordings by species: their order and their case decide nothing.
_CHOICES = ("species", "without_species")
_USUAL = DataConfig(name="")
T = TypeVar("T")


class Share(Protocol):
    """The part of one of several tasks that prepare the same set together (see `birdsd.runs.share`)."""

    @property
    def is_whole(self) -> bool: ...

    def share(self, items: Sequence[T]) -> list[T]: ...


@dataclass(frozen=True)
class Item:
    """The segments [first, last) of one recording."""

    recording: Recording
    first: int
    last: int


@dataclass(frozen=True)
class ShardTask:
    """One shard to write: `name` inside the folder, its split, and what goes into it."""

    name: str
    split: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Plan:
    """All shards, and the fingerprint of everything that they depend on."""

    tasks: tuple[ShardTask, ...]
    splits: dict[str, str]  # recording id -> split
    facts: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.facts)


def check_settings(data: DataConfig) -> None:
    """Refuse settings that cannot work, before anything is read."""
    if data.segmentation not in SEGMENTATIONS:
        raise unknown_name("segmentation", data.segmentation, SEGMENTATIONS)
    for name, lowest in (
        ("max_clips_per_recording", 0),
        ("cuts_per_song", 1),
        ("cut_gain_db", 0.0),
        ("background_mixtures", 0),
        ("mixtures_per_clip", 0),
        ("wordings", 1),
        ("samples_per_shard", 1),
        ("min_label_overlap_s", 0.0),
    ):
        if not lowest <= getattr(data, name) < math.inf:  # NaN is refused too
            raise BadValue(f"data.{name} is {getattr(data, name)}", f"it must be at least {lowest}")
    _check_further_cuts(data)
    check_cleaning(data.clean, data.clean_db)
    if not 0 <= data.overlap < 1:
        raise BadValue(
            f"data.overlap is {data.overlap}", "it must be at least 0 and less than 1", "0.5 is usual"
        )
    if data.overlap and data.segmentation != "windows":
        raise Mismatch(
            f"data.overlap is {data.overlap}, and has no effect with segmentation '{data.segmentation}'",
            "songs are cut out where they are; only windows overlap",
            "leave it out, or choose data=soundscape",
        )
    if data.snr_db_low > data.snr_db_high:
        raise Mismatch(
            f"data.snr_db_low is {data.snr_db_low} and data.snr_db_high {data.snr_db_high}",
            "the low end must not lie above the high end",
        )
    if data.mixtures_per_clip and not data.environment:
        raise NotSet(
            f"data.mixtures_per_clip is {data.mixtures_per_clip}, but data.environment is not set",
            "mixtures need a folder of environmental sound (a sub-folder per kind, e.g. rain/)",
            "set data.environment=FOLDER, or data.mixtures_per_clip=0",
        )
    if not data.keep_clean and not data.mixtures_per_clip and not data.background_mixtures:
        raise Mismatch(
            "data.keep_clean is false and data.mixtures_per_clip is 0",
            "no clips would be left",
            "set data.mixtures_per_clip=1, or data.keep_clean=true",
        )


def _check_further_cuts(data: DataConfig) -> None:
    """Refuse settings of further cuts where they would do nothing."""
    for name, off, rule in (
        ("cuts_per_song", 1, "songs are cut out several times; of windows there are more with data.overlap"),
        ("background_mixtures", 0, "a window may itself be what lies between songs"),
    ):
        if (value := getattr(data, name)) > off and data.segmentation != "song":
            raise Mismatch(
                f"data.{name} is {value}, and has no effect with segmentation '{data.segmentation}'",
                rule,
                "leave it out, or choose data=song",
            )
    if data.cut_gain_db and data.cuts_per_song == 1:
        raise Mismatch(
            f"data.cut_gain_db is {data.cut_gain_db:g}, and data.cuts_per_song is 1",
            "the first cut of a song stays as loud as it was recorded; only further cuts get a gain",
            "leave it out, or set data.cuts_per_song=4",
        )


def make_plan(
    found: LabelledSet, codec: Codec, data: DataConfig, groups: Mapping[str, str] | None = None
) -> Plan:
    """Assign recordings to splits, and pack their segments into shards in an order drawn from the seed.

    groups: recording id -> the id of a group that stays in one split (see `birdsd.sound.identity`).
    """
    by_id: dict[str, list[Recording]] = {}
    for recording in found.recordings:
        by_id.setdefault(recording.recording_id, []).append(recording)
    species = {name: sorted({s for r in recordings for s in r.species}) for name, recordings in by_id.items()}
    splits = assign_splits(species, data.validation_fraction, data.test_fraction, data.seed, groups)
    tasks: list[ShardTask] = []
    for split in SPLITS:
        chosen = [r for r in found.recordings if splits[r.recording_id] == split]
        chosen.sort(key=lambda r: (r.recording_id, str(r.path)))
        order = permutation(len(chosen), data.seed, "prepare", split)
        tasks += _pack(split, [chosen[i] for i in order], codec, data)
    facts = _facts(found, codec, data)
    if joined := {one: group for one, group in (groups or {}).items() if one != group}:
        facts["groups"] = joined
    return Plan(tuple(tasks), splits, facts)


def choose_species(found: LabelledSet, data: DataConfig) -> LabelledSet:
    """The recordings that data.species and data.without_species leave.

    A recording of several species stays where one of them is asked for, and goes where one of them is
    unwanted: so `species=X` and `without_species=X` share out all recordings between them. Names are
    compared without regard to case. `UserError` for a name that no recording has, and where nothing is left.
    """
    wanted, unwanted = named_species(found, data.species), named_species(found, data.without_species)
    if both := wanted & unwanted:
        raise Mismatch(
            f"data.species and data.without_species both name {listed(sorted(both), 5)}",
            "a species is either wanted or left out",
        )
    if not wanted and not unwanted:
        return found
    kept = []
    for recording in found.recordings:
        there = set(recording.species)
        if (not wanted or wanted & there) and not unwanted & there:
            kept.append(recording)
        else:
            found.account.left_out[NOT_CHOSEN] += recording.rows
            found.files_left_out[NOT_CHOSEN] += 1
    if not kept:
        raise NothingLeft(
            f"data.species=[{listed_names(sorted(wanted))}] "
            f"data.without_species=[{listed_names(sorted(unwanted))}] leave no recording",
            f"the {len(found.recordings)} recordings hold {listed_names(found.species)}",
        )
    return dataclasses.replace(found, recordings=kept)


def leave_out_invisible(found: LabelledSet, codec: Codec) -> LabelledSet:
    """The set without boxes that lie outside of what the codec shows: a labelled picture of nothing."""
    kept = []
    for recording in found.recordings:
        top_hz = min(codec.fmax_hz, recording.rate_hz / 2 or codec.fmax_hz)
        visible, invisible = without_invisible(recording.labels, codec.fmin_hz, top_hz)
        if invisible:
            first = invisible[0]
            box = f"'{first.label}' at {first.start_s or 0.0:.3f} s, {first.low_hz}-{first.high_hz} Hz"
            # A bird sings at no 3.5 Hz: such a box lies somewhere else, and no clip there is without a bird.
            odd = tuple(label for label in invisible if label.high_hz is not None and label.high_hz < 100)
            recording = dataclasses.replace(recording, unknown=(*recording.unknown, *odd))
            hint = " (in kHz? name the column 'High Freq (kHz)')" if odd else ""
            reason = (
                f"{len(invisible)} of its boxes lie outside of the {codec.fmin_hz:.0f}-{top_hz:.0f} Hz "
                f"that codec {codec.name} shows of it (the first: {box}): left out{hint}"
            )
            found.leave_out(recording.path, reason, OUT_OF_BAND, len(invisible))
        if visible or not invisible:
            kept.append(dataclasses.replace(recording, labels=tuple(visible)) if invisible else recording)
        else:
            found.files_left_out[OUT_OF_BAND] += 1
    if not kept:
        raise NothingLeft(
            f"no box of {len(found.recordings)} recordings lies in what codec {codec.name} shows",
            f"it shows {codec.fmin_hz:.0f}-{codec.fmax_hz:.0f} Hz at {codec.rate_hz} Hz",
            "choose a codec with a higher rate_hz and fmax_hz",
        )
    return dataclasses.replace(found, recordings=kept)


def named_species(found: LabelledSet, names: Sequence[str]) -> set[str]:
    """The species of a set that `names` name, as the set writes them (perhaps in more than one way)."""
    known: dict[str, set[str]] = {}
    for name in found.species:
        known.setdefault(species_key(name), set()).add(name)
    for name in names:
        if species_key(name) not in known:
            raise unknown_name("species", name, found.species, "These are the species of the recordings.")
    return {spelling for name in names for spelling in known[species_key(name)]}


def samples_per_segment(data: DataConfig) -> int:
    """The cuts of a song (elsewhere there is one), each clean and with its mixtures."""
    return data.cuts_per_song * (int(data.keep_clean) + data.mixtures_per_clip + data.background_mixtures)


def most_segments(recording: Recording, codec: Codec, data: DataConfig) -> int:
    """How many segments a recording has at most; exact for windows."""
    if data.segmentation == "whole":
        return 1
    limit = data.max_clips_per_recording or math.inf
    if data.segmentation == "windows":
        return int(min(limit, sum(1 for _ in windows(recording.duration_s, codec.clip_s, data.overlap))))
    if recording.weak:
        return most_songs(recording, codec.clip_s, data.max_clips_per_recording)
    # Boxes: one for each clip that they could fill, and one for each species at least.
    room = sum(
        1 + int((x.end_s - x.start_s) / codec.clip_s)
        for x in recording.labels
        if x.end_s and x.start_s is not None
    )
    return max(1, int(min(max(limit, len(recording.species)), room)))


def _pack(split: str, recordings: Sequence[Recording], codec: Codec, data: DataConfig) -> list[ShardTask]:
    counts = [most_segments(recording, codec, data) for recording in recordings]
    per_segment = samples_per_segment(data)
    share = math.ceil(sum(counts) * per_segment / _SHARDS_PER_SPLIT)
    room = max(1, min(data.samples_per_shard, max(_SMALLEST_SHARD, share)) // per_segment)
    tasks: list[ShardTask] = []
    items: list[Item] = []
    filled = 0

    def close() -> None:
        nonlocal items, filled
        if items:
            tasks.append(ShardTask(f"{split}-{len(tasks):06d}.tar", split, tuple(items)))
        items, filled = [], 0

    for recording, count in zip(recordings, counts, strict=True):
        first = 0
        # Only windows are cut across shards: where the songs are is not known before the sound is read.
        while first < count:
            if filled and filled + min(count - first, room) > room:
                close()
            last = min(count, first + room - filled) if data.segmentation == "windows" else count
            items.append(Item(recording, first, last))
            filled += last - first
            first = last
    close()
    return tasks


def _facts(found: LabelledSet, codec: Codec, data: DataConfig) -> dict[str, Any]:
    """Everything that the samples depend on; what prepare.json keeps, to say later what changed."""
    root = Path(data.recordings or ".")
    settings = {k: v for k, v in dataclasses.asdict(data).items() if k not in _NOT_SCIENTIFIC}
    for name in _CHOICES:
        # Left out where nothing is asked for, as in sets that were prepared before one could ask.
        if names := sorted({species.casefold() for species in settings.pop(name)}):
            settings[name] = names
    for name in _YOUNGER:
        if settings[name] == getattr(_USUAL, name):
            del settings[name]
    facts: dict[str, Any] = {
        "format": FORMAT,
        "codec": codec.fingerprint(),
        "settings": settings,
        "recordings": {
            relative(recording.path, root): [*_stamp(recording.path), _known_of(recording)]
            for recording in found.recordings
        },
    }
    if data.segmentation == "song" and data.max_clips_per_recording > USUAL_LIMIT:
        facts["songs"] = "clips of songs share up to half"  # with this limit they did not in older versions
    if data.environment and data.mixtures_per_clip:
        folder = Path(data.environment)
        facts["environment"] = {relative(path, folder): _stamp(path) for path in find_recordings(folder)}
    return facts


def _known_of(recording: Recording) -> str:
    """A hash of everything that is known about a recording beside its sound."""
    facts = dataclasses.asdict(dataclasses.replace(recording, path=Path()))
    for name in ("unknown", "silences", "no_bird_rows"):  # younger than sets that are to stay what they are
        if not facts[name]:
            del facts[name]
    return fingerprint(facts, 8)


def _stamp(path: Path) -> list[int]:
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def relative(path: Path, root: Path) -> str:
    """The path as it is kept with a sample: below `root` where it lies there, else its name alone."""
    base = root if root.is_dir() else root.parent
    try:
        return path.resolve().relative_to(base.resolve()).as_posix()
    except ValueError:
        return path.name


def refuse_other_plan(folder: Path, plan: Plan) -> None:
    """A folder holds the shards of one plan: anything else in it is a `UserError` that says what differs."""
    path = folder / PLAN_FILE
    # Looked for first: another part writes the plan before its first shard, perhaps at this moment.
    strangers = sorted(tar.name for tar in folder.glob("*.tar"))
    if not path.is_file():
        if strangers:
            raise AlreadyThere(
                f"{folder} already holds shards that were not prepared here ({listed(strangers, 3)})",
                "prepare writes only into an empty folder or one that it created",
                "choose another data.shards",
            )
        return
    known = read_json(path, "plan file")
    changes = _changes(known if isinstance(known, dict) else {}, plan.facts)
    if changes:
        raise Mismatch(
            f"{folder} holds shards that were prepared differently: {listed(changes)}",
            "the shards of one folder share their settings and recordings",
            f"choose another data.shards, or delete {folder} to prepare it again",
        )


def _changes(known: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    changes = [
        f"{name} was {known.get(name)!r}, is {facts[name]!r}"
        for name in ("format", "codec")
        if known.get(name) != facts[name]
    ]
    before, after = known.get("settings", {}), facts["settings"]
    for key in dict.fromkeys([*after, *before]):
        usual = getattr(_USUAL, key) if key in _YOUNGER else None
        was, now = before.get(key, usual), after.get(key, usual)
        if was != now:
            changes.append(f"data.{key} was {was!r}, is {now!r}")
    if not changes and known.get("songs") != facts.get("songs"):
        changes.append("the version of birdsd found other songs with this data.max_clips_per_recording")
    for kind in ("recordings", "environment"):
        old, new = known.get(kind, {}), facts.get(kind, {})
        names = Counter({"removed": len(old.keys() - new.keys()), "added": len(new.keys() - old.keys())})
        names["changed"] = sum(list(old[k]) != list(new[k]) for k in old.keys() & new.keys())
        changes += [
            f"{count} file{'s' * (count > 1)} of data.{kind} {verb}" for verb, count in names.items() if count
        ]
    return changes
