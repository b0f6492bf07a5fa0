"""The STFT against librosa's, exact inversion, and Griffin-Lim."""

import librosa
import numpy as np
import pytest

from birdsd.randomness import generator
from birdsd.sound.codec.phase import Stft, _Synthesis, griffin_lim, spectral_convergence_db


def chirp(rate_hz=16000, duration_s=1.0):
    t = np.arange(round(rate_hz * duration_s)) / rate_hz
    sound = 0.5 * np.sin(2 * np.pi * (1000 * t + 1500 * t**2)) + 0.2 * np.sin(2 * np.pi * 5000 * t)
    return sound.astype(np.float32)


GRIDS = [Stft(512, 128, 512), Stft(400, 100, 800), Stft(320, 112, 324), Stft(4410, 441, 17640)]


@pytest.mark.parametrize("stft", GRIDS)
def test_magnitude_is_librosas(stft):
    sound = generator("stft").standard_normal(24000).astype(np.float32)
    expected = np.abs(
        librosa.stft(
            sound.astype(np.float64),
            n_fft=stft.n_fft,
            hop_length=stft.hop,
            win_length=stft.window,
            pad_mode="reflect",
        )
    ).T[: len(sound) // stft.hop]
    found = stft.magnitude(sound)
    assert found.dtype == np.float32 and found.shape == (24000 // stft.hop, stft.bins)
    assert np.linalg.norm(found - expected) < 1e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("stft", GRIDS)
def test_complex_spectra_invert_exactly(stft):
    sound = generator("inverse").standard_normal(60 * stft.hop).astype(np.float32)
    synthesis = _Synthesis(stft, 60)
    for part, spectrum in stft.spectra(sound):
        synthesis.add(spectrum, part.start)
    assert np.allclose(synthesis.waveform(), sound, atol=2e-4)


def test_phase_divisor_drops_only_zero_padding():
    assert Stft(4410, 441, 17640).phase_divisor == 4
    assert Stft(512, 128, 512).phase_divisor == 1
    assert Stft(400, 100, 1000).phase_divisor == 2


@pytest.mark.parametrize("stft", [Stft(512, 128, 512), Stft(400, 100, 1600), Stft(320, 100, 320)])
def test_griffin_lim_converges_and_gets_better(stft):
    magnitude = stft.magnitude(chirp())
    errors = [
        spectral_convergence_db(stft.magnitude(griffin_lim(magnitude, stft, n)), magnitude)
        for n in (0, 8, 64)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < -18


def test_griffin_lim_depends_on_the_seed_alone():
    stft = Stft(512, 128, 512)
    magnitude = stft.magnitude(chirp())
    one, again, other = (griffin_lim(magnitude, stft, 4, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.allclose(one, other)


def test_silence_and_single_cells_stay_finite():
    stft = Stft(512, 128, 512)
    empty = np.zeros((40, 257), np.float32)
    assert not griffin_lim(empty, stft, 4).any()
    empty[20, 100] = 1.0
    assert np.isfinite(griffin_lim(empty, stft, 4)).all()
    assert np.isfinite(griffin_lim(np.ones((40, 257), np.float32), stft, 4)).all()


@pytest.mark.parametrize("stft", [Stft(512, 128, 512), Stft(256, 32, 512), Stft(512, 128, 2048)])
def test_a_loop_is_the_same_wherever_it_begins(stft):
    """Nothing is mirrored at the ends of a loop: turned sound has turned spectra, which invert."""
    around = Stft(stft.window, stft.hop, stft.n_fft, circular=True)
    sound = generator("loop").standard_normal(40 * stft.hop).astype(np.float32)
    turned = np.roll(sound, 7 * stft.hop)
    assert np.allclose(around.magnitude(turned), np.roll(around.magnitude(sound), 7, axis=0), atol=1e-3)
    assert not np.allclose(stft.magnitude(turned), np.roll(stft.magnitude(sound), 7, axis=0), atol=1e-3)
    synthesis = _Synthesis(around, 40)
    for part, spectrum in around.spectra(sound):
        synthesis.add(spectrum, part.start)
    assert np.allclose(synthesis.waveform(), sound, atol=2e-4)


def test_a_very_short_loop_goes_around_the_window_several_times():
    around = Stft(512, 128, 512, circular=True)
    sound = generator("short loop").standard_normal(128).astype(np.float32)
    synthesis = _Synthesis(around, 1)
    for part, spectrum in around.spectra(sound):
        synthesis.add(spectrum, part.start)
    assert np.isfinite(synthesis.waveform()).all() and len(synthesis.waveform()) == 128


def test_the_phase_of_a_loop_goes_on_over_its_end():
    """A steady low tone: where the ends are found apart, they meet with a step that no place inside has."""
    magnitude = np.zeros((61, 257), np.float32)
    magnitude[:, 4:7] = (64, 128, 64)

    def steps(circular: bool) -> float:
        ratios = []
        for seed in range(6):
            settings = Stft(512, 128, 512, circular=circular)
            sound = griffin_lim(magnitude, settings, 200, seed=seed)
            inside = np.percentile(np.abs(np.diff(sound)), 99)
            ratios.append(abs(float(sound[0] - sound[-1])) / inside)
        return max(ratios)

    assert steps(True) <= 1 < steps(False)
