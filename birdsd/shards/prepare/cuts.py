"""Where a recording is cut into clips, and which of its labels each clip shows.

Songs without boxes are found, boxes are cut out around what sounds in them, and long recordings are cut into
windows. A limit on the clips of a recording never crowds a species out: each keeps one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from birdsd.schema import DataConfig
from birdsd.sound.labels.annotation import Label, Recording, shown_labels
from birdsd.sound.song_finder import Segment, find_songs, windows

USUAL_LIMIT = DataConfig(name="").max_clips_per_recording
_DRAWN_BY_HAND = 1.5  # a box is listened to this factor beyond its lowest and highest frequency
_FAINTEST_OF_A_BOX = 0.2  # clips of a long box stand out at least so much, against the best of them
Band = tuple[float | None, float | None]
# What sounds in the stretch [start_s, end_s) of a channel and a band: at most so many segments.
Listener = Callable[[float, float, int, int | None, Band], list[Segment]]


@dataclass(frozen=True)
class Cuts:
    """The clips of a recording in order of time; labels that only clips beyond the limit would show.

    `followers`: boxes that got no clip of their own, each as the clip that shows it. They are songs too.
    """

    segments: list[Segment]
    beyond_limit: frozenset[int] = frozenset()
    followers: tuple[Segment, ...] = ()


def cut(recording: Recording, clip_s: float, data: DataConfig, listen: Listener) -> Cuts:
    """Where to cut a recording into clips of `clip_s` seconds, as `data` asks."""
    limit = data.max_clips_per_recording
    if data.segmentation == "whole":
        return Cuts([Segment(0.0, clip_s, 0.0)])
    if data.segmentation == "windows":
        return keep_species(
            list(windows(recording.duration_s, clip_s, data.overlap)),
            recording,
            limit,
            data.min_label_overlap_s,
        )
    if recording.weak:
        most = most_songs(recording, clip_s, limit)
        return Cuts(listen(0.0, recording.duration_s, most, None, (None, None)))
    if not recording.labels:
        return Cuts(spread_over(recording.silences, clip_s, limit))
    found = around_labels(recording, clip_s, data.min_label_overlap_s, listen)
    cuts = keep_species(found, recording, limit, data.min_label_overlap_s)
    if data.cuts_per_song == 1:
        return cuts
    return replace(cuts, followers=tuple(followers(recording, cuts.segments, clip_s, limit)))


def most_songs(recording: Recording, clip_s: float, limit: int) -> int:
    """How many songs are looked for in a recording that no box describes.

    As many as there are clips in it, one beside the other; a limit above the usual one asks for more, and
    then for as many as share half of their length.
    """
    room = max(1, math.ceil(recording.duration_s / clip_s))
    if limit > USUAL_LIMIT:
        room = max(room, 1 + int(2 * (recording.duration_s - clip_s) / clip_s + 1e-9))
    return min(limit, room) if limit else room


def followers(recording: Recording, segments: Sequence[Segment], clip_s: float, limit: int) -> list[Segment]:
    """Boxes that lie wholly in the clip of another one: for each the first such clip, as its own.

    With the clips they are no more songs than `limit` (0: all).
    """
    own = {segment.label for segment in segments}
    found = []
    for label in recording.labels:
        if label in own or label.start_s is None or label.end_s is None:
            continue
        for segment in segments:
            beside = segment.channel is not None and label.channel not in (None, segment.channel)
            if not beside and segment.start_s <= label.start_s and label.end_s <= segment.start_s + clip_s:
                found.append(replace(segment, label=label))
                break
    return [found[i] for i in spread(len(found), max(0, limit - len(segments)) if limit else len(found))]


def around_labels(
    recording: Recording, clip_s: float, min_overlap_s: float, listen: Listener
) -> list[Segment]:
    """Clips centred on boxes, from left to right; a box that a clip before shows already gets none.

    A box longer than a clip is no point: what sounds inside it, and in its band, is cut out.
    """
    latest = max(0.0, recording.duration_s - clip_s)
    chosen: list[Segment] = []
    last_s: dict[int | None, float] = {}  # where the last clip of each channel starts
    for label in sorted(recording.labels, key=lambda x: x.start_s or 0.0):
        if label.start_s is None or label.end_s is None:
            continue
        start, end = label.start_s, label.end_s
        channel = label.channel if recording.channels > 1 else None
        if end - start > clip_s:
            most = math.ceil((end - start) / clip_s)
            inside = listen(start, end, most, channel, (label.low_hz, label.high_hz))
            # The pauses of a long box may hold a rustle that stands out from silence: not beside its songs.
            least = _FAINTEST_OF_A_BOX * max((segment.score for segment in inside), default=0.0)
            places = [
                (min(max(s.start_s, start), end - clip_s), s.peak_s) for s in inside if s.score >= least
            ]
        else:
            before = last_s.get(channel)
            if before is not None:
                shown = min(end, before + clip_s) - max(start, before)
                if shown >= min(min_overlap_s, end - start):
                    continue
            places = [((start + end - clip_s) / 2, None)]
        for place, peak_s in places:
            place = min(latest, max(0.0, place))
            chosen.append(Segment(place, clip_s, 0.0, channel, peak_s, label))
            last_s[channel] = place
    return sorted(dict.fromkeys(chosen), key=lambda segment: (segment.start_s, segment.channel or 0))


def spread_over(silences: Sequence[Label], clip_s: float, limit: int) -> list[Segment]:
    """Clips inside boxes that say "no bird here": what lies beside a shorter one, nobody knows."""
    found = []
    for label in silences:
        start, end = label.start_s or 0.0, label.end_s or 0.0
        room = end - start - clip_s
        if room >= -1e-9:
            places = np.linspace(0.0, max(0.0, room), 1 + int(room / clip_s + 1e-9))
            found += [Segment(start + float(place), clip_s, 0.0, label=label) for place in places]
    return [found[i] for i in spread(len(found), limit or len(found))]


def keep_species(segments: list[Segment], recording: Recording, limit: int, min_overlap_s: float) -> Cuts:
    """At most `limit` segments (0 = all), evenly over the recording, but one at least for each species."""
    if not limit or len(segments) <= limit:
        return Cuts(segments)
    chosen = set(spread(len(segments), limit))
    shown = [
        {
            index: label.label
            for index, label in shown_labels(recording, s.start_s, s.duration_s, min_overlap_s)
        }
        for s in segments
    ]
    holders: dict[str, list[int]] = {}
    for number, labels in enumerate(shown):
        for name in sorted(set(labels.values())):
            holders.setdefault(name, []).append(number)
    needed: set[int] = set()
    for _, numbers in sorted(holders.items(), key=lambda item: (len(item[1]), item[0])):
        if not needed.intersection(numbers):
            there = [number for number in numbers if number in chosen]
            needed.add(there[len(there) // 2] if there else numbers[len(numbers) // 2])
    spare = sorted(chosen - needed)
    kept = needed | {spare[i] for i in spread(len(spare), max(0, limit - len(needed)))}
    visible = {index for number in kept for index in shown[number]}
    beyond = {index for labels in shown for index in labels} - visible
    return Cuts([segments[number] for number in sorted(kept)], frozenset(beyond))


def spread(count: int, limit: int) -> list[int]:
    """At most `limit` of the numbers below `count`, evenly."""
    if count <= limit:
        return list(range(count))
    if limit <= 0:
        return []
    return [int(i) for i in np.linspace(0, count - 1, limit).round()]


def songs_in(
    sound: np.ndarray, start_s: float, rate_hz: int, clip_s: float, most: int, band: Band
) -> list[Segment]:
    """The best clips in a stretch of sound, float32 [channels, samples], that begins at `start_s`."""
    found = find_songs([(0.0, sound)], clip_s, most, rate_hz=rate_hz, band_hz=listened_to(band))
    return [
        replace(s, start_s=start_s + s.start_s, peak_s=None if s.peak_s is None else start_s + s.peak_s)
        for s in found
    ]


def listened_to(band: Band) -> Band:
    """The band in which the song of a box is looked for: it was drawn by hand."""
    low, high = band
    return None if low is None else low / _DRAWN_BY_HAND, None if high is None else high * _DRAWN_BY_HAND


def parts(segments: Sequence[Segment], clip_s: float, longest_s: float) -> Iterator[list[Segment]]:
    """Neighbours of one channel, to be read together: at most `longest_s`, or one clip if that is longer."""
    part: list[Segment] = []
    for segment in sorted(segments, key=lambda s: (s.channel or 0, s.start_s)):
        apart = part and (
            segment.channel != part[0].channel or segment.start_s + clip_s - part[0].start_s > longest_s
        )
        if apart:
            yield part
            part = []
        part.append(segment)
    if part:
        yield part


def without_invisible(
    labels: Sequence[Label], low_hz: float, high_hz: float
) -> tuple[list[Label], list[Label]]:
    """Labels that a picture of the band [low_hz, high_hz] can show, and those whose boxes lie outside of it.

    A box of which less than a tenth is inside is a picture of nothing too, unless it spans the whole band.
    """
    visible: list[Label] = []
    invisible: list[Label] = []
    for label in labels:
        low = label.low_hz or 0.0
        low, high = sorted((low, max(high_hz, low) if label.high_hz is None else label.high_hz))
        inside_hz = min(high, high_hz) - max(low, low_hz)
        if high > low:
            seen = inside_hz > 0.1 * (high - low) or inside_hz >= 0.9 * (high_hz - low_hz)
        else:
            seen = low_hz <= low <= high_hz
        (visible if seen else invisible).append(label)
    return visible, invisible
