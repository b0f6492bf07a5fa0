"""What the arms of an experiment left behind, put together: the judge's word, the costs, table and page."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from birdsd.errors import UserError
from birdsd.evaluation.arms import judge_arms
from birdsd.evaluation.background import BackgroundClassifier
from birdsd.evaluation.comparison import ArmResult, Comparison, Figures, MadeClip, Validation
from birdsd.evaluation.judged_run import Reference
from birdsd.evaluation.weak_check import WeakCheck, score
from birdsd.files import write_json
from birdsd.jobs_api import STOPPED_STATUS, Outcome
from birdsd.pages.comparison.page import comparison_page
from birdsd.pages.comparison.text import text
from birdsd.runs.run import Run, RunStore
from birdsd.sharing import waiting_for
from birdsd.studies.stages import Record, Stopped
from birdsd.studies.study import AUTOENCODER, BASE, CLIP, Arm, Experiment
from birdsd.training.records import read_metrics

PAGE, FACTS = "report.html", "comparison.json"
# What lies beside the weights for people and for the sound; it is handed on too, but it is no model.
_BESIDE = ("codec.json", "training.json", "recordings.csv", "README.md")


def carry_out(experiment: Experiment) -> Outcome:
    """All steps of this task's part, and the page of what is there by then.

    Asked to stop, it leaves the page as it is; the same command goes on. Raises `UserError` where an arm
    failed, after the others were done.
    """
    try:
        for name in experiment.design.sets:
            experiment.prepare(name)
        experiment.train(BASE)
        for arm in experiment.mine():
            experiment.teach(arm)
    except Stopped as stopped:
        line = f"stopped in '{stopped}' and saved; the same command resumes it"
        return Outcome(line, {"out": str(experiment.out), "stopped_in": str(stopped)}, STOPPED_STATUS)
    with waiting_for(experiment.work / ".page.lock"):
        comparison = compare(experiment)
        page = write(experiment, comparison)
    if experiment.failed:
        raise UserError(
            f"{len(experiment.failed)} arms failed: {'; '.join(experiment.failed.values())}",
            f"the others are in {page}",
            "run the same command again to retry them",
        )
    absent = [arm.name for arm in comparison.missing]
    note = f"\nnot there yet: {', '.join(absent)} (other tasks have them)" if absent else ""
    facts = {"report": str(page), "missing": absent, **comparison.to_json()}
    return Outcome(f"\n{text(comparison)}{note}\n\nreport: {page}", facts)


def write(experiment: Experiment, comparison: Comparison) -> Path:
    """`report.html` and `comparison.json` in the experiment's folder; returns the page."""
    write_json(experiment.out / FACTS, comparison.to_json())
    return comparison_page(experiment.out / PAGE, comparison, experiment.index(experiment.design.check_set))


def compare(experiment: Experiment) -> Comparison:
    """The comparison of whatever arms some task has finished; the others say why they are missing."""
    index = experiment.index(experiment.design.check_set)
    weak = WeakCheck.of(index)
    autoencoder = _run(experiment, AUTOENCODER) if AUTOENCODER in experiment.design.trainings else None
    reference = Reference.of(
        index,
        autoencoder=autoencoder.export_folder if autoencoder else None,
        recordings=Path(experiment.recordings),
    )
    arms = [_result(experiment, arm) for arm in experiment.design.arms]
    backgrounds = BackgroundClassifier(index, weak.codec) if experiment.environments else None
    config = experiment.config
    kept = ("samples", "clips_per_species", "steps", "guidance", "seed", "model", "codec")
    return Comparison(
        name=experiment.design.name,
        new=experiment.new,
        known=experiment.known,
        arms=judge_arms(weak, arms, backgrounds, reference),
        held_out=score(weak.classifier, weak.held_out, "recordings"),
        training_clips=len(weak.training.levels),
        training_recordings=len(set(weak.training.group)),
        environments=experiment.environments,
        background_held_out=backgrounds.held_out if backgrounds else {},
        settings={
            **{name: getattr(config, name) for name in kept},
            "recordings": str(experiment.recordings),
            "base": experiment.design.given.get(BASE, "trained here on the other species"),
            "machine": f"{config.machine.name}, {os.cpu_count()} CPU cores",
        },
        foundations=list(_foundations(experiment)),
        stages=reference.real_stages,
        no_judge=reference.absent,
    )


