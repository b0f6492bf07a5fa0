"""How much of a sound survives: round-trip error per frequency band, on fast trills, and in level.

Errors are spectral convergence, 20 log10(|original - copy| / |original|) over magnitudes of a neutral
STFT (1024 / 256 samples at 44.1 kHz) that belongs to no codec; -20 dB means that a tenth of the
amplitude is wrong, 0 dB that nothing is left. The copy is first scaled by the one factor that fits it
best, so that a codec that loses loudness is not punished twice: that is `loudness_error_db`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from birdsd.sound.codec.transform import Stft

NEUTRAL_RATE_HZ = 44100
_NEUTRAL = Stft(window=1024, hop=256, n_fft=1024)
BANDS_HZ = ((0, 1000), (1000, 2500), (2500, 4500), (4500, 8000), (8000, 11000), (11000, 16000))
# Fast modulation: 20 to 100 notes a second, from 5.8 ms windows every 1.5 ms.
_FAST = Stft(window=256, hop=64, n_fft=256)
TRILL_RATE_HZ = (20.0, 100.0)
# The envelope must swing by at least a third of its own mean: noise over a band stays below 0.2, two
# notes with a gap between them reach 0.5 and more.
_TRILL_DEPTH = 0.35
_TRILL_RANGE_DB = 20.0  # below the loudest moment of the band: quieter ones are not the bird
MIN_SHARE = 1e-3  # a band with less of the energy than this (-30 dB) says nothing about the codec


@dataclass
class Fidelity:
    """What one codec did to one recording. dB; None where the recording has nothing to judge by."""

    overall_db: float
    bands_db: list[float | None]
    trills_db: float | None
    loudness_error_db: float
    below_band_share: float
    above_band_share: float
    trill_share: float = field(default=0.0)
    waveform_db: float = 0.0  # of the samples: far below 0 only where the phase is kept
    picture_db: float | None = None  # of the codec's picture of the copy: how well the phase fits


def neutral_magnitude(waveform: np.ndarray) -> np.ndarray:
    """Magnitudes float32 [channels * frames, 513] of [channels, samples] at 44.1 kHz."""
    return np.concatenate([_NEUTRAL.magnitude(channel) for channel in waveform])


def band_slices() -> list[slice]:
    """The bins of the neutral STFT that belong to each of `BANDS_HZ`."""
    hz = np.fft.rfftfreq(_NEUTRAL.n_fft, 1 / NEUTRAL_RATE_HZ)
    return [slice(*np.searchsorted(hz, [low, high])) for low, high in BANDS_HZ]


def trill_mask(waveform: np.ndarray) -> np.ndarray:
    """Where the sound is modulated at 20-100 Hz: bool [channels * frames, len(BANDS_HZ)].

    Per band: the amplitude envelope, its part between 20 and 100 Hz, and the ratio of that part's RMS
    to the envelope's mean over 100 ms; frames within 20 dB of the band's loudest count, and within
    30 dB of the loudest of all.
    """
    from scipy.ndimage import uniform_filter1d
    from scipy.signal import butter, sosfiltfilt

    envelope_rate = NEUTRAL_RATE_HZ / _FAST.hop
    passband = butter(2, TRILL_RATE_HZ, "bandpass", fs=envelope_rate, output="sos")
    hz = np.fft.rfftfreq(_FAST.n_fft, 1 / NEUTRAL_RATE_HZ)
    width = round(0.1 * envelope_rate)
    masks = []
    for channel in waveform:
        power = _FAST.magnitude(channel).astype(np.float64) ** 2
        parts = [power[:, slice(*np.searchsorted(hz, limits))] for limits in BANDS_HZ]
        envelope = np.sqrt(np.stack([part.sum(axis=1) for part in parts], axis=1))
        swing = sosfiltfilt(passband, envelope, axis=0) ** 2
        swing = np.sqrt(np.maximum(uniform_filter1d(swing, width, axis=0), 0))
        mean = uniform_filter1d(envelope, width, axis=0)
        loud = mean > mean.max(axis=0) * 10 ** (-_TRILL_RANGE_DB / 20)
        # What a trill leaks into other bands is modulated too, but it is not theirs.
        loud &= mean > mean.max() * np.sqrt(MIN_SHARE)
        fast = loud & (swing > _TRILL_DEPTH * np.maximum(mean, 1e-12))
        # A neutral frame counts where the fast frame at its centre does.
        masks.append(fast[:: _NEUTRAL.hop // _FAST.hop][: channel.size // _NEUTRAL.hop])
    return np.concatenate(masks)


def fitted_error_db(original: np.ndarray, copy: np.ndarray) -> float:
    """Spectral convergence of `copy` times the factor that fits `original` best, of magnitudes or samples.

    Of samples it is, where far below 0, minus the scale-invariant signal-to-distortion ratio (SI-SDR).
    """
    return _convergence_db(original, np.float32(_best_gain(original, copy)) * copy)


def _best_gain(original: np.ndarray, copy: np.ndarray) -> float:
    power = float(np.sum(copy**2, dtype=np.float64))
    return float(np.sum(original * copy, dtype=np.float64)) / power if power > 0 else 0.0


def _convergence_db(original: np.ndarray, copy: np.ndarray) -> float:
    error = float(np.sum((original - copy) ** 2, dtype=np.float64))
    total = float(np.sum(original**2, dtype=np.float64))
    return 10 * float(np.log10(max(error, 1e-30) / max(total, 1e-30)))


def compare(original: np.ndarray, copy: np.ndarray, low_hz: float, high_hz: float) -> Fidelity:
    """Judge `copy` against `original`, both [channels, samples] at 44.1 kHz.

    low_hz and high_hz are the codec's own limits, for the share of energy that lies outside of them.
    """
    before, after = neutral_magnitude(original), neutral_magnitude(copy)
    total = float(np.sum(before**2, dtype=np.float64)) or 1e-30
    after *= np.float32(_best_gain(before, after))
    bands: list[float | None] = []
    for part in band_slices():
        share = float(np.sum(before[:, part] ** 2, dtype=np.float64)) / total
        bands.append(_convergence_db(before[:, part], after[:, part]) if share >= MIN_SHARE else None)
    cells = np.zeros(before.shape, bool)
    for part, fast in zip(band_slices(), trill_mask(original).T, strict=True):
        cells[:, part] = fast[:, None]
    trill_share = float(np.sum(before[cells] ** 2, dtype=np.float64)) / total
    hz = np.fft.rfftfreq(_NEUTRAL.n_fft, 1 / NEUTRAL_RATE_HZ)
    energy = np.asarray(np.sum(before**2, axis=0, dtype=np.float64)) / total
    level = [float(np.sqrt(np.mean(sound**2, dtype=np.float64))) for sound in (original, copy)]
    return Fidelity(
        overall_db=_convergence_db(before, after),
        bands_db=bands,
        trills_db=_convergence_db(before[cells], after[cells]) if trill_share >= MIN_SHARE else None,
        loudness_error_db=20 * float(np.log10(max(level[1], 1e-9) / max(level[0], 1e-9))),
        below_band_share=float(energy[hz < low_hz].sum()),
        above_band_share=float(energy[hz > high_hz].sum()),
        trill_share=trill_share,
        waveform_db=fitted_error_db(original, copy),
    )
