"""Jobs: what `birdsd run JOB` calls. Each is one short module under jobs/ with a `run(config)`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from birdsd.config import job_name, job_type
from birdsd.quiet import hush

# EX_TEMPFAIL of sysexits.h: what comes after in a script must not take the run for finished.
STOPPED_STATUS = 75


@dataclass(frozen=True)
class Outcome:
    """What a job has to say: a text for people, the same facts for scripts, and the exit status."""

    text: str
    facts: dict[str, Any] = field(default_factory=dict)
    exit_status: int = 0


def load_job(name: str) -> Callable[[Any], Outcome]:
    """The `run` function of a job; an unknown job is a `UserError` that names the valid ones."""
    job_type(name)
    hush()
    run: Callable[[Any], Outcome] = importlib.import_module(f"birdsd.jobs.{job_name(name)}").run
    return run
