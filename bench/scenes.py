"""Scenes out of a bank, without networks, against what Scaper documents, on the same songs and files.

Scaper (1.6.5) for each event: load and resample the file, cut its stretch out, measure its loudness (ITU-R
BS.1770), set it against the reference, fade it, pad it to the length of the soundscape; the background is
tiled with itself and brought to the reference loudness; everything is added, scaled where it would clip, and
written with its JAMS file. Here librosa, scipy and soundfile do that in one process, which spares Scaper its
transformer, its tables of events and the validation of its JAMS; it measures no label. Where SCAPER_PYTHON in
the environment names a Python that has Scaper, it makes the same soundscapes itself, in rows of its own.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bench.common import LeftOut, Pair, Row, Size, paired
from birdsd.files import fsync_folder
from birdsd.scenes.backgrounds.pool import Pool
from birdsd.scenes.backgrounds.render import Backgrounds
from birdsd.scenes.bank import bank as files
from birdsd.scenes.bank.bank import Bank
from birdsd.scenes.bank.clip import GENERATED, EventClip, Origin
from birdsd.scenes.bank.gate import EventVerdict
from birdsd.scenes.compose.batch import Batch
from birdsd.scenes.compose.compose import Composer, Look
from birdsd.scenes.heard.cutting import cut_out
from birdsd.scenes.scene import Background, Event, Scene
from birdsd.sharing import private_folder

RATE_HZ = 32000
REFERENCE_DB = -50.0
FLOOR = 5.0
SCAPER_PYTHON = "SCAPER_PYTHON"


@dataclass(frozen=True)
class Placed:
    """An event as both are told it."""

    file: Path
    onset_s: float
    snr_db: float


def run(size: Size) -> list[Row]:
    """A short scene, and one of ten minutes: one row each; and the short one with its stems (stems=true),
    which Scaper writes with save_isolated_events, each as long as the soundscape."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        bank, pool = _bank(folder / "bank"), _pool(folder / "pool")
        long = size.of((600, 100), (600, 100), (100, 10))
        for extent, stems in (((20, 5), False), (long, False), ((20, 5), True)):
            rows += _rows(folder, bank, pool, extent, size.of((5, 1), (2, 1), (1, 0)), stems)
    return rows


def _rows(
    folder: Path, bank: Bank, pool: Pool, extent: tuple[int, int], rounds: tuple[int, int], stems: bool
) -> list[Row]:
    """`extent`: seconds and events; `rounds`: repeats, and those before them that do not count."""
    seconds, count = extent
    scenes = [_scene(number, seconds, count) for number in range(4 if seconds < 100 else 1)]
    backgrounds = Backgrounds(pool=pool)
    batch = Batch(
        Composer(bank, backgrounds, RATE_HZ, "bench"),
        folder / f"ours{seconds}{stems}",
        Look("wav", stems=stems, picture=False),
        {},
        {},
    )
    counter = iter(range(10**6))
    core_s: dict[str, list[float]] = {"ours": [], "peer": []}

    def ours() -> None:
        start = time.process_time()
        with private_folder(batch.out) as place:  # as `Batch.make` has it
            for scene in scenes:
                batch.make_one(scene, f"scene{next(counter)}", {"scene": "bench"}, place)
            fsync_folder(batch.out)
        core_s["ours"].append((time.process_time() - start) / len(scenes))

    # What ours placed, for the peer: the same songs at the same times.
    lists = []
    for number, scene in enumerate(scenes):
        done = batch.make_one(scene, f"told{number}", {"scene": "bench"})
        lists.append(
            [
                Placed(bank.folder / "clips" / f"{one.clip}.flac", one.onset_s, one.asked_snr_db or 0.0)
                for one in done.came_out
            ]
        )

    def peer() -> None:
        start = time.process_time()
        for number, events in enumerate(lists):
            scaper(folder / f"scaper{number}.wav", events, _background(pool, number), float(seconds), stems)
        core_s["peer"].append((time.process_time() - start) / len(lists))

    kept = " and stems" if stems else ""
    what = f"composition, {seconds} s with {count} events{kept}, against Scaper's"

    def row(name: str, pair: Pair, who: str) -> Row:
        ours_ms, peer_ms = (1000 * time_s / len(scenes) for time_s in (pair.ours_s, pair.peer_s))
        # Ours is on the disk when it is published; Scaper leaves that to the system.
        core = [f"{1000 * statistics.median(core_s[one]):.0f} ms of a core" for one in ("ours", who)]
        note = f"{ours_ms:.0f} ms ({core[0]}), Scaper's {peer_ms:.0f} ms ({core[1]}) a scene"
        return Row("scenes", name, pair.speedup, FLOOR, note=note)

    rows = [row(what, paired(ours, peer, *rounds), "peer")]
    if python := os.environ.get(SCAPER_PYTHON):
        core_s |= {"ours": [], "itself": []}
        told = [_told(bank, pool, number, events, seconds) for number, events in enumerate(lists)]
        with _itself(python, {"folder": str(folder), "isolated": stems, "soundscapes": told}) as go:
            pair = paired(ours, lambda: core_s["itself"].append(go() / len(lists)), *rounds)
        rows.append(row(f"{what} own program", pair, "itself"))
    return rows


