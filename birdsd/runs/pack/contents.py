"""The contents of a pack: the minimum to resume a run elsewhere, as of one moment.

The newest checkpoint defines the moment: curve and ledger are cut there, however far an active run has come
since. Its files are opened before they are read, so that a checkpoint that is pruned meanwhile can still be
packed. A finished run needs no checkpoint: its export is packed instead.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import xxhash

from birdsd.errors import Mismatch, NotFound, Unsupported
from birdsd.files import read_json, safe_name
from birdsd.jobs_api import STOPPED_STATUS
from birdsd.method_facts import stored
from birdsd.runs.allocations import BEGAN, END, Ended, allocations
from birdsd.runs.heartbeat import HEARTBEAT
from birdsd.runs.pack.archive import PackWriter, names_below
from birdsd.runs.run import SHARDS_FOLDER, SIGNATURE_FILE, Run, content_identity
from birdsd.schema import MODEL_KEYS
from birdsd.shards.index import ShardIndex, listed
from birdsd.training.records import LEDGER_FILE, METRICS_FILE, read_metrics
from birdsd.training.stretches import EXTENSION_FILE

# A run's page shows the newest preview and a few before it.
_PREVIEWS = 7
_OF_SHARDS = ("codec.json", "pixels.json", "dataset.json", "README.md", "recordings.csv")


class DamagedCheckpoint(Exception):
    """The checkpoint cannot be packed as it is; the one before it may be."""


@dataclass
class Model:
    """A local base model of the run. `name`: below runs/ or models/ in the pack and where it is unpacked;
    `source`: its folder here, as settings and other models name it."""

    key: str
    name: str
    folder: Path
    source: str
    identity: str
    is_run: bool


@dataclass
class Contents:
    """What to pack of a run; the checkpoint is chosen when the pack is written."""

    run: Run
    shards: Path | None
    models: list[Model]
    with_shards: bool
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.run.folder.name


def contents_of(run: Run, with_shards: bool, with_models: bool) -> Contents:
    """What a run needs to resume elsewhere; raises `UserError` where it could not, or its shards changed."""
    if run.job != "train":
        raise Unsupported(
            f"{run.folder.name} is a run of {run.job}",
            "only training runs can be packed; other jobs are quick, or can be split into parts",
            f"birdsd run {run.job} ... with the same settings there",
        )
    config = run.config
    recorded = read_json(run.folder / "shards.json")
    shards: Path | None = Path(recorded["folder"])
    assert shards is not None
    if not shards.is_dir():
        if with_shards:
            raise NotFound(
                f"the shards of {run.folder.name} are not at {shards}",
                "--with-shards packs them",
                "leave it out, or restore the shards",
            )
        shards = None
    if with_shards and shards is not None:
        changes = ShardIndex.open(shards).changes_since(recorded["inventory"])
        if changes:
            raise Mismatch(
                f"the shards in {shards} changed since {run.folder.name} started: {listed(changes)}",
                "a run continues with the samples that it started with",
                "restore them, or leave --with-shards out",
            )
    models = models_of(run, config)
    contents = Contents(run, shards, models if with_models else [], with_shards)
    if models and not with_models:
        names = ", ".join(model.source for model in models)
        contents.notes.append(f"not packed, but needed on the other machine: {names}")
    return contents


def models_of(run: Run, config: Mapping[str, Any]) -> list[Model]:
    """The local base models of a run, and theirs in turn; hub ids are kept as names."""
    sources = [(key, str(config["model"].get(key) or "")) for key in MODEL_KEYS]
    sources.append(("base", _base_of(run.folder / "export")))
    models: dict[Path, Model] = {}
    while sources:
        key, source = sources.pop(0)
        folder = Path(source).expanduser()
        if not source or not folder.is_dir():
            continue
        if folder.name == "export" and (folder.parent / SIGNATURE_FILE).is_file():
            folder = folder.parent
        folder = folder.resolve()
        if folder == run.folder.resolve() or folder in models:
            continue
        identity = content_identity(str(folder))
        is_run = (folder / SIGNATURE_FILE).is_file()
        name = folder.name if is_run else f"{safe_name(folder.name, 60)}-{identity[:8]}"
        models[folder] = Model(key, name, folder, source, identity, is_run)
        sources += [("base", _base_of(place)) for place in (folder, folder / "export")]
    return list(models.values())


def _base_of(folder: Path) -> str:
    """The model that a LoRA or a token in `folder` was made for."""
    with suppress(OSError, ValueError, AttributeError, TypeError):
        facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        return str((facts.get("base") or {}).get("source") or "")
    return ""


# -- the checkpoint ---------------------------------------------------------------------------------------


@dataclass
class OpenCheckpoint:
    """A checkpoint with open files: it can be read completely even if it is removed meanwhile."""

    folder: Path
    streams: dict[str, IO[bytes]]
    commit: bytes
    sums: dict[str, Any]

    @property
    def position(self) -> int:
        return int(self.folder.name)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(int(recorded["size"]) for recorded in self.sums.values())

    def blocks(self, name: str) -> Iterator[bytes]:
        """A file's bytes; raises `DamagedCheckpoint` where they are not those that were committed."""
        recorded, size, sums = self.sums[name], 0, []
        while block := self.streams[name].read(int(recorded["block_bytes"])):
            size += len(block)
            sums.append(xxhash.xxh3_64(block).hexdigest())
            if sums != recorded["xxh3_64"][: len(sums)]:
                raise DamagedCheckpoint(f"the bytes of {self.folder.name}/{name} are not those written")
            yield block
        if size != recorded["size"] or len(sums) != len(recorded["xxh3_64"]):
            raise DamagedCheckpoint(f"{self.folder.name}/{name} has {size} bytes, not {recorded['size']}")


