"""The environment of the user who submits: birdsd's settings decide, and what is taken from variables is
reported.

Slurm's programs read options from variables, which override those of a script: SBATCH_PARTITION sends a job
elsewhere, SBATCH_EXPORT=NONE removes its environment. A shell inside a job also has the variables of that
job.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from birdsd.schema import SiteConfig

# These select the cluster and how to reach it, not what to request.
_ADDRESS = (
    "SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SBATCH_CLUSTERS", "SLURM_JWT", "SLURM_DEBUG_FLAGS",
)  # fmt: skip
_OPTIONS = ("SBATCH_", "SRUN_", "SALLOC_", "SLURM_", "SLURMD_")
# Variables of another launch: a job that inherited them would wait for peers that do not exist.
_OF_RANKS = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
    "BIRDSD_ALLOCATION", "BIRDSD_SUBMISSION", "BIRDSD_RUN_FOLDER",
)  # fmt: skip
# Many sites tell their users to set these; they apply where the site's file leaves the option open.
_TAKEN = {
    "account": "SBATCH_ACCOUNT",
    "partition": "SBATCH_PARTITION",
    "qos": "SBATCH_QOS",
    "constraint": "SBATCH_CONSTRAINT",
}
_TAKEN_OPTIONS = {"reservation": "SBATCH_RESERVATION"}


def left_out(environ: Mapping[str, str]) -> list[str]:
    """The names of variables that a submission does not pass on."""
    return sorted(
        name for name in environ if (name.startswith(_OPTIONS) and name not in _ADDRESS) or name in _OF_RANKS
    )


def take_from_environment(site: SiteConfig, environ: Mapping[str, str] | None = None) -> list[str]:
    """Fill options that a site leaves open from the variables that set them; returns remarks on what was
    used."""
    environ = os.environ if environ is None else environ
    notes = []
    for key, name in _TAKEN.items():
        if (value := environ.get(name)) and not getattr(site, key):
            setattr(site, key, value)
            notes.append(f"{key} {value} is taken from {name}")
    for key, name in _TAKEN_OPTIONS.items():
        if (value := environ.get(name)) and key not in site.sbatch:
            site.sbatch[key] = value
            notes.append(f"{key} {value} is taken from {name}")
    if ignored := ignored_in(site, environ):
        notes.append(
            f"{', '.join(ignored)} of the environment "
            f"{'is' if len(ignored) == 1 else 'are'} ignored: site={site.name} decides"
        )
    return notes


def ignored_in(site: SiteConfig | None, environ: Mapping[str, str]) -> list[str]:
    """The options of sbatch in the environment that a submission to this site ignores, as NAME=VALUE."""
    variables = []
    for name in sorted(environ):
        if not name.startswith("SBATCH_") or name in _ADDRESS:
            continue
        key = next((k for k, n in {**_TAKEN, **_TAKEN_OPTIONS}.items() if n == name), "")
        value = (getattr(site, key, None) or site.sbatch.get(key)) if site is not None and key else None
        if (site is None and key) or str(value or "") == environ[name]:
            continue
        variables.append(f"{name}={environ[name]}")
    return variables


@contextmanager
def submitting() -> Iterator[None]:
    """Remove the variables of `left_out` from the environment inside: that of sbatch, and of the job that
    inherits it."""
    kept = {name: os.environ.pop(name) for name in left_out(os.environ)}
    try:
        yield
    finally:
        os.environ.update(kept)
