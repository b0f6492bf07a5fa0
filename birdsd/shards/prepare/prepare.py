"""Recordings -> labelled spectrogram shards, in parallel processes, each shard atomically.

What is finished is known by its index alone: running prepare again writes only the shards that are
missing, and the set is described (dataset.json, card, contact sheet) once all are there. Nothing about
single samples is held in memory, so that 100 hours need no more of it than one.

Several tasks may share the work, on as many machines as read the same folders: each makes the same plan
and writes its part of it, and whichever finds all shards there describes the set. A shard is written in a
folder of the writer's own and then renamed, so that even two tasks that write the same one do no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from birdsd.errors import NotSet, UserError
from birdsd.files import exclusive, write_json
from birdsd.schema import DataConfig
from birdsd.shards.index import CODEC_FILE, DATASET_FILE
from birdsd.shards.prepare.card import CARD_FILE
from birdsd.shards.prepare.clips import SampleMaker
from birdsd.shards.prepare.dataset import describe_set, write_dataset
from birdsd.shards.prepare.plan import (
    PLAN_FILE,
    Item,
    Plan,
    ShardTask,
    Share,
    check_settings,
    choose_species,
    leave_out_invisible,
    make_plan,
    refuse_other_plan,
)
from birdsd.shards.prepare.survey import SURVEY_FILE, Survey, SurveyedRecording, load_survey, wants_survey
from birdsd.shards.storage.table import ShardTable, index_path, load_table
from birdsd.shards.storage.writer import ShardWriter
from birdsd.shards.summary import Summary
from birdsd.sharing import beside_others, private_folder, publish, remove_leftovers, waiting_for
from birdsd.sound.audio.channels import choose_channels
from birdsd.sound.audio.recordings import RecordingError
from birdsd.sound.codec.protocol import Codec
from birdsd.sound.identity import unite
from birdsd.sound.labels.annotation import UNREADABLE, Recording
from birdsd.sound.labels.load import load_recordings
from birdsd.sound.mixing import EnvironmentPool
from birdsd.workers import cores, done_by_workers, one_thread

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class PrepareReport:
    """What prepare did: `written` shards of the `total`, of which `present` are there now.

    `facts` of the whole set (see dataset.py), once all shards are there.
    """

    folder: Path
    written: int
    total: int
    present: int
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.present == self.total

    @property
    def nothing_to_do(self) -> bool:
        return self.written == 0


@one_thread()
def prepare(
    data: DataConfig,
    codec: Codec,
    processes: int = 0,
    progress: bool = True,
    part: Share | None = None,
) -> PrepareReport:
    """Prepare `data.recordings` into the folder `data.shards`; `processes` = 0 takes every core.

    With a `part`, only its share of the shards is written; the part that finds them all there then
    describes the set. Raises `UserError` where nothing usable is found, where the folder holds other
    shards, and where the disk is full; recordings that cannot be read are listed in problems.json, and
    the rest goes on.
    """
    if not data.recordings:
        raise NotSet("data.recordings is not set", "prepare needs recordings", "set data.recordings=FOLDER")
    if not data.shards:
        raise NotSet("data.shards is not set", "prepare writes into a folder", "set data.shards=FOLDER")
    check_settings(data)
    folder = Path(data.shards)
    found = load_recordings(Path(data.recordings), Path(data.labels) if data.labels else None)
    groups = unite(found)
    found = leave_out_invisible(choose_species(found, data), codec)
    if pool := _environment_pool(data):
        found.problems.extend(pool.problems)
    plan = make_plan(found, codec, data, groups)
    refuse_other_plan(folder, plan)
    whole = part is None or part.is_whole
    with exclusive(folder) if whole else beside_others(folder, f"part-{part}"):
        if not (folder / PLAN_FILE).is_file():
            write_json(folder / CODEC_FILE, codec.to_json())
            write_json(folder / PLAN_FILE, plan.facts)
        remove_leftovers(folder, alone=whole)
        # The share is of all shards: other parts may see others missing.
        tasks = plan.tasks if part is None else part.share(plan.tasks)
        missing = [task for task in tasks if finished_table(folder, task, plan.fingerprint) is None]
        work = _Work(folder, plan, data, codec, processes or cores(), progress)
        if wants_survey(data) and (missing or not _is_described(folder)):
            survey = _survey(work, found.recordings, groups)
            found.problems.extend(survey.problems(data, codec.clip_s))
        written = _write_shards(work, missing)
        if whole and (missing or not _is_described(folder)):
            write_dataset(folder, plan, data, codec, found)
    present = _present(folder, plan)
    if present < len(plan.tasks):
        return PrepareReport(folder, written, len(plan.tasks), present)
    if not whole:
        with waiting_for(folder / ".lock"):
            if not _is_described(folder):
                write_dataset(folder, plan, data, codec, found)
    return PrepareReport(folder, written, len(plan.tasks), present, describe_set(folder))


def _is_described(folder: Path) -> bool:
    return (folder / DATASET_FILE).is_file() and (folder / CARD_FILE).is_file()  # the card comes last


def _present(folder: Path, plan: Plan) -> int:
    """How many shards are finished. Each index is read only where all are there: there may be many."""
    there = [task for task in plan.tasks if index_path(folder / task.name).is_file()]
    if len(there) < len(plan.tasks):
        return len(there)
    return sum(finished_table(folder, task, plan.fingerprint) is not None for task in there)


def _environment_pool(data: DataConfig) -> EnvironmentPool | None:
    return EnvironmentPool(Path(data.environment)) if data.environment and data.mixtures_per_clip else None


def finished_table(folder: Path, task: ShardTask, plan: str) -> ShardTable | None:
    """The index of a shard that is finished and whole; None where it has to be written."""
    tar = folder / task.name
    try:
        table = load_table(index_path(tar))
        size = tar.stat().st_size
    except (UserError, OSError):
        return None
    return table if table.summary.get("plan") == plan and table.size == size else None


@dataclass(frozen=True)
class _Work:
    """What is done, and with how many processes."""

    folder: Path
    plan: Plan
    data: DataConfig
    codec: Codec
    processes: int
    progress: bool

    @property
    def settings(self) -> tuple[Any, ...]:
        """For a worker, in this process or another."""
        return str(self.folder), self.plan.fingerprint, asdict(self.data), self.codec.to_json()


def _survey(work: _Work, recordings: Sequence[Recording], groups: Mapping[str, str]) -> Survey:
    """Listen to all recordings, unless another task did; a part that comes meanwhile waits."""
    folder, plan = work.folder, work.plan
    with waiting_for(folder / ".lock-survey"):
        if (known := load_survey(folder, plan.fingerprint)) is not None:
            return known
        tasks = [
            (r, plan.splits[r.recording_id], groups.get(r.recording_id, r.recording_id)) for r in recordings
        ]
        with _bar(work, len(tasks), "listen") as bar:
            surveyed = []
            for recording in _done(work, _Worker.survey, sorted(tasks, key=lambda task: task[0].duration_s)):
                surveyed.append(recording)
                bar.update()
        survey = Survey(surveyed)
        write_json(folder / SURVEY_FILE, survey.to_json(plan.fingerprint))
        return survey


def _write_shards(work: _Work, tasks: list[ShardTask]) -> int:
    with _bar(work, sum(len(task.items) for task in tasks), "prepare") as bar:
        if work.processes > 1 and len(tasks) > 1:
            # The largest first, so that no process is left with one at the end.
            tasks = sorted(tasks, key=lambda task: sum(i.last - i.first for i in task.items))
        for count in _done(work, _Worker.write, tasks):
            bar.update(count)
    return len(tasks)


def _bar(work: _Work, total: int, what: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit="recording", disable=None if work.progress else True)


def _done(work: _Work, call: Callable[[_Worker, T], R], tasks: Sequence[T]) -> Iterator[R]:
    """What a worker's method gives for each task, in any order; in several processes, the last task first."""
    broken = UserError(
        "a process that was preparing shards ended abruptly",
        "most often the machine ran out of memory; every finished shard is kept",
        "run the same command again with fewer processes: machine.processes=1",
    )
    return done_by_workers(_Worker, work.settings, call, tasks, work.processes, broken)