def open_checkpoint(folder: Path, stack: ExitStack) -> OpenCheckpoint:
    """Open all files of a committed checkpoint; `DamagedCheckpoint` where one is missing or damaged."""
    try:
        text = (folder / "COMMIT.json").read_bytes()
        commit = json.loads(text)
        if commit.pop("crc32") != zlib.crc32(json.dumps(commit, sort_keys=True).encode()):
            raise DamagedCheckpoint(f"{folder.name}/COMMIT.json is damaged")
        names = [safe_name(name) for name in commit["files"]]
        streams: dict[str, IO[bytes]] = {
            name: stack.enter_context(open(folder / name, "rb"))  # noqa: SIM115 - `stack` closes them
            for name in names
        }
        return OpenCheckpoint(folder, streams, text, {name: commit["files"][name] for name in names})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"{folder.name} cannot be read ({error})") from error


# -- writing ----------------------------------------------------------------------------------------------


def sized(contents: Contents, checkpoint: OpenCheckpoint | None) -> int:
    """The approximate size of the pack in bytes, for the progress bar and the check of free space."""
    total = checkpoint.size if checkpoint else _size(names_below(contents.run.export_folder))
    total += sum(_size(_model_files(model)) for model in contents.models)
    if contents.with_shards and contents.shards is not None:
        total += _size(_shard_files(contents.shards))
    return total


