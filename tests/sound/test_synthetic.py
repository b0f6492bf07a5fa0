"""The synthetic aviary: named as such, exact, varied, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from birdsd.errors import AlreadyThere
from birdsd.files import sha256_file
from birdsd.sound.labels.load import load_recordings
from birdsd.sound.mixing import EnvironmentPool
from birdsd.sound.synthetic import ENVIRONMENTS, SPECIES, make_aviary, record
from tests.support.errors import refuses


def spectrum(samples, rate_hz=44100):
    """Power [frames, bins] of 10 ms frames, and the frequency of each bin."""
    frames = samples[: len(samples) // 441 * 441].reshape(-1, 441) * np.hanning(441)
    return np.abs(np.fft.rfft(frames, 2048)) ** 2, np.fft.rfftfreq(2048, 1 / rate_hz)


@pytest.fixture(scope="module")
def aviary(tmp_path_factory):
    return make_aviary(tmp_path_factory.mktemp("aviary"), 2, seed=3)


def test_it_loads_like_any_recordings(aviary):
    found = load_recordings(aviary)
    assert found.problems == [] and found.species == tuple(sorted(SPECIES))
    assert len(found.recordings) == 2 * len(SPECIES)
    for recording in found.recordings:
        assert 5.0 < recording.duration_s < 6.1 and 1 <= len(recording.labels) <= 3
        assert not recording.weak and recording.licence == "CC0 1.0" and "synthetic" in recording.recordist
        assert recording.path.name.startswith("synthetic")
    assert len({recording.recording_id for recording in found.recordings}) == len(found.recordings)
    pool = EnvironmentPool(aviary / "environment")
    assert pool.names == ENVIRONMENTS and all(
        pool.licence(p) == "CC0 1.0" for p in aviary.glob("environment/*/*.wav")
    )


def test_every_name_says_that_it_is_synthetic():
    assert 6 <= len(SPECIES) <= 8 and all(name.startswith("Synthetic ") for name in SPECIES)
    assert all(name.startswith("synthetic ") for name in ENVIRONMENTS)


@pytest.mark.parametrize("species", SPECIES)
def test_the_boxes_hold_the_song_and_nothing_else_sounds(species):
    for number in range(3):
        waveform, labels = record(species, 0, number)
        power, hz = spectrum(waveform[0])
        inside = np.zeros(power.shape, bool)
        frame_s = np.arange(len(power)) * 0.01
        for label in labels:
            times = (frame_s + 0.01 > label.start_s) & (frame_s < label.end_s)
            # A short window smears a note by about 300 Hz.
            inside |= times[:, None] & ((hz > label.low_hz - 300) & (hz < label.high_hz + 300))
        above = hz > 1500 if species != "Synthetic Honker" else hz > 500  # below is the background
        assert power[inside].sum() > 0.95 * power[:, above].sum()
        for label in labels:  # and the box is no larger than the song
            song = waveform[0, round(label.start_s * 44100) : round(label.end_s * 44100)]
            edge = 30 * 44
            assert min(np.abs(song[:edge]).max(), np.abs(song[-edge:]).max()) > 0.1 * np.abs(song).max()


def test_individuals_differ_and_species_differ_more():
    def features(species, number):
        waveform, labels = record(species, 1, number)
        label = labels[0]
        power, hz = spectrum(waveform[0, round(label.start_s * 44100) : round(label.end_s * 44100)])
        profile = power.sum(axis=0)
        centre = (profile * hz).sum() / profile.sum()
        spread = np.sqrt((profile * (hz - centre) ** 2).sum() / profile.sum())
        level = np.log(power.sum(axis=1) + 1e-9)
        return np.array([np.log(centre), np.log(spread), np.abs(np.diff(level)).mean()])

    table = np.array([[features(species, number) for number in range(6)] for species in SPECIES])
    within = table.std(axis=1).mean(axis=0)
    between = table.mean(axis=1).std(axis=0)
    assert (within > 0).all() and (between > within).all()
    # The nearest mean of the other individuals finds the species: they can be told apart.
    scaled = table / within
    hits = 0
    for i in range(len(SPECIES)):
        for j in range(6):
            means = [np.delete(scaled[k], j, axis=0).mean(axis=0) for k in range(len(SPECIES))]
            hits += int(np.argmin([np.linalg.norm(scaled[i, j] - mean) for mean in means])) == i
    assert hits > 0.8 * 6 * len(SPECIES)


def test_the_same_seed_gives_the_same_files_and_another_does_not(tmp_path, aviary):
    again = make_aviary(tmp_path / "again", 2, seed=3)
    files = sorted(p.relative_to(again) for p in again.rglob("*.*"))
    assert [sha256_file(again / f) for f in files] == [sha256_file(aviary / f) for f in files]
    assert not np.array_equal(record(SPECIES[0], 3, 0)[0], record(SPECIES[0], 4, 0)[0])


def test_it_is_made_once_and_never_overwritten(tmp_path):
    folder = make_aviary(tmp_path / "a", 1, environment=False)
    (folder / "labels.csv").write_text("mine")
    assert make_aviary(folder, 1, environment=False) == folder
    assert (folder / "labels.csv").read_text() == "mine"
    with refuses(str(tmp_path / "a"), kind=AlreadyThere):
        make_aviary(folder, 2, environment=False)


def test_other_rates_keep_the_songs(tmp_path):
    for species in SPECIES:
        waveform, labels = record(species, 0, 0, 22050)
        assert np.isfinite(waveform).all() and all(label.high_hz <= 11025 for label in labels)
