"""Which files are sound that is read, sound that is not, labels, or something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from birdsd.errors import NothingLeft
from birdsd.sound.audio.formats import (
    AUDIO_SUFFIXES,
    FOREIGN_SUFFIXES,
    LABEL_SUFFIXES,
    counted_by_suffix,
    foreign_reason,
    not_read,
    sort_files,
)
from birdsd.sound.audio.recordings import RecordingError, find_recordings, probe, read
from birdsd.sound.audio.source import opened
from birdsd.sound.audit.audit import run_audit
from birdsd.sound.codec.codec import SpectrogramCodec
from birdsd.sound.mixing import EnvironmentPool
from tests.support.errors import refuses
from tests.support.sound_makers import save, tone

FIELD = [
    ".3gp", ".wac", ".mov", ".mkv", ".avi", ".m4b", ".3g2", ".ra", ".rm", ".qt", ".aa3", ".dsf", ".tta",
    ".spx", ".gsm", ".m4a", ".wma", ".amr", ".ape", ".wv",
]  # fmt: skip


def test_no_suffix_is_of_two_kinds():
    assert not AUDIO_SUFFIXES & FOREIGN_SUFFIXES
    assert not (AUDIO_SUFFIXES | FOREIGN_SUFFIXES) & LABEL_SUFFIXES
    assert all(
        s == s.lower() and s.startswith(".") for s in AUDIO_SUFFIXES | FOREIGN_SUFFIXES | LABEL_SUFFIXES
    )


@pytest.mark.parametrize("suffix", FIELD)
def test_sound_that_is_not_decoded_is_named_with_the_way_out(tmp_path, suffix):
    path = tmp_path / f"phone{suffix.upper()}"
    path.write_bytes(bytes(range(128, 256)) * 4)
    assert sort_files([path]).foreign == [path]
    assert f" {suffix}: " in foreign_reason(path) and len(foreign_reason(path)) > 40
    if suffix == ".gsm":  # without a header: anything is taken for sound, but nobody means it
        return
    with refuses(path.name, "wav, flac", kind=RecordingError):
        probe(path)


def test_files_are_sorted_and_what_is_left_is_counted():
    names = [
        "a.wav", "b.FLAC", "c.mpga", "d.3gp", "e.csv", "f.csv", "g.txt", "h.json", "i.png", "j", "k.mp2",
        "l.caf", "m.parquet",
    ]  # fmt: skip
    files = sort_files(map(Path, names))
    assert [p.name for p in files.sounds] == ["a.wav", "b.FLAC", "c.mpga", "k.mp2", "l.caf"]
    assert [p.name for p in files.foreign] == ["d.3gp"]
    assert [p.name for p in files.labels] == ["e.csv", "f.csv", "g.txt", "h.json", "m.parquet"]
    assert [p.name for p in files.others] == ["i.png", "j"]
    left = [Path(name) for name in ["x.csv"] * 12 + ["y.3GP"] * 3 + ["z"]]
    assert not_read(left).startswith("16 files ") and not_read(left).endswith(
        ": .csv 12, .3gp 3, (no suffix) 1"
    )
    assert not_read(left[:1]).startswith("1 file ") and not_read(left[:1]).endswith(": .csv 1")
    assert not_read([]) == "" == counted_by_suffix([])


@pytest.mark.parametrize(
    ("suffix", "written_as"),
    [
        ("mpga", "MP3"), ("mp2", "MP3"), ("wave", "WAV"), ("bwf", "WAV"), ("wave64", "W64"), ("snd", "AU"),
        ("bw64", "RF64"), ("sph", "NIST"), ("voc", "VOC"), ("aifc", "AIFF"), ("oga", "OGG"), ("caf", "CAF"),
    ],
)  # fmt: skip
def test_what_is_listed_as_readable_is_read_whatever_it_is_called(tmp_path, suffix, written_as):
    path = tmp_path / f"a.{suffix}"
    subtype = "PCM_16" if written_as not in ("MP3", "OGG") else None
    with open(path, "wb") as stream:
        soundfile.write(stream, tone(1.0, 22050).T, 22050, format=written_as, subtype=subtype)
    assert find_recordings(tmp_path) == [path]
    assert abs(read(path, 22050)).max() == pytest.approx(0.2, rel=0.15)


@pytest.mark.parametrize(
    "container", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "CAF", "AU", "FLAC", "VOC", "NIST"]
)
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_of_16_bits_are_the_numbers_that_libsndfile_makes_of_them(tmp_path, container, channels):
    draw = np.random.default_rng(0)
    samples = draw.integers(-(2**15), 2**15, (5000, channels)).astype(np.int16)
    samples[:2] = [[-(2**15)], [2**15 - 1]]
    path = tmp_path / f"a.{container.lower()}"
    with open(path, "wb") as stream:
        soundfile.write(stream, samples, 22050, format=container, subtype="PCM_16")
    wanted, _ = soundfile.read(path, dtype="float32", always_2d=True)
    with opened(path) as source:
        np.testing.assert_array_equal(source.decode(0, 5000), wanted)
        np.testing.assert_array_equal(source.decode(1234, 100), wanted[1234:1334])
    np.testing.assert_array_equal(wanted[:2, 0], np.float32([-1, 1 - 2**-15]))


def test_a_pool_and_an_audit_name_what_they_do_not_read(tmp_path):
    (tmp_path / "rain").mkdir()
    (tmp_path / "rain" / "phone.3gp").write_bytes(bytes(500))
    with refuses("phone.3gp", kind=NothingLeft):
        EnvironmentPool(tmp_path)
    save(tmp_path / "rain" / "a.wav", tone(2.0))
    assert [problem.path.name for problem in EnvironmentPool(tmp_path).problems] == ["phone.3gp"]
    result = run_audit(tmp_path, [SpectrogramCodec(rate_hz=16000, fmax_hz=8000.0)], None)
    assert [path.name for path, _ in result.problems] == ["phone.3gp"]