def _size(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def write_contents(writer: PackWriter, contents: Contents, checkpoint: OpenCheckpoint | None) -> None:
    """Write everything; `checkpoint` is None for a finished run."""
    run = contents.run
    here = f"run/{contents.name}"
    if checkpoint is not None:
        place = f"{here}/checkpoints/{checkpoint.folder.name}"
        for name, recorded in checkpoint.sums.items():
            writer.add(f"{place}/{name}", checkpoint.blocks(name), int(recorded["size"]), time.time_ns())
        writer.add_bytes(f"{place}/COMMIT.json", checkpoint.commit, time.time_ns())
    for name in ("config.json", SIGNATURE_FILE, "shards.json", *([] if checkpoint else ["finished.json"])):
        _add(writer, f"{here}/{name}", run.folder / name)
    if (run.folder / EXTENSION_FILE).is_file():
        _add(writer, f"{here}/{EXTENSION_FILE}", run.folder / EXTENSION_FILE)
    if checkpoint is None:
        for path in names_below(run.export_folder):
            _add(writer, f"{here}/{path.relative_to(run.folder).as_posix()}", path)
    _write_records(writer, contents, checkpoint)
    _write_shards(writer, contents)
    for model in contents.models:
        room = "runs" if model.is_run else "models"
        for path in _model_files(model):
            _add(writer, f"{room}/{model.name}/{path.relative_to(model.folder).as_posix()}", path)


def _add(writer: PackWriter, name: str, path: Path) -> None:
    with open(path, "rb") as stream:
        writer.add_stream(name, stream)


def _model_files(model: Model) -> list[Path]:
    """The files of a base model; of a run only its export and the records that make it a run."""
    if not model.is_run:
        return names_below(model.folder)
    records = ("config.json", SIGNATURE_FILE, "shards.json", "finished.json")
    paths = [model.folder / name for name in records if (model.folder / name).is_file()]
    return [*paths, *names_below(model.folder / "export")]


def _write_records(writer: PackWriter, contents: Contents, checkpoint: OpenCheckpoint | None) -> None:
    """Curve, ledger, events, allocations and previews, up to the checkpoint."""
    run, here, now = contents.run, f"run/{contents.name}", time.time_ns()
    lines = [
        json.dumps(line, ensure_ascii=False) + "\n"
        for line in read_metrics(run.folder)
        if checkpoint is None or line["position"] <= checkpoint.position
    ]
    writer.add_bytes(f"{here}/{METRICS_FILE}", "".join(lines).encode(), now)
    with suppress(FileNotFoundError):
        ledger = (run.folder / LEDGER_FILE).read_bytes()
        end = 4 * checkpoint.position if checkpoint else len(ledger)
        writer.add_bytes(f"{here}/{LEDGER_FILE}", ledger[:end], now)
    for path in sorted((run.folder / "events").glob("*.jsonl")):
        data = path.read_bytes()
        writer.add_bytes(f"{here}/events/{path.name}", data[: data.rfind(b"\n") + 1], now)
    for allocation in allocations(run.folder):
        _write_allocation(writer, f"{here}/allocations/{allocation.name}", allocation, checkpoint)
    for folder in chosen_previews(run.folder):
        for path in names_below(folder):
            _add(writer, f"{here}/{path.relative_to(run.folder).as_posix()}", path)


def _write_allocation(
    writer: PackWriter, place: str, allocation: Any, checkpoint: OpenCheckpoint | None
) -> None:
    for name in (BEGAN, HEARTBEAT, END):
        with suppress(FileNotFoundError):
            path = allocation.folder / name
            data = path.read_bytes()
            writer.add_bytes(f"{place}/{name}", data, path.stat().st_mtime_ns)
    beat = allocation.heartbeat
    if checkpoint is not None and beat is not None and allocation.seems_alive:
        # The allocation continues here; in the copy it ended with the checkpoint.
        ended = Ended(beat.time, "stopped", STOPPED_STATUS, checkpoint.position, "packed", beat.seconds)
        if f"{place}/{END}" not in writer.files:
            writer.add_bytes(f"{place}/{END}", json.dumps(asdict(ended)).encode(), time.time_ns())


def chosen_previews(run_folder: Path) -> list[Path]:
    """The newest preview and a few before it, evenly over the run."""
    previews = sorted(p for p in (run_folder / "previews").glob("*") if p.name.isdigit() and p.is_dir())
    if len(previews) <= _PREVIEWS:
        return previews
    places = {round(i * (len(previews) - 1) / (_PREVIEWS - 1)) for i in range(_PREVIEWS)}
    return [previews[place] for place in sorted(places)]


def _write_shards(writer: PackWriter, contents: Contents) -> None:
    folder, here = contents.shards, f"run/{contents.name}/{SHARDS_FOLDER}"
    if folder is None:
        # Packed once more where it was unpacked without its shards.
        for path in names_below(contents.run.folder / SHARDS_FOLDER):
            _add(writer, f"{here}/{path.relative_to(contents.run.folder / SHARDS_FOLDER).as_posix()}", path)
        return
    if contents.with_shards:
        for path in _shard_files(folder):
            _add(writer, f"shards/{shards_name(folder)}/{path.relative_to(folder).as_posix()}", path)
    for name in _OF_SHARDS:
        if (folder / name).is_file():
            _add(writer, f"{here}/{name}", folder / name)
    if not contents.with_shards:
        for path in _class_pictures(folder, contents.run.config):
            _add(writer, f"{here}/{path.relative_to(folder).as_posix()}", path)


def _shard_files(folder: Path) -> list[Path]:
    """The shards and what belongs to them (caches, class pictures), but no runs that lie in their folder."""
    return names_below(folder, lambda below: (below / SIGNATURE_FILE).is_file())


def shards_name(folder: Path) -> str:
    """What the shards' folder is called where they are unpacked."""
    return safe_name(folder.name)


def _class_pictures(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    """The class pictures of this run, where its method has some: another GPU would make slightly
    others."""
    facts = stored(config)
    wanted = facts.class_images(config) if facts is not None else None
    if wanted is None:
        return []
    paths: list[Path] = []
    for place in sorted(folder.glob("class-*")):
        with suppress(OSError, ValueError):
            recorded = json.loads((place / "facts.json").read_text(encoding="utf-8"))
            if all(recorded.get(key) == value for key, value in wanted.items()):
                paths += names_below(place)
    return paths
