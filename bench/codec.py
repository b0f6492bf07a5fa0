"""Sound to image and back, against librosa and against what the FFT alone costs; one core each side."""

from __future__ import annotations

import io

import numpy as np
import yaml

import birdsd
from bench.common import Row, Size, paired
from birdsd.randomness import generator
from birdsd.sound.codec.codec import SpectrogramCodec
from birdsd.sound.codec.pghi import integrated_phase
from birdsd.sound.codec.phase import PGHI, RANDOM, griffin_lim, spectral_convergence_db


def run(size: Size) -> list[Row]:
    """Rows of encoding and decoding."""
    repeats = size.of(7, 3, 1)
    riffusion, birdsong = _preset("riffusion"), _preset("birdsong")
    sound = song(riffusion.rate_hz, riffusion.samples_per_clip)
    return [
        *_encoding(riffusion, sound, repeats),
        *_phase_recovery(size.of(riffusion, riffusion, birdsong), sound, size.of(3, 1, 1)),
        *_start(birdsong, song(birdsong.rate_hz, birdsong.samples_per_clip), repeats),
        _real_time(birdsong, song(birdsong.rate_hz, birdsong.samples_per_clip), repeats),
    ]


def song(rate_hz: int, samples: int, seed: int = 0) -> np.ndarray:
    """Sweeps, a trill and noise 40 dB below: float32 [1, samples]."""
    t = np.arange(samples) / rate_hz
    sweep = np.sin(2 * np.pi * (3300 * t - 850 / (2 * np.pi * 3) * np.cos(2 * np.pi * 3 * t)))
    notes = np.sin(2 * np.pi * 6200 * t) * np.clip(np.sin(2 * np.pi * 25 * t), 0, 1) ** 2
    noise = generator(seed, "bench-song").standard_normal(samples)
    mixed = 0.3 * sweep * (np.sin(2 * np.pi * 0.7 * t) > 0) + 0.2 * notes + 0.003 * noise
    return mixed.astype(np.float32)[None]


def _preset(name: str) -> SpectrogramCodec:
    for folder in birdsd.__path__:
        path = f"{folder}/configs/codec/{name}.yaml"
        try:
            with open(path, encoding="utf-8") as stream:
                return SpectrogramCodec.from_json(yaml.safe_load(stream))
        except FileNotFoundError:
            continue
    raise FileNotFoundError(f"codec preset {name}")


