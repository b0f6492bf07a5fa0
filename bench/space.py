"""Space: how well planted birds are found and told apart, and how fast scenes are rendered.

Songs are real ones where the environment variable BIRDSD_DATA names a folder with `birdsong/` (one of each
species, four seconds around the loudest), else made here; the notes say which. The array's bird is found by
OpenSoundscape where it is installed, else by what it documents: GCC-PHAT and least squares. The peer of the
rendering, pyroomacoustics' anechoic room, is left out where it is not installed.
"""

from __future__ import annotations

import importlib.util
import math
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import LeftOut, Row, Size, paired
from bench.scenes import RATE_HZ, _bank, _pool
from birdsd.scenes.backgrounds.render import Backgrounds
from birdsd.scenes.compose.batch import Batch
from birdsd.scenes.compose.compose import Composer, Look
from birdsd.scenes.scene import Background, Event, Scene
from birdsd.scenes.space.stage import space_of
from birdsd.schema import SpaceConfig
from birdsd.sound.audio.levels import active_level_db
from birdsd.sound.audio.recordings import find_recordings, read
from birdsd.sound.separation.measures import si_sdr_db
from birdsd.sound.space.air import Air
from birdsd.sound.space.apart import apart
from birdsd.sound.space.diffuse import waves
from birdsd.sound.space.intensity import bearing_of, bearings_of, field_of, turned_deg
from birdsd.sound.space.layouts import ARRAY, FOA, ORTF, Layout, Position, Recorder
from birdsd.sound.space.propagate import NO_REVERBERATION, Reverberation, render
from birdsd.sound.space.stereo import ortf_azimuth

AIR = Air()
BAND_HZ = (1000.0, 12000.0)
_MISSED = 180.0  # degrees of a bird that is not found


def run(size: Size) -> Iterator[Row]:
    """Bearings, birds apart, an array, nobody, and the speed."""
    count = size.of(40, 16, 2)
    yield from _bearings(count)
    yield from _pairs(count)
    yield from _nobody(count)
    yield _array(size.of(20, 8, 1))
    yield _hour(size)
    yield _peer(size)


@lru_cache
def songs() -> tuple[list[np.ndarray], str]:
    """Mono float32 songs at `RATE_HZ`, of RMS 0.1, and what they are."""
    place = Path(os.environ.get("BIRDSD_DATA", "")) / "birdsong"
    found = []
    if os.environ.get("BIRDSD_DATA") and place.is_dir():
        for folder in sorted(one for one in place.iterdir() if one.is_dir()):
            sound = read(find_recordings(folder)[0], RATE_HZ, duration_s=30.0)[0]
            step = RATE_HZ // 2
            starts = range(0, max(1, len(sound) - 4 * RATE_HZ), step)
            best = max(starts, key=lambda at: active_level_db(sound[at : at + 4 * RATE_HZ]))
            found.append(sound[best : best + 4 * RATE_HZ])
    kind = f"{len(found)} real songs"
    if not found:
        kind, found = "songs made here", [_made(n) for n in range(10)]
    return [(0.1 * one / np.sqrt(np.square(one).mean())).astype(np.float32) for one in found], kind


