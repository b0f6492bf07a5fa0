"""How loud a sound is where it counts, and making it fit.

A recorder adds what nobody hears and no picture shows: a constant offset, its drift, hum below the lowest
band. Levels here see a band of frequencies alone. What goes into a file of 16 bits is turned down as a whole
where it would not fit, and never cut off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import NamedTuple

import numpy as np

from birdsd.errors import BadValue

SILENCE_DBFS = -90.0  # below it nothing is there but the last bits of a converter
LOWEST_HZ = 20.0  # what is below is no sound, also where a codec begins at 0 Hz
FRAME_SAMPLES = 2048
_ACTIVE_RANGE_DB = 15.0  # frames this far below the loud ones belong to the pauses
# A share of a sound's power that changes its level by less than 0.1 dB.
_NEGLIGIBLE = 0.02
_OFFSET_DBFS = -75.0  # of what lies below LOWEST_HZ: less of it leaves no mark in a picture
_OFFSET_SHARE = 0.01  # of the power: less of an offset is below what is beside it
_STEADY = 0.2  # change from one 80th of a second to the next, in power: up to some 5 Hz
_KEPT_SAMPLES = 1 << 19
_EDGE_S = 0.25  # a waveform is continued by this much at both ends while it is filtered
# Full scales that programs write as float without scaling: 16, 24 and 32 bits.
_INTEGER_SCALES = (2.0**15, 2.0**23, 2.0**31)
_OVER = 1.5  # times full scale that resampling makes of a loud recording
_SURELY_SCALED = 2048.0  # no float recording has such a peak; one of 16 bits has it at -24 dB


def level_db(waveform: np.ndarray) -> float:
    """RMS over all samples and frequencies in dBFS (full-scale square wave: 0); -inf for silence."""
    mean_square = float(np.mean(np.square(waveform, dtype=np.float64))) if waveform.size else 0.0
    return 10.0 * math.log10(mean_square) if mean_square > 0 else -math.inf


def band_level_db(waveform: np.ndarray, rate_hz: int, low_hz: float, high_hz: float) -> float:
    """`level_db` of what lies between `low_hz` and `high_hz`.

    waveform: [channels, samples] (or [samples]). An offset, its drift and hum below the band do not count,
    however loud they are. Where little lies outside of the band, it is `level_db` itself.
    """
    return level_db(in_band(waveform, rate_hz, low_hz, high_hz))


def active_level_db(waveform: np.ndarray) -> float:
    """RMS in dBFS over the frames in which something sounds, so that pauses between songs do not count.

    After ITU-T P.56's idea of an active level: frames no more than 15 dB below the 95th percentile.
    """
    waveform = np.atleast_2d(waveform)
    power = _frame_power(waveform)
    if len(power) < 2:
        return level_db(waveform)
    return active_power_db(power)


def active_power_db(power: np.ndarray) -> float:
    """`active_level_db` of a sound whose frames of `FRAME_SAMPLES` samples have these mean powers."""
    if not len(power):
        return -math.inf
    active = power >= _percentile(power, 0.95) * 10.0 ** (-_ACTIVE_RANGE_DB / 10.0)
    mean = float(power[active].mean())
    return 10.0 * math.log10(mean) if mean > 0 else -math.inf


def _percentile(values: np.ndarray, share: float) -> float:
    """`np.percentile(values, 100 * share)` of few values, in a tenth of its time."""
    place = share * (len(values) - 1)
    below = int(place)
    above = min(below + 1, len(values) - 1)
    low, high = (float(one) for one in np.partition(values, (below, above))[[below, above]])
    return low + (high - low) * (place - below)


def sounding_level_db(waveform: np.ndarray) -> float:
    """RMS in dBFS without the stretches of silence: those do not make what sounds between them softer."""
    waveform = np.atleast_2d(waveform)
    heard = sounding(waveform)
    if heard.all() or not heard.any():
        return level_db(waveform)
    return 10.0 * math.log10(float(_frame_power(waveform)[heard].mean()))


def sounding(waveform: np.ndarray, floor_db: float = SILENCE_DBFS) -> np.ndarray:
    """bool [samples // 2048, at least 1]: which frames of a waveform [channels, samples] exceed the floor."""
    power = _frame_power(np.atleast_2d(waveform))
    if not len(power):
        power = np.array([np.square(waveform, dtype=np.float64).mean() if waveform.size else 0.0])
    return np.asarray(power > 10.0 ** (floor_db / 10.0))


def _frame_power(waveform: np.ndarray) -> np.ndarray:
    count = waveform.shape[1] // FRAME_SAMPLES
    frames = waveform[:, : count * FRAME_SAMPLES].reshape(len(waveform), count, FRAME_SAMPLES)
    power: np.ndarray = np.square(frames).mean(axis=(0, 2))
    return power


def in_band(waveform: np.ndarray, rate_hz: int, low_hz: float, high_hz: float) -> np.ndarray:
    """What lies between `low_hz` and `high_hz`, float32, in the shape of `waveform`.

    waveform: [channels, samples] (or [samples]). It comes back as it is where less than 2% of its power lies
    outside. The phase stays. Both edges are outside of the band: a sixth of `low_hz` wide below, and a
    fiftieth of `high_hz` above.
    """
    sound = np.asarray(waveform, np.float32)
    two = np.atleast_2d(sound)
    low_hz = max(low_hz, LOWEST_HZ)
    power = float(np.mean(np.square(two, dtype=np.float64))) if two.size else 0.0
    low = two.shape[1] > 1 and _share_below(two, power, rate_hz, low_hz) > _NEGLIGIBLE
    high = high_hz < 0.475 * rate_hz and _share_above(two, power, rate_hz, high_hz) > _NEGLIGIBLE
    if not low and not high:
        return sound
    return _filtered(two, rate_hz, low_hz if low else 0.0, high_hz if high else math.inf).reshape(sound.shape)


def without_offset(waveform: np.ndarray, rate_hz: int, low_hz: float = LOWEST_HZ) -> np.ndarray:
    """The waveform [channels, samples] without a recorder's constant offset and its drift.

    The same array where there is none worth speaking of. `low_hz`: what is below is no sound (at most 20 Hz).
    """
    two = np.atleast_2d(waveform)
    means = _means(two, max(1, round(rate_hz / (4 * LOWEST_HZ))))
    power = float(np.square(means).mean()) if means.size else 0.0
    if power <= 10.0 ** (_OFFSET_DBFS / 10.0):
        return waveform
    if power < _OFFSET_SHARE * float(np.square(two).mean()):
        return waveform
    if means.shape[1] > 1 and float(np.square(np.diff(means)).mean()) > _STEADY * power:
        return waveform  # wind, or the lowest part of a noise
    return _filtered(two, rate_hz, min(LOWEST_HZ, low_hz or LOWEST_HZ), math.inf).reshape(waveform.shape)


def _means(sound: np.ndarray, step: int) -> np.ndarray:
    """float64 [channels, n]: means over `step` samples each; a rest is left out."""
    step = min(step, sound.shape[1]) or 1
    count = sound.shape[1] // step
    # A product with ones: `mean` in float64 would convert every sample first.
    ones = np.ones(step, sound.dtype)
    means: np.ndarray = sound[:, : count * step].reshape(len(sound), count, step) @ ones
    return means.astype(np.float64) / step


def _share_below(sound: np.ndarray, power: float, rate_hz: int, low_hz: float) -> float:
    """No less than the share of the sound's mean power that lies below `low_hz`."""
    means = _means(sound, max(1, round(rate_hz / (4 * low_hz))))
    # A mean over a quarter of the period keeps 0.9 of the amplitude.
    return float(np.square(means).mean()) / 0.81 / power if power > 0 else 0.0


def _share_above(sound: np.ndarray, power: float, rate_hz: int, high_hz: float) -> float:
    """No less than the share of the sound's mean power that lies above `high_hz`."""
    steps = float(np.mean(np.square(np.diff(sound, axis=1), dtype=np.float64))) if sound.shape[1] > 1 else 0.0
    return steps / (4 * math.sin(math.pi * high_hz / rate_hz) ** 2) / power if power > 0 else 0.0


def _filtered(sound: np.ndarray, rate_hz: int, low_hz: float, high_hz: float) -> np.ndarray:
    """[channels, samples] between two frequencies (0 and inf: no edge there)."""
    import scipy.fft  # late: pages need `fit` alone

    edge = min(round(_EDGE_S * rate_hz), sound.shape[1] - 1)
    out = np.empty_like(sound, dtype=np.float32)
    rise = _fade(edge)
    for channel, samples in enumerate(sound):
        exact = samples.astype(np.float64)
        middle = float(exact.mean())  # a constant needs no filter
        exact -= middle if low_hz > 0 else 0.0
        if low_hz > LOWEST_HZ:
            exact = _without_hum(exact, rate_hz, low_hz)
        # Continued by its own reflection through where it begins and ends, and faded out: no step, no bend.
        end = edge + len(exact)
        size = scipy.fft.next_fast_len(end + edge, real=True)
        longer = np.zeros(size)
        longer[edge:end] = exact
        longer[:edge] = (2 * _begins_at(exact, rate_hz) - exact[edge:0:-1]) * rise
        longer[end : end + edge] = (2 * _begins_at(exact[::-1], rate_hz) - exact[-2 : -edge - 2 : -1]) * rise[
            ::-1
        ]
        spectrum = scipy.fft.rfft(longer)
        if low_hz > 0:
            spectrum *= _rise(size, rate_hz, low_hz * 5 / 6, low_hz)
        if high_hz < math.inf:
            spectrum *= 1 - _rise(size, rate_hz, high_hz, high_hz * 1.02)
        out[channel] = scipy.fft.irfft(spectrum, size)[edge:end]
    return out


def _begins_at(samples: np.ndarray, rate_hz: int) -> float:
    """The value that the slow part of a waveform begins with: along the line of its first 50 ms."""
    if len(samples) < 2:
        return float(samples[0])
    length = max(1, min(len(samples) // 2, round(0.025 * rate_hz)))
    first, second = samples[:length].mean(), samples[length : 2 * length].mean()
    return float(1.5 * first - 0.5 * second)


def _without_hum(samples: np.ndarray, rate_hz: int, low_hz: float) -> np.ndarray:
    """Float64 [samples] without steady tones below `low_hz`, which would ring at both ends of a filter."""
    import scipy.fft

    size = len(samples)
    if size < 0.2 * rate_hz:
        return samples
    window = _hann(size)
    time = np.arange(size) / size - 0.5
    for _ in range(3):
        count = int(low_hz * size / rate_hz) + 4
        step = max(1, int(rate_hz / (8 * low_hz)))
        spectrum = np.abs(scipy.fft.rfft(_means((samples * window)[None], step)[0]))[:count]
        peak = int(np.argmax(spectrum))
        near = slice(max(0, peak - 3), peak + 4)
        steady = float(np.square(spectrum[near]).sum()) > 0.5 * float(np.square(spectrum).sum())
        if not steady or not 5 < peak < count - 4:
            break
        left, middle, right = np.log(spectrum[peak - 1 : peak + 2] + 1e-30)
        place = peak + 0.5 * (left - right) / (left - 2 * middle + right)
        at = 2 * np.pi * place * time * size / (size // step * step)
        tone = np.stack([np.cos(at), np.sin(at)])
        tone = np.concatenate([tone, tone * time])  # a little off the frequency, or of changing strength
        weights = np.linalg.lstsq(tone @ tone.T, tone @ samples, rcond=None)[0]
        samples = samples - weights @ tone
    return samples


def _kept(make: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Keeps what `make(size, ...)` gave last, which takes as long as the filter itself: all clips are of one
    length. Not what is longer than they are, for the memory. Nobody may write into it."""

    @lru_cache(maxsize=4)
    def kept(size: int, *more: float) -> np.ndarray:
        made = make(size, *more)
        made.flags.writeable = False
        return made

    @wraps(make)
    def found(size: int, *more: float) -> np.ndarray:
        return kept(size, *more) if size <= _KEPT_SAMPLES else make(size, *more)

    return found


@_kept
def _hann(size: int) -> np.ndarray:
    window: np.ndarray = np.hanning(size)
    return window


@_kept
def _fade(size: int) -> np.ndarray:
    """From 0 to 1, smoothly, in `size` samples."""
    rising: np.ndarray = np.sin(0.5 * np.pi * (np.arange(size) + 0.5) / max(1, size)) ** 2
    return rising


@_kept
def _rise(size: int, rate_hz: int, low_hz: float, high_hz: float) -> np.ndarray:
    """From 0 at `low_hz` to 1 at `high_hz`, smoothly, at the frequencies of a transform of `size`."""
    hz = np.fft.rfftfreq(size, 1 / rate_hz)
    at = np.clip((hz - low_hz) / (high_hz - low_hz), 0, 1)
    smooth: np.ndarray = np.sin(0.5 * np.pi * at) ** 2
    return smooth


class Fitted(NamedTuple):
    """A waveform within full scale, and the gain in dB on all of it that made it so (0.0: none)."""

    waveform: np.ndarray
    gain_db: float


def fit(waveform: np.ndarray) -> Fitted:
    """Turn a waveform down as a whole, so that its loudest sample is at full scale; never up, never cut.

    The gain is a multiple of 0.0001 dB, so that what is written down of it is what was done.
    """
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak <= 1.0:
        return Fitted(waveform, 0.0)
    gain_db = -math.ceil(10000 * 20 * math.log10(peak * 32768 / 32767)) / 10000
    return Fitted((waveform * np.float32(10 ** (gain_db / 20))).astype(np.float32), gain_db)


def fitted_words(gain_db: float) -> str:
    """What to say of a gain beside a sound; '' for none."""
    return f"turned down by {max(0.1, -gain_db):.1f} dB, so that nothing is cut off" if gain_db else ""


def fitted_line(gains_db: Sequence[float]) -> str:
    """What to say of the gains of several sounds, in a line; '' where none was needed."""
    turned = [gain_db for gain_db in gains_db if gain_db]
    if not turned:
        return ""
    many = "1 clip was" if len(turned) == 1 else f"{len(turned)} clips were"
    most = max(0.1, -min(turned))
    return f"{many} louder than a file can hold and turned down as a whole, by up to {most:.1f} dB (gain_db)"


def float_scale(peak: float, integers: bool) -> tuple[float, str]:
    """The factor for a file of float samples with this peak, and what to note; `UserError` for a riddle.

    Full scale of a float file is 1.0; a little more is usual, and kept. Programs that forget to divide write
    the numbers of 16, 24 or 32 bits. `integers`: all samples seen are whole numbers.
    """
    if not math.isfinite(peak) or peak <= 1:
        return 1.0, ""
    over_db = 20 * math.log10(peak)
    if peak >= _SURELY_SCALED or (integers and peak >= 2):
        for full in _INTEGER_SCALES:
            if peak <= _OVER * full:
                bits = round(math.log2(full)) + 1
                note = (
                    f"its float samples are numbers of {bits} bits (up to {peak:.0f}): divided by {full:.0f}"
                )
                return 1 / full, note
    if peak > 16:
        raise BadValue(
            f"its float samples reach {peak:.4g}, {over_db:.0f} dB above full scale",
            "full scale of float samples is 1.0, and no scale of 16, 24 or 32 bits fits",
            "divide them by what the recorder's or the program's full scale is",
        )
    if peak > 4:
        return (
            1.0,
            f"its samples reach {over_db:.0f} dB above full scale ({peak:.3g}): it is shown as loud as that",
        )
    return 1.0, ""
