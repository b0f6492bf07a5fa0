"""Whether the Slurm cluster of `make slurm-up` runs here; the tests never touch any other cluster."""

from __future__ import annotations

import subprocess

NAME = "birdsd-testbed"
NODES = ("n1", "n2", "n3", "n4")
HOW = "no Slurm testbed: `make slurm-up` starts one (root)"


def testbed_missing() -> str:
    """Why the testbed cannot be used; empty where it can."""
    try:
        config = _told("scontrol", "show", "config")
        nodes = _told("sinfo", "-h", "-N", "-o", "%N")
    except (OSError, subprocess.SubprocessError):
        return HOW
    name = next((line.split("=")[1].strip() for line in config.splitlines() if "ClusterName" in line), "")
    if name != NAME:
        return f"{HOW}; the cluster here is {name!r}, and it is left alone"
    if missing := sorted(set(NODES) - set(nodes.split())):
        return f"{HOW}; it lacks {', '.join(missing)}"
    return ""


def _told(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=20).stdout
