"""Stems are rounded first and the mix is their sum; full scale, blocks and full disks lose nothing."""

from __future__ import annotations

import math
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
import soundfile

from birdsd.errors import DiskFull, Mismatch, Unsupported
from birdsd.scenes.backgrounds.render import Layer
from birdsd.scenes.backgrounds.spool import Spool
from birdsd.scenes.bank.licences import licence_of
from birdsd.scenes.compose.around import Around
from birdsd.scenes.compose.mixdown import (
    BLOCK,
    CEILING_DB,
    Written,
    check_whole,
    fitting_gain_db,
    largest_error,
    peak_of,
    quantised,
    read_stem,
    total,
    true_peak,
    write_mix,
)
from birdsd.scenes.compose.place_and_level import EventStem, Song
from birdsd.scenes.placed import PlacedBackground
from tests.support.errors import refuses

RATE_HZ = 16000


@dataclass
class Noise:
    """A stem of noise that needs no memory: its samples follow from their place."""

    start: int
    samples: int
    level: float
    seed: int = 0

    def read(self, first, count):
        place = np.arange(first, first + count, dtype=np.float64)
        sound = np.sin(place * (1.1 + self.seed) + np.sin(place * place % 97 + self.seed))
        inside = (place >= self.start) & (place < self.start + self.samples)
        return (self.level * sound * inside).astype(np.float32)


@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_the_stems_sum_to_the_mix_exactly(tmp_path, suffix):
    samples = BLOCK + 12345
    stems = [
        Noise(0, samples, 0.1),
        Noise(-50, 5000, 0.3, 1),
        Noise(BLOCK - 700, 2000, 0.2, 2),
        Noise(samples - 100, 400, 0.5, 3),
    ]
    paths = [tmp_path / f"stem{n}.{suffix}" for n in range(len(stems))]
    written = [Written(stem, path) for stem, path in zip(stems, paths, strict=True)]
    write_mix(tmp_path / f"mix.{suffix}", written, samples, RATE_HZ, gain_db=-1.5)
    placed = [(path, max(0, stem.start)) for path, stem in zip(paths, stems, strict=True)]
    assert largest_error(tmp_path / f"mix.{suffix}", placed, samples) == 0
    assert soundfile.info(tmp_path / f"mix.{suffix}").subtype == "PCM_24"
    floats = total(stems, 0, samples).astype(np.float64) * 10 ** (-1.5 / 20) * 2**23
    assert np.abs(read_stem(tmp_path / f"mix.{suffix}") - floats).max() < len(stems)
    assert [soundfile.info(path).frames for path in paths] == [samples, 4950, 2000, 100]


def test_no_file_waits_for_the_disk_by_itself(tmp_path, monkeypatch):
    """A scene's files are synced together, and libsndfile's flush is an fsync; the bytes are the same."""
    synced, flush = [], soundfile.SoundFile.flush

    def counted(file):
        synced.append(file.name)
        flush(file)

    stem = Noise(0, 3000, 0.1)
    with soundfile.SoundFile(tmp_path / "plain.wav", "w", RATE_HZ, 1, format="WAV", subtype="PCM_24") as file:
        file.write(quantised(stem.read(0, 3000), 1.0) << 8)
    monkeypatch.setattr(soundfile.SoundFile, "flush", counted)
    monkeypatch.setattr("birdsd.scenes.compose.mixdown.check_whole", lambda path, samples: None)
    for suffix in ("wav", "flac"):
        write_mix(tmp_path / f"mix.{suffix}", [Written(stem, tmp_path / f"stem.{suffix}")], 3000, RATE_HZ)
    assert synced == []
    monkeypatch.undo()
    assert (tmp_path / "mix.wav").read_bytes() == (tmp_path / "plain.wav").read_bytes()
    assert np.array_equal(read_stem(tmp_path / "mix.flac"), read_stem(tmp_path / "mix.wav"))


def test_an_error_in_the_sum_would_be_seen(tmp_path):
    stem = Noise(0, 1000, 0.1)
    write_mix(tmp_path / "mix.flac", [Written(stem, tmp_path / "a.flac")], 1000, RATE_HZ)
    write_mix(
        tmp_path / "other.flac", [Written(Noise(0, 1000, 0.1 + 2**-22), tmp_path / "b.flac")], 1000, RATE_HZ
    )
    assert largest_error(tmp_path / "mix.flac", [(tmp_path / "b.flac", 0)], 1000) > 0


def test_the_peak_between_the_samples_counts():
    """A tone at a quarter of the rate, sampled beside its crests: 3 dB above what the samples show."""

    class Tone:
        start, samples = 0, 8000

        def read(self, first, count):
            return (0.9 * np.sin(np.pi / 2 * np.arange(first, first + count) + np.pi / 4)).astype(np.float32)

    assert np.abs(Tone().read(0, 8000)).max() < 0.64
    peak = true_peak([Tone()], 8000)
    assert peak == pytest.approx(0.9, abs=0.03)
    assert 20 * math.log10(peak * 10 ** (fitting_gain_db(peak) / 20)) <= CEILING_DB
    assert fitting_gain_db(0.5) == 0.0


