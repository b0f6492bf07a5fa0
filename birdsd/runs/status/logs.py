"""The logs of a run's ranks: the end of a log, and what is added to it, across allocations.

The log goes to stdout unchanged; remarks by birdsd go to stderr, so that a pipe gets the log alone.
"""

from __future__ import annotations

import codecs
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from birdsd.errors import BadValue, NotFound, UserError, listed_names, unknown_name
from birdsd.format import moment, printable
from birdsd.remarks import Remark
from birdsd.runs.allocations import Allocation, Submission, allocations
from birdsd.runs.run import Run
from birdsd.runs.starts import SUBMITIT_FOLDER, launcher_logs, silent_starts, supervisor_log
from birdsd.runs.status.overview import status
from birdsd.runs.status.run_status import RunStatus
from birdsd.runs.status.state import ACTIVE, RUNNING

_BLOCK = 1 << 16
_LONGEST = 1 << 24  # bytes of a tail: a log may be one endless line
_INTERRUPTED = 130
_ALL = 1 << 30  # lines
_LOOK_S, _LOOK_FOR_NEW_S = 0.5, 2.0
_ASK_S = 15.0  # how often Slurm is asked about a run without output


def show(
    run: Run,
    rank: int | None = None,
    allocation: str | None = None,
    follow: bool = False,
    lines: int = 40,
    stacks: bool = False,
    *,
    out: TextIO | None = None,
    say: Callable[[str], None] | None = None,
) -> int:
    """Print the end of a rank's log: of the newest allocation, or of the one named.

    With `follow` it continues, across later allocations, until the run is over. With `stacks` it prints the
    stack dumps of hung ranks instead. Returns the exit status. Raises `UserError` for an allocation or rank
    that does not exist.
    """
    out = sys.stdout if out is None else out
    report = _to_stderr if say is None else say
    if stacks:
        _show_stacks(run, rank, allocation, out, report)
        return 0
    try:
        Reader(run, rank or 0, allocation, out, report).show(lines, follow)
    except KeyboardInterrupt:
        return _INTERRUPTED  # the usual way to leave
    return 0


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def tail(path: Path, lines: int) -> tuple[bytes, int]:
    """The last `lines` lines of a file, and its size; it is read from the end, so that large files are
    fast."""
    if lines <= 0:
        return b"", path.stat().st_size
    blocks: list[bytes] = []
    ends = size_read = 0
    with open(path, "rb") as stream:
        size = begin = stream.seek(0, os.SEEK_END)
        # One more line end than lines, so that the first line is complete.
        while begin > 0 and ends <= lines and size_read < _LONGEST:
            step = min(_BLOCK, begin)
            begin -= step
            stream.seek(begin)
            blocks.append(stream.read(step))
            ends += blocks[-1].count(b"\n")
            size_read += step
    return b"".join(_split(b"".join(reversed(blocks)))[-lines:]), size


def _split(content: bytes) -> list[bytes]:
    # A progress bar writes many states of one line, separated by carriage returns: they count as one line.
    parts = content.split(b"\n")
    whole = [part + b"\n" for part in parts[:-1]]
    return [*whole, parts[-1]] if parts[-1] else whole


def text_of(content: bytes) -> str:
    """Bytes of a log as text; invalid or cut UTF-8 shows as a replacement character."""
    return content.decode("utf-8", errors="replace")


@dataclass(frozen=True)
class Source:
    """The log files of one rank in one allocation, and a title for them."""

    title: str
    paths: tuple[Path, ...]
    allocation: Allocation | None = None
    part: str = ""


