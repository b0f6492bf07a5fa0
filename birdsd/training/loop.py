"""The training loop: the same for every method, engine and world.

Everything that happens is a function of the position, the number of samples seen: which samples
come next, the noise on them, the learning rate, when to save. Killed anywhere and started again, it
goes on from the newest checkpoint as if nothing had been.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from birdsd.errors import Damaged, Mismatch
from birdsd.files import read_json, write_json
from birdsd.remarks import coded
from birdsd.training.batches.batches import (
    BatchMaker,
    Examples,
    fill_caches,
    global_batches,
    make_order,
    open_reader,
    provide,
)
from birdsd.training.batches.global_batch import BatchPlan
from birdsd.training.checkpoints.checkpoint import Checkpoint, Checkpointer, Event, SetAside
from birdsd.training.devices.precision import choose_device, choose_precision, occupy, release, set_threads
from birdsd.training.devices.world import World
from birdsd.training.early import EarlyStop, take_best
from birdsd.training.engines.base import Engine
from birdsd.training.engines.choice import engine_name, make_engine, reads_in_place
from birdsd.training.engines.out_of_memory import (
    MicroBatchMemory,
    OutOfMemory,
    explain_restart,
    halved,
    oom_event,
    resplit,
)
from birdsd.training.previews import build_from_checkpoint, load_weights, write_preview
from birdsd.training.progress import Progress, Pulse, Stopwatch, opening_line
from birdsd.training.records import BadSamples, Ledger, Metrics
from birdsd.training.result import CHECKPOINTS, FINISHED_FILE, TrainResult, finished_before
from birdsd.training.schedule import check_schedule, ema_decay_at, learning_rate_at
from birdsd.training.steplog import StepLog
from birdsd.training.stretches import read_totals, whole_batches
from birdsd.training.trackers import Trackers
from birdsd.training.validation import HELD_OUT, Validation

if TYPE_CHECKING:
    from birdsd.diffusion.learning.base import LearningMethod, Modules
    from birdsd.schema import TrainConfig
    from birdsd.shards.index import ShardIndex


def train(
    config: TrainConfig,
    method: LearningMethod,
    index: ShardIndex,
    run_folder: Path,
    should_stop: Callable[[], bool] = lambda: False,
    events: Event = lambda event: None,
    beat: Callable[[Pulse], None] = lambda pulse: None,
) -> TrainResult:
    """Train until `optim.total_samples`, or until `should_stop` says so at a step boundary.
    `beat` is called at every step boundary, and when another phase begins.

    Run again, it resumes; a finished run returns at once. Raises `UserError` for settings that cannot
    train, a disk that stays full, shards or settings that changed, a loss that is no longer finite.
    """
    run_folder = Path(run_folder)
    if (before := finished_before(run_folder, events)) is not None:
        return before
    check_schedule(config.optim)
    world = World.from_environment()
    try:
        while True:
            try:
                return Trainer(config, method, index, run_folder, should_stop, events, world, beat).run()
            except OutOfMemory as error:
                explain_restart(error, world)
            except SetAside:  # named in an event: from the checkpoint before it
                continue
    finally:
        world.close()


class Trainer:
    """One process's part in one call of `train`."""

    def __init__(
        self,
        config: TrainConfig,
        method: LearningMethod,
        index: ShardIndex,
        run_folder: Path,
        should_stop: Callable[[], bool],
        events: Event,
        world: World,
        beat: Callable[[Pulse], None] = lambda pulse: None,
    ) -> None:
        self.config, self.method, self.index, self.folder = config, method, index, run_folder
        self.should_stop, self.world = should_stop, world
        self.events: Event = events if world.is_first else (lambda event: None)
        self.pulse, self._beat = Pulse(), beat
        self.clock = Stopwatch(self._enter)
        self.pulse.seconds = self.clock.seconds
        machine, self.batch = config.machine, int(config.optim.global_batch or 1)
        # Whole global batches only: the last one may reach beyond total_samples.
        self.total = whole_batches(int(config.optim.total_samples or 1), self.batch)
        self.ends = read_totals(run_folder)[:-1]  # of the stretches before the last
        self.device = choose_device(machine.device, world.local_rank)
        self.precision = choose_precision(machine.precision, self.device)
        self.remembered = MicroBatchMemory(run_folder, machine, world, self.device)
        self.plan = BatchPlan(self.batch, world.size, world.rank, machine.micro_batch)
        self.engine_name, self.engine_reason = engine_name(machine)
        self._cached = machine.cache_latents
        held_out = min(config.save.validation_samples, index.count(HELD_OUT))
        self._validated = held_out if config.save.validate_every_samples else 0
        self.position = self.resumed_from = self.saved_position = 0
        self.metrics, self.ledger = Metrics(run_folder), Ledger(run_folder)
        self.engine: Engine | None = None
        self.steps = StepLog(self.metrics, self.ledger, world, self.batch)
        self.bad = BadSamples(index, config.save.max_bad_samples, self.events)
        self.early = EarlyStop()

    def _enter(self, name: str) -> None:
        """Another phase begins. Waiting for data and computing are one phase: that of the steps."""
        self.pulse.phase = "train" if name in ("wait for data", "train", "first batch") else name
        self.pulse.position, self.pulse.total = self.position, self.total
        self._beat(self.pulse)

    # -- the course of it ---------------------------------------------------------------------------

    def run(self) -> TrainResult:
        """Build, restore, train, and export once all samples were seen."""
        self.world.start(
            self.device,
            always=self.engine_name == "deepspeed",
            timeout_s=self.config.machine.collective_timeout_s,
        )
        occupy(self.device, self.config.machine.max_gpu_memory_gib)
        set_threads(self.config.machine.threads, self.device)
        size = int(self.world.from_first(self.remembered.read()))
        self.plan = BatchPlan(self.batch, self.world.size, self.world.rank, size)
        signature = self.folder / "signature.json"
        self.checkpointer = Checkpointer(
            self.folder / CHECKPOINTS,
            self.world,
            read_json(signature)["signature"] if signature.is_file() else "",
            self.config.save.keep,
            self.events,
            self.config.save.max_failed_saves,
            self.config.machine.save_in_background,
        )
        with self.clock("restore"):
            checkpoint = self.checkpointer.newest(reads_in_place(self.config.machine, self.device))
            self._take_up(checkpoint)
        if self.position < self.total and self._train(checkpoint):
            self.events({"event": "stopped", "position": self.position, "seconds": self.clock.rounded()})
            return self._result(finished=False, export=None)
        return self._finish()

    def _train(self, checkpoint: Checkpoint | None) -> bool:
        """From here to the end of the samples; True where it was asked to stop before."""
        with self.clock("build"):
            modules, notes = self._build(checkpoint)
            maker = self._maker(modules)
            validation = self._validation(modules)
            patience = modules.learner.patience if validation else 0
            self.early = EarlyStop.restored(patience, self.folder, self.world)
        self.progress = Progress(self.total, self.position, self.world.is_first)
        self.trackers = Trackers(self.folder, self.position, self.world.is_first)
        self._announce(checkpoint, notes)
        machine = self.config.machine
        batches = global_batches(
            maker, self.plan, self.position, self.total, machine.reader_threads, machine.prefetch_batches
        )
        try:
            with closing(batches):
                return self._steps(modules, batches, validation)
        finally:
            self.progress.close()
            self.trackers.close()
            assert self.engine is not None
            try:
                self.checkpointer.wait()
            finally:
                self.engine.close()

    def _steps(
        self, modules: Modules, batches: Iterator[list[Examples]], validation: Validation | None
    ) -> bool:
        save = self.config.save
        step = self.position // self.batch
        while self.position < self.total and not self.early.over:
            examples, weight = self._next(batches)
            if examples is None:
                self._save(modules)
                self.checkpointer.wait(must_be_saved=True)
                return True
            self._step(modules, examples, weight)
            step += 1
            if step % max(1, save.log_every_steps) == 0:
                self._flush()
            if validation and self._due(save.validate_every_samples):
                self._validate(validation)
            if self._due(save.every_samples) or self.early.best == self.position:
                self._save(modules)
            if self._due(save.preview_every_samples):
                self._preview(modules)
        if self.early.over:
            self.total = self.position
            self._tell(self.early.line(self.total))
        self._save(modules)
        self.checkpointer.wait(must_be_saved=True)
        return False

    def _due(self, every: int) -> bool:
        """Whether the last step crossed a multiple of `every` samples."""
        return every > 0 and self.position // every > (self.position - self.batch) // every

    # -- starting -----------------------------------------------------------------------------------

    def _take_up(self, checkpoint: Checkpoint | None) -> None:
        """Go to the checkpoint's position, and make what was written down end there."""
        if checkpoint is not None:
            changes = self.index.changes_since(checkpoint.state["shards"])
            if changes:
                raise Mismatch(
                    f"the shards in {self.index.folder} changed under this run: {', '.join(changes[:5])}",
                    "a run continues with the samples that it started with",
                    "restore the shards, or start a new run",
                )
            self.position = self.resumed_from = self.saved_position = checkpoint.position
        self.pulse.resumed_from = self.position
        if self.world.is_first:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.metrics.rewind(self.position)
            self.ledger.rewind(self.position)
        self.world.from_first(None)
        self.bad.rewind(self.ledger.bad_samples())

    def _build(self, checkpoint: Checkpoint | None) -> tuple[Modules, list[str]]:
        alive = partial(self._beat, self.pulse)
        splits = ["train", *[HELD_OUT] * bool(self._validated)] if self._cached else []
        fill_caches(self.method, self.device, self.precision.dtype, splits, self.world, alive)
        torch.manual_seed(self.config.seed)
        modules = self.method.build(self.device, self.precision.dtype)
        # Before the checkpoint's weights come and an engine deals them out: what a method makes, it makes
        # with the model that it starts from, whole on every rank.
        notes = provide(self.method, modules, self.world, alive)
        if checkpoint is not None and not checkpoint.unread:
            load_weights(modules.learner, checkpoint, "weights")
        self.engine = make_engine(
            modules.learner,
            self.config.optim,
            self.config.machine,
            self.precision,
            self.device,
            self.world,
            self.plan.count,
        )
        set_threads(self.config.machine.threads, self.device)  # an engine may choose them too
        if checkpoint is not None:
            self.checkpointer.load(checkpoint, self.engine)
        self.checkpointer.prepare(self.engine)
        return modules, notes

    def _maker(self, modules: Modules) -> BatchMaker:
        return BatchMaker(
            open_reader(self.index, "train", self.method, self._cached),
            make_order(self.config, self.index),
            lambda sample, position: self.method.make_example(modules, sample, position),
            pin=self.device.type == "cuda",
        )

    def _validation(self, modules: Modules) -> Validation | None:
        reader = open_reader(self.index, HELD_OUT, self.method, self._cached) if self._validated else None
        return Validation(self.method, modules, reader, self.world, self._validated) if reader else None

    def _announce(self, checkpoint: Checkpoint | None, notes: list[str]) -> None:
        assert self.engine is not None
        for note in notes:
            self._tell(note)
        facts = {
            "position": self.position,
            "total": self.total,
            "device": str(self.device),
            "precision": self.precision.name,
            "precision_reason": self.precision.reason,
            "engine": self.engine.name,
            "engine_reason": self.engine_reason,
            "world_size": self.world.size,
            "global_batch": self.batch,
            "micro_batch": self.plan.size,
            "micro_batches": self.plan.count,
            "parameters": sum(shape.numel() for shape in self.engine.shapes.values()),
            "threads": torch.get_num_threads(),
        }
        self.events({"event": "training", **facts})
        if checkpoint is not None:
            came_from = {"world_size": checkpoint.commit["world_size"], "engine": checkpoint.commit["engine"]}
            self.events({"event": "resumed", "checkpoint": checkpoint.folder.name, "from": came_from})
            if self.world.is_first:
                line = {"kind": "resume", "position": self.position, "time": time.time(), "from": came_from}
                self.metrics.append([line])
        self.progress.say(opening_line(facts, resumed=checkpoint is not None))

    # -- one step -----------------------------------------------------------------------------------

    def _next(self, batches: Iterator[list[Examples]]) -> tuple[list[Examples] | None, int]:
        """This rank's micro-batches and the weight of the whole global batch; (None, 0) to stop.

        All ranks agree here, at the step boundary: on stopping, on errors of one, and on the samples.
        """
        stop, error, examples = self.should_stop(), None, None
        if not (stop and self.world.size == 1):
            try:
                first = self.position == self.resumed_from
                with self.clock("first batch" if first else "wait for data"):
                    examples = next(batches)
            except Exception as raised:
                error = raised
        numbers = [number for micro in examples or [] for number in micro.numbers]
        mine = np.full(3 + self.plan.largest_slice, np.iinfo(np.int64).min)
        mine[:3] = stop, error is not None, self.checkpointer.failed
        mine[3 : 3 + len(numbers)] = numbers
        all_ranks = self.world.exchange(mine)
        if error is not None:
            raise error
        if all_ranks[:, 2].any():
            self.checkpointer.wait()
        if all_ranks[:, 1].any():
            raise RuntimeError(f"rank {int(all_ranks[:, 1].argmax())} could not make its batch; see its log")
        if all_ranks[:, 0].any():
            return None, 0
        seen = all_ranks[:, 3:].ravel()
        seen = seen[seen != np.iinfo(np.int64).min]
        self.steps.saw(seen)
        self.bad.note(seen, {n: why for micro in examples or [] for n, why in micro.problems.items()})
        return examples, int((seen >= 0).sum())

    def _step(self, modules: Modules, examples: list[Examples], weight: int) -> None:
        assert self.engine is not None
        optim = self.config.optim
        after = self.position + self.batch
        learning_rate = learning_rate_at(after, optim, self.ends)
        with self.clock("train"):
            while True:
                if len(examples) != self.plan.count:  # made ahead, before memory ran short
                    examples = resplit(examples, self.plan)
                shares = [(micro.weights / max(1, weight)).to(self.device) for micro in examples]
                work = [
                    (partial(self._prepared, modules, m), s) for m, s in zip(examples, shares, strict=True)
                ]
                try:
                    result = self.engine.step(work, learning_rate, ema_decay_at(after, optim))
                    break
                except OutOfMemory as error:
                    short = error
                    short.__traceback__ = short.__context__ = short.__cause__ = None  # they hold its tensors
                self._shrink(short)
        self.position = after
        self.steps.took(after, learning_rate, result)

    def _shrink(self, short: OutOfMemory) -> None:
        """Half the micro-batch from here on; raises where it cannot be smaller, or the step not be redone."""
        before = self.plan.size
        self.plan = halved(self.plan, short.reason, self.config.machine)
        release(self.device)
        self._tell(*oom_event(short.reason, self.position, before, self.plan.size))
        if self.world.is_first or not short.redo:
            self.remembered.write(self.plan.size)
        if not short.redo:
            raise short

    def _prepared(self, modules: Modules, micro: Examples, samples: int | None = None) -> dict[str, Tensor]:
        with torch.no_grad():
            kept = {key: tensor[:samples] for key, tensor in micro.tensors.items()}
            batch = {key: tensor.to(self.device, non_blocking=True) for key, tensor in kept.items()}
            return self.method.encode_batch(modules, batch)

    def _flush(self) -> None:
        """Write down the steps since the last time. Only here does the host wait for the device."""
        if not self.steps:
            return
        with self.clock("train"):
            losses = self.steps.losses()
        lines = self.steps.write(losses)
        self.pulse.loss, self.pulse.samples_per_s = losses[-1], self.steps.samples_per_s
        self.trackers.lines(lines)
        self.progress.update(self.position, lines[-1])

    # -- now and then -------------------------------------------------------------------------------

    def _validate(self, validation: Validation) -> None:
        assert self.engine is not None
        self._flush()
        with self.clock("validate"):
            result = validation.run(self.engine, self.plan.size)
        self.steps.restart_clock()
        if result is None:
            return
        line = {"kind": "validation", "position": self.position, **result}
        if self.world.is_first:
            self.metrics.append([line])
        self.trackers.lines([line])
        self.events({"event": "validated", "position": self.position, **result})
        self.early.saw(self.position, result["loss"])
        if remark := validation.remark(result, self.position):
            self._tell(remark)

    def _tell(self, line: str, event: dict[str, Any] | None = None) -> None:
        self.events(event or {"event": "note", "text": line, **coded(line)})
        self.progress.say(line)

    def _save(self, modules: Modules) -> None:
        """Save where we are, unless that is saved already. On stopping and at the end, `wait` follows."""
        assert self.engine is not None
        self._flush()
        if self.position == self.saved_position:
            return
        with self.clock("save"):
            step = self.position // self.batch
            state = {"shards": self.index.inventory(), "seed": self.config.seed, "step": step}
            self.checkpointer.spared = self.early.best
            self.checkpointer.save(self.engine, self.position, state)
        self.saved_position = self.position
        self.steps.restart_clock()

    def _preview(self, modules: Modules) -> None:
        assert self.engine is not None
        self._flush()
        with self.clock("preview"):
            with self.engine.ema_weights() as whole:
                if whole and self.world.is_first:
                    self._write_preview(lambda: modules)
            if not whole:
                # The weights lie in pieces on the ranks: show what a checkpoint put together.
                self._save(modules)
                self.checkpointer.wait()
                checkpoint = self.checkpointer.newest()
                at_hand = checkpoint is not None and checkpoint.position == self.position
                if self.world.is_first and checkpoint is not None and at_hand:
                    newest = (self.method, checkpoint, self.device, self.config.seed)
                    self._write_preview(lambda: build_from_checkpoint(*newest, for_use=True))
            self.world.from_first(None)
        self.steps.restart_clock()

    def _write_preview(self, modules: Callable[[], Modules]) -> None:
        folder = self.folder / "previews" / f"{self.position:012d}"
        paths, event = write_preview(self.method, modules, self.config, self.index, folder)
        if "reason" in event:  # a picture less is no reason to end
            release(self.device)
            self.progress.say(f"no preview at position {self.position}: {event['reason']}")
        self.trackers.previews(paths, self.position)
        self.events({**event, "position": self.position})

    # -- ending -------------------------------------------------------------------------------------

    def _finish(self) -> TrainResult:
        """Export what the last checkpoint holds. Killed in here, the next call comes straight back."""
        self.engine = None  # what follows must find room
        self.checkpointer.let_go()
        release(self.device)
        with self.clock("export"):
            checkpoint = self.checkpointer.newest()
            if checkpoint is None or checkpoint.position != self.position:
                raise Damaged(
                    f"the last checkpoint of {self.folder} is damaged and was set aside",
                    "the export is made from it",
                    "run the same command again: it resumes from the previous checkpoint",
                )
            export = self.folder / "export"
            if self.world.is_first:
                modules = build_from_checkpoint(self.method, checkpoint, self.device, self.config.seed)
                if line := take_best(modules.learner, self.folder, checkpoint):
                    self.events({"event": "note", "text": line})
                export = self.method.export(modules, export)
        result = self._result(finished=True, export=export)
        if self.world.is_first:
            write_json(self.folder / FINISHED_FILE, result.to_json())
        self.events({"event": "finished", "position": self.position, "seconds": self.clock.rounded()})
        self.world.from_first(None)
        return result

    def _result(self, finished: bool, export: Path | None) -> TrainResult:
        return TrainResult(
            self.position, self.total, finished, not finished, export, self.resumed_from, self.clock.rounded()
        )
