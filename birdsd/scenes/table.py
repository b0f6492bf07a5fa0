"""A scene as text for a terminal: what sounds when, over what, and what was decided for the user."""

from __future__ import annotations

from collections.abc import Sequence

from birdsd.format import printable
from birdsd.format import table as lines_of
from birdsd.scenes.placed import PlacedBackground, PlacedEvent, PlacedScene

_MOST_ROWS = 60


def clock(seconds: float) -> str:
    """0:07.5, 1:02:03.4; tenths, rounded."""
    tenths = round(seconds * 10)
    whole, tenth = divmod(tenths, 10)
    hours, rest = divmod(whole, 3600)
    minutes, second = divmod(rest, 60)
    return (f"{hours}:{minutes:02d}" if hours else f"{minutes}") + f":{second:02d}.{tenth}"


def table(scene: PlacedScene, most: int = _MOST_ROWS) -> str:
    """The events of a scene by onset, its backgrounds, and its notes; of more than `most` events the first.

    A duration that is not measured yet has a '~' before it.
    """
    rows: list[tuple[str, ...]] = [("onset", "end", "event", "species", "sound", "loudness", "direction")]
    rows += [_event(one) for one in scene.events[:most]]
    lines = [f"{clock(scene.duration_s)} at {scene.rate_hz} Hz, seed {scene.seed}"]
    lines += aligned(rows) if scene.events else ["no birds"]
    if len(scene.events) > most:
        lines.append(f"... and {len(scene.events) - most} more events")
    if scene.backgrounds:
        lines += [
            "",
            *aligned([("from", "to", "background", "level", "fades"), *map(_background, scene.backgrounds)]),
        ]
    lines += ["", *(f"- {printable(note)}" for note in scene.notes)] if scene.notes else []
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, the first of them the headings; all columns begin at the left."""
    return lines_of(rows, left=range(len(rows[0])))


def _event(one: PlacedEvent) -> tuple[str, ...]:
    loud = f"{one.snr_db:g} dB SNR" if one.snr_db is not None else f"{one.level_db:g} dBFS"
    return (
        clock(one.onset_s), ("" if one.measured else "~") + clock(one.end_s), one.key, printable(one.species),
        printable(one.sound_type), loud, direction(one),
    )  # fmt: skip


def direction(one: PlacedEvent) -> str:
    """'30 deg left, 20 m, 10 deg up', as far as it is known."""
    found = []
    if one.bearing_deg is not None:
        found.append(_bearing(one.bearing_deg))
        if one.bearing_end_deg is not None:
            found[-1] += f" to {_bearing(one.bearing_end_deg)}"
    if one.distance_m is not None:
        found.append(f"{one.distance_m:g} m")
    if one.elevation_deg:
        found.append(f"{abs(one.elevation_deg):g} deg {'up' if one.elevation_deg > 0 else 'down'}")
    return ", ".join(found)


def _bearing(degrees: float) -> str:
    if degrees in (0.0, 180.0, -180.0):
        return "behind" if degrees else "ahead"
    return f"{abs(degrees):g} deg {'left' if degrees > 0 else 'right'}"


def _background(one: PlacedBackground) -> tuple[str, ...]:
    fades = f"{one.fade_in_s:g} s in, {one.fade_out_s:g} s out" if one.fade_in_s or one.fade_out_s else ""
    name = printable(one.environment) + ("" if one.source == "generate" else f" ({one.source})")
    return clock(one.from_s), clock(one.to_s), name, f"{one.level_db:g} dBFS", fades
