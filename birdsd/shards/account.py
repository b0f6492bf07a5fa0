"""The account at the end of prepare: labels read = labels in clips + labels left out, by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from birdsd.schema import DataConfig
from birdsd.sound.annotation import NOT_SHOWN, LabelledSet

NO_CLIP = "no clip came from it"


def accounted(
    found: LabelledSet, summaries: Iterable[Mapping[str, Any]], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What became of every label and file: `found` was planned, the shards' summaries say what was made.

    {"labels": {"read", "in_clips", "left_out": {reason: count}}, "files": {"found", "used", "left_out"},
    "samples", "most_clips_per_recording"}; of labels and files, the first is the sum of the others.
    """
    shown: dict[str, set[int]] = {}
    most_clips = 0
    hidden: dict[str, dict[str, str]] = {}
    for summary in summaries:
        most_clips = max(most_clips, int(summary.get("most_clips", 0)))
        for path, rows in summary.get("shown", {}).items():
            shown.setdefault(path, set()).update(rows)
        for path, reasons in summary.get("hidden", {}).items():
            held = hidden.setdefault(path, {})
            for row, code in reasons.items():
                held.setdefault(row, code)
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
        "samples": sum(held["samples"] for held in facts["splits"].values()),
        "most_clips_per_recording": most_clips,
    }


def _counts(counter: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in counter.most_common() if count}


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
    """A line where a raised limit changed nothing, since no recording has so much to cut out."""
    most, usual = account["most_clips_per_recording"], DataConfig(name="").max_clips_per_recording
    if data.segmentation == "windows" or not usual < data.max_clips_per_recording or most > usual:
        return []
    changed = f"data.max_clips_per_recording={data.max_clips_per_recording} changed nothing"
    return [
        f"{changed}: no recording gives more than {most} clips (windows that overlap do: data=soundscape)"
    ]


def _rest(left_out: Mapping[str, int]) -> str:
    if not left_out:
        return ""
    reasons = ", ".join(f"{count} {name}" for name, count in left_out.items())
    return f" + {sum(left_out.values())} left out: {reasons}"
