"""Phases from magnitudes: against a plain heap, on loops, of silence, and where numba can keep no code."""

import heapq
import os
import subprocess
import sys

import numpy as np
import pytest

from birdsd.errors import UnknownName
from birdsd.randomness import generator
from birdsd.sound.codec.pghi import integrated_phase
from birdsd.sound.codec.phase import Stft, griffin_lim, spectral_convergence_db
from tests.support.codecs import preset
from tests.support.errors import refuses


def song(rate_hz=32000, duration_s=0.6):
    """A sweep up and down, a trill and noise 45 dB below: float32 [samples]."""
    t = np.arange(round(rate_hz * duration_s)) / rate_hz
    sweep = np.sin(2 * np.pi * (3300 * t - 850 / (2 * np.pi * 3) * np.cos(2 * np.pi * 3 * t)))
    notes = np.sin(2 * np.pi * 6200 * t) * np.clip(np.sin(2 * np.pi * 25 * t), 0, 1) ** 2
    noise = generator("pghi song").standard_normal(len(t))
    return (0.3 * sweep + 0.2 * notes + 0.002 * noise).astype(np.float32)


def drawn(shape, seed=0):
    return generator(seed, "drawn").random(shape, dtype=np.float32) * np.float32(2 * np.pi)


def by_a_heap(magnitude, start, stft):
    """The published algorithm as it is written down, one cell at a time; no magnitude may be zero."""
    gamma, (frames, bins) = 0.25645 * stft.window**2, magnitude.shape
    log, turn = np.log(magnitude.astype(np.float64)), 2 * np.pi * stft.hop / stft.n_fft
    per_frame = turn * np.arange(bins) + stft.hop * stft.n_fft / gamma * np.gradient(log, axis=1)
    per_bin = -gamma / (stft.hop * stft.n_fft) * np.gradient(log, axis=0)
    top = np.unravel_index(magnitude.argmax(), magnitude.shape)
    phase, heap = {top: float(start[top])}, [(-magnitude[top], top)]
    while heap:
        _, (n, k) = heapq.heappop(heap)
        for near, slope, sign in (
            ((n + 1, k), per_frame, 1), ((n - 1, k), per_frame, -1),
            ((n, k + 1), per_bin, 1), ((n, k - 1), per_bin, -1),
        ):  # fmt: skip
            if near in phase or not (0 <= near[0] < frames and 0 <= near[1] < bins):
                continue
            phase[near] = phase[n, k] + sign * (slope[n, k] + slope[near]) / 2
            heapq.heappush(heap, (-magnitude[near], near))
    found = np.array([[phase[n, k] for k in range(bins)] for n in range(frames)])
    return found - np.pi * stft.window / stft.n_fft * np.arange(bins)


@pytest.mark.parametrize("stft", [Stft(512, 128, 512), Stft(400, 64, 512)])
def test_the_phases_are_those_of_the_published_heap(stft):
    magnitude = stft.magnitude(song()[:9600])
    start = drawn(magnitude.shape)
    found, expected = integrated_phase(magnitude, start, stft), by_a_heap(magnitude, start, stft)
    loud = magnitude > 0.03 * magnitude.max()
    apart = np.abs(np.angle(np.exp(1j * (found - expected))))[loud]
    assert loud.sum() > 300 and np.mean(apart < 0.1) > 0.8


@pytest.mark.parametrize(
    ("stft", "at_most_db"),
    [
        (Stft(512, 128, 512), -17),
        (Stft(512, 64, 512), -20),
        (Stft(400, 100, 800), -17),
        (Stft(512, 128, 2048), -17),
    ],
)
def test_a_song_has_its_phase_without_an_iteration(stft, at_most_db):
    magnitude = stft.magnitude(song())
    errors = {
        start: spectral_convergence_db(
            stft.magnitude(griffin_lim(magnitude, stft, 0, start=start)), magnitude
        )
        for start in ("pghi", "random")
    }
    assert errors["pghi"] < at_most_db and errors["pghi"] < errors["random"] - 5


def test_half_the_iterations_give_more_than_random_phases_with_all_of_them():
    stft = Stft(512, 128, 512)
    magnitude = stft.magnitude(song())
    short = griffin_lim(magnitude, stft, 24, start="pghi")
    long = griffin_lim(magnitude, stft, 48, start="random")
    short_db, long_db = (spectral_convergence_db(stft.magnitude(s), magnitude) for s in (short, long))
    assert short_db < long_db - 2


