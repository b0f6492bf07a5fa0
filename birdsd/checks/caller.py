"""The doctor's look at the shell that it is called from: variables that sbatch would read as options."""

from __future__ import annotations

import os

from birdsd.checks.case import Case, Findings, ok, warning
from birdsd.site.caller import passed_over_in


def check_caller(case: Case) -> Findings:
    """What of the environment a submission leaves aside: SBATCH_EXPORT=NONE and its like."""
    if not case.is_slurm:
        return
    found = passed_over_in(case.site, os.environ)
    others = [one for one in found if not one.startswith("SBATCH_EXPORT=")]
    if len(others) < len(found):
        yield ok("environment", "SBATCH_EXPORT is set here; birdsd's jobs get their environment anyway")
    if others:
        yield warning(
            "environment",
            f"{', '.join(others)} would change jobs of sbatch, so birdsd ignores it",
            "set what you need in the site's file, e.g. sbatch: {KEY: VALUE}",
        )
