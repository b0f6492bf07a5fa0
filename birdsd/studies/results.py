"""The results of a study's arms, put together: verdicts, costs, table and page."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

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
from birdsd.studies.records import metrics_by_kind, trainable_parameters
from birdsd.studies.stage_runner import Record, Stopped
from birdsd.studies.study import AUTOENCODER, BASE, CLIP, Arm, Study

PAGE, FACTS = "report.html", "comparison.json"
# Files beside the weights, for people and for the sound: they are shared too, but are not the model.
_BESIDE = ("codec.json", "training.json", "recordings.csv", "README.md")


def carry_out(study: Study) -> Outcome:
    """All steps of this task's part, and the page of what exists by then.

    When told to stop, it leaves the page as it is; the same command resumes it. Raises `UserError` where an
    arm failed, after the others are done.
    """
    try:
        for name in study.design.sets:
            study.prepare(name)
        study.train(BASE)
        for arm in study.mine():
            study.teach(arm)
    except Stopped as stopped:
        line = f"stopped in '{stopped}' and saved; the same command resumes it"
        return Outcome(line, {"out": str(study.out), "stopped_in": str(stopped)}, STOPPED_STATUS)
    with waiting_for(study.work / ".page.lock"):
        comparison = compare(study)
        page = write(study, comparison)
    if study.failed:
        raise UserError(
            f"{len(study.failed)} arms failed: {'; '.join(study.failed.values())}",
            f"the others are in {page}",
            "run the same command again to retry them",
        )
    absent = [arm.name for arm in comparison.missing]
    note = f"\nnot available yet: {', '.join(absent)} (assigned to other tasks)" if absent else ""
    facts = {"report": str(page), "missing": absent, **comparison.to_json()}
    return Outcome(f"\n{text(comparison)}{note}\n\nreport: {page}", facts)


def write(study: Study, comparison: Comparison) -> Path:
    """`report.html` and `comparison.json` in the study's folder; returns the page."""
    write_json(study.out / FACTS, comparison.to_json())
    return comparison_page(study.out / PAGE, comparison, study.index(study.design.check_set))


def compare(study: Study) -> Comparison:
    """The comparison of whatever arms some task has finished; the others say why they are missing."""
    index = study.index(study.design.check_set)
    weak = WeakCheck.of(index)
    autoencoder = _run(study, AUTOENCODER) if AUTOENCODER in study.design.trainings else None
    reference = Reference.of(
        index,
        autoencoder=autoencoder.export_folder if autoencoder else None,
        recordings=Path(study.recordings),
    )
    arms = [_result(study, arm) for arm in study.design.arms]
    backgrounds = BackgroundClassifier(index, weak.codec) if study.environments else None
    config = study.config
    kept = ("samples", "clips_per_species", "steps", "guidance", "seed", "model", "codec")
    return Comparison(
        name=study.design.name,
        new=study.new,
        known=study.known,
        arms=judge_arms(weak, arms, backgrounds, reference),
        held_out=score(weak.classifier, weak.held_out, "recordings"),
        training_clips=len(weak.training.levels),
        training_recordings=len(set(weak.training.group)),
        environments=study.environments,
        background_held_out=backgrounds.held_out if backgrounds else {},
        settings={
            **{name: getattr(config, name) for name in kept},
            "recordings": str(study.recordings),
            "base": study.design.given.get(BASE, "trained here on the other species"),
            "machine": f"{config.machine.name}, {os.cpu_count()} CPU cores",
        },
        foundations=list(_foundations(study)),
        stages=reference.real_stages,
        no_judge=reference.absent,
    )


def _foundations(study: Study) -> Iterable[tuple[str, float]]:
    """What all arms share, with its seconds."""
    for name in study.design.sets:
        if record := study.shards_record(name):
            yield f"shards {name}", record.cost.wall_s
    for name in (AUTOENCODER, BASE, CLIP):
        if name in study.design.trainings and (record := study.training_record(name)):
            yield name, record.cost.wall_s


def _result(study: Study, arm: Arm) -> ArmResult:
    """One arm before it is judged."""
    record = study.clips(arm)
    missing = ""
    if record is None:
        missing = study.failed.get(arm.name, "") or _why(study, arm)
    runs = [run for name in arm.trainings if (run := _run(study, name)) is not None]
    return ArmResult(
        name=arm.name,
        title=arm.title,
        says=arm.says,
        control=arm.control,
        loss=arm.loss,
        knew_others=arm.knew_others,
        missing=missing,
        validation=_validation(runs[0]) if arm.loss and runs else Validation(),
        figures=_figures(study, arm, runs, record),
        clips=_clips(study, record) if record is not None else (),
    )


def _why(study: Study, arm: Arm) -> str:
    lacking = [name for name in arm.trainings if study.training_record(name) is None]
    if lacking:
        return f"{' and '.join(lacking)} is not trained yet"
    return "its clips are not generated yet"


def _run(study: Study, name: str) -> Run | None:
    if name in study.design.given or study.training_record(name) is None:
        return None
    return RunStore(study.store.root).find(study.finished(name))


def _clips(study: Study, record: Record) -> list[MadeClip]:
    by_prompt = {ask.prompt: ask for ask in study.asks}
    assert record.facts is not None
    return [
        MadeClip(
            ask.kind, ask.species, ask.environment, int(clip["index"]), clip["prompt"],
            Path(clip["picture"]), Path(clip["sound"]),
        )
        for clip in record.facts["clips"]
        if (ask := by_prompt.get(clip["prompt"])) is not None
    ]  # fmt: skip


def _validation(run: Run) -> Validation:
    lines = metrics_by_kind(run)["validation"]
    return Validation(
        [int(line["position"]) for line in lines],
        [float(line["loss"]) for line in lines],
        max((int(line.get("samples", 0)) for line in lines), default=0),
    )


def _figures(study: Study, arm: Arm, runs: list[Run], clips: Record | None) -> Figures:
    costs = [record.cost for name in arm.trainings if (record := study.training_record(name)) is not None]
    generating = clips.cost if clips is not None else None
    return Figures(
        train_s=sum(cost.wall_s for cost in costs),
        train_cpu_s=sum(cost.cpu_s for cost in costs),
        generate_s=generating.wall_s if generating is not None else 0.0,
        peak_mib=max((cost.peak_mib for cost in costs), default=0.0),
        gpu_mib=max((cost.gpu_mib for cost in costs), default=0.0),
        generate_mib=generating.peak_mib if generating is not None else 0.0,
        parameters=sum(trainable_parameters(run) for run in runs),
        samples=sum(int((run.result or {}).get("position", 0)) for run in runs[:1]),
        share_bytes=sum(share_bytes(run.export_folder) for run in runs) if runs else None,
        pieces=max((cost.pieces for cost in costs), default=1),
        partly=any(cost.partly for cost in costs),
    )


def share_bytes(export: Path) -> int:
    """The bytes of an exported model or adapter, without the codec and the files for people."""
    files = (path for path in export.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files if path.name not in _BESIDE)