def _background(pool: Pool, number: int) -> Path:
    return pool.files("rain")[number % 4]


def _told(bank: Bank, pool: Pool, number: int, events: list[Placed], seconds: int) -> dict[str, Any]:
    """A soundscape as `scaper_peer` wants it."""
    background = _background(pool, number)
    listed = [
        {"file": str(one.file), "onset_s": one.onset_s, "snr_db": one.snr_db,
         "duration_s": min(soundfile.info(one.file).duration, seconds - one.onset_s)}
        for one in events
    ]  # fmt: skip
    return {
        "duration_s": float(seconds), "rate_hz": RATE_HZ, "reference_db": REFERENCE_DB, "events": listed,
        "sounds": str(bank.folder), "backgrounds": str(background.parents[1]), "background": str(background),
    }  # fmt: skip


@contextmanager
def _itself(python: str, told: dict[str, Any]) -> Iterator[Callable[[], float]]:
    """Scaper in its own Python; what is called makes all soundscapes and gives the processor time in s."""
    command = [python, str(Path(__file__).with_name("scaper_peer.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        pipes = process.stdin, process.stdout

        def ask(line: str) -> str:
            pipes[0].write(line + "\n")
            pipes[0].flush()
            if not (answer := pipes[1].readline().strip()):
                raise LeftOut(f"{python} ended: has it Scaper?")
            return answer

        ask(json.dumps(told))
        yield lambda: float(ask("go"))


def scaper(
    path: Path, events: list[Placed], background: Path, duration_s: float, isolated: bool = False
) -> None:
    """Scaper's generate, as its documentation and its core.py have it. `isolated`: each event as a file of
    its own, too."""
    import librosa

    samples = round(duration_s * RATE_HZ)
    sound, _ = librosa.load(str(background), sr=RATE_HZ, mono=True)
    tiled = np.tile(sound, -(-samples // len(sound)))[:samples]
    mix = tiled * 10 ** ((REFERENCE_DB - lufs(tiled)) / 20)
    parts = [mix] if isolated else []
    observations: list[dict[str, Any]] = []
    for event in events:
        song, _ = librosa.load(str(event.file), sr=RATE_HZ, mono=True)
        song = song * 10 ** ((REFERENCE_DB + event.snr_db - lufs(song)) / 20)
        fade = round(0.01 * RATE_HZ)
        song[:fade] *= np.sin(np.linspace(0, np.pi / 2, fade))
        song[-fade:] *= np.sin(np.linspace(np.pi / 2, 0, fade))
        padded = np.zeros(samples)
        first = round(event.onset_s * RATE_HZ)
        padded[first : first + len(song)] = song[: samples - first]
        mix = mix + padded
        parts += [padded] if isolated else []
        observations.append(
            {"time": event.onset_s, "duration": len(song) / RATE_HZ, "value": str(event.file)}
        )
    peak = np.abs(mix).max()
    soundfile.write(path, mix / peak if peak > 1 else mix, RATE_HZ, subtype="PCM_32")
    for number, part in enumerate(parts):
        soundfile.write(path.with_suffix(f".{number}.wav"), part, RATE_HZ, subtype="PCM_32")
    path.with_suffix(".jams").write_text(json.dumps({"annotations": [{"data": observations}]}, indent=2))


def lufs(samples: np.ndarray) -> float:
    """Integrated loudness (BS.1770-4); sounds below a block are repeated, as Scaper does."""
    from scipy.signal import lfilter

    block = round(0.4 * RATE_HZ)
    if len(samples) < block:
        samples = np.tile(samples, -(-block // len(samples)))
    weighted = np.asarray(samples, np.float64)
    for b, a in (_shelf(), _high_pass()):
        weighted = lfilter(b, a, weighted)
    step = block // 4
    starts = range(0, len(weighted) - block + 1, step)
    power = np.array([np.square(weighted[at : at + block]).mean() for at in starts])
    loud = -0.691 + 10 * np.log10(power + 1e-20)
    above = power[loud > -70]
    if not len(above):
        return -70.0
    gate = -0.691 + 10 * np.log10(above.mean()) - 10
    kept = power[(loud > -70) & (loud > gate)]
    return float(-0.691 + 10 * np.log10(kept.mean()))


def _shelf() -> tuple[np.ndarray, np.ndarray]:
    gain, root, centre = 3.99984385397, 0.7071752369554196, 1681.9744509555319
    k = np.tan(np.pi * centre / RATE_HZ)
    high = 10 ** (gain / 20)
    mid = high**0.4996667741545416
    a0 = 1 + k / root + k * k
    b = np.array([high + mid * k / root + k * k, 2 * (k * k - high), high - mid * k / root + k * k]) / a0
    return b, np.array([1, 2 * (k * k - 1) / a0, (1 - k / root + k * k) / a0])


def _high_pass() -> tuple[np.ndarray, np.ndarray]:
    root, centre = 0.5003270373238773, 38.13547087602444
    k = np.tan(np.pi * centre / RATE_HZ)
    a0 = 1 + k / root + k * k
    return np.array([1.0, -2.0, 1.0]), np.array([1, 2 * (k * k - 1) / a0, (1 - k / root + k * k) / a0])


def _scene(number: int, seconds: int, count: int) -> Scene:
    draw = np.random.default_rng([number, seconds])
    onsets = np.sort(draw.uniform(0.5, seconds - 3, count))
    events = tuple(
        Event(
            f"e{n}",
            f"Bird {draw.integers(3)}",
            onset_s=round(float(at), 3),
            snr_db=float(draw.uniform(6, 20)),
        )
        for n, at in enumerate(onsets)
    )
    return Scene(events, (Background("rain", source="pool"),), float(seconds), seed=number)


def _bank(folder: Path) -> Bank:
    files.begin(folder, {"rate_hz": RATE_HZ})
    for species in range(3):
        for voice in range(6):
            draw = np.random.default_rng([species, voice])
            count = round(float(draw.uniform(0.4, 2.0)) * RATE_HZ)
            hz = np.linspace(2000 + 1000 * species, 3000 + 1000 * species, count)
            song = np.pad(0.2 * np.sin(2 * np.pi * np.cumsum(hz) / RATE_HZ), RATE_HZ // 4)
            cut = cut_out(song.astype(np.float32), RATE_HZ)
            assert cut is not None
            name = files.clip_name(f"Bird {species}", "", voice, 0)
            clip = EventClip(
                name, f"Bird {species}", "", RATE_HZ, Origin(GENERATED, "bench", "0"),
                EventVerdict("bench", True, 1.0), cut.measured, cut.samples,
            )  # fmt: skip
            files.keep_clip(folder, name, clip, voice, 0, "train")
    return Bank(folder)


def _pool(folder: Path) -> Pool:
    (folder / "rain").mkdir(parents=True)
    for number in range(4):
        noise = 0.1 * np.random.default_rng(number).standard_normal(10 * RATE_HZ)
        soundfile.write(
            folder / "rain" / f"{number}.wav", noise.astype(np.float32), RATE_HZ, subtype="PCM_16"
        )
    return Pool(folder)
