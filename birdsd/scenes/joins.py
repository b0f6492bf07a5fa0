"""Where backgrounds begin, end and fade into each other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from birdsd.errors import BadValue, clipped
from birdsd.randomness import generator
from birdsd.scenes.placed import PlacedBackground, PlacedEvent
from birdsd.scenes.scene import Background, Scene
from birdsd.sound.captions import captions


def place_backgrounds(
    scene: Scene, songs: Sequence[PlacedEvent], duration_s: float
) -> tuple[PlacedBackground, ...]:
    """Backgrounds in seconds, sorted by where they begin. Two that meet reach over the join by half of the
    shorter fade each; an end inside of the scene that meets nothing fades inside of its stretch."""
    edges = [_edges(one, songs, duration_s) for one in scene.backgrounds]
    placed = []
    for number, (one, (start, end)) in enumerate(zip(scene.backgrounds, edges, strict=True)):
        if end <= start + 1e-9:
            raise BadValue(
                f"the background {clipped(one.environment)} would run from {start:.1f} s to {end:.1f} s",
                "an end lies behind its beginning",
            )
        others = [
            (other, edge)
            for at, (other, edge) in enumerate(zip(scene.backgrounds, edges, strict=True))
            if at != number
        ]
        fade = min(one.fade_s, end - start)
        fade_in, begin = _faded(
            start, fade, [other.fade_s for other, edge in others if abs(edge[1] - start) < 1e-6], -1
        )
        fade_out, finish = _faded(
            end, fade, [other.fade_s for other, edge in others if abs(edge[0] - end) < 1e-6], 1
        )
        begin, finish = max(begin, 0.0), min(finish, duration_s)
        placed.append(
            PlacedBackground(
                one.environment, _prompt(one), one.level_db, begin, finish,
                0.0 if start <= 1e-9 else min(fade_in, (finish - begin) / 2),
                0.0 if end >= duration_s - 1e-9 else min(fade_out, (finish - begin) / 2),
                one.source, one.path, _seed(scene.seed, number),
            )
        )  # fmt: skip
    return tuple(sorted(placed, key=lambda one: (one.from_s, one.environment)))


@lru_cache(maxsize=256)  # a scene is solved at least twice
def _seed(seed: int, number: int) -> int:
    return int(generator(seed, "background", number).integers(2**31))


def _edges(one: Background, songs: Sequence[PlacedEvent], duration_s: float) -> tuple[float, float]:
    start = boundary(one.from_event, songs) if one.from_event else (one.from_s or 0.0)
    if one.to_event:
        end = boundary(one.to_event, songs, without=duration_s)
    else:
        end = duration_s if one.to_s is None else one.to_s
    return start, min(end, duration_s)


def boundary(event: str, songs: Sequence[PlacedEvent], without: float = 0.0) -> float:
    """The middle of the gap before an event, or its onset where something still sounds; 0 before the first.
    `without`: where the event has no song."""
    onsets = [song.onset_s for song in songs if song.event == event]
    if not onsets:
        return without
    onset = min(onsets)
    before = [song.end_s for song in songs if song.onset_s < onset and song.event != event]
    if not before:
        return 0.0
    return (max(before) + onset) / 2 if max(before) < onset else onset


def _faded(edge_s: float, fade_s: float, neighbours: Sequence[float], outwards: int) -> tuple[float, float]:
    """(length of the fade, where the stretch ends with it) in seconds."""
    if not neighbours:
        return fade_s, edge_s
    fade = min(fade_s, *neighbours)
    return fade, edge_s + outwards * fade / 2


def _prompt(one: Background) -> str:
    """What a model is asked for: the environment alone, in the words of its captions."""
    return "" if one.source != "generate" else captions([], environment=one.environment, count=1)[0]