def _foundations(experiment: Experiment) -> Iterable[tuple[str, float]]:
    """What was done once for all arms, with its seconds."""
    for name in experiment.design.sets:
        if record := experiment.shards_record(name):
            yield f"shards {name}", record.cost.wall_s
    for name in (AUTOENCODER, BASE, CLIP):
        if name in experiment.design.trainings and (record := experiment.training_record(name)):
            yield name, record.cost.wall_s


def _result(experiment: Experiment, arm: Arm) -> ArmResult:
    """One arm before it is judged."""
    record = experiment.clips(arm)
    missing = ""
    if record is None:
        missing = experiment.failed.get(arm.name, "") or _why(experiment, arm)
    runs = [run for name in arm.trainings if (run := _run(experiment, name)) is not None]
    return ArmResult(
        name=arm.name,
        title=arm.title,
        says=arm.says,
        control=arm.control,
        loss=arm.loss,
        knew_others=arm.knew_others,
        missing=missing,
        validation=_validation(runs[0]) if arm.loss and runs else Validation(),
        figures=_figures(experiment, arm, runs, record),
        clips=_clips(experiment, record) if record is not None else (),
    )


def _why(experiment: Experiment, arm: Arm) -> str:
    lacking = [name for name in arm.trainings if experiment.training_record(name) is None]
    if lacking:
        return f"{' and '.join(lacking)} is not trained yet"
    return "its clips are not made yet"


def _run(experiment: Experiment, name: str) -> Run | None:
    if name in experiment.design.given or experiment.training_record(name) is None:
        return None
    return RunStore(experiment.store.root).find(experiment.finished(name))


def _clips(experiment: Experiment, record: Record) -> list[MadeClip]:
    asked = {ask.prompt: ask for ask in experiment.asks}
    assert record.facts is not None
    return [
        MadeClip(
            ask.kind, ask.species, ask.environment, int(clip["index"]), clip["prompt"],
            Path(clip["picture"]), Path(clip["sound"]),
        )
        for clip in record.facts["clips"]
        if (ask := asked.get(clip["prompt"])) is not None
    ]  # fmt: skip


def _validation(run: Run) -> Validation:
    lines = [line for line in read_metrics(run.folder) if line["kind"] == "validation"]
    return Validation(
        [int(line["position"]) for line in lines],
        [float(line["loss"]) for line in lines],
        max((int(line.get("samples", 0)) for line in lines), default=0),
    )


def _figures(experiment: Experiment, arm: Arm, runs: list[Run], clips: Record | None) -> Figures:
    costs = [
        record.cost for name in arm.trainings if (record := experiment.training_record(name)) is not None
    ]
    made = clips.cost if clips is not None else None
    return Figures(
        train_s=sum(cost.wall_s for cost in costs),
        train_cpu_s=sum(cost.cpu_s for cost in costs),
        generate_s=made.wall_s if made is not None else 0.0,
        peak_mib=max((cost.peak_mib for cost in costs), default=0.0),
        gpu_mib=max((cost.gpu_mib for cost in costs), default=0.0),
        generate_mib=made.peak_mib if made is not None else 0.0,
        parameters=sum(_parameters(run) for run in runs),
        samples=sum(int((run.result or {}).get("position", 0)) for run in runs[:1]),
        share_bytes=sum(share_bytes(run.export_folder) for run in runs) if runs else None,
        pieces=max((cost.pieces for cost in costs), default=1),
        partly=any(cost.partly for cost in costs),
    )


def _parameters(run: Run) -> int:
    """How many parameters learnt, from the run's own events."""
    return max((int(event["parameters"]) for event in run.events() if "parameters" in event), default=0)


def share_bytes(export: Path) -> int:
    """The bytes of an exported model or adapter, without the codec and what is there for people."""
    held: Iterable[Any] = (path for path in export.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in held if path.name not in _BESIDE)
