"""Where a stem sounds, by its own energy: boxes in time and frequency for its label table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from birdsd.sound.labels.annotation import Label

_WINDOW_S, _HOP_S = 0.032, 0.016
_LOW_HZ = 150.0  # below lies what wind and handling make
_EDGES = (0.05, 0.95)  # of the energy of a frame, which lies between a box's frequencies
_OVER_FLOOR_DB, _BELOW_PEAK_DB = 10.0, 30.0
_LEAST_SHARE = 0.1  # of the recording's energy that is the stem's own
_STEADY_DB = 8.0  # from the quiet to the loud frames of what has no single events
_PAUSE_S, _SHORTEST_S = 0.2, 0.04
_SILENCE = 1e-12  # in power


@dataclass(frozen=True)
class StemEvent:
    """A box of a stem; `snr_db` is its energy over that of all other stems meanwhile."""

    start_s: float
    end_s: float
    low_hz: float
    high_hz: float
    snr_db: float

    def label(self, name: str) -> Label:
        """The box as a label."""
        return Label(name, self.start_s, self.end_s, self.low_hz, self.high_hz)


class EventMeter:
    """Listens to a stem and to the whole recording block by block; a few numbers a frame are kept."""

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self.window, self.hop = round(_WINDOW_S * rate_hz), round(_HOP_S * rate_hz)
        self._taper = np.hanning(self.window + 1)[: self.window].astype(np.float32)
        self._held = np.zeros((2, 0), np.float32)
        self._frames: list[np.ndarray] = []
        self.samples, self.energy = 0, 0.0

    def add(self, stem: np.ndarray, whole: np.ndarray) -> None:
        """A block of both, mono, float32 [n]."""
        self.samples += len(stem)
        self.energy += float(np.square(stem, dtype=np.float64).sum())
        held = np.concatenate([self._held, np.stack([stem, whole])], axis=1)
        count = max(0, (held.shape[1] - self.window) // self.hop + 1)
        if count:
            self._frames.append(self._measured(held[:, : (count - 1) * self.hop + self.window]))
        self._held = held[:, count * self.hop :]

    def _measured(self, sound: np.ndarray) -> np.ndarray:
        """Float32 [frames, 4]: power of the stem, of the rest, and the frequencies of the stem's edges."""
        from scipy.fft import rfft

        low = math.ceil(_LOW_HZ * self.window / self.rate_hz)
        both = np.stack([sound[0], sound[1] - sound[0]])
        windows = np.lib.stride_tricks.sliding_window_view(both, self.window, axis=1)[:, :: self.hop]
        power = np.square(np.abs(rfft(windows * self._taper, axis=2)[:, :, low:]))
        summed = np.cumsum(power[0], axis=1)
        total = summed[:, -1:]
        edges = [(summed < share * total).sum(axis=1) for share in _EDGES]
        columns = [
            total[:, 0], power[1].sum(axis=1), edges[0] + low - 0.5,
            np.minimum(edges[1] + low + 0.5, self.window / 2),
        ]  # fmt: skip
        return np.stack(columns, axis=1).astype(np.float32)

    @property
    def level_db(self) -> float:
        """RMS in dBFS; -inf for silence."""
        mean = self.energy / max(1, self.samples)
        return 10 * math.log10(mean) if mean > 0 else -math.inf

    def snr_db(self, events: list[StemEvent]) -> float:
        """The energy of the stem over that of all others, over the length of its events, in dB."""
        frames = np.concatenate(self._frames).astype(np.float64)
        inside = np.zeros(len(frames), bool)
        for one in events:
            first = round(one.start_s * self.rate_hz / self.hop)
            inside[first : max(first + 1, round(one.end_s * self.rate_hz / self.hop) - 1)] = True
        own, rest = frames[inside, 0].sum(), frames[inside, 1].sum()
        return float(10 * np.log10((own + _SILENCE) / (rest + _SILENCE)))

    def events(self) -> list[StemEvent]:
        """The boxes, in order of time. What sounds steadily is one box from beginning to end."""
        if not self._frames:
            return []
        frames = np.concatenate(self._frames)
        if not float(frames[:, 0].max()) > _SILENCE:
            return []
        smooth = ndimage.uniform_filter1d(frames[:, :2].astype(np.float64), 3, axis=0)
        level = 10 * np.log10(smooth[:, 0] + _SILENCE)
        quiet, loud = np.percentile(level, [20, 95])
        if loud - quiet < _STEADY_DB:
            return [self._event(frames, 0, len(frames))]
        heard = level >= max(quiet + _OVER_FLOOR_DB, float(level.max()) - _BELOW_PEAK_DB)
        heard &= smooth[:, 0] >= _LEAST_SHARE * smooth.sum(axis=1)
        pause = max(1, round(_PAUSE_S / _HOP_S))
        joined = ndimage.binary_closing(np.pad(heard, pause), np.ones(pause, bool))[pause:-pause]
        edges = np.flatnonzero(np.diff(joined, prepend=False, append=False)).reshape(-1, 2)
        long = [(first, last) for first, last in edges.tolist() if (last - first) * _HOP_S >= _SHORTEST_S]
        return [self._event(frames, first, last) for first, last in long]

    def _event(self, frames: np.ndarray, first: int, last: int) -> StemEvent:
        inside = frames[first:last].astype(np.float64)
        weight = inside[:, 0]
        low, high = (_weighted(inside[:, at], weight, share) for at, share in ((2, 0.1), (3, 0.9)))
        bin_hz = self.rate_hz / self.window
        snr = 10 * math.log10((weight.sum() + _SILENCE) / (inside[:, 1].sum() + _SILENCE))
        end_s = min((last - 1) * _HOP_S + _WINDOW_S, self.samples / self.rate_hz)
        return StemEvent(
            round(first * self.hop / self.rate_hz, 4), round(end_s, 4), round(low * bin_hz, 1),
            round(max(high, low + 1) * bin_hz, 1), round(snr, 2),
        )  # fmt: skip


def _weighted(values: np.ndarray, weight: np.ndarray, share: float) -> float:
    """The value below which `share` of the weight lies."""
    order = np.argsort(values)
    total = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(total, share * total[-1])])
