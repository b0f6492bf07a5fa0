"""Cloud notebooks: which service this is, what survives its sessions, and when to stop before one ends.

Known are Paperspace, Google Colab and Kaggle, by the variables and folders that they set up.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from birdsd.errors import BadValue

if TYPE_CHECKING:
    from birdsd.schema import MachineConfig

WORK = "birdsd"


@dataclass(frozen=True)
class Service:
    """A notebook service. `keeps`: folders that outlive a session, the best first, as far as they are here;
    `session_hours`: the usual limit of a free session, `how`: what must be done that files are kept."""

    name: str
    keeps: tuple[Path, ...]
    session_hours: float
    how: str

    @property
    def work_folder(self) -> Path | None:
        """The best folder for shards and runs; None where nothing here outlives the session."""
        return self.keeps[0] / WORK if self.keeps else None

    def keeps_path(self, path: Path) -> bool:
        """Whether a file there outlives the session."""
        whole = Path(path).expanduser().resolve()
        return any(whole.is_relative_to(folder.resolve()) for folder in self.keeps)


@dataclass(frozen=True)
class _Known:
    """How to recognise a service: one of the variables, or all of the folders."""

    name: str
    variables: tuple[str, ...]
    folders: tuple[str, ...]
    keeps: tuple[str, ...]
    session_hours: float
    how: str


_KNOWN = (
    _Known(
        "Paperspace",
        ("PAPERSPACE_FQDN", "PAPERSPACE_CLUSTER_ID", "PAPERSPACE_NOTEBOOK_ID"),
        ("storage", "notebooks"),
        ("storage", "notebooks"),
        6.0,
        "/storage is shared by all your notebooks, /notebooks belongs to this one",
    ),
    _Known(
        "Colab",
        ("COLAB_RELEASE_TAG", "COLAB_GPU", "COLAB_JUPYTER_IP"),
        ("content/sample_data",),
        ("content/drive/MyDrive",),
        12.0,
        "only Google Drive is kept: from google.colab import drive; drive.mount('/content/drive')",
    ),
    _Known(
        "Kaggle",
        ("KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_URL_BASE"),
        ("kaggle/working",),
        ("kaggle/working",),
        12.0,
        "/kaggle/working is kept, up to 20 GB, with Save Version, or with Persistence set to files",
    ),
)


def here(environ: Mapping[str, str] | None = None, root: Path = Path("/")) -> Service | None:
    """The service that this machine belongs to; None on any other machine."""
    variables = os.environ if environ is None else environ
    for service in _KNOWN:
        named = any(name in variables for name in service.variables)
        if named or all((root / folder).is_dir() for folder in service.folders):
            keeps = tuple(root / folder for folder in service.keeps if (root / folder).is_dir())
            return Service(service.name, keeps, service.session_hours, service.how)
    return None


def work_folder(service: Service | None = None) -> Path:
    """Where a notebook should put its files: a folder that the service keeps, else the working directory."""
    place = service or here()
    return (place.work_folder if place else None) or Path.cwd() / WORK


def advice(service: Service | None, runs: Path, limit: SessionLimit | None) -> list[str]:
    """Advice before a long training: when it will stop, and on a notebook service what is lost."""
    lines = [limit.in_words()] if limit else []
    if service is None:
        return lines
    if not service.keeps_path(runs):
        place = service.work_folder
        then = f"runs={place / 'runs'} would survive it" if place else service.how
        lines.append(f"{service.name}: {runs} is deleted when the session ends; {then}")
    if limit is None:
        lines.append(
            f"{service.name}: a session usually ends after {service.session_hours:g} h; "
            f"machine.session_hours={service.session_hours:g} saves and stops in time"
        )
    return lines


# -- the session's end ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SessionLimit:
    """The end of this machine's session, and how long before it a run stops. Times are seconds since 1970."""

    began: float
    hours: float
    lead_min: float
    counted_from: str
    clock: Callable[[], float] = time.time

    @property
    def ends(self) -> float:
        return self.began + 3600 * self.hours

    @property
    def stops(self) -> float:
        return self.ends - 60 * self.lead_min

    def is_near(self) -> bool:
        """Whether it is time to save and stop."""
        return self.clock() >= self.stops

    def in_words(self) -> str:
        """'the session of 6 h, counted from ..., ends at 17:40; it stops 10 min before'."""
        shown = time.strftime("%H:%M", time.localtime(self.ends))
        return (
            f"the session of {self.hours:g} h, counted from {self.counted_from}, ends at {shown}; "
            f"training stops {self.lead_min:g} min before"
        )


def session_limit(
    machine: MachineConfig,
    service: Service | None = None,
    clock: Callable[[], float] = time.time,
    command_began: float | None = None,
) -> SessionLimit | None:
    """The limit that machine.session_hours sets; None for 0. It counts from machine.session_began, else on
    a notebook service from the start of its machine, else from the start of this command.

    Raises `UserError` for impossible hours, lead or beginning.
    """
    hours, lead_min = machine.session_hours, machine.session_lead_min
    if hours == 0:
        return None
    if not 0 < hours < 10_000 or not 0 <= lead_min < 60 * hours:
        raise BadValue(
            f"machine.session_hours={hours:g}, machine.session_lead_min={lead_min:g}",
            "a run stops so many minutes before so many hours have passed",
            "machine.session_hours=6 machine.session_lead_min=10; 0 hours: no limit",
        )
    now = clock()
    if machine.session_began:
        return SessionLimit(
            _moment(machine.session_began, now), hours, lead_min, "machine.session_began", clock
        )
    started = machine_started() if service is not None else None
    if service is not None and started is not None and started <= now:
        return SessionLimit(started, hours, lead_min, f"the start of this {service.name} machine", clock)
    return SessionLimit(
        now if command_began is None else command_began, hours, lead_min, "this command", clock
    )


def machine_started() -> float | None:
    """When this machine, or the container that a notebook service made, was started; None if not known."""
    import psutil

    with suppress(psutil.Error, OSError, ValueError):
        return float(psutil.Process(1).create_time())
    return None


def _moment(text: str, now: float) -> float:
    """'14:05' (the most recent) or '2026-01-31 14:05', in local time, as seconds since 1970."""
    today = time.strftime("%Y-%m-%d ", time.localtime(now))
    clock_only = re.fullmatch(r"\d{1,2}:\d\d", text.strip()) is not None
    whole = today + text.strip() if clock_only else text.strip().replace("T", " ")
    try:
        began = time.mktime(time.strptime(whole, "%Y-%m-%d %H:%M"))
    except (ValueError, OverflowError):
        began = float("inf")
    if clock_only and began > now:
        began -= 24 * 3600
    if began > now:
        raise BadValue(
            f"machine.session_began={text}", "a moment that has passed", "e.g. 14:05 or 2026-01-31 14:05"
        )
    return began