def source_of(run: Run, allocation: Allocation, rank: int) -> Source | None:
    """A rank's log in an allocation; where it has none, the launcher's log."""
    began = allocation.began
    where, part = "", began.part if began is not None else ""
    if began is not None:
        where = f", {began.host}, began {moment(began.time, time.time())}"
        where += f", part {began.part}" if began.part not in ("", "0/1") else ""
    if allocation.log(rank).is_file():
        return Source(
            f"allocation {allocation.name}, rank {rank}{where}", (allocation.log(rank),), allocation, part
        )
    job = allocation.name.rpartition(".")[0]
    paths = launcher_logs(run.folder, [began.job_id if began and began.job_id else job], rank)
    if paths:
        title = f"allocation {allocation.name}, rank {rank}{where}: the launcher's own log"
        return Source(title, paths, allocation, part)
    return None


def newest_source(run: Run, rank: int) -> Source | None:
    """The newest log of a rank; None where the run has none."""
    submission = Submission.read(run.folder)
    silent = silent_starts(run.folder, submission)
    if silent:
        paths = launcher_logs(run.folder, [start.job_id for start in silent], rank)
        if paths:
            return Source(f"{_NOT_BEGUN}, {len(silent)} times in a row", paths)
    for allocation in reversed(allocations(run.folder)):
        source = source_of(run, allocation, rank)
        if source is not None:
            return source
    paths = launcher_logs(run.folder, submission.job_ids, rank) if submission is not None else ()
    if not paths:
        # Jobs of an earlier submission, or of a chain that submitted itself.
        logs = (run.folder / SUBMITIT_FOLDER).glob(f"*_{rank}_log.*")
        paths = tuple(sorted((p for p in logs if p.stat().st_size), key=lambda p: p.stat().st_mtime)[-1:])
    paths = paths or supervisor_log(run.folder)
    return Source(_NOT_BEGUN, paths) if paths else None


_NOT_BEGUN = "the launcher's own log: birdsd did not start"


def _named(run: Run, name: str) -> Allocation:
    existing = allocations(run.folder)
    exact = [a for a in existing if a.name == name] or [a for a in existing if a.name.startswith(name)]
    if len(exact) == 1 or (exact and exact[0].name == name):
        return exact[0]
    if exact:
        names = listed_names(a.name for a in exact)
        raise BadValue(f"'{name}' matches several allocations: {names}", "", "use a longer prefix")
    raise unknown_name(
        f"allocation of {run.folder.name}",
        name,
        (a.name for a in existing),
        whole=f"`birdsd status {run.folder.name}`",
    )


def _no_log(run: Run, rank: int, allocation: Allocation | None) -> UserError:
    existing = [allocation] if allocation is not None else allocations(run.folder)
    ranks = sorted({int(path.stem.rpartition("-")[2]) for a in existing for path in a.logs})
    where = f"allocation {allocation.name}" if allocation is not None else run.folder.name
    if ranks:
        listed = f"{ranks[0]} to {ranks[-1]}" if len(ranks) > 3 else ", ".join(map(str, ranks))
        return NotFound(f"{where} has no log for rank {rank}", f"there are logs for ranks {listed}")
    if allocation is None and (submission := Submission.read(run.folder)) is not None:
        ids = ", ".join(submission.job_ids[-3:]) or "none"
        return NotFound(
            f"{where} has no logs",
            f"its job ({ids}) wrote nothing: it waits, or its node could not open {run.folder.resolve()}",
            f"`birdsd status {run.folder.name}` shows its state",
        )
    return NotFound(
        f"{where} has no logs",
        "only submitted runs log to files; `birdsd run` prints to the terminal that started it",
        f"`birdsd status {run.folder.name}` shows its state",
    )


def _show_stacks(
    run: Run, rank: int | None, name: str | None, out: TextIO, say: Callable[[str], None]
) -> None:
    for allocation in [_named(run, name)] if name else list(reversed(allocations(run.folder))):
        paths = [p for p in sorted(allocation.folder.glob("rank-*.stacks")) if p.stat().st_size]
        if rank:
            paths = [path for path in paths if path == allocation.stacks(rank)]
        for path in paths:
            say(f"== allocation {allocation.name}, {path.stem}: where it hung ==")
            out.write(text_of(path.read_bytes()))
        if paths:
            out.flush()
            return
    say(Remark("the watchdog ended no rank, so there are no stack dumps", "no-stacks"))


