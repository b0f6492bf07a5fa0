"""A separation model from recordings of each source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from birdsd.errors import BadValue, NothingLeft
from birdsd.sound.audio.recordings import RecordingError, find_recordings, probe, read
from birdsd.sound.separation.fit import Wanted, grid_for, learn_source
from birdsd.sound.separation.grid import Grid
from birdsd.sound.separation.mat import save_mat
from birdsd.sound.separation.model import MAGNITUDE, Bases, joined
from birdsd.sound.separation.sample import PIECE_S, Sample, of_sound, sample_of, together

LEARNING_RATE_HZ = 32000
LEARN_S = 120.0  # of each source, a part of each of its recordings
_LEAST_S = 2.0  # of a recording: with more recordings fewer are listened to


def learn_model(
    folders: Mapping[str, str], wanted: Wanted, domain: str = MAGNITUDE, learn_s: float = LEARN_S
) -> tuple[Bases, list[str]]:
    """The bases of all sources, in the order named, and what is to be said of files that were left out.

    Of each recording of a source the same length is listened to, so that none is the source. `UserError`
    where a source has nothing to learn from.
    """
    parts, notes = [], []
    grid = grid_for(LEARNING_RATE_HZ)
    for name, folder in folders.items():
        paths = find_recordings(Path(folder))
        most = max(1, int(learn_s / _LEAST_S))
        chosen = paths if len(paths) <= most else [paths[at * len(paths) // most] for at in range(most)]
        samples = []
        for path in chosen:
            try:
                share_s = max(_LEAST_S, learn_s / len(chosen))
                samples.append(_heard(path, share_s, grid))
            except RecordingError as error:
                notes.append(f"{path.name} is left out: {error}")
        if not samples:
            why = f" ({notes[-1]})" if notes else ""
            raise NothingLeft(
                f"{folder} has no recording to learn '{name}' from{why}",
                "a source is learnt from sound files of it", f"set learn.{name}=FOLDER",
            )  # fmt: skip
        parts.append(learn_source(name, together(samples), wanted, domain))
    return joined(parts), notes


def _heard(path: Path, share_s: float, grid: Grid) -> Sample:
    """The middle of a recording; of a long share pieces from all over it."""
    duration_s = probe(path).duration_s
    if duration_s <= share_s or share_s >= 2 * PIECE_S:
        return sample_of(path, grid, share_s)
    start_s = (duration_s - share_s) / 2
    return of_sound(read(path, grid.rate_hz, start_s=start_s, duration_s=share_s), grid)


def save_model(model: Bases, path: Path) -> Path:
    """Write a model as its suffix says, .safetensors or soundscape_IR's .mat; returns the path."""
    suffix = path.suffix.lower()
    if suffix == ".mat":
        return save_mat(model, path)
    if suffix != ".safetensors":
        raise BadValue(f"a model cannot be saved as {path.name}", "its name ends in .safetensors or .mat")
    return model.save(path)
