"""prepare against the way that everybody starts with: librosa.load -> melspectrogram -> Pillow PNG.

Same files and settings, in processor time: throughput per core, also while others use the machine.
Ours does all of prepare: planning, metadata, captions, shards that are synced to the disk, the index,
the card. The peer only writes pictures.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.common import Row
from bench.sounds import linked, recording
from birdsd.schema import DataConfig
from birdsd.shards.prepare.prepare import prepare
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


def run(quick: bool = False) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [
            _against_librosa(folder, RIFFUSION, 5 if quick else 15, "riffusion's settings"),
            _against_librosa(folder, BIRDSONG_MEL, 10 if quick else 60, "birdsong's grid, 128 mels"),
            _two_processes(folder, 40 if quick else 150),
        ]


def _settings(recordings: Path, shards: Path) -> DataConfig:
    return DataConfig(
        name="bench",
        recordings=str(recordings),
        shards=str(shards),
        segmentation="windows",
        max_clips_per_recording=0,
    )


def _against_librosa(folder: Path, codec: SpectrogramCodec, files: int, title: str) -> Row:
    source = recording(folder / f"{codec.name}.wav", 6 * codec.clip_s, 44100)
    recordings = linked(folder / f"librosa-{codec.name}" / "Wren", source, files)
    rounds = itertools.count()
    out = folder / "pictures"
    out.mkdir(exist_ok=True)

    def ours() -> None:
        prepare(
            _settings(recordings.parent, folder / f"{codec.name}-{next(rounds)}"), codec, 1, progress=False
        )

    pairs = [(_cpu_s(lambda: _librosa(recordings, codec, out)), _cpu_s(ours)) for _ in range(4)][1:]
    ratio = statistics.median(peer / own for peer, own in pairs)
    per_clip = [1000 * statistics.median(times) / (6 * files) for times in zip(*pairs, strict=True)]
    note = f"{per_clip[1]:.1f} against {per_clip[0]:.1f} ms a clip of {codec.clip_s:.1f} s"
    return Row("prepare", f"librosa + PNG / birdsd, {title}", ratio, 5.0, note=note)


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


def _two_processes(folder: Path, files: int) -> Row:
    """Both with everything that starting and ending takes, so the work must be some seconds long."""
    source = recording(folder / "source.wav", 6 * RIFFUSION.clip_s, 44100)
    recordings = linked(folder / "many" / "Wren", source, files).parent
    ratios, seconds = [], []
    for number in range(2):
        taken = []
        for processes in (1, 2):
            shards = folder / f"processes-{number}-{processes}"
            start = time.perf_counter()
            prepare(_settings(recordings, shards), RIFFUSION, processes, progress=False)
            taken.append(time.perf_counter() - start)
            shutil.rmtree(shards)
        ratios.append(taken[0] / taken[1])
        seconds.append(taken)
    best = int(np.argmax(ratios))
    note = f"{seconds[best][0]:.1f} s and {seconds[best][1]:.1f} s for {6 * files} clips"
    return Row("prepare", "one process / two", ratios[best], 1.8, note=note)
