"""One source at its place, as the receivers hear it: spreading, delay, air and reverberation in one FFT.

Delays are phases, exact to fractions of a sample. Amplitudes are absolute: a source 10 m away is as it was
recorded, beyond its directivity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft

from birdsd.errors import BadValue
from birdsd.sound.space.air import REFERENCE_M, Air
from birdsd.sound.space.layouts import NEAREST_M, Layout, Paths, Position

_BESIDE = 64  # samples: what a delay of a fraction of a sample rings
_STEP_S, _SHORTEST_S = 0.1, 0.01  # between a moving bird's places
_LATER_S = 15e-6  # from place to place at most, where that is possible: what differs more adds up to a comb
_AFTER_S = 0.005  # between the direct sound and the first reverberation
_KEPT = 2 / 3  # of the reverberation time: the rest lies 40 dB below


@dataclass(frozen=True)
class Reverberation:
    """Of a forest: the time in which it falls by 60 dB (0: none), and the level of the direct sound over all
    of it for a source 10 m away. What a forest scatters back does not depend on the distance, so that this
    ratio falls by 20 log10 of it."""

    time_s: float = 1.2
    direct_db: float = 20.0

    def __post_init__(self) -> None:
        for name, value, most in (("reverb_s", self.time_s, 10.0), ("direct_db", self.direct_db, 100.0)):
            least = 0.0 if name == "reverb_s" else -40.0
            if not math.isfinite(value) or not least <= value <= most:
                raise BadValue(
                    f"{name} is {value:g}", f"a number from {least:g} to {most:g} is expected",
                    f"set space.{name}",
                )  # fmt: skip


NO_REVERBERATION = Reverberation(0.0)


def render(
    sound: np.ndarray,
    rate_hz: int,
    places: tuple[Position, Position],
    layout: Layout,
    air: Air,
    reverberation: Reverberation = NO_REVERBERATION,
    draw: np.random.Generator | None = None,
    span: tuple[int, int] | None = None,
) -> np.ndarray:
    """float32 [n, layout.channels] of mono `sound` [m] that moves from one place to the other (the same: it
    rests) while the samples `span` sound.

    n is larger than m: the sound begins `lead(...)` samples later, and its reverberation lasts on. `draw`
    decides the reverberation.
    """
    if not np.isfinite(sound).all():
        raise BadValue("the sound to be placed has NaN or infinite samples")
    steps = _steps(len(sound), rate_hz, places, span, layout, air)
    paths = [layout.paths(place, air) for _, place in steps]
    before = lead(paths, rate_hz)
    behind = math.ceil(max(0.0, *(float(one.delays_s.max()) for one in paths)) * rate_hz) + _BESIDE
    echo = round(reverberation.time_s * _KEPT * rate_hz) if draw is not None else 0
    after = round(_AFTER_S * rate_hz) if echo else 0
    count = len(sound) + before + behind + after + echo
    size = scipy.fft.next_fast_len(count, real=True)
    source = scipy.fft.rfft(np.asarray(sound, np.float32), size)
    hz = scipy.fft.rfftfreq(size, 1 / rate_hz)
    spectra = np.zeros((layout.rendered, len(hz)), np.complex64)
    if len(steps) == 1:
        for channels, delay_s, distance_m in _alike(paths[0]):
            heard = source * _transfer(hz, delay_s + before / rate_hz, distance_m, air)
            spectra[channels] = heard * paths[0].gains[channels, None].astype(np.float32)
    if echo:
        assert draw is not None
        noise = _noise(echo, rate_hz, reverberation, layout, draw)
        at = (before + after) / rate_hz
        scattered = source * _transfer(hz, at, float(paths[0].distances_m.mean()), air, spread=False)
        spectra += scattered * scipy.fft.rfft(noise, size, axis=1)
    out = scipy.fft.irfft(spectra, size, axis=1)[:, :count].T
    if len(steps) > 1:
        out += _moving(sound, rate_hz, (steps, paths), before, count, layout, air)
    matrix = layout.matrix
    return np.ascontiguousarray(out if matrix is None else out @ matrix, np.float32)


def lead(paths: list[Paths], rate_hz: int) -> int:
    """Samples that a receiver nearer than the listening point hears before it, and a little more."""
    return math.ceil(max(0.0, *(-float(one.delays_s.min()) for one in paths)) * rate_hz) + _BESIDE


def _steps(
    samples: int,
    rate_hz: int,
    places: tuple[Position, Position],
    span: tuple[int, int] | None,
    layout: Layout,
    air: Air,
) -> list[tuple[int, Position]]:
    """(sample, place) at least every 100 ms of a bird that moves; of one that rests, the one place."""
    first, last = places
    if first == last:
        return [(0, first)]
    low, high = span or (0, samples)
    delays = [layout.paths(first.towards(last, share), air).delays_s for share in np.linspace(0, 1, 17)]
    turning = float(np.abs(np.diff(delays, axis=0)).sum(axis=0).max())
    seconds = (high - low) / rate_hz
    count = max(
        math.ceil(seconds / _STEP_S), min(math.ceil(turning / _LATER_S), math.ceil(seconds / _SHORTEST_S))
    )
    at = np.linspace(low, max(high, low + 1), max(2, count + 1))
    return [(round(float(x)), first.towards(last, n / (len(at) - 1))) for n, x in enumerate(at)]


def _alike(paths: Paths) -> list[tuple[np.ndarray, float, float]]:
    """(channels, delay, distance) of channels that differ in their gains alone."""
    keys = np.stack([paths.delays_s, paths.distances_m], axis=1)
    found, which = np.unique(keys, axis=0, return_inverse=True)
    which = which.reshape(-1)
    return [(np.flatnonzero(which == n), float(d), float(r)) for n, (d, r) in enumerate(found)]


def _transfer(hz: np.ndarray, delay_s: float, distance_m: float, air: Air, spread: bool = True) -> np.ndarray:
    """complex64 [bins]: what distance and delay do to a spectrum."""
    loud = REFERENCE_M / max(distance_m, NEAREST_M) if spread else 1.0
    amplitude = loud * air.gain(hz, distance_m) if distance_m > REFERENCE_M else np.full(len(hz), loud)
    return (amplitude * np.exp(-2j * np.pi * delay_s * hz)).astype(np.complex64)


def _noise(
    samples: int, rate_hz: int, of: Reverberation, layout: Layout, draw: np.random.Generator
) -> np.ndarray:
    """float32 [rendered, samples]: independent decaying noise, of the energy that the forest gives back."""
    decay = 10 ** (-3 * np.arange(samples, dtype=np.float32) / np.float32(of.time_s * rate_hz))
    noise = draw.standard_normal((layout.rendered, samples), dtype=np.float32) * decay
    noise /= np.sqrt(np.square(noise).sum(axis=1, keepdims=True))
    return noise * (10 ** (-of.direct_db / 20) * layout.diffuse[:, None]).astype(np.float32)


def _moving(
    sound: np.ndarray,
    rate_hz: int,
    track: tuple[list[tuple[int, Position]], list[Paths]],
    before: int,
    count: int,
    layout: Layout,
    air: Air,
) -> np.ndarray:
    """float32 [count, rendered]: places every 100 ms, cross-faded linearly between them."""
    steps, paths = track
    at = np.array([sample for sample, _ in steps], np.float64)
    place = np.arange(len(sound))
    if layout.one_point and len({one.distance_m for _, one in steps}) == 1:
        # Nothing but the gains changes, and a cross-fade between gains is their interpolation.
        size = scipy.fft.next_fast_len(count, real=True)
        hz = scipy.fft.rfftfreq(size, 1 / rate_hz)
        heard = scipy.fft.rfft(np.asarray(sound, np.float32), size)
        heard = heard * _transfer(hz, before / rate_hz, steps[0][1].distance_m, air)
        along = scipy.fft.irfft(heard, size)[:count]
        gains = [
            np.interp(np.arange(count) - before, at, [p.gains[c] for p in paths])
            for c in range(layout.rendered)
        ]
        return (np.stack(gains, axis=1) * along[:, None]).astype(np.float32)
    out = np.zeros((count, layout.rendered), np.float32)
    for number, one in enumerate(paths):
        # All before the first place is heard from there, and all behind the last one from there.
        low = 0 if number == 0 else int(at[number - 1])
        high = len(sound) if number == len(paths) - 1 else min(len(sound), int(at[number + 1]))
        if high <= low:
            continue
        share = np.interp(place[low:high], at, np.eye(1, len(paths), number)[0])
        part = (sound[low:high] * share).astype(np.float32)
        room = min(
            count - low, high - low + before + math.ceil(float(one.delays_s.max()) * rate_hz) + _BESIDE
        )
        size = scipy.fft.next_fast_len(max(room, high - low), real=True)
        hz, spectrum = scipy.fft.rfftfreq(size, 1 / rate_hz), scipy.fft.rfft(part, size)
        for channels, delay_s, distance_m in _alike(one):
            heard = spectrum * _transfer(hz, delay_s + before / rate_hz, distance_m, air)
            gains = one.gains[channels].astype(np.float32)
            out[low : low + room, channels] += scipy.fft.irfft(heard, size)[:room, None] * gains
    return out