def _encoding(codec: SpectrogramCodec, sound: np.ndarray, repeats: int) -> list[Row]:
    import librosa
    from PIL import Image
    from scipy.fft import rfft

    def mel() -> np.ndarray:
        return librosa.feature.melspectrogram(
            y=sound[0], sr=codec.rate_hz, n_fft=codec.stft.n_fft, hop_length=codec.hop,
            win_length=codec.window, power=1.0, pad_mode="reflect", n_mels=codec.bands,
            fmin=codec.fmin_hz, fmax=codec.fmax_hz, htk=True, norm=None,
        )  # fmt: skip

    def peer() -> None:
        Image.fromarray(codec.quantise(mel().T[None, : codec.frames])[0]).save(io.BytesIO(), format="PNG")

    def ours() -> None:
        np.save(io.BytesIO(), codec.encode(sound, codec.rate_hz))

    frames = np.zeros((16, codec.stft.n_fft), np.float32)
    frames[:, : codec.window] = sound[0, : codec.window] * codec.stft.hann

    def transforms() -> None:
        for _ in range(codec.frames // len(frames)):
            rfft(frames, axis=1)

    expected = mel().T[: codec.frames]
    error = float(np.linalg.norm(codec.magnitude(sound)[0] - expected) / np.linalg.norm(expected))
    with_png, alone, floor = (
        paired(ours, peer, repeats),
        paired(ours, mel, repeats),
        paired(ours, transforms, repeats),
    )
    speed = codec.clip_s / alone.ours_s
    return [
        Row(
            "codec",
            "encode, riffusion grid, vs librosa + PNG",
            with_png.speedup,
            5.0,
            note=f"{speed:.0f}x real time",
        ),
        Row("codec", "encode, riffusion grid, vs librosa mel alone", alone.speedup, 3.0),
        Row("codec", "encode: share of the bare FFTs' speed", floor.speedup, 0.8),
        Row("codec", "mel magnitude: relative error vs librosa", error, 1e-6, False, f"{error:.1e}"),
    ]


def _phase_recovery(codec: SpectrogramCodec, sound: np.ndarray, repeats: int) -> list[Row]:
    import librosa

    target = codec.stft.magnitude(sound[0])
    grid = {
        "n_fft": codec.stft.n_fft,
        "hop_length": codec.hop,
        "win_length": codec.window,
        "pad_mode": "reflect",
    }
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        found["ours"] = griffin_lim(target, codec.stft, codec.griffin_lim_iterations)

    def peer() -> None:
        found["peer"] = librosa.griffinlim(target.T, n_iter=32, momentum=0.99, random_state=0, **grid)

    def score(waveform: np.ndarray) -> float:
        magnitude = np.abs(librosa.stft(waveform, **grid)).T[: codec.frames]
        return spectral_convergence_db(magnitude, target[: len(magnitude)])

    pair = paired(ours, peer, repeats, warm_up=0 if repeats == 1 else 1)
    ours_db, peer_db = score(found["ours"]), score(found["peer"])
    note = f"{ours_db:.1f} dB in {pair.ours_s:.2f} s; librosa {peer_db:.1f} dB in {pair.peer_s:.2f} s"
    return [
        Row("codec", "phase recovery, riffusion grid, vs librosa.griffinlim", pair.speedup, 6.0, note=note),
        Row("codec", "phase recovery: dB behind librosa", ours_db - peer_db, 0.5, False),
    ]


def _start(codec: SpectrogramCodec, sound: np.ndarray, repeats: int) -> list[Row]:
    """What the start of the phase costs in iterations, and what it saves."""
    magnitude = codec.dequantise(codec.encode(sound, codec.rate_hz))[0]
    bins = codec.filters.invert(magnitude / codec.band_gain)
    drawn = generator(0, "bench-phase").random(bins.shape, dtype=np.float32)
    found: dict[str, np.ndarray] = {}

    def decoded(start: str, iterations: int) -> None:
        found[start] = griffin_lim(bins, codec.stft, iterations, codec.momentum, start=start)

    def error_db(start: str) -> float:
        return spectral_convergence_db(codec.magnitude(found[start][None])[0], magnitude)

    integrated_phase(bins, drawn, codec.stft)  # compiled here, and not in what is timed
    cost = paired(lambda: integrated_phase(bins, drawn, codec.stft), lambda: decoded(RANDOM, 10), repeats)
    usual = codec.griffin_lim_iterations
    gain = paired(lambda: decoded(PGHI, usual), lambda: decoded(RANDOM, 100), repeats)
    note = f"{usual} iterations {error_db(PGHI):.1f} dB, 100 from random phases {error_db(RANDOM):.1f} dB"
    return [
        Row("codec", "PGHI, birdsong grid, vs 10 Griffin-Lim iterations", cost.speedup, 1.0),
        Row(
            "codec",
            "decode, birdsong grid, vs 100 from random phases",
            gain.speedup,
            2.5,
            note=note,
        ),
    ]


def _real_time(codec: SpectrogramCodec, sound: np.ndarray, repeats: int) -> Row:
    image = codec.encode(sound, codec.rate_hz)
    pair = paired(lambda: codec.decode(image), lambda: codec.encode(sound, codec.rate_hz), repeats)
    note = f"encode {codec.clip_s / pair.peer_s:.0f}x real time"
    return Row("codec", "decode codec=birdsong: x real time", codec.clip_s / pair.ours_s, 1.0, note=note)
