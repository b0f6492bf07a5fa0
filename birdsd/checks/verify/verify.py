"""`birdsd verify`: does a run that is killed, and goes on in another way each time, learn the same here?

It trains some steps straight, and the same steps in legs: kills in between, other world sizes, ZeRO
stages, micro-batches and reader threads. Then it compares which samples were seen, the losses, and the
weights at the end. To be run on the machine, and with the settings, that are about to get many GPU hours.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from birdsd.checks.verify.check import Check, check_all, rounding
from birdsd.checks.verify.compare import Limits
from birdsd.checks.verify.plan import Leg, Shape, check_request, plan_legs, steps_for, usual_shape
from birdsd.checks.verify.segments import Course, LegResult, Watch, leg_line, train_straight
from birdsd.config import compose
from birdsd.errors import UserError
from birdsd.files import write_json
from birdsd.method_facts import facts_of
from birdsd.schema import MODEL_KEYS, TrainConfig

_RECORDINGS_PER_SPECIES = 2


@dataclass
class VerifyResult:
    """What was tried, what was found, and the verdict. `folder`: where the runs and logs lie, if kept."""

    settings: list[str]
    steps: int
    global_batch: int
    device: str
    precision: str
    straight_s: float
    legs: list[LegResult]
    checks: list[Check]
    notes: list[str]
    seconds: float
    folder: str | None = None

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def incomplete(self) -> bool:
        """Whether all that is amiss is that the steps did not suffice for every leg."""
        wrong = [check.name for check in self.checks if not check.passed]
        return wrong == ["legs"] and any(leg.too_late for leg in self.legs)

    @property
    def exit_status(self) -> int:
        """0 where everything is as it should be, else 1."""
        return 0 if self.passed else 1

    def to_json(self) -> dict[str, Any]:
        """The same for scripts."""
        facts = {k: v for k, v in vars(self).items() if k not in ("legs", "checks")}
        return {
            "passed": self.passed,
            "incomplete": self.incomplete,
            **facts,
            "legs": [leg.to_json() for leg in self.legs],
            "checks": [asdict(check) for check in self.checks],
        }


def verify(
    settings: Sequence[str],
    worlds: Sequence[int] = (1, 2, 4),
    stages: Sequence[int] = (0, 1, 2, 3),
    kills: int = 6,
    steps: int = 24,
    seed: int = 0,
    out: Path | str | None = None,
    keep: bool = False,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> VerifyResult:
    """Try it, telling `say` how it goes; `settings` are those of `birdsd run train`.

    Works in a temporary folder, or in `out`, which must be empty, and leaves verify.json there. Runs and
    logs are kept where `keep` says so, or something was found. Without data.shards it makes a synthetic
    aviary; with model.init=scratch and no autoencoder, an untrained one. Raises `UserError` for settings
    that cannot train.
    """
    check_request(worlds, stages, kills, steps)
    config = compose("train", settings)
    notes: list[str] = []
    worlds = _worlds_here(worlds, config, notes)
    _check_deepspeed(stages)
    work = _work_folder(out)
    trial = Trial(config, list(settings), work, seed, notes, say)
    try:
        result = trial.run(worlds, stages, kills, steps)
    except BaseException as error:
        if not keep:
            trial.clean(logs=not isinstance(error, UserError))
        raise
    if keep or not result.passed:
        result.folder = str(work)
    else:
        trial.clean()
    if out is not None:
        write_json(Path(out) / "verify.json", result.to_json())
    return result


@dataclass
class Trial:
    """One verification in a work folder."""

    config: TrainConfig
    settings: list[str]
    work: Path
    seed: int
    notes: list[str]
    say: Callable[[str], None]
    _made: list[str] = field(default_factory=lambda: ["runs", "straight", "probe", "logs"])

    def run(self, worlds: Sequence[int], stages: Sequence[int], kills: int, steps: int) -> VerifyResult:
        """The straight run, the legs, and the comparison."""
        start = time.monotonic()
        machine, batch = self.config.machine, int(self.config.optim.global_batch or 1)
        legs = plan_legs(worlds, stages, kills, batch, machine.micro_batch, self.seed)
        total = steps_for(steps, len(legs))
        if total > steps:
            self.notes.append(f"{total} steps instead of {steps}: {len(legs)} segments need that many")
        every = max(2, total // len(legs) // 2)
        settings = [*self._sources(), *self._overrides(total * batch, every * batch)]
        usual = usual_shape(batch, machine.micro_batch)
        self.say(f"uninterrupted: {total} steps of {batch} samples, world 1, torch")
        straight = Watch(self.work / "straight", batch)
        straight_s = train_straight(straight, usual, settings, self.work / "logs" / "straight")
        facts = straight.announcements()[-1]
        self.say(f"uninterrupted: done in {straight_s:.0f} s, {facts['precision']} on {facts['device']}")
        changed = Watch(self.work / "runs", batch)
        course = Course(changed, settings, self.work / "logs", total, every, self.seed)
        results = self._legs(course, legs)
        precision = str(facts["precision"])
        limits = Limits.of(precision)
        checks = check_all(straight, changed, legs, results, usual, limits)
        if [c.name for c in checks if not c.passed] in (["losses"], ["weights"], ["losses", "weights"]):
            limits = self._probe(straight, usual, settings, limits)
            checks = check_all(straight, changed, legs, results, usual, limits)
        self.notes += [limits.why] if limits.why else []
        return VerifyResult(
            self.settings, total, batch, str(facts["device"]), precision, round(straight_s, 1), results,
            checks, self.notes, round(time.monotonic() - start, 1),
        )  # fmt: skip

    def _probe(self, straight: Watch, usual: Shape, settings: list[str], limits: Limits) -> Limits:
        """Whether the settings amplify rounding: a straight run where only the micro-batch is another."""
        if usual.micro_batch == 1:
            return limits
        self.say("beyond the usual limit: a second uninterrupted run shows the effect of rounding alone")
        probe = Watch(self.work / "probe", straight.batch)
        shape = replace(usual, micro_batch=max(1, usual.micro_batch // 2))
        train_straight(probe, shape, settings, self.work / "logs" / "probe")
        return limits.raised(*rounding(straight, probe))

    def _legs(self, course: Course, legs: Sequence[Leg]) -> list[LegResult]:
        results = []
        for number, leg in enumerate(legs, start=1):
            results.append(course.run(number, leg, len(legs) - number + 1))
            self.say(f"{leg_line(results[-1], len(legs))} ({results[-1].seconds:.0f} s)")
            if results[-1].problem:
                break
        return results

    def _overrides(self, total_samples: int, save_every: int) -> list[str]:
        """Settings that belong to the trial; they come last, and so they count."""
        return [
            f"optim.total_samples={total_samples}",
            f"save.every_samples={save_every}",
            "save.keep=3",
            "save.log_every_steps=1",
            "save.validate_every_samples=0",
            "save.preview_every_samples=0",
        ]

    def _sources(self) -> list[str]:
        """The settings with shards and an autoencoder, which are made where they are not named."""
        from birdsd.runs.run import RunStore

        settings, config = list(self.settings), self.config
        if not config.data.shards:
            self._made += ["recordings", "shards"]
            settings.append(f"data.shards={self._synthetic_shards()}")
        store = RunStore(Path(config.runs))
        for key in MODEL_KEYS:
            if found := store.model_source(getattr(config.model, key), f"model.{key}"):
                settings.append(f"model.{key}={found}")
        needs_one = config.model.init == "scratch" and "autoencoder" in facts_of(config.method).models
        if needs_one and not config.model.autoencoder:
            self._made.append("autoencoder")
            settings.append(f"model.autoencoder={self._untrained_autoencoder(settings)}")
        return settings

    def _synthetic_shards(self) -> Path:
        from birdsd.shards.prepare.prepare import prepare
        from birdsd.sound.codec.protocol import Codec
        from birdsd.sound.synthetic import make_aviary

        self.say("no data.shards: creating a synthetic data set")
        recordings = make_aviary(self.work / "recordings", _RECORDINGS_PER_SPECIES, environment=False)
        shards = self.work / "shards"
        asked = compose(
            "prepare", ["codec=birdsong-small", f"data.recordings={recordings}", f"data.shards={shards}"]
        )
        prepare(asked.data, Codec.from_config(asked.codec), processes=1, progress=False)
        return shards

    def _untrained_autoencoder(self, settings: list[str]) -> Path:
        """An autoencoder after one step: how well it does is of no interest here."""
        self.say("no model.autoencoder: training one for one step")
        own = ["method=autoencoder", "optim.global_batch=4", *self._overrides(4, 4)]
        watch = Watch(self.work / "autoencoder", 4)
        train_straight(
            watch,
            usual_shape(4, 4),
            [*settings, *own],
            self.work / "logs" / "autoencoder",
        )
        assert watch.run is not None
        return watch.run.folder

    def clean(self, logs: bool = True) -> None:
        """Remove what was made, also the logs if that is meant, and the work folder if it is empty then."""
        for name in self._made:
            if name == "logs" and not logs:
                continue  # the error names one of them
            shutil.rmtree(self.work / name, ignore_errors=True)
        if not any(self.work.iterdir()):
            self.work.rmdir()


def _work_folder(out: Path | str | None) -> Path:
    if out is None:
        return Path(tempfile.mkdtemp(prefix="birdsd-verify-"))
    folder = Path(out)
    if folder.is_dir() and any(path.name != "verify.json" for path in folder.iterdir()):
        raise UserError(
            f"--out {folder} is not empty", "verify always starts from scratch", "choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def _check_deepspeed(stages: Sequence[int]) -> None:
    from importlib.util import find_spec

    if any(stages) and find_spec("deepspeed") is None:
        raise UserError(
            f"--stages {','.join(map(str, stages))}: DeepSpeed is not installed",
            "ZeRO stages 1 to 3 need it",
            "install it (`pip install deepspeed`), or --stages 0",
        )


def _worlds_here(worlds: Sequence[int], config: TrainConfig, notes: list[str]) -> list[int]:
    """The worlds that this machine can hold: NCCL needs one GPU per rank, processors take any number."""
    if config.machine.device == "cpu":
        return list(worlds)
    script = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    gpus = int(told.stdout) if told.returncode == 0 and told.stdout.strip().isdigit() else 0
    if not gpus:
        return list(worlds)
    held = [world for world in worlds if world <= gpus]
    if not held:
        raise UserError(
            f"--worlds {','.join(map(str, worlds))} with {gpus} GPU{'s' * (gpus > 1)} here",
            "NCCL needs one GPU per rank",
            "--worlds 1, or machine.device=cpu",
        )
    if len(held) < len(worlds):
        left_out = ", ".join(str(world) for world in worlds if world > gpus)
        notes.append(
            f"{gpus} GPU{'s' * (gpus > 1)} here, and NCCL needs one GPU per rank: worlds of {left_out} are "
            "left out; machine.device=cpu tries them"
        )
    return held