@pytest.mark.parametrize(
    ("hop", "was"),
    [
        (128, [-0.28377, -0.0902, 0.14366, 0.31409, 0.30826, 0.14686]),
        (32, [0.19602, 0.27334, 0.21679, 0.04008, -0.15207, -0.2676]),
    ],
)
def test_random_is_what_it_was(hop, was):
    """Some samples of before there was another start, with few and with many overlapping frames."""
    stft = Stft(512, hop, 512)
    found = griffin_lim(stft.magnitude(song()[:6400]), stft, 4, seed=1, start="random")
    assert found[1000:1006] == pytest.approx(was, abs=1e-4)


def test_a_mel_bank_gains_too():
    sound = song()[None]
    errors = {}
    for start in ("pghi", "random"):
        codec = preset(
            "birdsong", scale="mel", fmin_hz=300.0, fmax_hz=15000.0, bands=128, n_fft=1024, phase=start
        )
        magnitude = codec.magnitude(sound)
        copy = codec.synthesise(magnitude, 8)
        errors[start] = spectral_convergence_db(codec.magnitude(copy), magnitude)
    assert errors["pghi"] < errors["random"] - 2


def test_a_turned_loop_has_turned_phases():
    """On a circle no frame is the first: a loop that is turned only begins to sum elsewhere."""
    around = Stft(512, 128, 512, circular=True)
    magnitude = around.magnitude(song()[: 128 * 100])
    errors = [
        spectral_convergence_db(around.magnitude(griffin_lim(m, around, 0)), m)
        for m in (magnitude, np.roll(magnitude, 37, axis=0))
    ]
    assert errors[0] == pytest.approx(errors[1], abs=0.5) and max(errors) < -15


def test_what_is_silent_or_alone_stays_as_it_was_drawn():
    stft = Stft(512, 128, 512)
    start = drawn((40, 257))
    assert np.array_equal(integrated_phase(np.zeros((40, 257), np.float32), start, stft), start)
    one = np.zeros((40, 257), np.float32)
    one[20, 100] = 1e-30
    slope = np.float32(np.pi) * np.arange(257, dtype=np.float32)
    assert np.allclose(integrated_phase(one, start, stft), start - slope, atol=1e-3)
    for odd in (np.ones((1, 257)), np.ones((40, 257)), np.full((40, 257), 1e-38), np.full((40, 257), 1e30)):
        phase = integrated_phase(odd.astype(np.float32), drawn(odd.shape), stft)
        assert phase.shape == odd.shape and np.isfinite(phase).all()
    start_before = start.copy()
    integrated_phase(np.ones((40, 257), np.float32), start, stft)
    assert np.array_equal(start, start_before)  # and nothing is written into what was given


def test_an_unknown_start_is_refused():
    with refuses("'zero'", "kept, pghi, random", kind=UnknownName):
        preset("birdsong", phase="zero")
    with refuses("'kept'", kind=UnknownName):
        griffin_lim(np.ones((40, 257), np.float32), Stft(512, 128, 512), 1, start="kept")


PROGRAM = """
import numpy as np
from birdsd.sound.codec.phase import Stft, griffin_lim
stft = Stft(64, 16, 64)
sound = np.sin(np.arange(1600) * 0.3).astype(np.float32)
print(float(np.abs(griffin_lim(stft.magnitude(sound), stft, 0)).max()) > 0.5)
"""


def decoded_with(**variables):
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
    return done.stdout.strip(), done.stderr


def test_decoding_works_where_numba_can_keep_nothing(tmp_path):
    """A package in a folder that cannot be written, and no home: numba then refuses to cache a function."""
    (tmp_path / "file").write_text("no folder")
    nowhere = {
        "NUMBA_CACHE_DIR": tmp_path / "file" / "x",
        "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator",
    }
    assert decoded_with(**nowhere) == ("True", "")


def test_decoding_works_where_what_numba_kept_is_torn(tmp_path):
    kept = {"NUMBA_CACHE_DIR": tmp_path}
    assert decoded_with(**kept) == ("True", "")
    files = list(tmp_path.rglob("*.nbi"))
    assert len(files) == 3  # it was kept at all
    for path in files:
        path.write_bytes(path.read_bytes()[:5])
    assert decoded_with(**kept) == ("True", "")
