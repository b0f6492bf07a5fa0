"""The experiment: split, power, generators, cells, answer. It goes on where it was interrupted.

Every cell leaves one JSON record, written at once when it is done, with its scores beside it; tasks of an
array share the cells out, and each level's generator is made by the first task that needs it while the others
wait.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.cluster.rank.signals import RunControl
from birdsd.config import compose
from birdsd.diffusion.networks.finite import NotFinite
from birdsd.errors import BadValue, Mismatch, NothingLeft, NotSet, UserError
from birdsd.evaluation.embedded.cache import EmbeddingCache
from birdsd.evaluation.judges import Judge, find_judge
from birdsd.evaluation.sim2real.answer import Answer, Effect, TestClips, answer
from birdsd.evaluation.sim2real.arms import CONFIRMED, SCENES, Arm, Cell, cells_of, chosen_arms
from birdsd.evaluation.sim2real.power import Power, power_of
from birdsd.evaluation.sim2real.ranking import (
    accuracy_and_macro_f1,
    average_precisions,
    macro_average_precision,
)
from birdsd.files import atomic_write, fingerprint, read_json, safe_name, write_json
from birdsd.runs.share import ArrayShare
from birdsd.schema import SimToRealConfig
from birdsd.sound.audio.recordings import rate_remarks
from birdsd.sound.codec.protocol import Codec
from birdsd.studies.records import source_name
from birdsd.studies.sim2real.classify import Classifier, find_classifier, named_right
from birdsd.studies.sim2real.generators import Generators
from birdsd.studies.sim2real.pictures import Pictures
from birdsd.studies.sim2real.sounds import (
    RealSounds,
    Sample,
    confirmed,
    real_sounds,
    synthetic_sounds,
    usable_levels,
)
from birdsd.studies.stage_runner import PROGRAM, Stages, Stopped
from birdsd.training.progress import Pulse

PLAN = "plan-{}.json"
_ANOTHER_ORDER = 1_000_000  # added to the seed of the arm that differs in nothing but chance


@dataclass(frozen=True)
class Plan:
    """What was decided before anything was trained."""

    cells: list[Cell]
    levels: list[str]
    power: Power
    remarks: list[str]


class Experiment:
    """One task's part of the experiment, in a folder that all tasks share."""

    def __init__(
        self,
        config: SimToRealConfig,
        control: RunControl,
        program: Sequence[str] = PROGRAM,
        classifier: Classifier | None = None,
    ) -> None:
        if not config.data:
            raise NotSet("data is not set", "the experiment needs labelled recordings", "data=FOLDER")
        _check_counts(config)
        self.config, self.control, self.part = config, control, ArrayShare.parse(config.part)
        self.out = Path(config.out)
        self.work = self.out / source_name(Path(config.data))
        self.stages = Stages(self.work, self._watch, program)
        self._remarks: dict[tuple[str, str], list[str]] = {}
        self._classifier = classifier
        self._done, self._of = 0, 1
        self._synthetic: dict[tuple[str, str], list[Sample] | UserError] = {}

    # -- what there is ------------------------------------------------------------------------------

    @cached_property
    def real(self) -> RealSounds:
        """The real recordings, split."""
        config = self.config
        return real_sounds(
            Path(str(config.data)), Path(config.labels) if config.labels else None, species=config.species,
            validation_fraction=config.validation_fraction, test_fraction=config.test_fraction,
            seed=config.seed,
        )  # fmt: skip

    @cached_property
    def judge(self) -> Judge:
        """The judge, for embeddings and for what it confirms."""
        judge = find_judge(self.config.judge)
        if self._filtering and not any(judge.class_of(name) is not None for name in self.real.species):
            raise NothingLeft(
                f"{judge.title} knows none of the {len(self.real.species)} species",
                "it confirms only species that it knows",
                "filters=[everything]",
            )
        return judge

    @cached_property
    def cache(self) -> EmbeddingCache:
        """What the judge heard so far, in this experiment or before."""
        return EmbeddingCache(self.judge, self.out / "embeddings")

    @cached_property
    def classifier(self) -> Classifier:
        """What every cell trains."""
        if self._classifier is not None:
            return self._classifier
        return find_classifier(
            self.config.classifier, lambda: self.judge, self.out / "embeddings", lambda: self.pictures
        )

    @cached_property
    def pictures(self) -> Pictures:
        """What classifiers without a judge learn from."""
        codec = compose("prepare", [f"codec={self.config.codec}"]).codec
        return Pictures(Codec.from_config(codec), self.config.machine)

    def with_classifier(self, name: str) -> Experiment:
        """The same experiment with another classifier: of the same sounds, split and read only once."""
        other = Experiment(replace(self.config, classifier=name), self.control, self.stages.program)
        other.real, other.pictures = self.real, self.pictures
        return other

    @property
    def _filtering(self) -> bool:
        return CONFIRMED in self.config.filters

    @cached_property
    def generators(self) -> Generators:
        """Where synthetic sounds come from."""
        return Generators(self.config, self.work, self.stages, self.real.species)

    @cached_property
    def plan(self) -> Plan:
        """All cells, and what they can find."""
        config, real = self.config, self.real
        levels, remarks = usable_levels(config.levels, real)
        arms = chosen_arms(config.arms, bool(config.distribution or config.scenes))
        cells = [
            cell
            for cell in cells_of(arms, levels, config.filters, config.seeds)
            if cell.arm.times == 1 or self._recordings(cell) > real.count(cell.level)
        ]
        trained = {(cell.arm.name, cell.level, cell.filter) for cell in cells}
        comparisons = sum(cell.arm.name != cell.arm.against for cell in cells if cell.seed == 0)
        power = power_of([one.recording for one in real.samples["test"]], comparisons)
        if left := sorted({arm.name for arm in arms} - {name for name, _, _ in trained}):
            remarks.append(f"not run, for want of recordings: {', '.join(left)}")
        if config.classifier != "head":  # what hears pictures, and not BirdNET
            used = {one.recording: one.path for found in real.samples.values() for one in found}
            remarks += rate_remarks(used, self.pictures.codec.fmax_hz)
        return Plan(cells, levels, power, [*real.remarks, *remarks])

    def _recordings(self, cell: Cell) -> int:
        return self.real.count(
            cell.level if cell.arm.times == 1 else str(self.real.count(cell.level) * cell.arm.times)
        )

    @cached_property
    def test(self) -> TestClips:
        """What all arms are tested on."""
        samples, number = self.real.samples["test"], {n: k for k, n in enumerate(self.real.species)}
        classes = np.array([number[one.species] for one in samples], dtype=np.int64)
        return TestClips(classes, [one.recording for one in samples], self.real.species)

    def synthetic(self, kind: str, level: str, chosen: str) -> tuple[list[Sample], Mapping[str, float]]:
        """(the synthetic samples of a level; where a judge filtered them, the share that it kept of each
        species)."""
        if (kind, level) not in self._synthetic:
            self._synthetic[kind, level] = self._made(kind, level)
        samples = self._synthetic[kind, level]
        if isinstance(samples, UserError):
            raise samples
        if chosen != CONFIRMED:
            return samples, {}
        kept, shares = confirmed(samples, named_right(self.cache))
        if not kept:
            raise NothingLeft(
                f"{self.judge.title} names none of {len(samples)} synthetic clips right",
                "there is nothing to learn from that a judge confirms",
                "filters=[everything]",
            )
        return kept, shares

    def _made(self, kind: str, level: str) -> list[Sample] | UserError:
        """A level's synthetic samples, made once by this task, or why there are none: a generator that failed
        after hours is not tried again for each of its cells."""
        own = self.real.training_recordings(self.real.count(level))
        try:
            folder = self.generators.folder(kind, level, own)
            held_out = self.real.held_out if self.generators.given(kind) else None
            samples, remarks = synthetic_sounds(folder, self.real.species, held_out)
        except UserError as error:
            return error
        self._remarks[kind, level] = remarks
        return samples

    # -- cells --------------------------------------------------------------------------------------

    def place(self, cell: Cell) -> Path:
        """The record of a cell; other settings have another one."""
        config = self.config
        decides: list[Any] = [self.real.fingerprint, config.seed, self.classifier.identity, config.steps]
        if cell.arm.synthetic:
            decides.append(self.generators.identity(cell.arm.synthetic, cell.level))
        return self.work / "cells" / f"{safe_name(cell.name)}-{fingerprint(decides, 8)}.json"

    def mine(self) -> list[Cell]:
        """The cells of this part; tasks begin with different levels, so that they train different
        generators."""
        cells = self.part.share(self.plan.cells)
        turn = self.part.index % max(1, len(self.plan.levels))
        order = [*self.plan.levels[turn:], *self.plan.levels[:turn]]
        return sorted(cells, key=lambda cell: order.index(cell.level))

    def train(self, cell: Cell) -> None:
        """One cell, unless its record is there. A failure is recorded, and the others go on."""
        place = self.place(cell)
        if (told := read_record(place)) is not None and not told.get("failed"):
            return
        try:
            record, scores = self._trained(cell)
        except UserError as error:
            write_json(place, {**_named(cell), "failed": str(error), "code": error.code})
            print(f"birdsd: {cell.name}: {error}", flush=True)
            return
        with atomic_write(place.with_suffix(".npy"), "wb") as stream:
            np.save(stream, scores.astype(np.float32))
        write_json(place, record)  # last: a record stands for scores that are there

    def _trained(self, cell: Cell) -> tuple[dict[str, Any], np.ndarray]:
        began = time.monotonic()
        arm, real = cell.arm, self.real
        pools, kept = list[Sequence[Sample]](), dict[str, float]()
        if arm.real:
            pools.append(real.training(self._recordings(cell)))
        if arm.synthetic:
            synthetic, shares = self.synthetic(arm.synthetic, cell.level, cell.filter)
            pools.append(synthetic)
            kept = dict(shares)
        seed = cell.seed + (_ANOTHER_ORDER if arm.name == "repeated" else 0)
        predict, told = self.classifier.fit(
            pools, real.samples["validation"], real.species, augment=arm.augmented, seed=seed,
            steps=self.config.steps,
        )  # fmt: skip
        scores = np.asarray(predict(real.samples["test"]))
        check_scores(scores, len(real.samples["test"]), len(real.species))
        test = self.test
        numbers = np.arange(len(test.classes))
        accuracy, macro_f1 = accuracy_and_macro_f1(scores, test.classes)
        macro = macro_average_precision(scores, test.classes, numbers)(np.ones((1, len(numbers))))
        return {
            **_named(cell),
            "remarks": self._remarks.get((arm.synthetic, cell.level), []),
            "steps": self.config.steps, **told, "classifier": self.classifier.title, "kept": kept,
            "recordings": len({one.recording for pool in pools for one in pool if one.origin == "real"}),
            "real_clips": sum(one.origin == "real" for pool in pools for one in pool),
            "synthetic_clips": sum(one.origin == "synthetic" for pool in pools for one in pool),
            "data": real.fingerprint, "species": real.species,
            "keys": [one.key for one in real.samples["test"]],
            "macro_average_precision": float(macro[0]), "accuracy": accuracy, "macro_f1": macro_f1,
            "average_precision": {
                real.species[k]: v for k, v in average_precisions(scores, test.classes).items()
            },
            "wall_s": round(time.monotonic() - began, 2),
        }, scores  # fmt: skip

    def run(self) -> None:
        """All cells of this part. Raises `Stopped` when told to stop; what is done stays."""
        self.write_plan()
        if not self.config.scenes and any(cell.arm.synthetic == SCENES for cell in self.plan.cells):
            _ = self.generators.drawn_from  # refuses what no scene could be drawn from
        cells = self.mine()
        self._of = max(1, len(cells))
        for cell in cells:
            if self._watch():
                raise Stopped(cell.name)
            self.train(cell)
            self._done += 1

    def write_plan(self) -> None:
        """The hypothesis and its power, as they were before anything was trained."""
        path, plan = self.plan_file, self.plan
        if not path.is_file():
            write_json(path, {
                "compared": "macro average precision, each arm against the one that it differs from",
                "cells": [cell.name for cell in plan.cells], "power": plan.power.to_json(),
                "remarks": plan.remarks, "data": self.real.fingerprint,
            })  # fmt: skip
        if plan.power.comparisons:
            print(f"birdsd: {self.power.text()}", flush=True)

    @property
    def plan_file(self) -> Path:
        """Another set of cells, or another split, is another plan."""
        return self.work / PLAN.format(
            fingerprint([self.real.fingerprint, [cell.name for cell in self.plan.cells]], 8)
        )

    @property
    def power(self) -> Power:
        """As it was written before anything was trained."""
        if not self.plan_file.is_file():
            return self.plan.power
        return Power.from_json(read_json(self.plan_file, "plan")["power"])

    def _watch(self) -> bool:
        self.control.beat(Pulse("sim2real", self._done, self._of))
        return self.control.should_stop()

    # -- the answer ---------------------------------------------------------------------------------

    def trained(self) -> tuple[dict[Cell, np.ndarray], dict[str, str], list[str]]:
        """(the scores of the cells that any task has trained by now; why others failed; what is missing)."""
        results, failed, missing = dict[Cell, np.ndarray](), dict[str, str](), list[str]()
        for cell in self.plan.cells:
            place = self.place(cell)
            told = read_record(place)
            if told is None:
                missing.append(cell.name)
            elif told.get("failed"):
                failed[cell.name] = str(told["failed"])
            else:
                results[cell] = np.load(place.with_suffix(".npy"), allow_pickle=False).astype(np.float64)
        return results, failed, missing

    def answer(self) -> Answer:
        """The answer of all cells that any task has trained by now."""
        results, failed, missing = self.trained()
        if not results:
            why = next(iter(failed.values()), "")
            raise NothingLeft(
                f"no cell of the experiment could be trained: {why}", "", "fix that, and run it again"
            )
        plan = self.plan
        arms = chosen_arms(self.config.arms, bool(self.config.distribution or self.config.scenes))
        return answer(
            self.test, arms, plan.levels, results, self.power, failed=failed, missing=missing,
            facts=self._facts(results), draws=self.config.draws, seed=self.config.seed,
        )  # fmt: skip

    def _facts(self, results: Mapping[Cell, np.ndarray]) -> dict[str, Any]:
        real, config = self.real, self.config
        told = {cell: read_json(self.place(cell)) for cell in results}
        kept = {cell.name: values["kept"] for cell, values in told.items() if cell.filter == CONFIRMED}
        said = dict.fromkeys(remark for values in told.values() for remark in values["remarks"])
        return {
            "data": str(config.data), "fingerprint": real.fingerprint, "species": real.species,
            "recordings": {s: len({one.recording for one in found}) for s, found in real.samples.items()},
            "clips": {split: len(found) for split, found in real.samples.items()},
            "classifier": self.classifier.title, "steps": config.steps, "seeds": config.seeds,
            "generator": config.synthetic
            or f"model={config.model} codec={config.codec}, trained on each level",
            "kept": kept, "remarks": [*self.plan.remarks, *said], "draws": config.draws,
            "amounts": {level: real.count(level) for level in self.plan.levels},
        }  # fmt: skip