class _Worker:
    """Writes shards; one in each process."""

    def __init__(self, folder: str, plan: str, data: dict[str, Any], codec: dict[str, Any]) -> None:
        self.folder, self.plan = Path(folder), plan
        self.data, self.codec = DataConfig(**data), Codec.from_json(codec)
        survey = load_survey(self.folder, plan) if wants_survey(self.data) else None
        self.maker = SampleMaker(self.codec, self.data, _environment_pool(self.data), survey)

    def survey(self, task: tuple[Recording, str, str]) -> SurveyedRecording:
        """What is in a recording, in its split and its group; nothing where it cannot be read."""
        recording, split, group = task
        try:
            return self.maker.survey_of(recording, split, group)
        except RecordingError:  # said where its samples are made
            return SurveyedRecording(str(recording.path), recording.recording_id, group, split)

    @one_thread()  # again: libraries were loaded since `prepare` began
    def write(self, task: ShardTask) -> int:
        """Write one shard and its index; what cannot be read goes into the index's summary. How many
        recordings are in it."""
        summary = Summary(self.codec.clip_s)
        kept: dict[str, Any] = {"plan": self.plan}
        with private_folder(self.folder) as place:
            with ShardWriter(place / task.name, kept) as shard:
                for item in task.items:
                    self._add(shard, summary, item, task.split)
                kept.update(summary.to_json())
            publish(place, self.folder, task.name, index_path(place / task.name).name)
        return len(task.items)

    def _add(self, shard: ShardWriter, summary: Summary, item: Item, split: str) -> None:
        mono = self.codec.channels == 1 and item.recording.channels > 1
        if mono and not item.first and (note := choose_channels(item.recording.path).note):
            summary.add_problem(item.recording.path, note)
        samples = self.maker.samples(item, split)
        starts: set[float] = set()
        while True:
            try:  # only the making may fail quietly: a full disk must stop everything
                sample = next(samples, None)
            except RecordingError as error:
                summary.add_problem(item.recording.path, str(error))
                summary.account(item.recording.path, range(len(item.recording.labels)), UNREADABLE)
                return
            if sample is None:
                return
            if sample.image is not None or sample.code:
                summary.account(item.recording.path, sample.rows, sample.code)
            if sample.image is None:
                if sample.skipped:
                    summary.add_skipped(item.recording.path, sample.skipped)
                continue
            starts.add(sample.metadata["start_s"])
            summary.most_clips = max(summary.most_clips, len(starts))
            summary.add_sample(len(shard), sample.metadata)
            shard.write(sample.key, {"npy": sample.image, "json": sample.metadata})
