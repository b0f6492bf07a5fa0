"""The judge that a name means: a run of method=classifier, or what `find_judge` takes as it is."""

from __future__ import annotations

from pathlib import Path

from birdsd import plugins
from birdsd.diffusion.classifiers.place import is_classifier
from birdsd.errors import NotFound
from birdsd.runs.run import Run, RunStore


def judge_place(judge: str | None, runs: Path) -> str | None:
    """`judge` with a run's name or signature replaced by the folder of its classifier; a folder, the name of
    an installed judge and None stay as they are. `UserError` for a run without a classifier."""
    if judge is None or judge in plugins.names(plugins.JUDGES):
        return judge
    place = Path(judge).expanduser()
    store = RunStore(Path(runs))
    if (place / "signature.json").is_file():
        return str(_classifier_of(store.find(str(place))))
    if place.exists():
        return judge
    known = [run for run in store.runs("train") if run.folder.name.startswith(judge)]
    known += [run for run in store.runs("train") if run.signature.startswith(judge)]
    return str(_classifier_of(store.find(judge))) if known else judge


def classifier_place(run: str, runs: Path) -> Path:
    """The folder of the classifier that `run` names: a run, or a folder; `UserError` where there is none."""
    place = Path(run).expanduser()
    if place.is_dir() and (found := is_classifier(place)) is not None:
        return found
    if place.is_dir() and not (place / "signature.json").is_file():
        raise NotFound(
            f"run={run} holds no classifier",
            "a classifier is the export of a run of method=classifier",
            "birdsd run train method=classifier data.shards=SHARDS",
        )
    return _classifier_of(RunStore(Path(runs)).find(run))


def _classifier_of(run: Run) -> Path:
    if (found := is_classifier(run.folder)) is not None:
        return found
    finished = (run.folder / "export").is_dir()
    method = str((run.config.get("method") or {}).get("name", "another method"))
    raise NotFound(
        f"the run {run.folder.name} holds no classifier",
        f"it is of method={method}" if finished else "it is not finished",
        "name a run of method=classifier" if finished else "run its training to the end, or birdsd resume it",
    )