def differences(each: Mapping[str, Experiment]) -> list[Effect]:
    """What each classifier scores beyond the first, arm by arm and level by level, in macro average
    precision: paired over the test recordings and seeds, and corrected for the number of comparisons."""
    first = next(iter(each))
    arms, results = dict[str, Arm](), dict[Cell, np.ndarray]()
    for name, experiment in each.items():
        for cell, scores in experiment.trained()[0].items():
            title, other = (f"{one}: {cell.arm.title}" for one in (name, first))
            arms[title] = Arm(title, title, "", against=other)
            results[replace(cell, arm=arms[title])] = scores
    one = each[first]
    found = answer(
        one.test, list(arms.values()), one.plan.levels, results, one.power, draws=one.config.draws,
        seed=one.config.seed,
    )  # fmt: skip
    return found.effects


def _check_counts(config: SimToRealConfig) -> None:
    for name in ("seeds", "steps", "clips_per_species", "draws"):
        if getattr(config, name) < 1:
            raise BadValue(f"{name}={getattr(config, name)}", "it must be at least 1", f"{name}=3")
    if not config.levels:
        raise NotSet(
            "levels is empty", "a level is a number of recordings a species, or all", "levels=[2,all]"
        )


def _named(cell: Cell) -> dict[str, Any]:
    return {"arm": cell.arm.name, "level": cell.level, "filter": cell.filter, "seed": cell.seed}


def check_scores(scores: np.ndarray, clips: int, species: int) -> None:
    """Refuse a classifier's scores that are not [clips, species] (`Mismatch`), or not all finite numbers
    (`NotFinite`)."""
    if scores.shape != (clips, species):
        raise Mismatch(
            f"the classifier gave scores of shape {scores.shape}",
            f"one score for each of {clips} test clips and {species} species is needed: {(clips, species)}",
            "mend its predict function",
        )
    if bad := int(scores.size - np.isfinite(scores).sum()):
        raise NotFinite(
            f"the classifier gave scores of shape {scores.shape}, {bad} of {scores.size} not finite",
            "every score must be a finite number",
            "lower its learning rate",
        )


def read_record(place: Path) -> dict[str, Any] | None:
    """The record of a cell; None where there is none, or where it is no use (its scores are gone)."""
    try:
        told = read_json(place, "record")
    except UserError:
        return None
    whole = isinstance(told, dict) and (told.get("failed") or place.with_suffix(".npy").is_file())
    return told if whole else None
