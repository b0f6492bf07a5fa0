"""Several channels become one: their mean, unless too much of the sound is lost in it."""

from __future__ import annotations

import numpy as np
import pytest

from birdsd.sound.audio import channels as room
from birdsd.sound.audio.channels import choose_channels, mix_down
from birdsd.sound.audio.levels import level_db
from birdsd.sound.audio.recordings import RecordingError, blocks, read
from tests.support.errors import refuses
from tests.support.sound_makers import save

RATE = 32000


def bird(seconds: float, song_at: float = 0.4, level: float = 0.2) -> np.ndarray:
    """[samples]: chirps for a while in faint noise."""
    time = np.arange(round(seconds * RATE)) / RATE
    here = (time > song_at * seconds) & (time < song_at * seconds + 1.5)
    song = level * np.sin(2 * np.pi * (3000 * time + 300 * np.sin(9 * time))) * here
    return song + hiss(len(time), 1)


def hiss(count: int, seed: int, level: float = 1e-4) -> np.ndarray:
    return level * np.random.default_rng(seed).standard_normal(count)


def wrong_line(seconds: float) -> dict[str, np.ndarray]:
    one = bird(seconds)
    count = len(one)
    late = np.roll(one, 1)
    return {
        "exact": np.stack([one, -one]),
        "other_gain": np.stack([0.8 * one, -one]),
        "late": np.stack([one, -late + hiss(count, 2)]),
        "dead": np.stack([hiss(count, 3, 3e-5), one]),
        "dead_with_offset_and_hum": np.stack(
            [one, 0.3 + 0.2 * np.sin(2 * np.pi * 50 * np.arange(count) / RATE)]
        ),
        "four": np.stack([one, -one, 0.9 * one, -0.9 * one]),
        "one_of_eight": np.stack([one if n == 5 else hiss(count, n, 3e-5) for n in range(8)]),
    }


@pytest.mark.parametrize("seconds", [3.0, 40.0])
@pytest.mark.parametrize("kind", sorted(wrong_line(2.0)))
def test_the_strongest_channel_is_taken_where_the_mean_loses_the_bird(tmp_path, kind, seconds):
    sound = wrong_line(seconds)[kind].astype(np.float32)
    path = save(tmp_path / "a.wav", sound, RATE, "FLOAT")
    choice = choose_channels(path)
    expected = {"other_gain": 2, "dead": 2, "one_of_eight": 6}.get(kind, 1)
    assert choice.channel == expected or (kind == "late" and choice.channel == 2)
    assert f"channel {choice.channel} is taken" in choice.note and " dB softer" in choice.note
    whole = read(path, RATE)
    np.testing.assert_array_equal(whole[0], sound[choice.channel - 1])
    np.testing.assert_array_equal(mix_down(sound, RATE), whole[0])


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate_hz", [RATE, 24000])
def test_whole_parts_and_streams_take_the_same_channel(tmp_path, monkeypatch, suffix, rate_hz):
    sound = wrong_line(40.0)["late"].astype(np.float32)
    path = save(tmp_path / f"a.{suffix}", sound, RATE)
    heard = {}
    ways = {
        "whole": lambda: read(path, rate_hz),
        "part": lambda: read(path, rate_hz, start_s=16.0, duration_s=3.0),
        "stream": lambda: np.concatenate([piece for _, piece in blocks(path, rate_hz, 7.0)], axis=1),
    }
    for first in ways:  # each of them may be the first to ask
        monkeypatch.setattr(room, "_chosen", {})
        heard[first] = ways[first]()
        heard[f"{first}, chosen"] = choose_channels(path)
    assert len({heard[f"{way}, chosen"] for way in ways}) == 1
    assert abs(heard["stream"].shape[1] - heard["whole"].shape[1]) <= 1
    count = min(heard["stream"].shape[1], heard["whole"].shape[1])
    assert np.abs(heard["stream"][:, :count] - heard["whole"][:, :count]).max() < 2e-3
    begin = 16 * rate_hz
    part = heard["part"]
    assert np.abs(part - heard["whole"][:, begin : begin + part.shape[1]]).max() < 2e-3
    assert level_db(part) > -21


def test_ordinary_stereo_stays_the_mean(tmp_path):
    one, other = bird(6.0), bird(6.0, 0.1)
    count = len(one)
    for number, pair in enumerate(
        [
            (one, one), (one, 0.5 * one + hiss(count, 4)), (hiss(count, 5), hiss(count, 6)), (one, other),
            (one, np.roll(one, 150)), (one + 0.1, one - 0.1), (np.zeros(count), np.zeros(count)),
            (one, 0.4 * hiss(count, 7, 0.1) + one),
        ]
    ):  # fmt: skip
        sound = np.stack(pair).astype(np.float32)
        path = save(tmp_path / f"{number}.wav", sound, RATE, "FLOAT")
        assert choose_channels(path) == room.MEAN, number
        np.testing.assert_allclose(read(path, RATE)[0], sound.mean(axis=0), atol=1e-6)


def test_two_channels_for_a_stereo_codec_stay_two(tmp_path):
    sound = wrong_line(3.0)["exact"].astype(np.float32)
    path = save(tmp_path / "a.wav", sound, RATE, "FLOAT")
    np.testing.assert_array_equal(read(path, RATE, channels=2), sound)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_label_s_channel_is_read(tmp_path, channels):
    sound = np.stack([bird(3.0), bird(3.0, 0.1), hiss(3 * RATE, 8)]).astype(np.float32)
    path = save(tmp_path / "a.wav", sound, RATE, "FLOAT")
    for channel in (1, 2, 3):
        heard = read(path, RATE, channels=channels, channel=channel)
        assert len(heard) == channels and all(np.array_equal(one, sound[channel - 1]) for one in heard)
        streamed = np.concatenate([b for _, b in blocks(path, RATE, 0.7, channels, channel)], axis=1)
        np.testing.assert_array_equal(streamed, heard)
        resampled = np.concatenate([b for _, b in blocks(path, 24000, 0.7, channels, channel)], axis=1)
        assert np.abs(resampled - read(path, 24000, channels=channels, channel=channel)).max() < 1e-4
    for channel in (0, 4, -1):
        with refuses("3 channels", f"channel {channel} ", kind=RecordingError):
            read(path, RATE, channel=channel)


def test_a_file_that_was_replaced_is_looked_at_again(tmp_path):
    path = save(tmp_path / "a.wav", np.stack([bird(3.0)] * 2).astype(np.float32), RATE, "FLOAT")
    assert choose_channels(path).channel is None
    save(path, wrong_line(3.1)["exact"].astype(np.float32), RATE, "FLOAT")
    assert choose_channels(path).channel == 1
