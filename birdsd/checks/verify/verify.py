"""`birdsd verify`: does a run that is killed and resumed in other ways learn the same on this machine?

It trains a few steps without interruption (the reference), and the same steps in segments, with kills in
between and other world sizes, ZeRO stages, micro-batches and reader threads. Then it compares the samples
seen, the losses, and the final weights. Run it on the machine and with the settings of a long run to come.
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
from birdsd.checks.verify.plan import Segment, Shape, check_request, plan_segments, steps_for, usual_shape
from birdsd.checks.verify.segments import (
    InterruptedRun,
    RunObserver,
    SegmentResult,
    segment_line,
    train_reference,
)
from birdsd.config import compose
from birdsd.errors import AlreadyThere, Mismatch, Unsupported, UserError
from birdsd.files import write_json
from birdsd.method_facts import facts_of
from birdsd.schema import MODEL_KEYS, TrainConfig

_RECORDINGS_PER_SPECIES = 2


@dataclass
class VerifyResult:
    """The segments, the checks, and the verdict. `folder`: where the runs and logs are, if kept."""

    settings: list[str]
    steps: int
    global_batch: int
    device: str
    precision: str
    reference_s: float
    segments: list[SegmentResult]
    checks: list[Check]
    notes: list[str]
    seconds: float
    folder: str | None = None

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def incomplete(self) -> bool:
        """Whether nothing failed but that there were too few steps for every segment."""
        wrong = [check.name for check in self.checks if not check.passed]
        return wrong == ["segments"] and any(segment.too_late for segment in self.segments)

    @property
    def exit_status(self) -> int:
        """0 where every check passed, else 1."""
        return 0 if self.passed else 1

    def to_json(self) -> dict[str, Any]:
        """The result for scripts."""
        # Scripts know the reference and the segments by their older names.
        names = {"reference_s": "straight_s"}
        facts = {names.get(k, k): v for k, v in vars(self).items() if k not in ("segments", "checks")}
        return {
            "passed": self.passed,
            "incomplete": self.incomplete,
            **facts,
            "legs": [segment.to_json() for segment in self.segments],
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
    """Verify `settings`, those of `birdsd run train`; `say` gets lines of progress.

    Works in a temporary folder, or in `out`, which must be empty, and leaves verify.json there. Runs and
    logs are kept with `keep`, or where a check failed. Without data.shards it makes a synthetic
    aviary; with model.init=scratch and no autoencoder, an untrained one. Raises `UserError` for settings
    that cannot train.
    """
    check_request(worlds, stages, kills, steps)
    config = compose("train", settings)
    notes: list[str] = []
    worlds = _worlds_here(worlds, config, notes)
    _check_deepspeed(stages)
    work = _work_folder(out)
    verification = Verification(config, list(settings), work, seed, notes, say)
    try:
        result = verification.run(worlds, stages, kills, steps)
    except BaseException as error:
        if not keep:
            verification.clean(logs=not isinstance(error, UserError))
        raise
    if keep or not result.passed:
        result.folder = str(work)
    else:
        verification.clean()
    if out is not None:
        write_json(Path(out) / "verify.json", result.to_json())
    return result


@dataclass
class Verification:
    """One verification in a work folder."""

    config: TrainConfig
    settings: list[str]
    work: Path
    seed: int
    notes: list[str]
    say: Callable[[str], None]
    _made: list[str] = field(default_factory=lambda: ["runs", "reference", "probe", "logs"])

    def run(self, worlds: Sequence[int], stages: Sequence[int], kills: int, steps: int) -> VerifyResult:
        """Train the reference and the segments, and compare them."""
        start = time.monotonic()
        machine, batch = self.config.machine, int(self.config.optim.global_batch or 1)
        segments = plan_segments(worlds, stages, kills, batch, machine.micro_batch)
        total = steps_for(steps, len(segments))
        if total > steps:
            self.notes.append(f"{total} steps instead of {steps}: {len(segments)} segments need that many")
        every = max(2, total // len(segments) // 2)
        settings = [*self._sources(), *self._overrides(total * batch, every * batch)]
        usual = usual_shape(batch, machine.micro_batch)
        self.say(f"uninterrupted: {total} steps of {batch} samples, world 1, torch")
        reference = RunObserver(self.work / "reference", batch)
        reference_s = train_reference(reference, usual, settings, self.work / "logs" / "reference")
        facts = reference.announcements()[-1]
        self.say(f"uninterrupted: done in {reference_s:.0f} s, {facts['precision']} on {facts['device']}")
        changed = RunObserver(self.work / "runs", batch)
        interrupted = InterruptedRun(changed, settings, self.work / "logs", total, every, self.seed)
        results = self._segments(interrupted, segments)
        precision = str(facts["precision"])
        limits = Limits.of(precision)
        checks = check_all(reference, changed, segments, results, usual, limits)
        if [c.name for c in checks if not c.passed] in (["losses"], ["weights"], ["losses", "weights"]):
            limits = self._probe(reference, usual, settings, limits)
            checks = check_all(reference, changed, segments, results, usual, limits)
        self.notes += [limits.why] if limits.why else []
        return VerifyResult(
            self.settings, total, batch, str(facts["device"]), precision, round(reference_s, 1), results,
            checks, self.notes, round(time.monotonic() - start, 1),
        )  # fmt: skip

    def _probe(self, reference: RunObserver, usual: Shape, settings: list[str], limits: Limits) -> Limits:
        """Whether the settings amplify rounding: another reference, which differs in the micro-batch only."""
        if usual.micro_batch == 1:
            return limits
        self.say("beyond the usual limit: a second uninterrupted run shows the effect of rounding alone")
        probe = RunObserver(self.work / "probe", reference.batch)
        shape = replace(usual, micro_batch=max(1, usual.micro_batch // 2))
        train_reference(probe, shape, settings, self.work / "logs" / "probe")
        return limits.raised(*rounding(reference, probe))

    def _segments(self, interrupted: InterruptedRun, segments: Sequence[Segment]) -> list[SegmentResult]:
        results = []
        for number, segment in enumerate(segments, start=1):
            results.append(interrupted.run(number, segment, len(segments) - number + 1))
            self.say(f"{segment_line(results[-1], len(segments))} ({results[-1].seconds:.0f} s)")
            if results[-1].problem:
                break
        return results

    def _overrides(self, total_samples: int, save_every: int) -> list[str]:
        """Settings of the verification itself; they come last, so that they take effect."""
        return [
            f"optim.total_samples={total_samples}",
            f"save.every_samples={save_every}",
            "save.keep=3",
            "save.log_every_steps=1",
            "save.validate_every_samples=0",
            "save.preview_every_samples=0",
        ]

    def _sources(self) -> list[str]:
        """The settings with shards and an autoencoder, which are made where none are given."""
        from birdsd.runs.run import RunStore

        settings, config = list(self.settings), self.config
        if not config.data.shards:
            self._made += ["recordings", "shards"]
            settings.append(f"data.shards={self._synthetic_shards()}")
        store = RunStore(Path(config.runs))
        for key in MODEL_KEYS:
            if source := store.model_source(getattr(config.model, key), f"model.{key}"):
                settings.append(f"model.{key}={source}")
        facts = facts_of(config.method)
        needed = set(facts.models) - set(facts.optional)
        needs_one = config.model.init == "scratch" and "autoencoder" in needed
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
        prepared = compose(
            "prepare", ["codec=birdsong-small", f"data.recordings={recordings}", f"data.shards={shards}"]
        )
        prepare(prepared.data, Codec.from_config(prepared.codec), processes=1, progress=False)
        return shards

    def _untrained_autoencoder(self, settings: list[str]) -> Path:
        """An autoencoder after one step: its quality does not matter here."""
        self.say("no model.autoencoder: training one for one step")
        own = ["method=autoencoder", "optim.global_batch=4", *self._overrides(4, 4)]
        observer = RunObserver(self.work / "autoencoder", 4)
        train_reference(
            observer,
            usual_shape(4, 4),
            [*settings, *own],
            self.work / "logs" / "autoencoder",
        )
        assert observer.run is not None
        return observer.run.folder

    def clean(self, logs: bool = True) -> None:
        """Remove what was made, with the logs where `logs` says so, and the work folder if it is empty."""
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
        raise AlreadyThere(
            f"--out {folder} is not empty", "verify always starts from scratch", "choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def _check_deepspeed(stages: Sequence[int]) -> None:
    from importlib.util import find_spec

    if any(stages) and find_spec("deepspeed") is None:
        raise Unsupported(
            f"--stages {','.join(map(str, stages))}: DeepSpeed is not installed",
            "ZeRO stages 1 to 3 need it",
            "install it (`pip install deepspeed`), or --stages 0",
        )


def _worlds_here(worlds: Sequence[int], config: TrainConfig, notes: list[str]) -> list[int]:
    """The world sizes that fit on this machine: NCCL needs one GPU per rank, CPUs take any number."""
    if config.machine.device == "cpu":
        return list(worlds)
    script = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    gpus = int(done.stdout) if done.returncode == 0 and done.stdout.strip().isdigit() else 0
    if not gpus:
        return list(worlds)
    fitting = [world for world in worlds if world <= gpus]
    if not fitting:
        raise Mismatch(
            f"--worlds {','.join(map(str, worlds))} with {gpus} GPU{'s' * (gpus > 1)} here",
            "NCCL needs one GPU per rank",
            "--worlds 1, or machine.device=cpu",
        )
    if len(fitting) < len(worlds):
        left_out = ", ".join(str(world) for world in worlds if world > gpus)
        notes.append(
            f"{gpus} GPU{'s' * (gpus > 1)} here, and NCCL needs one GPU per rank: worlds of {left_out} are "
            "left out; machine.device=cpu tries them"
        )
    return fitting