@dataclass
class Reader:
    """Prints a rank's log and follows it."""

    run: Run
    rank: int
    allocation: str | None
    out: TextIO
    say: Callable[[str], None]
    _offsets: dict[Path, int] = field(default_factory=dict)
    _status: RunStatus = field(init=False)
    _decoders: dict[Path, codecs.IncrementalDecoder] = field(default_factory=dict)

    def show(self, lines: int, follow: bool) -> None:
        """Print the end of the log, and follow it."""
        chosen = _named(self.run, self.allocation) if self.allocation else None
        source = source_of(self.run, chosen, self.rank) if chosen else newest_source(self.run, self.rank)
        if source is None and not (follow and chosen is None):
            raise _no_log(self.run, self.rank, chosen)
        if source is not None:
            self._open(source, lines)
        if follow:
            self._follow(source, chosen)

    def _open(self, source: Source, lines: int) -> None:
        self.say(f"== {source.title} ==")
        for path in source.paths:
            content, size = tail(path, lines)
            self._offsets[path] = size
            self._decoders[path] = codecs.getincrementaldecoder("utf-8")(errors="replace")
            self.out.write(text_of(content))
        self.out.flush()

    def _more(self, source: Source) -> bool:
        """Print what was added, and return whether anything was; a file that became shorter was started
        over."""
        added = False
        for path in source.paths:
            try:
                with open(path, "rb") as stream:
                    size = stream.seek(0, os.SEEK_END)
                    stream.seek(self._offsets[path] if size >= self._offsets[path] else 0)
                    while content := stream.read(_BLOCK):
                        self.out.write(self._decoders[path].decode(content))
                        added = True
                    self._offsets[path] = stream.tell()
            except OSError:
                continue  # on a network file system it may be gone for a moment
        if added:
            self.out.flush()
        return added

    def _follow(self, source: Source | None, chosen: Allocation | None) -> None:
        """Follow until the run is over; a new allocation is followed as soon as it has a log."""
        looked = queried = heard = time.monotonic()
        message, over = "", False
        while True:
            now = time.monotonic()
            added = self._more(source) if source is not None else False
            if chosen is None and now - looked > _LOOK_FOR_NEW_S:
                looked = now
                newer = newest_source(self.run, self.rank)
                if newer is not None and _goes_on(source, newer):
                    self._open(newer, _ALL)
                    source, message, added, over = newer, "", True, False
            if added:
                heard = now
            ended = self._ended(source)
            if not added and ((ended and not over) or now - max(queried, heard) > _ASK_S):
                queried, over = now, ended
                word = self._over() if chosen is None or not ended else "it has ended"
                if word is not None:
                    if source is not None:
                        self._more(source)
                    self.say(f"== {self.run.folder.name}: {word} ==")
                    return
                message = self._say_anew(message)
            time.sleep(_LOOK_S)

    def _ended(self, source: Source | None) -> bool:
        if (self.run.folder / "finished.json").is_file():
            return True
        return source is not None and source.allocation is not None and source.allocation.ended is not None

    def _over(self) -> str | None:
        """The final state of the run; None while it is active."""
        self._status = status(self.run)
        return None if self._status.state in ACTIVE else _in_words(self._status)

    def _say_anew(self, before: str) -> str:
        """Print the run's state, unless it simply runs or the state was printed already."""
        message = "" if self._status.state == RUNNING and not self._status.note else _in_words(self._status)
        if message and message != before:
            self.say(f"== {message} ==")
        return message


def _goes_on(source: Source | None, newer: Source) -> bool:
    """Whether to switch to a newer log: not from an array task that still runs to another task."""
    if source is None:
        return True
    if newer.paths == source.paths:
        return False
    return newer.part == source.part or source.allocation is None or source.allocation.ended is not None


def _in_words(how: RunStatus) -> str:
    return printable(f"{how.state}: {how.note}" if how.note else how.state)
