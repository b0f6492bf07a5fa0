"""WAV files of 24 bits that we write ourselves are those of libsndfile, to the byte."""

from __future__ import annotations

import errno
import resource

import numpy as np
import pytest
import soundfile

from birdsd.scenes.compose import mixdown
from birdsd.scenes.compose.mixdown import Written, write_mix
from birdsd.sound.audio.wav24 import Wav24


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.parametrize("blocks", [[], [1], [3], [4, 4], [1, 2, 3, 5, 7], [1000, 1, 999]])
def test_the_bytes_are_those_of_libsndfile(tmp_path, channels, blocks):
    draw = np.random.default_rng(sum(blocks) + channels)
    sound = draw.integers(-(2**23), 2**23, (sum(blocks), channels), dtype=np.int32)
    sound[:1], sound[-1:] = -(2**23), 2**23 - 1
    soundfile.write(tmp_path / "theirs.wav", sound << 8, 32000, subtype="PCM_24")
    with Wav24(tmp_path / "ours.wav", 32000, channels) as file:
        for end, count in zip(np.cumsum(blocks), blocks, strict=True):
            part = sound[end - count : end]
            file.write(part[:, 0] if channels == 1 else part)
    assert (tmp_path / "ours.wav").read_bytes() == (tmp_path / "theirs.wav").read_bytes()


def test_a_mix_is_written_without_libsndfile_as_it_would_write_it(tmp_path, monkeypatch):
    class Tone:
        start, samples = 0, 30_001

        def read(self, first, count):
            return (0.9 * np.sin(np.arange(first, first + count))).astype(np.float32)

    monkeypatch.setattr(mixdown.soundfile, "SoundFile", None)
    monkeypatch.setattr(mixdown, "BLOCK", 1000)
    write_mix(tmp_path / "mix.wav", [Written(Tone(), tmp_path / "stem.wav")], 30_001, 16000)
    monkeypatch.undo()
    sound, rate_hz = soundfile.read(tmp_path / "mix.wav", dtype="int32")
    assert rate_hz == 16000 and len(sound) == 30_001
    assert np.array_equal(sound >> 8, np.rint(Tone().read(0, 30_001) * np.float32(2**23)))
    assert (tmp_path / "stem.wav").read_bytes() == (tmp_path / "mix.wav").read_bytes()


def test_a_file_that_cannot_grow_says_that_the_disk_is_full_and_is_closed(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError) as raised, Wav24(tmp_path / "full.wav", 32000, 1) as file:
            file.write(np.ones(10_001, np.int32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.errno == errno.ENOSPC
