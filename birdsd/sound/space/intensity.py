"""Where sound in first-order ambisonics comes from: active intensity per bin (Tolkova & Klinck 2022).

A bin is trusted where its neighbourhood points one way (low diffuseness) and it is loud. Where too few are,
nobody is there, and nothing is said.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from scipy.ndimage import uniform_filter

HOP_S = 0.008  # about; frames are four hops long
_AROUND = (7, 7)  # bins in time and frequency over which intensity is averaged
DIRECT = 0.4  # diffuseness below which a bin has a direction
_LOUD = 90  # percentile of the energies in the band
_ONSET = 1.5  # ln energy over the mean of the frames before
_BEFORE = 5
_FEWEST = 8  # bins
# A bearing is said where at least this share of the loud bins is direct, and those agree so much: in a
# diffuse field hardly one in 10,000 is.
_SHARE, _AGREE = 0.005, 0.8
_CELL_DEG, _SMOOTH, APART_DEG = 2.0, 5, 12.0
_SHARP = 0.15  # diffuseness below which a bin is one bird's alone
_PEAK, _MOST = 0.12, 6  # of the highest peak; birds at once
_BESIDE_DEG = 15.0


@dataclass(frozen=True)
class Bearing:
    """A direction in degrees (AmbiX), how diffuse the sound was (0 to 1), and the share of the loud bins that
    had this direction."""

    azimuth_deg: float
    elevation_deg: float
    diffuseness: float
    share: float


@dataclass(frozen=True)
class Field:
    """Intensity [3, frames, bins] (x, y, z), energy and diffuseness [frames, bins]; bins lie `bin_hz` apart,
    frames `hop_s`."""

    intensity: np.ndarray
    energy: np.ndarray
    diffuseness: np.ndarray
    bin_hz: float
    hop_s: float

    @property
    def azimuths(self) -> np.ndarray:
        """Radians [frames, bins]."""
        found: np.ndarray = np.arctan2(self.intensity[1], self.intensity[0])
        return found

    def band(self, low_hz: float, high_hz: float) -> Field:
        """What lies between two frequencies."""
        low = max(1, int(low_hz / self.bin_hz))
        high = max(low + 2, int(np.ceil(high_hz / self.bin_hz)) + 1)
        return replace(
            self, intensity=self.intensity[:, :, low:high], energy=self.energy[:, low:high],
            diffuseness=self.diffuseness[:, low:high],
        )  # fmt: skip

    def part(self, first: int, last: int) -> Field:
        """Some frames."""
        return replace(
            self, intensity=self.intensity[:, first:last], energy=self.energy[first:last],
            diffuseness=self.diffuseness[first:last],
        )  # fmt: skip


def window_and_hop(rate_hz: int) -> tuple[int, int]:
    """Samples of a frame (even), and from one to the next (a quarter)."""
    hop = max(1, round(HOP_S * rate_hz))
    return 4 * hop, hop


def spectra(channels: np.ndarray, rate_hz: int) -> np.ndarray:
    """complex64 [channels, frames, bins] of [channels, n]; frame k is centred on sample k * hop."""
    window, hop = window_and_hop(rate_hz)
    sound, half = np.asarray(channels, np.float32), window // 2
    # Mirrored, or a drift would end in a step, and a step is loud and comes from somewhere.
    padded = np.pad(sound, ((0, 0), (half, half)), mode="reflect" if sound.shape[1] > half else "constant")
    frames = np.lib.stride_tricks.sliding_window_view(padded, window, axis=1)[:, ::hop]
    taper = np.hanning(window + 1)[:-1].astype(np.float32)
    found: np.ndarray = scipy.fft.rfft(frames * taper, axis=2)
    return found


def field_of(foa: np.ndarray, rate_hz: int) -> Field:
    """Intensity, energy and diffuseness of float32 [4, n], ACN/SN3D."""
    return field_of_spectra(spectra(foa, rate_hz), rate_hz)


def field_of_spectra(found: np.ndarray, rate_hz: int) -> Field:
    """The same of complex [4, frames, bins]."""
    pressure, gradients = found[0], found[[3, 1, 2]]
    intensity = (np.conj(pressure)[None] * gradients).real.astype(np.float32)
    energy = (0.5 * np.square(np.abs(found)).sum(axis=0)).astype(np.float32)
    mean = np.stack([uniform_filter(one, _AROUND, mode="constant") for one in intensity])
    total = uniform_filter(energy, _AROUND, mode="constant")
    flow = np.sqrt(np.square(mean).sum(axis=0))
    diffuseness = np.clip(1 - flow / np.maximum(total, 1e-30), 0, 1)
    window, hop = window_and_hop(rate_hz)
    return Field(intensity, energy, diffuseness, rate_hz / window, hop / rate_hz)


def bearing_of(field: Field, near_deg: float | None = None) -> Bearing | None:
    """Where the loudest source of a stretch is heard from; None where none stands out. `near_deg`: only bins
    that point near this azimuth count, as where several birds sing."""
    energy = field.energy
    if not energy.size or not energy.max() > 0:
        return None
    loud = energy >= np.percentile(energy, _LOUD)
    direct = loud & (field.diffuseness < DIRECT)
    if near_deg is not None:
        direct &= np.cos(field.azimuths - np.radians(near_deg)) > np.cos(np.radians(_BESIDE_DEG))
    share = float(direct.sum() / loud.sum())
    if share < _SHARE:
        return None
    chosen = direct & _begins(energy)
    if chosen.sum() < _FEWEST:
        chosen = direct
    if chosen.sum() < _FEWEST:
        return None
    flow = field.intensity[:, chosen].astype(np.float64)
    total = flow.sum(axis=1)
    agreed = float(np.linalg.norm(total) / np.linalg.norm(flow, axis=0).sum())
    if agreed < _AGREE:
        return None
    azimuth, elevation = angles(total)
    return Bearing(azimuth, elevation, float(field.diffuseness[chosen].mean()), share)


def angles(vector: np.ndarray) -> tuple[float, float]:
    """(azimuth, elevation) in degrees of a vector x, y, z."""
    x, y, z = (float(one) for one in vector)
    return float(np.degrees(np.arctan2(y, x))), float(np.degrees(np.arctan2(z, np.hypot(x, y))))


def _begins(energy: np.ndarray) -> np.ndarray:
    """bool [frames, bins]: louder than the frames before, so that it comes straight from the bird and not
    from the trees."""
    level = np.log(np.maximum(energy, 1e-30))
    padded = np.pad(level, ((_BEFORE, 0), (0, 0)), mode="edge")
    summed = np.cumsum(np.pad(padded, ((1, 0), (0, 0))), axis=0)
    before = (summed[_BEFORE:-1] - summed[: -_BEFORE - 1]) / _BEFORE
    found: np.ndarray = level > before + _ONSET
    return found


def bearings_of(field: Field) -> list[Bearing]:
    """Where birds are heard from that sing at once, the most heard first; empty where none stands out.

    Peaks of the histogram of azimuths over bins that are one source's alone; each is then refined.
    """
    energy = field.energy
    if not energy.size or not energy.max() > 0:
        return []
    floor, top = np.percentile(energy, 50), float(energy.max())
    loud = energy >= max(4 * floor, 1e-5 * top)
    sharp = loud & (field.diffuseness < _SHARP)
    if sharp.sum() < _FEWEST or sharp.sum() < _SHARE * loud.sum():
        return []
    weights = np.log(energy[sharp] / max(float(floor), 1e-8 * top)) + 1
    cells = round(360 / _CELL_DEG)
    at = ((np.degrees(field.azimuths[sharp]) + 180) / _CELL_DEG).astype(int) % cells
    kernel = np.hanning(_SMOOTH + 2)[1:-1]
    counts = np.bincount(at, weights, cells)
    half = _SMOOTH // 2
    smooth = np.convolve(np.pad(counts, half, mode="wrap"), kernel, "valid") / kernel.sum()
    found: list[Bearing] = []
    for cell in np.argsort(-smooth):
        if smooth[cell] < _PEAK * smooth.max() or len(found) == _MOST:
            break
        neighbours = smooth[(cell + np.arange(-half, half + 1)) % cells]
        azimuth = (cell + 0.5) * _CELL_DEG - 180
        if smooth[cell] < neighbours.max() or smooth[cell] < 4 * smooth.mean():
            continue
        if any(turned_deg(azimuth, one.azimuth_deg) < APART_DEG for one in found):
            continue
        one = bearing_of(field, azimuth)
        if one is not None and all(
            turned_deg(one.azimuth_deg, two.azimuth_deg) >= APART_DEG for two in found
        ):
            found.append(one)
    return found


def turned_deg(one: float, other: float) -> float:
    """The angle between two azimuths, 0 to 180."""
    return abs((one - other + 180) % 360 - 180)