@dataclass
class Bounded(Noise):
    """Noise that says how loud it is at most."""

    reads: int = 0

    @property
    def peak(self):
        return self.level

    def read(self, first, count):
        self.reads += 1
        return super().read(first, count)


def test_what_stems_say_of_their_peaks_spares_a_pass_and_changes_no_gain():
    quiet = [Bounded(0, 2 * BLOCK, 0.1), Bounded(BLOCK + 500, 5000, 0.25, 1)]
    assert true_peak(quiet, 2 * BLOCK) == pytest.approx(0.35)
    assert sum(stem.reads for stem in quiet) == 0
    loud = [Bounded(0, 2 * BLOCK, 0.3), Bounded(BLOCK + 500, 5000, 0.95, 1)]
    unsaid = [Noise(0, 2 * BLOCK, 0.3), Noise(BLOCK + 500, 5000, 0.95, 1)]
    assert fitting_gain_db(true_peak(loud, 2 * BLOCK)) == fitting_gain_db(true_peak(unsaid, 2 * BLOCK)) < 0


@pytest.mark.parametrize("stem", ["layer", "event", "wide", "folded"])
def test_no_sample_of_a_stem_exceeds_its_peak(tmp_path, stem):
    sound = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    told = PlacedBackground("rain", "", -39.0, 0.0, 1.0)
    with Spool(tmp_path / "spool") as spool:
        piece = spool.add([sound[:1000], sound[1000:]])
        wide = spool.add_wide([np.stack([sound, -2 * sound], axis=1)], 2)
        layer = Layer(told, piece, 10, 0.5, 100, 100)
        made = {
            "layer": layer,
            "event": EventStem(Song(None, piece, None, None), 10, 0.5),
            "wide": Layer(told, wide, 10, 0.5, 0, 0),
            "folded": Around(EventStem(Song(None, piece, None, None), 10, 0.5), 1500),
        }[stem]
        largest = float(np.abs(made.read(10, 4000 if stem != "folded" else 1490)).max())
        assert 0.5 < largest <= peak_of(made) * (1 + 1e-6)
        assert stem == "folded" or largest == pytest.approx(peak_of(made))


def test_memory_does_not_grow_with_the_duration(tmp_path):
    def peak(seconds: float) -> int:
        samples = round(seconds * 32000)
        stems = [Noise(0, samples, 0.1), Noise(1000, 20000, 0.2, 1)]
        written = [Written(stem, tmp_path / f"{n}.flac") for n, stem in enumerate(stems)]
        tracemalloc.start()
        true_peak(stems, samples)
        write_mix(tmp_path / "mix.flac", written, samples, RATE_HZ)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(20)
    assert peak(200) / peak(20) <= 1.1


def test_a_full_disk_is_said_and_a_file_cut_short_is_seen(tmp_path):
    """A limit on the size of files stands in for the disk: libsndfile meets it inside of its own writing."""
    script = f"""
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {str(tmp_path)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from birdsd.errors import UserError
from birdsd.scenes.compose.mixdown import Written, write_mix
from tests.scenes.compose.test_mixdown import Noise
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    write_mix(Path({str(tmp_path / "mix.wav")!r}), [Written(Noise(0, 400_000, 0.1), None)], 400_000, 16000)
except UserError as error:
    print(error.code, error)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("disk-full ") and "mix.wav" in told.stdout
    soundfile.write(tmp_path / "short.flac", np.zeros(100), RATE_HZ)
    with refuses(str(tmp_path / "short.flac"), kind=DiskFull):
        check_whole(tmp_path / "short.flac", 101)


def test_the_licence_of_a_mix_is_the_strictest_and_some_cannot_be_joined():
    assert licence_of(["CC0", "CC BY 4.0", "CC BY-NC 4.0"]) == "CC BY-NC 4.0"
    assert licence_of(["CC BY-NC-SA 3.0", "CC BY-NC-SA 4.0"]) == "CC BY-NC-SA 4.0"
    assert licence_of(["", ""]) == "" and licence_of(["CC0"]) == "CC0"
    with refuses(("CC BY-NC-SA 4.0", "CC BY-SA 4.0"), "each demands", "itself", kind=Mismatch):
        licence_of(["CC BY-SA 4.0", "CC BY-NC-SA 4.0", "CC0"])
    with refuses(("CC BY-SA 4.0", "CC BY-NC 4.0"), "sell", "nobody", kind=Mismatch):
        licence_of(["CC BY-SA 4.0", "CC BY-NC 4.0"])
    with refuses("CC BY-ND 4.0", "derivative", "forbids", "leave this recording out", kind=Unsupported):
        licence_of(["CC BY-ND 4.0", "CC0"])
