"""Preparing 50 hours must not need more memory than one: the peak resident memory of a process each."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench.common import Row, Size
from bench.sounds import recording
from birdsd.schema import DataConfig
from birdsd.shards.prepare.prepare import prepare
from birdsd.sound.codec.codec import SpectrogramCodec

# Small images and a low rate, so that 50 hours pass in a minute; what could grow with the hours (plan,
# metadata, index, problems) is as large as ever.
CODEC = SpectrogramCodec(
    name="memory",
    rate_hz=8000,
    window_ms=64.0,
    hop_ms=32.0,
    n_fft=512,
    bands=32,
    fmin_hz=62.5,
    fmax_hz=4000.0,
    frames=128,
)
_RECORDING_S = 300.0


def run(size: Size) -> list[Row]:
    """Peak memory of prepare for one hour and for many."""
    few_hours, hours = size.of((1, 50), (1, 10), (0.25, 0.5))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = recording(folder / "source.wav", _RECORDING_S, CODEC.rate_hz)
        few, many = (_peak_mib(folder, source, count) for count in (few_hours, hours))
    note = f"{few:.0f} and {many:.0f} MiB, {int(hours * 3600 / _RECORDING_S)} recordings"
    return [
        Row(
            "memory",
            f"prepare {hours:g} h / {few_hours:g} h, peak memory",
            many / few,
            1.05,
            higher_is_better=False,
            note=note,
        )
    ]


def _peak_mib(folder: Path, source: Path, hours: float) -> float:
    recordings = _recordings(folder / f"{hours}h" / "Wren", source, int(hours * 3600 / _RECORDING_S)).parent
    command = [sys.executable, "-m", "bench.memory", str(recordings), str(folder / f"shards-{hours}h")]
    # Its own account of its peak: the usage that wait4 gives for a child includes the parent's before exec.
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(result.stdout.split()[-1])


def _recordings(folder: Path, source: Path, count: int) -> Path:
    """In 8 bits, so that 50 hours are 1.4 GB, and each with a beginning of its own: what is the same to the
    sample is one recording to prepare."""
    import soundfile

    sound, rate_hz = soundfile.read(source, dtype="float32")
    folder.mkdir(parents=True)
    for number in range(count):
        sound[:64] = np.random.default_rng(number).uniform(-0.5, 0.5, 64)
        soundfile.write(folder / f"recording_{number:05d}.wav", sound, rate_hz, subtype="PCM_U8")
    return folder


def _own_peak_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    prepare(
        DataConfig(
            name="memory",
            recordings=sys.argv[1],
            shards=sys.argv[2],
            segmentation="windows",
            overlap=0.0,
            max_clips_per_recording=0,
        ),
        CODEC,
        processes=1,
        progress=False,
    )
    print(_own_peak_mib())
