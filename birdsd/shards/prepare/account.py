"""The account at the end of prepare: labels read = labels in clips + labels left out, by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from birdsd.schema import DataConfig
from birdsd.sound.labels.annotation import NOT_SHOWN, LabelledSet

NO_CLIP = "no clip came from it"


def accounted(
    found: LabelledSet, summaries: Iterable[Mapping[str, Any]], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What became of every label and file: `found` was planned, the shards' summaries say what was made.

    {"labels": {"read", "in_clips", "left_out": {reason: count}}, "files": {"found", "used", "left_out"},
    "samples", "most_clips_per_recording"}; of labels and files, the first is the sum of the others.
    """
    shown: dict[str, set[int]] = {}
    most_clips = most_songs = 0
    cuts: Counter[int] = Counter()
    hidden: dict[str, dict[str, str]] = {}
    for summary in summaries:
        most_clips = max(most_clips, int(summary.get("most_clips", 0)))
        most_songs = max(most_songs, int(summary.get("most_songs", 0)))
        cuts.update({int(count): songs for count, songs in summary.get("cuts_of_songs", {}).items()})
        for path, rows in summary.get("shown", {}).items():
            shown.setdefault(path, set()).update(rows)
        for path, reasons in summary.get("hidden", {}).items():
            codes = hidden.setdefault(path, {})
            for row, code in reasons.items():
                codes.setdefault(row, code)
    left_out, files_left_out = Counter(found.account.left_out), Counter(found.files_left_out)
    in_clips = used = 0
    for recording in found.recordings:
        seen, reasons = shown.get(str(recording.path), set()), hidden.get(str(recording.path), {})
        general = reasons.get("-1", NOT_SHOWN) if not seen else NOT_SHOWN
        if recording.labels:
            rows = range(len(recording.labels))
            in_clips += sum(row in seen for row in rows)
            left_out.update(reasons.get(str(row), general) for row in rows if row not in seen)
        elif seen:
            in_clips += recording.no_bird_rows
        else:
            left_out[general] += recording.no_bird_rows
        used += bool(seen)
        if not seen:
            files_left_out[reasons.get("-1", NO_CLIP)] += 1
    return {
        "labels": {"read": found.account.read, "in_clips": in_clips, "left_out": _counts(left_out)},
        "files": {"found": found.files, "used": used, "left_out": _counts(files_left_out)},
        "samples": sum(counts["samples"] for counts in facts["splits"].values()),
        "most_clips_per_recording": most_clips,
        **({"most_songs_per_recording": most_songs, "cuts_of_songs": _by_count(cuts)} if cuts else {}),
    }


def _counts(counter: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in counter.most_common() if count}


def _by_count(cuts: Counter[int]) -> dict[str, int]:
    """{how many cuts: of how many songs}."""
    return {str(count): cuts[count] for count in sorted(cuts)}


def account_lines(account: Mapping[str, Any]) -> list[str]:
    """The account for people: two sums that hold.

    >>> account_lines({"labels": {"read": 3, "in_clips": 2, "left_out": {"silent": 1}}, "samples": 4,
    ...                "files": {"found": 1, "used": 1, "left_out": {}}})
    ['labels      3 read = 2 in 4 samples + 1 left out: 1 silent', 'recordings  1 found = 1 used']
    """
    labels, files = account["labels"], account["files"]
    return [
        f"labels      {labels['read']} read = {labels['in_clips']} in {account['samples']} samples"
        + _rest(labels["left_out"]),
        f"recordings  {files['found']} found = {files['used']} used" + _rest(files["left_out"]),
    ]


def limit_lines(account: Mapping[str, Any], data: DataConfig) -> list[str]:
    """Settings that had no effect, and songs without room for as many cuts as were requested."""
    lines = []
    usual, limit = DataConfig(name=""), data.max_clips_per_recording
    most = account.get("most_songs_per_recording", account["most_clips_per_recording"])
    unchanged = f"data.max_clips_per_recording={limit} had no effect"
    if data.segmentation == "whole" and limit != usual.max_clips_per_recording:
        lines.append(f"{unchanged}: with segmentation 'whole' a recording is one clip")
    elif data.segmentation == "song" and limit > usual.max_clips_per_recording >= most:
        lines.append(
            f"{unchanged}: no recording holds more than {most} songs "
            "(data.cuts_per_song takes more cuts of each)"
        )
    if not (data.mixtures_per_clip or data.background_mixtures):
        for name in ("snr_db_low", "snr_db_high"):
            if (value := getattr(data, name)) != getattr(usual, name):
                lines.append(f"data.{name}={value:g} had no effect: no mixture was requested")
    return lines + _cut_lines(account.get("cuts_of_songs", {}), data.cuts_per_song)


def _cut_lines(cuts_of_songs: Mapping[str, int], wanted: int) -> list[str]:
    """How many cuts the songs gave, and how many of them had no room for as many as were asked for."""
    counts = {int(count): songs for count, songs in cuts_of_songs.items()}
    fewer = sum(songs for count, songs in counts.items() if count < wanted)
    if wanted == 1 or not counts:
        return []
    total = sum(count * songs for count, songs in counts.items())
    line = f"cuts        {total} of {sum(counts.values())} songs"
    if fewer:
        line += f"; {fewer} songs had no room for {wanted} that differ, and gave {min(counts)} at least"
    return [line]


def _rest(left_out: Mapping[str, int]) -> str:
    if not left_out:
        return ""
    reasons = ", ".join(f"{count} {name}" for name, count in left_out.items())
    return f" + {sum(left_out.values())} left out: {reasons}"
