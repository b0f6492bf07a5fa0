"""Counts over samples: per shard while it is written, and added up over a set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from birdsd.errors import UserError
from birdsd.remarks import coded
from birdsd.shards.reader import ShardReader, ShardSet

NO_BIRD = "(no bird)"
UNKNOWN = "(not stated)"
_EXAMPLES = 4  # rows per species that a shard's summary names, for the contact sheet


class Summary:
    """What is in one shard. The size depends on its recordings, songs and species, not on its samples."""

    def __init__(self, clip_s: float) -> None:
        self.clip_s = clip_s
        self.clips: Counter[str] = Counter()
        self.recordings: dict[str, list[str]] = {}
        self.licences: Counter[str] = Counter()
        self.environments: Counter[str] = Counter()
        self.examples: dict[str, list[int]] = {}
        self.problems: list[dict[str, str]] = []
        self.skipped: list[dict[str, str]] = []
        self.samples = 0
        self.synthetic = 0
        self.most_clips = 0  # of one recording
        self.over_background = 0  # mixtures with what lies between the songs of another recording
        self._cuts: dict[tuple[str, int], set[int]] = {}  # by recording and song: which cuts there are
        self._songs: dict[str, set[tuple[str, int]]] = {}  # whose first cut shows a species
        self.shown: dict[str, list[int]] = {}  # which labels of a recording are in clips
        self.hidden: dict[str, dict[str, str]] = {}  # and why others are in none

    def account(self, path: Path, rows: Iterable[int], code: str) -> None:
        """Labels of a recording (by their places) that a clip shows, or, with a `code`, that one does not.

        -1 stands for the recording as a whole, also where it has no label.
        """
        if code:
            reasons = self.hidden.setdefault(str(path), {})
            for row in (-1, *rows):
                reasons.setdefault(str(row), code)
        else:
            there = self.shown.setdefault(str(path), [])
            there += [row for row in (-1, *rows) if row not in there]

    def add_sample(self, row: int, metadata: dict[str, Any]) -> None:
        """Count a sample that stands at `row` of the shard."""
        # Shards of others may say nothing about species: that is not to say that there is no bird.
        names = list(metadata.get("species") or []) or [
            NO_BIRD if metadata.get("species_stated", True) else UNKNOWN
        ]
        self.samples += 1
        self.synthetic += bool(metadata.get("synthetic"))
        self.clips.update(names)
        species = self.recordings.setdefault(str(metadata.get("recording_id") or ""), [])
        species.extend(name for name in names if name not in species)
        self.licences[str(metadata.get("licence") or UNKNOWN)] += 1
        if metadata.get("environment"):
            self.environments[str(metadata["environment"])] += 1
        self.over_background += bool(metadata.get("background_id"))
        if metadata.get("song"):
            song = str(metadata.get("path") or ""), int(metadata["song"])
            cuts = self._cuts.setdefault(song, {1})
            cuts.add(int(metadata.get("cut", 1)))
            for name in names if metadata.get("cut", 1) == 1 else ():
                self._songs.setdefault(name, set()).add(song)
        for name in names:
            rows = self.examples.setdefault(name, [])
            if len(rows) < _EXAMPLES:
                rows.append(row)

    def add_problem(self, path: Path, reason: str) -> None:
        """A recording that could not be used (or not to its end)."""
        self.problems.append({"path": str(path), "reason": reason, **coded(reason)})

    def add_skipped(self, path: Path, reason: str) -> None:
        """A clip that was left out on purpose."""
        self.skipped.append({"path": str(path), "reason": reason, **coded(reason)})

    def to_json(self) -> dict[str, Any]:
        return {**self._plain(), **self._of_songs()}

    def _of_songs(self) -> dict[str, Any]:
        """Counts of songs, where samples say which song they are of: how many songs gave how many cuts."""
        if not self._cuts:
            return {}
        per_recording = Counter(path for path, _ in self._cuts)
        return {
            "songs": {name: len(songs) for name, songs in self._songs.items()},
            "cuts_of_songs": dict(Counter(str(len(cuts)) for cuts in self._cuts.values())),
            "most_songs": max(per_recording.values()),
            "over_background": self.over_background,
        }

    def _plain(self) -> dict[str, Any]:
        return {
            "samples": self.samples,
            "clip_s": self.clip_s,
            "synthetic": self.synthetic,
            "clips": dict(self.clips),
            "recordings": self.recordings,
            "licences": dict(self.licences),
            "environments": dict(self.environments),
            "examples": self.examples,
            "problems": self.problems,
            "skipped": self.skipped,
            "most_clips": self.most_clips,
            "shown": self.shown,
            "hidden": self.hidden,
        }


def add_up(summaries: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Facts of a set from (split, summary) pairs: counts per species and split, licences, environments."""
    clips: dict[str, Counter[str]] = {}
    seconds: Counter[str] = Counter()
    samples: Counter[str] = Counter()
    recordings: dict[str, dict[str, set[str]]] = {}
    licences: Counter[str] = Counter()
    environments: Counter[str] = Counter()
    songs: dict[str, Counter[str]] = {}
    synthetic = over_background = 0
    for split, summary in summaries:
        samples[split] += summary["samples"]
        seconds[split] += summary["samples"] * summary["clip_s"]
        synthetic += summary["synthetic"]
        licences.update(summary["licences"])
        environments.update(summary["environments"])
        over_background += summary.get("over_background", 0)
        for name, count in summary.get("songs", {}).items():
            songs.setdefault(name, Counter())[split] += count
        for name, count in summary["clips"].items():
            clips.setdefault(name, Counter())[split] += count
        for recording, names in summary["recordings"].items():
            for name in names:
                recordings.setdefault(name, {}).setdefault(split, set()).add(recording)
    everyone: dict[str, set[str]] = {}
    for by_split in recordings.values():
        for split, ids in by_split.items():
            everyone.setdefault(split, set()).update(ids)
    return {
        "splits": {
            split: {
                "samples": samples[split],
                "recordings": len(everyone.get(split, ())),
                "hours": round(seconds[split] / 3600, 4),
            }
            for split in samples
            if samples[split]
        },
        "species": {
            name: {
                split: {
                    "samples": count,
                    "recordings": len(recordings[name][split]),
                    **({"songs": songs[name][split]} if name in songs else {}),
                }
                for split, count in clips[name].items()
            }
            for name in sorted(clips)
            if name not in (NO_BIRD, UNKNOWN)
        },
        "no_bird": dict(clips.get(NO_BIRD, {})),
        "not_stated": dict(clips.get(UNKNOWN, {})),
        "licences": dict(licences.most_common()),
        "environments": dict(environments.most_common()),
        "synthetic": synthetic,
        **({"over_background": over_background} if over_background else {}),
    }


def count_samples(index: ShardSet) -> dict[str, Any]:
    """Counts for shards that others wrote: every sample's metadata is read once."""
    shapes: set[tuple[int, ...]] = set()
    wordless = 0

    def summaries() -> Iterator[tuple[str, dict[str, Any]]]:
        nonlocal wordless
        for split in index.splits:
            summary = Summary(0.0)
            seconds = 0.0
            reader = ShardReader(index, split, want=("metadata",))
            for number in range(len(reader)):
                metadata = reader.read(number).metadata
                duration = metadata.get("duration_s")
                seconds += duration if isinstance(duration, int | float) else 0.0
                summary.add_sample(number, metadata)
                wordless += not any(text.strip() for text in metadata["captions"])
            summary.clip_s = seconds / max(1, summary.samples)
            yield split, summary.to_json()
            try:
                shapes.add(ShardReader(index, split, want=("image",)).image_shape)
            except UserError:
                continue

    facts = add_up(summaries())
    return {**facts, "image_shape": list(min(shapes)) if shapes else None, "without_caption": wordless}
