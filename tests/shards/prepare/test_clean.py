"""data.clean: noise of the recording itself taken down in its clips; off, nothing is as much as mentioned."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from birdsd.errors import BadValue, UnknownName, UserError
from birdsd.files import read_json
from birdsd.runs.share import ArrayShare
from birdsd.shards.prepare.prepare import prepare
from birdsd.sound.audio.recordings import write_wav
from birdsd.sound.separation.clean import Cleaner, cleaner_of
from birdsd.sound.separation.grid import Grid
from birdsd.sound.separation.measures import si_sdr_db
from birdsd.sound.separation.sample import of_sound
from tests.shards.prepare.test_prepare import all_samples, shard_bytes
from tests.support.birds_and_noise import at_0_db, crickets, rain, song
from tests.support.errors import refuses
from tests.support.shard_makers import CODEC, data_config

RATE_HZ = CODEC.rate_hz


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noisy")
    for species in range(2):
        for number in range(3):
            bird = song(5.0, 10 * species + number, RATE_HZ, 2500.0 + 1500 * species)
            sound = bird + 0.5 * at_0_db(bird, rain(5.0, number + 3 * species, RATE_HZ))
            path = folder / f"species_{species}" / f"r{species}_{number}.wav"
            path.parent.mkdir(exist_ok=True)
            write_wav(path, sound[None], RATE_HZ)
    return folder


def made(noisy: Path, shards: Path, **changes) -> list[dict]:
    prepare(data_config(noisy, shards, **changes), CODEC, 1, progress=False)
    return all_samples(shards)


def test_off_is_as_it_was(noisy: Path, tmp_path: Path):
    """Neither the plan nor a sample knows of it: sets of older versions stay what they are."""
    samples = made(noisy, tmp_path / "off")
    assert all("cleaned" not in sample for sample in samples)
    assert not {"clean", "clean_db"} & set(read_json(tmp_path / "off" / "prepare.json")["settings"])
    made(noisy, tmp_path / "typed", clean="off")
    assert shard_bytes(tmp_path / "off") == shard_bytes(tmp_path / "typed")


@pytest.mark.parametrize("method", ["gate", "nmf"])
def test_noise_goes_down_and_the_song_stays(method: str, noisy: Path, tmp_path: Path):
    before, after = made(noisy, tmp_path / "off"), made(noisy, tmp_path / method, clean=method)
    assert [sample["key"] for sample in before] == [sample["key"] for sample in after]
    for sample in after:
        told = sample["cleaned"]
        assert told["method"] == method and told["most_db"] == 12.0
        assert told["snr_after_db"] > told["snr_before_db"]
    # A clip that a song fills has no pause in which noise could be heard to fall.
    gains = [sample["cleaned"]["snr_after_db"] - sample["cleaned"]["snr_before_db"] for sample in after]
    assert max(gains) > 6 and np.mean(gains) > 2
    plan = read_json(tmp_path / method / "prepare.json")
    assert plan["settings"]["clean"] == method
    softer = [two["loudness_db"] - one["loudness_db"] for one, two in zip(before, after, strict=True)]
    assert -9 < np.mean(softer) < 0.5


@pytest.mark.parametrize("method", ["gate", "nmf"])
@pytest.mark.parametrize("noise", [rain, crickets])
def test_no_clip_is_made_worse_and_none_by_more_than_is_asked_for(method: str, noise):
    bird = song(6.0, 4)
    sound = bird + at_0_db(bird, noise(6.0, 8))
    cleaner = cleaner_of(of_sound(sound, Grid.of(RATE_HZ)), method, 12.0)
    clean = cleaner.clean(sound[None]).waveform[0]
    assert si_sdr_db(clean, bird) > si_sdr_db(sound, bird)
    quiet = slice(round(0.85 * RATE_HZ), round(1.5 * RATE_HZ))  # between two songs
    fell_db = 10 * np.log10(np.mean(sound[quiet] ** 2) / np.mean(clean[quiet] ** 2))
    assert 2 < fell_db <= 12.1


def test_a_clip_is_the_same_in_whichever_part_it_is_made(noisy: Path, tmp_path: Path):
    made(noisy, tmp_path / "whole", clean="nmf")
    for part in range(2):
        data = data_config(noisy, tmp_path / "parts", clean="nmf")
        prepare(data, CODEC, 1, progress=False, part=ArrayShare(part, 2))
    assert shard_bytes(tmp_path / "whole") == shard_bytes(tmp_path / "parts")


def test_what_has_no_quiet_stretch_stays_and_says_so():
    silent = np.zeros(RATE_HZ, np.float32)
    sound = rain(0.2)
    for waveform in (silent, sound):
        cleaner = cleaner_of(of_sound(waveform, Grid.of(RATE_HZ)), "nmf", 12.0)
        if cleaner.separator is not None:
            continue
        cleaned = cleaner.clean(waveform[None])
        np.testing.assert_array_equal(cleaned.waveform[0], waveform)
        assert cleaned.facts["method"] == "off" and cleaned.facts["why"]
    assert cleaner_of(of_sound(silent, Grid.of(RATE_HZ)), "gate", 12.0).separator is None


@pytest.mark.parametrize(
    ("changes", "named", "offers", "kind"),
    [
        ({"clean": "soap"}, "'soap'", "gate", UnknownName),
        ({"clean_db": 0.0}, "clean_db is 0", "60", BadValue),
        ({"clean_db": 99.0}, "clean_db is 99", "60", BadValue),
    ],
)
def test_settings_that_cannot_be_are_refused(
    changes: dict, named: str, offers: str, kind: type[UserError], noisy: Path, tmp_path: Path
):
    with refuses(named, offers, kind=kind):
        prepare(data_config(noisy, tmp_path / "x", **changes), CODEC, 1, progress=False)


def test_stereo_is_cleaned_in_both_channels():
    bird = song(4.0, 1)
    sound = np.stack([bird + rain(4.0, 1), bird + rain(4.0, 2)])
    cleaner: Cleaner = cleaner_of(of_sound(sound, Grid.of(RATE_HZ)), "gate", 12.0)
    clean = cleaner.clean(sound).waveform
    for channel in (0, 1):
        assert si_sdr_db(clean[channel], bird) > si_sdr_db(sound[channel], bird) + 1
    assert dataclasses.is_dataclass(cleaner)
