"""One channel of several: their mean, unless too much is lost in it.

The channels of an unbalanced or wrongly wired line are each other's opposite, and their mean is silence or
noise. A dead channel takes half of the living one away. Then the strongest channel is taken, and it is said.
Of first-order ambisonics the pressure W is taken: a mean over W and gradients listens into one corner.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from birdsd.sound.audio.source import RecordingError, Source, opened, spread

# The mean of equal channels that have nothing in common is 10 log10(channels) dB softer than each: that much
# is no loss, since what they have in common stays. A dead one of two makes 6 dB.
_MOST_LOSS_DB = 2.5
_NEAR_RATIO = 1.15  # a factor: so far from theirs the energies of ambisonics may be
_LEAST_GRADIENT = 1e-6  # of W's energy: what a gradient across the direction of sound still has of noise
_LISTENED_HZ = 8000.0  # differences of samples so far apart that this is where they are largest


@dataclass(frozen=True)
class ChannelChoice:
    """Which channel to take (from 1; None: the mean of all), and why, '' where nothing is to be said."""

    channel: int | None = None
    note: str = ""


MEAN = ChannelChoice()
_lock = Lock()
_chosen: dict[tuple[str, int, int], ChannelChoice] = {}


def choose_channels(path: Path) -> ChannelChoice:
    """How a file becomes mono. Decided once for the whole file, from places all over it; then remembered."""
    with opened(path) as source:
        return choice_of(source)


def choice_of(source: Source, whole: np.ndarray | None = None) -> ChannelChoice:
    """The same for an opened file; `whole`, float32 [frames, channels], where all of it is decoded anyway."""
    if source.channels == 1:
        return MEAN
    found = _chosen.get(source.key)
    if found is None:
        if whole is not None:
            found = _choose(source, lambda first, count: whole[first : first + count])
        else:  # opened once more: going to and fro may cost a decoder the last samples of the file
            with opened(source.path) as other:
                found = _choose(other, other.peek)
        with _lock:
            if len(_chosen) > 4096:
                _chosen.pop(next(iter(_chosen)))
            _chosen[source.key] = found
    return found


def mix_down(waveform: np.ndarray, rate_hz: int) -> np.ndarray:
    """A waveform [channels, samples] as one channel [samples], by the same rule."""
    if len(waveform) == 1:
        return waveform[0]
    choice = _decide(_gram(waveform.T, rate_hz))
    if choice.channel is not None:
        return waveform[choice.channel - 1]
    mean: np.ndarray = waveform.mean(axis=0, dtype=np.float32)
    return mean


def mixed(frames: np.ndarray, channels: int, choice: ChannelChoice, path: Path) -> np.ndarray:
    """Decoded frames [n, c] as asked for: [n] for one channel (also where all are alike), else [n, 2]."""
    present = frames.shape[1]
    if choice.channel is not None:
        return frames[:, choice.channel - 1]
    if present == 1:
        return frames[:, 0]
    if channels == 1:
        return frames.mean(axis=1, dtype=np.float32)
    if present > channels:
        raise RecordingError(
            f"{path} has {present} channels",
            f"{channels} are requested, but no rule says which of them to take",
            "use a codec with one channel (the mean of all), or split the file",
        )
    return frames


def asked_choice(source: Source, channel: int) -> ChannelChoice:
    """The channel that a label names, from 1; `RecordingError` where the file has no such one."""
    if not 1 <= channel <= source.channels:
        raise RecordingError(
            f"{source.path} has {source.channels} channel{'s' * (source.channels > 1)}",
            f"channel {channel} was requested; channels count from 1",
        )
    return ChannelChoice(channel)


def _choose(source: Source, get: Callable[[int, int], np.ndarray]) -> ChannelChoice:
    total = np.zeros((source.channels, source.channels))
    for first, count in spread(source.frames, source.rate_hz):
        total += _gram(get(first, count), source.rate_hz)
    return _decide(total)


def _gram(frames: np.ndarray, rate_hz: int) -> np.ndarray:
    """float64 [c, c]: the products of all pairs of channels of [n, c], without offset, drift and hum."""
    step = max(1, round(rate_hz / (2 * _LISTENED_HZ)))
    changes = frames[step:] - frames[:-step]
    gram: np.ndarray = (changes.T @ changes).astype(np.float64)
    return gram


def _is_ambisonics(power: np.ndarray) -> bool:
    """Whether the energies [c] of the channels are those of W and three gradients in SN3D, which together
    have as much as W, in a diffuse field and from any side."""
    if len(power) != 4 or not np.all(power[1:] > _LEAST_GRADIENT * power[0]):
        return False
    ratio = float(power[1:].sum() / power[0])
    return max(ratio, 1 / ratio) <= _NEAR_RATIO


def _decide(gram: np.ndarray) -> ChannelChoice:
    count = len(gram)
    power = np.diagonal(gram)
    strongest = int(np.argmax(power))
    if not power[strongest] > 0:
        return MEAN
    if _is_ambisonics(power):
        said = "as much energy as the other three together, as W has in first-order ambisonics (SN3D)"
        return ChannelChoice(1, f"channel 1 of 4 has {said}: channel 1 is taken")
    mean = max(float(gram.sum()) / count**2, 1e-12 * float(power[strongest]))
    loss_db = 10 * math.log10(float(power[strongest]) / mean)
    if loss_db <= 10 * math.log10(count) + _MOST_LOSS_DB:
        return MEAN
    cancels = mean < 0.5 * float(power.sum()) / count**2
    why = "they cancel each other out" if cancels else "the others are nearly silent"
    lost = f"{loss_db:.0f} dB softer than channel {strongest + 1}"
    return ChannelChoice(
        strongest + 1, f"the mean of its {count} channels is {lost} ({why}): channel {strongest + 1} is taken"
    )
