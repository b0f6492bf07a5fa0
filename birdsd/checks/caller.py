"""The doctor's check of the calling shell: variables that sbatch would read as options."""

from __future__ import annotations

import os

from birdsd.checks.context import DoctorContext, Findings, ok, warning
from birdsd.site.caller import ignored_in


def check_caller(context: DoctorContext) -> Findings:
    """Variables of the environment that a submission ignores: SBATCH_EXPORT=NONE and the like."""
    if not context.is_slurm:
        return
    variables = ignored_in(context.site, os.environ)
    others = [variable for variable in variables if not variable.startswith("SBATCH_EXPORT=")]
    if len(others) < len(variables):
        yield ok("environment", "SBATCH_EXPORT is set here; birdsd's jobs get their environment anyway")
    if others:
        yield warning(
            "environment",
            f"{', '.join(others)} would change jobs of sbatch, so birdsd ignores it",
            "set what you need in the site's file, e.g. sbatch: {KEY: VALUE}",
        )
