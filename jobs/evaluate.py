"""evaluate: a classifier or judge on labelled sounds it did not learn from; figures, intervals and a page."""

from __future__ import annotations

from pathlib import Path

from birdsd import plugins
from birdsd.errors import BadValue, Mismatch, NotFound, NotSet, unknown_name
from birdsd.evaluation import leakage
from birdsd.evaluation.classification.evaluation import Evaluation, evaluated
from birdsd.evaluation.classification.events import event_scores
from birdsd.evaluation.classification.figures import (
    Thresholds,
    fixed,
    kept_thresholds,
    own_thresholds,
    validated,
)
from birdsd.evaluation.classification.hearing import Classes, classes_of, hear
from birdsd.evaluation.classification.scored import scored
from birdsd.evaluation.classification.sounds import LabelledSounds, from_folder, from_shards, readable
from birdsd.evaluation.judges import Judge, find_judge
from birdsd.evaluation.leakage import Leaks
from birdsd.jobs_api import Outcome
from birdsd.pages.evaluation import write_evaluation_page
from birdsd.remarks import Remark
from birdsd.runs.run import SIGNATURE_FILE, Run, RunStore
from birdsd.schema import EvaluateConfig
from birdsd.shards.index import ShardIndex
from birdsd.sound.audio.recordings import rate_remarks
from birdsd.sound.labels.annotation import Recording

VALIDATION = "validation"
_ALIKE = 1e-3  # thresholds
LEAKS, THRESHOLDS = ("refuse", "strict", "list"), ("fixed", "own", VALIDATION)


def run(config: EvaluateConfig) -> Outcome:
    """Check what was learnt from, hear every sound, and write the figures and their page."""
    _check(config)
    trained = _run_of(config)
    index = ShardIndex.open(Path(config.data.shards)) if config.data.shards else None
    sounds = readable(_sounds(config, index, config.split))
    judge = find_judge(_named(config, trained))
    leaks, remarks = _leaks(config, index, trained)
    remarks += _rates(config, index, judge, sounds)
    classes = classes_of(judge, sounds.species)
    thresholds, further = _thresholds(config, index, judge, sounds)
    hearing = hear(judge, sounds, classes)
    if thresholds is None:
        thresholds = fixed(scored(hearing), config.threshold)
    result = evaluated(
        hearing, scored(hearing), thresholds, sounds.title, decoded=sounds.decoded,
        resamples=config.resamples, seed=config.seed, mistakes=config.mistakes, leaks=leaks,
        remarks=[*remarks, *further],
        events=event_scores(hearing, thresholds, config.collar_s) if config.strong else None,
    )  # fmt: skip
    return _outcome(config, result)


def _outcome(config: EvaluateConfig, result: Evaluation) -> Outcome:
    out = Path(config.out)
    written = result.write(out)
    page = write_evaluation_page(out / "evaluation.html", result)
    facts = {**result.to_json(), "page": str(page), "files": [str(path) for path in written]}
    listed = result.leaks.text() if result.leaks else ""
    names = ", ".join(path.name for path in written)
    lines = [listed, result.text(), f"report: {page}, with {names} beside it"]
    return Outcome("\n".join(filter(None, lines)), facts)


def _check(config: EvaluateConfig) -> None:
    if config.run and config.judge:
        raise Mismatch(
            f"run={config.run} and judge={config.judge} are both set", "one of them is heard", "leave one out"
        )
    if not 0 < config.threshold < 1:
        raise BadValue(f"threshold={config.threshold:g}", "it must be above 0 and below 1", "0.5 is usual")
    if config.thresholds not in THRESHOLDS:
        raise unknown_name("kind of thresholds", config.thresholds, THRESHOLDS)
    if config.leaks not in LEAKS:
        raise unknown_name("way to treat leaks", config.leaks, LEAKS)
    for key in ("resamples", "mistakes"):
        if getattr(config, key) < (1 if key == "resamples" else 0):
            raise BadValue(f"{key}={getattr(config, key)}", "it must be a positive number")
    if not config.data.shards and not config.data.recordings:
        raise NotSet(
            "nothing says which sounds to evaluate on",
            "they are the split of a shard set, or a folder of labelled recordings",
            "set data.shards=SHARDS, or data.recordings=FOLDER",
        )
    if config.thresholds == VALIDATION and (not config.data.shards or config.split == VALIDATION):
        raise Mismatch(
            f"thresholds={VALIDATION} with "
            + (f"split={VALIDATION}" if config.data.shards else "recordings that have no splits"),
            "thresholds are chosen on other recordings than those that are evaluated",
            f"set data.shards=SHARDS with a {VALIDATION} split and split=test, or thresholds=fixed",
        )


def _run_of(config: EvaluateConfig) -> Run | None:
    """The run whose classifier is heard; None for a judge that no run of ours made."""
    store, named = RunStore(Path(config.runs)), config.run or config.judge or ""
    if not named or (not config.run and named in plugins.names(plugins.JUDGES)):
        return None
    place = Path(named).expanduser()
    if place.is_dir() and not (place / SIGNATURE_FILE).is_file():
        return None  # a classifier that was copied from its run, or a folder of BirdNET
    known = [run for run in store.runs("train") if named in (run.folder.name, run.signature)]
    return store.find(named) if config.run or place.is_dir() or known else None


def _named(config: EvaluateConfig, trained: Run | None) -> str | None:
    """What `find_judge` takes."""
    return config.run or config.judge if trained is None else str(trained.folder)


