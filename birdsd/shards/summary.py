"""Counts over samples: per shard while it is written, and added up over a set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NO_BIRD = "(no bird)"
UNKNOWN = "(not stated)"
_EXAMPLES = 4  # rows per species that a shard's summary names, for the contact sheet


class Summary:
    """What is in one shard. The size depends on its recordings and species, not on its samples."""

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
        held = self.recordings.setdefault(str(metadata.get("recording_id") or ""), [])
        held.extend(name for name in names if name not in held)
        self.licences[str(metadata.get("licence") or UNKNOWN)] += 1
        if metadata.get("environment"):
            self.environments[str(metadata["environment"])] += 1
        for name in names:
            rows = self.examples.setdefault(name, [])
            if len(rows) < _EXAMPLES:
                rows.append(row)

    def add_problem(self, path: Path, reason: str) -> None:
        """A recording that could not be used (or not to its end)."""
        self.problems.append({"path": str(path), "reason": reason})

    def add_skipped(self, path: Path, reason: str) -> None:
        """A clip that was left out on purpose."""
        self.skipped.append({"path": str(path), "reason": reason})

    def to_json(self) -> dict[str, Any]:
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
    synthetic = 0
    for split, held in summaries:
        samples[split] += held["samples"]
        seconds[split] += held["samples"] * held["clip_s"]
        synthetic += held["synthetic"]
        licences.update(held["licences"])
        environments.update(held["environments"])
        for name, count in held["clips"].items():
            clips.setdefault(name, Counter())[split] += count
        for recording, names in held["recordings"].items():
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
                split: {"samples": count, "recordings": len(recordings[name][split])}
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
    }
