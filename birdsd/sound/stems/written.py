"""One recording into a folder: a sound file and a label table for each source, a picture, and the recipe."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.errors import AlreadyThere, BadValue
from birdsd.files import explained_write, read_json, safe_name, sha256_file, write_json, write_text
from birdsd.sharing import private_folder, publish
from birdsd.sound.audio.recordings import AudioInfo, RecordingError, blocks, probe
from birdsd.sound.labels.raven import raven_text
from birdsd.sound.separation.fit import Fitted, Wanted, fit, grid_for
from birdsd.sound.separation.model import Bases
from birdsd.sound.separation.sample import sample_of
from birdsd.sound.separation.separator import in_blocks
from birdsd.sound.stems.events import EventMeter, StemEvent
from birdsd.sound.stems.picture import SHOWN_S, draw_sheet, shown
from birdsd.sound.stems.wav import FloatWav

RECIPE = "separation.json"
FORMAT = "birdsd-stems-1"
BLOCK_S = 10.0


@dataclass(frozen=True)
class Task:
    """A recording and where its stems go: the folder `out`/`name`, and `pool`/REST/`name`.wav if a pool is
    named."""

    path: Path
    name: str
    out: Path
    pool: Path | None = None
    picture: bool = True


def recipe_of(task: Task, wanted: Wanted, model: Bases | None) -> dict[str, Any]:
    """What decides the stems: settings, model, and the bytes of the recording, wherever it lies.
    `RecordingError` where it cannot be read."""
    try:
        content = sha256_file(task.path)
    except OSError as error:
        raise RecordingError(f"{task.path} cannot be read: {error.strerror}") from error
    return {
        "format": FORMAT, "settings": asdict(wanted), "model": model.identity if model else None,
        "recording": task.path.name, "sha256": content, "pool": str(task.pool) if task.pool else None,
    }  # fmt: skip


def is_there(task: Task, recipe: dict[str, Any]) -> bool:
    """Whether the stems were made already. `UserError` where the folder holds those of other settings."""
    folder = task.out / task.name
    if not folder.is_dir():
        return False
    known = read_json(folder / RECIPE, "recipe of the stems").get("recipe", {})
    if known == recipe:
        return True
    differing = sorted(key for key in {*known, *recipe} if known.get(key) != recipe.get(key))
    raise AlreadyThere(
        f"{folder} holds other stems: they differ in {', '.join(differing)}",
        "stems that are there are never overwritten",
        "name another folder with out=, or delete this one",
    )


def separate_recording(
    task: Task,
    wanted: Wanted,
    model: Bases | None,
    recipe: dict[str, Any],
    advanced: Callable[[float], object] = lambda seconds: None,
) -> dict[str, Any]:
    """Separate, write and publish; returns what there is to say of it. `UserError` (`RecordingError`) where
    it cannot be done, and then nothing is left behind."""
    info = probe(task.path)
    grid = grid_for(info.rate_hz, model, wanted.method)
    if info.duration_s * info.rate_hz < grid.window:
        raise BadValue(
            f"{task.path.name} lasts {1000 * info.duration_s:.3g} ms",
            f"a frame is {1000 * grid.window / grid.rate_hz:.3g} ms long", "leave it out",
        )  # fmt: skip
    fitted = fit(sample_of(task.path, grid), wanted, model)
    with explained_write(task.out):
        task.out.mkdir(parents=True, exist_ok=True)
    with private_folder(task.out) as place, explained_write(task.out / task.name):
        folder = place / safe_name(task.name)
        folder.mkdir()
        meters, error = _write_stems(task, info, fitted, folder, advanced)
        told = _told(task, info, fitted, meters)
        told["sum_error"] = error
        told["recipe"] = recipe
        events = {name: meter.events() for name, meter in meters.items()}
        for name, found in events.items():
            _write_table(folder, task.name, name, found, info)
        told["shown_from_s"] = round(busiest_s(events[fitted.separator.sources[0]]), 3)
        if task.picture:
            _draw(task, folder, fitted, told["shown_from_s"])
        if task.pool is not None:
            _into_pool(task.pool / safe_name(wanted.rest), folder, task.name, fitted.separator.sources[-1])
        write_json(folder / RECIPE, told)
        publish(place, task.out, folder.name)
    return told


def stem_file(name: str, source: str) -> str:
    """The file name of a stem."""
    return f"{name}.{safe_name(source)}.wav"


def _write_stems(
    task: Task, info: AudioInfo, fitted: Fitted, folder: Path, advanced: Callable[[float], object]
) -> tuple[dict[str, EventMeter], float]:
    """The sound files; a meter for each source, and by how much the stems miss the recording at most."""
    separator, rate_hz = fitted.separator, info.rate_hz
    meters = {name: EventMeter(rate_hz) for name in separator.sources}
    error = 0.0
    with ExitStack() as stack:
        files = [
            stack.enter_context(FloatWav(folder / stem_file(task.name, name), rate_hz, info.channels))
            for name in separator.sources
        ]
        for sound, stems in in_blocks(separator, _parts(info, advanced), round(BLOCK_S * rate_hz)):
            whole = sound.mean(axis=0)
            for file, stem, meter in zip(files, stems, meters.values(), strict=True):
                file.write(stem)
                meter.add(stem.mean(axis=0), whole)
            missed = np.abs(stems.astype(np.float64).sum(axis=0) - sound)
            error = max(error, float(missed.max(initial=0.0)))
    return meters, error


def _parts(info: AudioInfo, advanced: Callable[[float], object]) -> Iterator[np.ndarray]:
    for _, part in blocks(info.path, info.rate_hz, BLOCK_S, channels=info.channels):
        yield part
        advanced(part.shape[1] / info.rate_hz)


def _told(task: Task, info: AudioInfo, fitted: Fitted, meters: dict[str, EventMeter]) -> dict[str, Any]:
    sources = {}
    for name, meter in meters.items():
        events = meter.events()
        sources[name] = {
            "file": stem_file(task.name, name), "events": len(events),
            "level_db": round(meter.level_db, 2) if meter.energy > 0 else None,
            "snr_db": round(meter.snr_db(events), 2) if events else None,
        }  # fmt: skip
    return {
        "name": task.name, "path": str(task.path), "duration_s": round(info.duration_s, 3),
        "rate_hz": info.rate_hz, "channels": info.channels, **fitted.facts, "sources": sources,
        "notes": [*fitted.notes, *info.notes],
    }  # fmt: skip


def _write_table(folder: Path, name: str, source: str, events: list[StemEvent], info: AudioInfo) -> None:
    further = {"SNR (dB)": [f"{one.snr_db:.2f}" for one in events]}
    text = raven_text(
        [one.label(source) for one in events], top_hz=info.rate_hz / 2, begin_file=stem_file(name, source),
        further=further,
    )  # fmt: skip
    write_text(folder / f"{name}.{safe_name(source)}.Table.1.selections.txt", text)


def _draw(task: Task, folder: Path, fitted: Fitted, start_s: float) -> None:
    names = fitted.separator.sources
    files = [("before", task.path), *((name, folder / stem_file(task.name, name)) for name in names)]
    row = shown(task.name, files, start_s)
    draw_sheet([row], folder / f"{task.name}.png")


def busiest_s(events: list[StemEvent]) -> float:
    """The start of the stretch to show: the one in which a source sounds longest."""
    best, best_s = 0.0, -1.0
    for one in events:
        end_s = one.start_s + SHOWN_S
        heard_s = sum(min(e.end_s, end_s) - e.start_s for e in events if one.start_s <= e.start_s < end_s)
        if heard_s > best_s:
            best, best_s = max(0.0, one.start_s - 0.5), heard_s
    return best


def _into_pool(folder: Path, stems: Path, name: str, rest: str) -> None:
    """The stem of what is left over, as a file that scenes and mixtures take for a background."""
    with explained_write(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with private_folder(folder) as place:
        file = f"{safe_name(name)}.wav"
        try:
            os.link(stems / stem_file(name, rest), place / file)  # hours need not lie there twice
        except OSError:
            shutil.copyfile(stems / stem_file(name, rest), place / file)
        publish(place, folder, file)
