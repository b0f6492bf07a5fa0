"""A scene as a picture: its spectrogram, the boxes that came out drawn on it, and who sings beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.fft
import soundfile

from birdsd.scenes.compose.record import CameOut, Composed

HEIGHT, WIDEST, PER_SECOND = 256, 3000, 60
_WINDOW_S = 0.016
_RANGE_DB = 70.0
_FRAMES = 512  # at a time
_MARGIN, _AXIS = 46, 18
# Okabe and Ito's colours: told apart by everyone.
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2")


def levels_of(sound: Path, columns: int) -> tuple[np.ndarray, float]:
    """dB float32 [HEIGHT, columns] of a sound file, row 0 the highest frequency, and half its rate in Hz;
    read in blocks, each column the loudest of its frames."""
    with soundfile.SoundFile(sound) as file:
        rate_hz, total = file.samplerate, file.frames
        window = 2 * round(_WINDOW_S * rate_hz / 2)
        taper = np.hanning(window).astype(np.float32)
        hop = max(1, min(window // 2, total // columns))
        power = np.full((columns, window // 2 + 1), 1e-12, np.float32)
        tail = np.zeros(window // 2, np.float32)
        first = 0
        while True:
            block = file.read(hop * _FRAMES, dtype="float32", always_2d=True)[:, 0]
            if not len(block):
                break
            joined = np.concatenate([tail, block])
            if len(joined) < window:
                joined = np.pad(joined, (0, window - len(joined)))
            frames = np.lib.stride_tricks.sliding_window_view(joined, window)[::hop]
            spectrum = np.square(np.abs(scipy.fft.rfft(frames * taper, axis=1)))
            place = (first - len(tail) + window // 2 + hop * np.arange(len(frames))) * columns // total
            place = np.clip(place, 0, columns - 1)
            starts = np.flatnonzero(np.diff(place, prepend=-1))  # frames of one column lie side by side
            loudest = np.maximum.reduceat(spectrum, starts, axis=0)
            power[place[starts]] = np.maximum(power[place[starts]], loudest)
            first += len(block)
            tail = joined[len(joined) - window // 2 :]
    rows = np.linspace(0, power.shape[1], HEIGHT + 1).astype(int)
    bands = np.maximum.reduceat(power, np.minimum(rows[:-1], power.shape[1] - 1), axis=1)
    return 10 * np.log10(bands.T[::-1]), rate_hz / 2


def draw_scene(done: Composed, sound: Path, path: Path) -> None:
    """Write the picture as PNG."""
    from PIL import Image, ImageDraw

    columns = int(np.clip(done.duration_s * PER_SECOND, 200, WIDEST))
    levels, nyquist = levels_of(sound, columns)
    top = float(np.percentile(levels, 99.9))
    grey = (255 - 255 * np.clip((levels - (top - _RANGE_DB)) / _RANGE_DB, 0, 1)).astype(np.uint8)
    picture = Image.new("RGB", (columns + _MARGIN, HEIGHT + 2 * _AXIS), "white")
    picture.paste(Image.fromarray(grey), (_MARGIN, _AXIS))
    draw = ImageDraw.Draw(picture)
    _axes(draw, columns, done.duration_s, nyquist)
    species = list(dict.fromkeys(one.species for one in done.came_out))
    ends: dict[int, float] = {}
    for one in done.came_out:
        colour = _COLOURS[species.index(one.species) % len(_COLOURS)]
        box = _box(one, columns, done.duration_s, nyquist)
        draw.rectangle(box, outline=colour, width=2)
        text = one.species if one.verified and one.mix_heard is not False else f"{one.species} ?"
        at = (box[0], max(_AXIS, box[1] - 12))
        if ends.get(at[1], -1.0) < at[0]:  # no name over another
            end = at[0] + draw.textlength(text)
            # On a plate of the box's colour, or no colour would stand out from grey noise.
            draw.rectangle((at[0], at[1], end + 3, at[1] + 11), fill=colour)
            draw.text((at[0] + 2, at[1]), text, fill="black")
            ends[at[1]] = end + 3
    picture.save(path, format="PNG", compress_level=1)  # a spectrogram hardly shrinks, however long it takes


def _box(one: CameOut, columns: int, duration_s: float, nyquist: float) -> tuple[int, int, int, int]:
    x = [_MARGIN + round(time * columns / duration_s) for time in (one.onset_s, one.offset_s)]
    y = [_AXIS + round((1 - hz / nyquist) * HEIGHT) for hz in (one.high_hz, one.low_hz)]
    return x[0], y[0], max(x[1], x[0] + 2), max(y[1], y[0] + 2)


def _axes(draw: object, columns: int, duration_s: float, nyquist: float) -> None:
    from PIL import ImageDraw

    assert isinstance(draw, ImageDraw.ImageDraw)
    step_hz = 2000 if nyquist <= 16000 else 4000
    for hz in range(0, int(nyquist) + 1, step_hz):
        y = _AXIS + round((1 - hz / nyquist) * HEIGHT)
        draw.line([(_MARGIN - 4, y), (_MARGIN, y)], fill="black")
        draw.text((4, y - 6), f"{hz // 1000} kHz", fill="black")
    step_s = _step(duration_s, columns)
    for number in range(int(duration_s / step_s) + 1):
        x = _MARGIN + round(number * step_s * columns / duration_s)
        draw.line([(x, _AXIS + HEIGHT), (x, _AXIS + HEIGHT + 4)], fill="black")
        draw.text((x + 2, _AXIS + HEIGHT + 3), _clock(number * step_s), fill="black")


def _step(duration_s: float, columns: int) -> float:
    fits: Sequence[float] = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
    return next((step for step in fits if step * columns / duration_s >= 48), fits[-1])


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"
