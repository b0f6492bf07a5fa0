"""Many recordings, one after the other: those that are done are left alone, those that cannot be are
named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from birdsd.errors import NothingLeft, UserError
from birdsd.files import fingerprint, safe_name
from birdsd.sound.audio.recordings import RecordingError, find_recordings, probe
from birdsd.sound.separation.fit import Wanted
from birdsd.sound.separation.model import Bases
from birdsd.sound.stems.picture import Shown, draw_sheet, shown
from birdsd.sound.stems.written import Task, is_there, recipe_of, separate_recording

SHEET = "sheet.png"
_ON_SHEET = 8


@dataclass
class Separated:
    """What a call did: facts of the recordings made, names of those that were there, those refused and
    why."""

    made: list[dict[str, Any]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    sheet: Path | None = None


def tasks_of(recordings: Sequence[str], out: Path, pool: Path | None, picture: bool) -> list[Task]:
    """A task for each sound file that is named or lies in a folder that is; names tell them apart."""
    named: dict[Path, str] = {}
    for one in recordings:
        folder = Path(one)
        for path in find_recordings(folder):
            inside = path.relative_to(folder) if folder.is_dir() else Path(path.name)
            named.setdefault(path.resolve(), safe_name("_".join(inside.with_suffix("").parts)))
    if not named:
        raise NothingLeft(
            f"no sound files in {', '.join(recordings)}", "recordings are files, or folders of them"
        )
    twice = {name for name, count in Counter(named.values()).items() if count > 1}
    return [
        Task(path, f"{name}-{fingerprint(str(path), 6)}" if name in twice else name, out, pool, picture)
        for path, name in named.items()
    ]


@dataclass(frozen=True)
class Batch:
    """Recordings that share settings and model."""

    tasks: tuple[Task, ...]
    wanted: Wanted
    model: Bases | None = None

    def make(self) -> Separated:
        """Separate what is not there yet. A recording that cannot be is named and the others go on, unless it
        is the only one; a full disk ends it at once."""
        from tqdm import tqdm

        done = Separated()
        lengths = {task.name: _length_s(task) for task in self.tasks}
        with tqdm(total=round(sum(lengths.values()), 1), desc="separate", unit="s", disable=None) as bar:
            for task in self.tasks:
                try:
                    recipe = recipe_of(task, self.wanted, self.model)
                    if is_there(task, recipe):
                        done.kept.append(task.name)
                        bar.update(lengths[task.name])
                        continue
                    done.made.append(separate_recording(task, self.wanted, self.model, recipe, bar.update))
                except UserError as error:
                    full = isinstance(error.__cause__, OSError) and not isinstance(error, RecordingError)
                    if len(self.tasks) == 1 or full:
                        raise
                    done.refused.append((task.name, str(error)))
        if done.refused and not done.made and not done.kept:
            name, why = done.refused[0]
            raise NothingLeft(f"none of {len(self.tasks)} recordings can be separated; {name}: {why}")
        if done.made and self.tasks[0].picture:
            done.sheet = self._sheet(done)
        return done

    def _sheet(self, done: Separated) -> Path:
        """Of the first recordings made; those of before have their own pictures."""
        tasks = {task.name: task for task in self.tasks}
        rows: list[Shown] = []
        for told in done.made[:_ON_SHEET]:
            task = tasks[told["name"]]
            folder = task.out / task.name
            files = [(name, folder / of["file"]) for name, of in told["sources"].items()]
            rows.append(shown(task.name, [("before", task.path), *files], told["shown_from_s"]))
        return draw_sheet(rows, self.tasks[0].out / SHEET)


def _length_s(task: Task) -> float:
    try:
        return probe(task.path).duration_s
    except RecordingError:  # said when it is its turn
        return 0.0
