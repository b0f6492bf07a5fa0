"""What whoever submits has in the environment, and what becomes of it: a submission means what birdsd's
settings say, and what is taken from elsewhere is said.

Slurm's programs read options from variables, which go before those of a script: SBATCH_PARTITION sends a
job elsewhere, SBATCH_EXPORT=NONE takes its environment away. A shell inside a job has the job's own besides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from birdsd.schema import SiteConfig

# These say which cluster is spoken to and how, not what is asked of it.
_ADDRESS = (
    "SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SBATCH_CLUSTERS", "SLURM_JWT", "SLURM_DEBUG_FLAGS",
)  # fmt: skip
_OPTIONS = ("SBATCH_", "SRUN_", "SALLOC_", "SLURM_", "SLURMD_")
# Of the ranks of another launch: a job that inherited them would wait for peers that there are not.
_OF_RANKS = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
    "BIRDSD_ALLOCATION", "BIRDSD_SUBMISSION", "BIRDSD_RUN_FOLDER",
)  # fmt: skip
# Many sites tell their users to set these; they count where the site's file leaves the matter open.
_TAKEN = {
    "account": "SBATCH_ACCOUNT",
    "partition": "SBATCH_PARTITION",
    "qos": "SBATCH_QOS",
    "constraint": "SBATCH_CONSTRAINT",
}
_TAKEN_OPTIONS = {"reservation": "SBATCH_RESERVATION"}


def left_out(environ: Mapping[str, str]) -> list[str]:
    """The names of variables that do not go along with a submission."""
    return sorted(
        name for name in environ if (name.startswith(_OPTIONS) and name not in _ADDRESS) or name in _OF_RANKS
    )


def take_from_environment(site: SiteConfig, environ: Mapping[str, str] | None = None) -> list[str]:
    """Fill what a site leaves open from the variables that say it; returns what was taken and what not."""
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
    if passed_over := passed_over_in(site, environ):
        notes.append(
            f"{', '.join(passed_over)} of the environment "
            f"{'is' if len(passed_over) == 1 else 'are'} left aside: site={site.name} decides"
        )
    return notes


def passed_over_in(site: SiteConfig | None, environ: Mapping[str, str]) -> list[str]:
    """The options of sbatch in the environment that a submission to this site leaves aside, as NAME=VALUE."""
    found = []
    for name in sorted(environ):
        if not name.startswith("SBATCH_") or name in _ADDRESS:
            continue
        key = next((k for k, n in {**_TAKEN, **_TAKEN_OPTIONS}.items() if n == name), "")
        held = (getattr(site, key, None) or site.sbatch.get(key)) if site is not None and key else None
        if (site is None and key) or str(held or "") == environ[name]:
            continue
        found.append(f"{name}={environ[name]}")
    return found


@contextmanager
def submitting() -> Iterator[None]:
    """Nothing of `left_out` is in the environment inside: of sbatch, and of the job that inherits it."""
    kept = {name: os.environ.pop(name) for name in left_out(os.environ)}
    try:
        yield
    finally:
        os.environ.update(kept)
