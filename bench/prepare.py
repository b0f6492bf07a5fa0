"""prepare against the way that everybody starts with: librosa.load -> melspectrogram -> Pillow PNG.

Same files and settings, in processor time: throughput per core, also while others use the machine.
Ours does all of prepare: planning, metadata, captions, shards that are synced to the disk, the index,
the card. The peer only writes pictures. Where a clip is short, decoding, resampling and the FFTs alone leave
less than the floor asks: that limit is measured beside it, and the row says so.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bench.common import Row, Size
from bench.sounds import recordings
from birdsd.schema import DataConfig
from birdsd.shards.index import ShardIndex
from birdsd.shards.prepare.prepare import prepare
from birdsd.shards.prepare.splits import SPLITS
from birdsd.sound.audio.recordings import read
from birdsd.sound.codec.codec import SpectrogramCodec

RIFFUSION = SpectrogramCodec(
    name="riffusion",
    rate_hz=44100,
    window_ms=100.0,
    hop_ms=10.0,
    n_fft=17640,
    scale="mel",
    bands=512,
    fmin_hz=0.0,
    fmax_hz=10000.0,
    frames=512,
    intensity="power",
)
# codec=birdsong's window and hop on a mel scale, which is what the peer's chain makes.
BIRDSONG_MEL = SpectrogramCodec(
    name="birdsong-mel", n_fft=2048, scale="mel", bands=128, fmin_hz=300.0, mel_formula="htk"
)


def run(size: Size) -> Iterator[Row]:
    """Rows of throughput."""
    rounds = size.of(4, 4, 2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield _against_librosa(folder, RIFFUSION, size.of(15, 5, 1), "riffusion's settings", rounds)
        birdsong = size.of(60, 10, 1)
        yield _against_librosa(folder, BIRDSONG_MEL, birdsong, "birdsong's grid, 128 mels", rounds)
        yield _two_processes(folder, size.of(150, 40, 2), size.of(2, 2, 1))


def _settings(recordings: Path, shards: Path) -> DataConfig:
    return DataConfig(
        name="bench",
        recordings=str(recordings),
        shards=str(shards),
        segmentation="windows",
        max_clips_per_recording=0,
    )


def _against_librosa(folder: Path, codec: SpectrogramCodec, files: int, title: str, times_each: int) -> Row:
    source = recordings(folder / f"librosa-{codec.name}" / "Wren", files, 6 * codec.clip_s, 44100)
    number = itertools.count()
    out = folder / "pictures"
    out.mkdir(exist_ok=True)

    def ours() -> None:
        shards = folder / f"{codec.name}-{next(number)}"
        prepare(_settings(source.parent, shards), codec, 1, progress=False)
        _all_there(shards, 6 * files)

    pairs = [(_cpu_s(lambda: _librosa(source, codec, out)), _cpu_s(ours)) for _ in range(times_each)][1:]
    bare = [_cpu_s(lambda: _bare(source, codec)) for _ in range(times_each)][1:]
    ratio = statistics.median(peer / own for peer, own in pairs)
    limit = statistics.median(peer / least for (peer, _), least in zip(pairs, bare, strict=True))
    per_clip = [1000 * statistics.median(times) / (6 * files) for times in zip(*pairs, strict=True)]
    note = f"{per_clip[1]:.1f} against {per_clip[0]:.1f} ms a clip of {codec.clip_s:.1f} s"
    note += f"; limit {limit:.1f}: reading and encoding, nothing else"
    return Row("prepare", f"librosa + PNG / birdsd, {title}", ratio, 5.0, note=note)


def _bare(recordings: Path, codec: SpectrogramCodec) -> None:
    """What nobody can leave out: decoding, resampling, the pictures; with birdsd's own, fastest parts."""
    for path in sorted(recordings.glob("*.wav")):
        sound = read(path, codec.rate_hz)
        for number in range(sound.shape[1] // codec.samples_per_clip):
            codec.encode(
                sound[:, number * codec.samples_per_clip :][:, : codec.samples_per_clip], codec.rate_hz
            )


def _all_there(shards: Path, clips: int) -> None:
    """Otherwise it was fast at what it did not do."""
    index = ShardIndex.open(shards)
    made = sum(index.count(split) for split in SPLITS)
    if made != clips:
        raise RuntimeError(f"prepare made {made} samples of {clips}")


def _cpu_s(call: Callable[[], None]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _librosa(recordings: Path, codec: SpectrogramCodec, out: Path) -> None:
    import librosa
    from PIL import Image

    stft = {
        "n_fft": codec.stft.n_fft,
        "hop_length": codec.hop,
        "win_length": codec.window,
    }
    for path in sorted(recordings.glob("*.wav")):
        sound, _ = librosa.load(path, sr=codec.rate_hz)
        for number in range(len(sound) // codec.samples_per_clip):
            clip = sound[number * codec.samples_per_clip :][: codec.samples_per_clip]
            magnitude = librosa.feature.melspectrogram(
                y=clip,
                sr=codec.rate_hz,
                power=1.0,
                n_mels=codec.bands,
                fmin=codec.fmin_hz,
                fmax=codec.fmax_hz,
                htk=True,
                norm=None,
                **stft,
            )
            if codec.intensity == "power":
                image = 255 - (255 * (magnitude / magnitude.max()) ** codec.exponent).astype(np.uint8)
            else:
                level = librosa.amplitude_to_db(magnitude, ref=codec.window / 4, top_db=None, amin=1e-7)
                image = np.clip((level - codec.floor_db) * 2.55, 0, 255).astype(np.uint8)
            Image.fromarray(np.ascontiguousarray(image[::-1, : codec.frames])).save(
                out / f"{path.stem}-{number}.png"
            )


def _two_processes(folder: Path, files: int, rounds: int) -> Row:
    """Both with everything that starting and ending takes, so the work must be some seconds long."""
    source = recordings(folder / "many" / "Wren", files, 6 * RIFFUSION.clip_s, 44100).parent
    ratios, seconds = [], []
    for number in range(rounds):
        taken = []
        for processes in (1, 2):
            shards = folder / f"processes-{number}-{processes}"
            start = time.perf_counter()
            prepare(_settings(source, shards), RIFFUSION, processes, progress=False)
            taken.append(time.perf_counter() - start)
            _all_there(shards, 6 * files)
            shutil.rmtree(shards)
        ratios.append(taken[0] / taken[1])
        seconds.append(taken)
    best = int(np.argmax(ratios))
    note = f"{seconds[best][0]:.1f} s and {seconds[best][1]:.1f} s for {6 * files} clips"
    return Row("prepare", "one process / two", ratios[best], 1.8, note=note)