def _sounds(config: EvaluateConfig, index: ShardIndex | None, split: str) -> LabelledSounds:
    data = config.data
    recordings = Path(data.recordings) if data.recordings else None
    if index is not None:
        return from_shards(index, split, recordings)
    assert recordings is not None
    return from_folder(recordings, Path(data.labels) if data.labels else None)


def _thresholds(
    config: EvaluateConfig, index: ShardIndex | None, judge: Judge, sounds: LabelledSounds
) -> tuple[Thresholds | None, list[str]]:
    """Those of the judge, or the best on the validation split, where they are asked for; and what to say."""
    if config.thresholds == "own":
        said = _chosen_here(config, index)
        return own_thresholds(judge, classes_of(judge, sounds.species)), said
    if config.thresholds != VALIDATION or index is None:
        return None, _unused(config, judge, classes_of(judge, sounds.species))
    classes = classes_of(judge, sounds.species)
    held_out = readable(_sounds(config, index, VALIDATION))
    known = {classes.numbers[classes.column_of[name]]: name for name in classes.column_of}
    # The columns are those of the test set: a species under another spelling is the same class.
    for name in held_out.species:
        number = judge.class_of(name)
        if number in known:
            classes.column_of.setdefault(name, classes.column_of[known[number]])
    table = scored(hear(judge, held_out, classes))
    missing = [name for name, there in zip(table.classes, table.present, strict=True) if not there]
    said = f"no validation recording, so that the threshold is {config.threshold:g}: {', '.join(missing)}"
    return validated(table, config.threshold), [said] if missing else []


def _unused(config: EvaluateConfig, judge: Judge, classes: Classes) -> list[str]:
    """What to say where `birdsd classify` would take other thresholds."""
    kept = kept_thresholds(judge)
    values = [float(kept[number]) for number in classes.numbers] if kept else []
    if not any(abs(value - config.threshold) > _ALIKE for value in values):
        return []
    text = (
        f"precision, recall and F1 use the threshold {config.threshold:g} for every class; `birdsd classify` "
        f"uses the classifier's own ({min(values):.2g} to {max(values):.2g}), as thresholds=own does here"
    )
    return [Remark(text, "own-thresholds-unused", low=min(values), high=max(values))]


def _chosen_here(config: EvaluateConfig, index: ShardIndex | None) -> list[str]:
    """What to say where a classifier's own thresholds may have been chosen on what is evaluated."""
    if index is None or config.split == "test":
        return []
    text = (
        f"a classifier's own thresholds were chosen on the {VALIDATION} clips of its shards: if these are "
        f"the same, precision, recall and F1 on split={config.split} are optimistic (split=test is not)"
    )
    return [Remark(text, "own-thresholds-chosen-here", split=config.split)]


def _leaks(
    config: EvaluateConfig, index: ShardIndex | None, trained: Run | None
) -> tuple[Leaks | None, list[str]]:
    """What was learnt from beside what is tested on; refused as `leaks` says."""
    test = _tested(config, index)
    learnt = _learnt_from(config, index, trained)
    if learnt is None:
        text = "leakage was not checked: trained_on=SHARDS (or a folder) says what the judge learnt from"
        return None, [Remark(text, "leakage-unchecked")]
    train, validation, shards = learnt
    found = leakage.leaks(train, validation, test)
    if shards is not None and index is not None:
        for split in _learnt_splits(config, index, shards):
            found.found.extend(leakage.same_pictures(shards, split, index, config.split))
    if config.leaks != "list":
        found.refuse(recordists=config.leaks == "strict")
    return found, []


def _rates(
    config: EvaluateConfig, index: ShardIndex | None, judge: Judge, sounds: LabelledSounds
) -> list[str]:
    """What to say of recordings that hold less than a classifier of ours listens to."""
    from birdsd.evaluation.judges.trained import TrainedJudge  # with torch, which other judges do without

    if sounds.decoded or not isinstance(judge, TrainedJudge):
        return []
    files = {one.path.name: one.path for one in _tested(config, index) if one.path.is_file()}
    return rate_remarks(files, judge.classifier.codec.fmax_hz)


def _learnt_splits(config: EvaluateConfig, index: ShardIndex | None, shards: ShardIndex) -> list[str]:
    """Training and validation, but for what is evaluated itself."""
    tested = (index.folder.resolve(), config.split) if index is not None else None
    return [split for split in ("train", VALIDATION) if (shards.folder.resolve(), split) != tested]


def _tested(config: EvaluateConfig, index: ShardIndex | None) -> list[Recording]:
    recordings = Path(config.data.recordings) if config.data.recordings else None
    if index is not None:
        return leakage.from_shards(index, config.split, recordings)
    assert recordings is not None
    return leakage.from_folder(recordings)


def _learnt_from(
    config: EvaluateConfig, index: ShardIndex | None, trained: Run | None
) -> tuple[list[Recording], list[Recording], ShardIndex | None] | None:
    """Training and validation recordings, and their shards; None where nothing says which they are."""
    recordings = Path(config.data.recordings) if config.data.recordings else None
    source = config.trained_on or (trained.config["data"]["shards"] if trained else None)
    shards = index
    if source is not None:
        place = Path(source)
        if not place.exists() and config.trained_on:
            raise NotFound(
                f"trained_on={place} does not exist", "", "name a folder of shards or of recordings"
            )
        if place.exists() and not any(place.glob("*.tar")):
            return leakage.from_folder(place), [], None
        shards = ShardIndex.open(place) if place.exists() else None
    if shards is None:
        return None
    sets: dict[str, list[Recording]] = {"train": [], VALIDATION: []}
    for split in _learnt_splits(config, index, shards):
        sets[split] = leakage.from_shards(shards, split, recordings)
    return sets["train"], sets[VALIDATION], shards
