"""The context of the doctor's checks, and their findings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from birdsd.errors import UserError
from birdsd.remarks import coded
from birdsd.runs.allocations import Submission
from birdsd.runs.run import Run
from birdsd.schema import SiteConfig, TrainConfig
from birdsd.site import slurm
from birdsd.site.facts import Facts, ask

OK, WARNING, ERROR = "ok", "warning", "error"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: `level` is ok, warning or error; `what_to_do` is empty for ok."""

    topic: str
    level: str
    what: str
    what_to_do: str = ""

    def to_json(self) -> dict[str, str]:
        """Its fields, and the code of what was found where that has one."""
        return {**asdict(self), **coded(self.what)}


def ok(topic: str, what: str) -> Finding:
    """A finding without a problem."""
    return Finding(topic, OK, what)


def warning(topic: str, what: str, what_to_do: str) -> Finding:
    """A finding that may cost time, or that could not be checked."""
    return Finding(topic, WARNING, what, what_to_do)


def error(topic: str, what: str, what_to_do: str) -> Finding:
    """A finding that will not work."""
    return Finding(topic, ERROR, what, what_to_do)


def explained(level: str, topic: str, problem: UserError, else_do: str = "see there") -> Finding:
    """A finding with the text of an error."""
    what = ": ".join(part for part in (problem.problem, problem.expected) if part)
    return Finding(topic, level, what, problem.hint or else_do)


Findings = Iterator[Finding]


@dataclass
class DoctorContext:
    """What to check. Every part may be absent; `settings` are those of a job, usually a training."""

    site: SiteConfig | None = None
    settings: Any = None
    run: Run | None = None
    runs_root: Path = Path("runs")
    deep: bool = False
    nodes: int = 1
    tasks_per_node: int = 0
    leaving: tuple[float | None, str] | None = None  # the result of `saving.leave_time`
    known_facts: Facts | UserError | None = None  # Slurm's answer, if it was asked already

    def __post_init__(self) -> None:
        """Take the site of a run from its submission."""
        submission = Submission.read(self.run.folder) if self.run is not None and self.site is None else None
        if submission is not None:
            with suppress(KeyError, TypeError, ValueError):
                self.site = _rebuilt(SiteConfig, submission.site)
                self.nodes = int(submission.submit["nodes"])
                self.tasks_per_node = int(submission.submit["tasks_per_node"])

    @property
    def is_slurm(self) -> bool:
        """Whether jobs go to Slurm: by the site, or without one if Slurm is installed here."""
        return self.site.executor == "slurm" if self.site else slurm.available()

    @cached_property
    def training(self) -> TrainConfig | None:
        """The settings of a training: those that were given, else the run's own."""
        if isinstance(self.settings, TrainConfig):
            return self.settings
        if self.settings is None and self.run is not None:
            with suppress(UserError, TypeError, AttributeError):
                if self.run.job == "train":
                    return _rebuilt(TrainConfig, self.run.config)
        return None

    @property
    def root(self) -> Path:
        """The folder of all runs."""
        if self.run is not None:
            return self.run.folder.parent
        named = getattr(self.settings, "runs", None)
        return Path(named) if named and self.runs_root == Path("runs") else self.runs_root

    @property
    def place(self) -> Path:
        """Where the run's files go."""
        return self.run.folder if self.run is not None else self.root

    @cached_property
    def answer(self) -> Facts | UserError:
        """The facts of Slurm, or the error where it does not answer."""
        if self.known_facts is not None:
            return self.known_facts
        try:
            slurm.ping()
            return ask()
        except UserError as problem:
            return problem

    @property
    def facts(self) -> Facts | None:
        """The facts of Slurm, where jobs go to Slurm and it answers."""
        return self.answer if self.is_slurm and isinstance(self.answer, Facts) else None

    @property
    def partition(self) -> dict[str, str] | None:
        """The site's partition, or the default one where the site names none."""
        if self.facts is None:
            return None
        named = self.site.partition if self.site else None
        for record in self.facts.partitions:
            if record["PartitionName"] == named or (named is None and record.get("Default") == "YES"):
                return dict(record)
        return None

    @property
    def on_slurm(self) -> tuple[Facts, SiteConfig, dict[str, str]] | None:
        """Slurm's facts, the site, and its partition; None where one of them is missing."""
        if self.facts is None or self.site is None or self.partition is None:
            return None
        return self.facts, self.site, self.partition

    @property
    def account(self) -> str | None:
        """The account that jobs are charged to."""
        named = self.site.account if self.site else None
        return named or (self.facts.default_account if self.facts else None) or None

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The run's events, in order."""
        return self.run.events() if self.run is not None else []


def _rebuilt(kind: type[Any], values: dict[str, Any]) -> Any:
    """A configuration from its stored values; fields that are not stored have their defaults."""
    whole = kind()
    for item in fields(kind):
        if item.name in values:
            value, default = values[item.name], getattr(whole, item.name)
            setattr(whole, item.name, _rebuilt(type(default), value) if is_dataclass(default) else value)
    return whole