def _made(seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    out = np.zeros(3 * RATE_HZ)
    at = 1000
    while at < len(out) - 8000:
        length = int(draw.uniform(0.05, 0.2) * RATE_HZ)
        hz = np.linspace(draw.uniform(2000, 6000), draw.uniform(2000, 6000), length)
        out[at : at + length] += np.hanning(length) * np.sin(2 * np.pi * np.cumsum(hz) / RATE_HZ)
        at += length + int(draw.uniform(0.03, 0.12) * RATE_HZ)
    return out


def _heard(
    song: np.ndarray,
    azimuth: float,
    layout: Layout,
    of: Reverberation = NO_REVERBERATION,
    seed: int = 0,
    distance_m: float = 10.0,
) -> np.ndarray:
    place = Position(azimuth, 5.0 if layout.name == FOA else 0.0, distance_m)
    return render(song, RATE_HZ, (place, place), layout, AIR, of, np.random.default_rng(seed)).T


def _diffuse(samples: int, seed: int) -> np.ndarray:
    gains = np.stack([Layout(FOA).paths(one, AIR).gains for one in waves(64)]).astype(np.float32)
    noise = np.random.default_rng(seed).standard_normal((samples, 64), dtype=np.float32)
    return (noise @ gains / 8).T


def _with_noise(bird: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    have_db = 10 * np.log10(np.square(bird[0]).mean() / np.square(noise[0]).mean())
    return bird + noise * np.float32(10 ** ((have_db - snr_db) / 20))


def _bearings(count: int) -> Iterator[Row]:
    draw = np.random.default_rng(1)
    sung, kind = songs()
    for what, ratio_db, echo in (
        ("10 dB of diffuse noise", 10.0, False), ("0 dB of diffuse noise", 0.0, False),
        ("T60 1.2 s, direct 10 dB over it", 10.0, True), ("T60 1.2 s, direct as loud", 0.0, True),
    ):  # fmt: skip
        errors = []
        for number in range(count):
            azimuth, song = draw.uniform(-180, 180), sung[number % len(sung)]
            if echo:
                foa = _heard(song, azimuth, Layout(FOA), Reverberation(1.2, ratio_db), number)
            else:
                foa = _heard(song, azimuth, Layout(FOA))
                foa = _with_noise(foa, _diffuse(foa.shape[1], number), ratio_db)
            found = bearing_of(field_of(foa, RATE_HZ).band(*BAND_HZ))
            errors.append(turned_deg(found.azimuth_deg, azimuth) if found else _MISSED)
        yield from _errors(f"bearing, FOA, {what}", errors, 1.0, 3.0, kind)
    errors = []
    for number in range(count):
        azimuth, song = draw.uniform(-85, 85), sung[number % len(sung)]
        pair = _heard(song, azimuth, Layout(ORTF))
        noise = np.random.default_rng(number).standard_normal(pair.shape).astype(np.float32)
        found_deg = ortf_azimuth(_with_noise(pair, noise, 20.0), RATE_HZ, AIR)
        errors.append(abs(found_deg - azimuth) if found_deg is not None else _MISSED)
    yield from _errors("bearing, ORTF, 20 dB of noise", errors, 2.0, 2.0, kind)


def _errors(what: str, errors: list[float], median: float, most: float, kind: str) -> Iterator[Row]:
    note = f"degrees; {len(errors)} of {kind}; worst {max(errors):.1f}"
    yield Row("space", f"{what}: median error", float(np.median(errors)), median, False, note)
    yield Row("space", f"{what}: 90th percentile", float(np.percentile(errors, 90)), most, False, note)


def _pairs(count: int) -> Iterator[Row]:
    sung, kind = songs()
    draw = np.random.default_rng(2)
    gains, missed = [], 0
    for number in range(count):
        azimuth = draw.uniform(-180, 135)
        birds = [
            _heard(sung[(number + n * 3) % len(sung)], (azimuth + 45 * n + 180) % 360 - 180, Layout(FOA))
            for n in (0, 1)
        ]
        length = min(one.shape[1] for one in birds)
        birds = [one[:, :length] for one in birds]
        foa = _with_noise(birds[0], _diffuse(length, number), 20.0) + birds[1]
        found = bearings_of(field_of(foa, RATE_HZ).band(*BAND_HZ))
        asked = [azimuth, azimuth + 45]
        near = [min(found, key=lambda f, a=a: turned_deg(f.azimuth_deg, a), default=None) for a in asked]
        if any(f is None or turned_deg(f.azimuth_deg, a) > 12 for f, a in zip(near, asked, strict=True)):
            missed += 1
            continue
        sounds = apart(foa, RATE_HZ, [f.azimuth_deg for f in near if f])
        gains += [si_sdr_db(sounds[1 + n], birds[n][0]) - si_sdr_db(foa[0], birds[n][0]) for n in (0, 1)]
    note = f"dB SI-SDR, {count} pairs of {kind}, noise 20 dB below; one of both missed in {missed}"
    note += f"; worst {min(gains):.1f}" if gains else ""
    yield Row(
        "space", "two birds 45 degrees apart, told apart: mean", float(np.mean(gains or [0])), 15.0, note=note
    )


def _nobody(count: int) -> Iterator[Row]:
    said = 0
    for number in range(count):
        field = field_of(_diffuse(2 * RATE_HZ, 1000 + number), RATE_HZ).band(*BAND_HZ)
        said += bearing_of(field) is not None or bool(bearings_of(field))
    yield Row("space", "nobody there: stretches that get a bearing", float(said), 0.0, False, f"of {count}")


def _array(count: int) -> Row:
    recorders = tuple(
        Recorder(name, x, y)
        for name, x, y in (("A", -20, -20), ("B", 25, -15), ("C", 18, 22), ("D", -22, 20), ("E", 0, 3))
    )
    layout, draw, sung = Layout(ARRAY, recorders), np.random.default_rng(4), songs()
    errors, used = [], ""
    for number in range(count):
        azimuth, distance = draw.uniform(-180, 180), draw.uniform(3, 18)
        song = np.pad(sung[0][number % len(sung[0])], RATE_HZ // 2)
        heard = _heard(song, azimuth, layout, Reverberation(1.2, 20.0), number, distance)
        noise = np.random.default_rng(number).standard_normal(heard.shape).astype(np.float32)
        place = layout.compass @ Position(azimuth).unit * distance
        found, used = _located(_with_noise(heard, noise, 15.0), layout)
        errors.append(math.dist(found, place[:2]))
    note = f"m, by {used}; {count} of {sung[1]}, noise at 15 dB, T60 1.2 s; worst {max(errors):.2f}"
    return Row(
        "space",
        "a bird of an array, found: 90th percentile",
        float(np.percentile(errors, 90)),
        1.0,
        False,
        note,
    )


def _located(heard: np.ndarray, layout: Layout) -> tuple[np.ndarray, str]:
    places = layout.places()[:, :2]
    if importlib.util.find_spec("opensoundscape"):
        return _by_opensoundscape(heard, layout), "OpenSoundscape"
    from tests.support.located import located

    return located(heard, RATE_HZ, places, BAND_HZ, AIR.speed_m_s)[0], "GCC-PHAT and least squares"


def _by_opensoundscape(heard: np.ndarray, layout: Layout) -> np.ndarray:
    import pandas as pd
    import soundfile
    from opensoundscape.localization import SynchronizedRecorderArray

    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{one.name}.wav" for one in layout.recorders]
        for path, sound in zip(paths, heard, strict=True):
            soundfile.write(path, sound / np.abs(heard).max(), RATE_HZ, subtype="PCM_24")
        coords = pd.DataFrame(layout.places()[:, :2], index=pd.Index(paths, name="file"), columns=["x", "y"])
        array: Any = SynchronizedRecorderArray(coords, speed_of_sound=AIR.speed_m_s)
        length, midnight = heard.shape[1] / RATE_HZ, datetime(2000, 1, 1, tzinfo=timezone.utc)
        names = ["file", "start_time", "end_time", "start_timestamp"]
        rows = [(path, 0.3, length - 0.3, midnight) for path in paths]
        told = pd.DataFrame({"bird": 1}, index=pd.MultiIndex.from_tuples(rows, names=names))
        bands = {"bird": list(BAND_HZ)}
        found = array.localize_detections(
            told, max_receiver_dist=100, min_n_receivers=4, bandpass_ranges=bands
        )
        return np.median([one.location_estimate for one in found], axis=0)


def _hour(size: Size) -> Row:
    """A whole scene, by the processor's time, which other programs do not lengthen: events, a diffuse bed,
    labels, 4 channels of 24 bits in FLAC, no stems."""
    seconds, events = size.of((3600, 1000), (600, 167), (20, 6))
    draw = np.random.default_rng(5)
    onsets = np.sort(draw.uniform(0.5, seconds - 4, events))
    asked = tuple(
        Event(
            f"e{n}", f"Bird {n % 3}", onset_s=round(float(at), 3), snr_db=float(draw.uniform(3, 20)),
            bearing_deg=float(draw.uniform(-180, 180)), distance_m=float(draw.uniform(5, 80)),
        )
        for n, at in enumerate(onsets)
    )  # fmt: skip
    scene = Scene(asked, (Background("rain", source="pool"),), float(seconds), seed=1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        composer = Composer(
            _bank(folder / "bank"),
            Backgrounds(pool=_pool(folder / "pool")),
            RATE_HZ,
            "bench",
            space=space_of(FOA, SpaceConfig()),
        )
        batch = Batch(composer, folder / "out", Look("flac", stems=False, picture=False), {}, {})
        start, core = time.perf_counter(), time.process_time()
        batch.make_one(scene, "hour", {"scene": "bench"})
        took_s, core_s = time.perf_counter() - start, time.process_time() - core
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    note = (
        f"{seconds} s with {events} events in {core_s:.1f} s of a core ({took_s:.1f} s passed); {peak:.0f} MB"
    )
    return Row("space", "a scene in FOA against real time", seconds / core_s, 20.0, note=note)


def _peer(size: Size) -> Row:
    """The same sources into four receivers: direct sound with its delay alone on their side, with air and
    directions on ours."""
    if not importlib.util.find_spec("pyroomacoustics"):
        raise LeftOut("pyroomacoustics is not installed: no row against its anechoic room")
    import pyroomacoustics as pra

    sung, count = songs()[0], size.of(40, 20, 3)
    draw = np.random.default_rng(6)
    asked = [(draw.uniform(-180, 180), draw.uniform(5, 80), 2.0 * n) for n in range(count)]
    total = round((2 * count + 8) * RATE_HZ)

    def ours() -> np.ndarray:
        out = np.zeros((total, 4), np.float32)
        for n, (azimuth, distance, at) in enumerate(asked):
            place = Position(azimuth, 0.0, distance)
            heard = render(sung[n % len(sung)], RATE_HZ, (place, place), Layout(FOA), AIR)
            first = round(at * RATE_HZ)
            out[first : first + len(heard)] += heard
        return out

    def peer() -> np.ndarray:
        room = pra.AnechoicRoom(fs=RATE_HZ, temperature=15.0, humidity=70.0)
        room.add_microphone_array(np.array([[0.01, -0.01, 0, 0], [0, 0, 0.01, -0.01], [0, 0, 0, 0]]))
        for n, (azimuth, distance, at) in enumerate(asked):
            where = Position(azimuth).unit * distance
            room.add_source(where, signal=sung[n % len(sung)], delay=at)
        room.simulate()
        return room.mic_array.signals

    pair = paired(ours, peer, repeats=size.of(5, 3, 1))
    note = f"{1000 * pair.ours_s / count:.1f} ms, its {1000 * pair.peer_s / count:.1f} ms a source"
    return Row(
        "space", "sources into FOA against pyroomacoustics' anechoic room", pair.speedup, 2.0, note=note
    )
