"""The stages of the demo, each a `birdsd run` or `birdsd submit` just as a user would type it."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from birdsd.cluster.snapshot import code_fingerprint
from birdsd.config import compose
from birdsd.diffusion.generation.recommended import SETTINGS
from birdsd.errors import NotFound, UserError
from birdsd.files import fingerprint, read_json, write_json
from birdsd.pages.demo import ClosingScene
from birdsd.runs.allocations import allocations
from birdsd.runs.auto import AUTO
from birdsd.runs.run import Run, RunStore
from birdsd.scenes.book.book import first_scene
from birdsd.scenes.compose.recipe import made_with
from birdsd.scenes.vocabulary import vocabulary_of_run
from birdsd.schema import DemoConfig
from birdsd.shards import inspect
from birdsd.shards.index import ShardIndex
from birdsd.site.machine import gpu_devices
from birdsd.sound.audio.levels import fitted_line
from birdsd.sound.captions import prompt_for
from birdsd.sound.mixing import EnvironmentPool
from birdsd.studies.records import metrics_by_kind, source_name
from birdsd.studies.stage_runner import Stages
from birdsd.training.checkpoints.reading import positions
from birdsd.training.devices.cores import multiplies_bf16
from birdsd.values import as_setting

KILLED_FILE = "killed.json"
MUON = "optim.optimizer=muon"
# Species with few songs are learnt as often as those with many: of two trainings with it BirdNET found the
# right one of ten in 81% of 300 clips, of one without it in 73% of 400 (docs/denoiser.md).
BALANCED = ("method.species_balance=1",)
# Of each song. The aviary's 96 training recordings then make about as many training clips (some 700) as eight
# recordings each of ten species do.
OWN_CUTS, AVIARY_CUTS = 16, 5
TRIES = 8  # of a song of the scene: a model of a few minutes is believed now and then


class Demo:
    """Runs the stages below the folder `config.out`; finished stages are not repeated."""

    def __init__(self, config: DemoConfig) -> None:
        self.config = config
        self.out = Path(config.out)
        self.synthetic = config.recordings is None
        # Each source has a folder of its own, so that a demo on other recordings disturbs none.
        self.work = self.out / (source_name(Path(config.recordings)) if config.recordings else "aviary")
        self.stages = Stages(self.work)
        self.store = RunStore(self.work / "runs")
        self._totals: dict[str, int] = {}
        self._common = [f"machine={config.machine}"]
        self._foundation: list[str] = []

    @property
    def cuts_per_song(self) -> int:
        """As configured; by default enough for some hundred training clips of a source: your own recordings
        are few, those of the aviary are not."""
        configured = self.config.cuts_per_song
        return configured if configured is not None else AVIARY_CUTS if self.synthetic else OWN_CUTS

    def recordings(self) -> Path:
        """The user's folder, or the synthetic aviary."""
        if self.config.recordings is not None:
            folder = Path(self.config.recordings)
            if not folder.is_dir():
                raise NotFound(
                    f"the folder of recordings {folder} does not exist",
                    "the demo needs a folder with one sub-folder per species",
                    "make demo RECORDINGS=FOLDER, or leave it out for the synthetic aviary",
                )
            return folder
        from birdsd.sound.synthetic import make_aviary

        return make_aviary(self.work / "recordings", seed=self.config.seed)

    def prepare(self, recordings: Path) -> ShardIndex:
        """recordings -> shards; an eighth of the recordings for validation, another for the test."""
        settings = [
            f"data.recordings={recordings}",
            f"data.shards={self.work / 'shards'}",
            f"codec={self.config.codec}",
            f"data.cuts_per_song={self.cuts_per_song}",
            "data.validation_fraction=0.125",
            "data.test_fraction=0.125",
            *self._common,
        ]
        if self.config.environment:
            settings += ["data=song+environment", f"data.environment={self.config.environment}"]
        self.stages.run("prepare", "prepare", settings)
        print(inspect.text(inspect.describe(self.work / "shards")), flush=True)
        return ShardIndex.open(self.work / "shards")

    def train(self, method: str, shards: ShardIndex, samples: int | None, kill: bool = False) -> Run:
        """One training run, to its end: a job of its own with a process for each core, which is killed
        half-way (SIGKILL of rank 0) with `kill`, and resumes by itself."""
        settings = self._training(method, shards, samples)
        if kill:
            stage, disturb = f"{method}, killed half-way", lambda: self._killed(method)
        else:
            stage, disturb = method, lambda: True
        where = ["site=local", f"tasks_per_node={min(2, self._ranks)}"]
        facts = self.stages.run(stage, "train", [*settings, *where], submitted=True, disturb=disturb)
        return self.store.find(facts["run"])

    @cached_property
    def _ranks(self) -> int:
        """As many as this machine has devices of the kind that is used: NCCL takes one rank a GPU."""
        device = compose("train", self._common).machine.device
        return (gpu_devices() if device != "cpu" else 0) or os.cpu_count() or 1

    def train_on(self, autoencoder: Run) -> None:
        """Use this autoencoder for the trainings that follow."""
        self._foundation = [f"model.autoencoder={autoencoder.folder}"]

    def _killed(self, method: str) -> bool:
        """Kill the run once it is half-way; True as soon as that is done, now or by an earlier demo."""
        run = self._run_of(method)
        if run is None:
            return False
        marked = self.work / KILLED_FILE
        if run.result is not None or (marked.is_file() and read_json(marked)["signature"] == run.signature):
            return True
        last = next(reversed(allocations(run.folder)), None)
        if last is None or (began := last.began) is None or not self._half_way(method):
            return False
        with suppress(ProcessLookupError):
            os.kill(began.pid, signal.SIGKILL)
        # Read before the next allocation drops what lies beyond its checkpoint.
        write_json(marked, {"signature": run.signature, "curve": self._curve(method)})
        return True

    def _training(self, method: str, shards: ShardIndex, samples: int | None) -> list[str]:
        settings = [
            f"method={method}",
            f"model={self.config.model}",
            f"data.shards={shards.folder}",
            f"runs={self.store.root}",
            f"seed={self.config.seed}",
            *self._common,
            *self._foundation,
            *([f"optim.total_samples={samples}"] if samples else []),
            *(BALANCED if method == "full" else ()),
            *self._faster(method),
        ]
        total = compose("train", settings).optim.total_samples
        self._totals[method] = total
        return [
            *settings,
            f"save.every_samples={max(1, total // 8)}",
            f"save.validate_every_samples={max(1, total // 10)}",
            f"save.preview_every_samples={max(1, total // 2)}",
            *(["save.keep=8"] if self.config.guide else []),  # it may name any of them
        ]

    def _faster(self, method: str) -> list[str]:
        """What saves time: Muon for the UNet where the machine's settings allow it, and bf16 where the CPU
        has fast bf16 arithmetic. The autoencoder's narrow layers would not gain from either."""
        if method == "autoencoder":
            return []
        try:
            compose("train", [*self._common, MUON])
            optimizer = [MUON]
        except UserError:  # these settings of the machine, ZeRO for one, cannot carry it out
            optimizer = []
        on_cpu = self.config.machine in (AUTO, "smoke") and not gpu_devices()
        return [
            *optimizer,
            *(["machine.precision=bf16"] if on_cpu and multiplies_bf16() else []),
        ]

    def _half_way(self, method: str) -> bool:
        """Whether the run of this method has saved the first half of its samples and gone on for a little:
        killed while it saves them it would have to repeat all since the checkpoint before."""
        run = self._run_of(method)
        if run is None:
            return False
        saved, total = max(positions(run.folder), default=0), run.config["optim"]["total_samples"]
        return saved >= total / 2 and self._seen(method) >= saved + total / 40

    def _seen(self, method: str) -> int:
        """The samples that the curve of this method's run reaches to."""
        return max((position for position, _ in self._curve(method)), default=0)

    def _curve(self, method: str) -> list[tuple[int, float]]:
        """(samples seen, training loss) of every step so far."""
        run = self._run_of(method)
        lines = metrics_by_kind(run)["train"] if run else []
        return [(line["position"], line["loss"]) for line in lines]

    def _run_of(self, method: str) -> Run | None:
        """The run that this demo's settings started; the folder may hold runs of other settings."""
        wanted = (method, self.config.model, self.config.seed, self._totals.get(method))
        for run in self.store.runs("train"):
            stored = run.config
            names = stored["method"]["name"], stored["model"]["name"]
            if (*names, stored["seed"], stored["optim"]["total_samples"]) == wanted:
                return run
        return None

    def generate(self, run: Run, shards: ShardIndex) -> Mapping[str, Any]:
        """Clips of every species, from the canonical prompts."""
        prompts = [prompt_for([species]) for species in shards.species]
        settings = [
            f"run={run.folder}",
            as_setting("prompt", prompts),
            f"out={self.work / 'generated'}",
            f"count={self.config.clips_per_species}",
            *sampling_settings(self.config),
            f"seed={self.config.seed}",
            *self._common,
        ]
        facts = self.stages.run("generate", "generate", settings)
        if louder := fitted_line([clip.get("gain_db", 0.0) for clip in facts["clips"]]):
            print(louder, flush=True)
        return facts

    def scene(self, run: Run, recordings: Path, first: Sequence[str] = (), chosen: str = "") -> ClosingScene:
        """One bird singing followed by another, over what the model knows of environments, else over the
        aviary's, else over nothing. `first`: the species to take before others, and in words how they were
        `chosen`. A scene that cannot be made is no reason to lose a demo: the page says why."""
        folder = recordings / "environment" if self.synthetic else None
        names = EnvironmentPool(folder).names if folder is not None and folder.is_dir() else ()
        try:
            words = vocabulary_of_run(run.folder, pool=names)
        except UserError as error:  # a model without species
            return ClosingScene("a scene", None, str(error))
        known = [name for name in first if name in words.species]
        prompt = first_scene(replace(words, species=tuple(dict.fromkeys([*known, *words.species]))))
        given = {name: getattr(self.config, name) for name in ("steps", "guidance", "scheduler")}
        settings = [
            f"run={run.folder}",
            as_setting("prompt", prompt),
            *([f"pool={folder}"] if names else []),
            *(as_setting(name, value) for name, value in given.items() if value is not None),
            f"tries={TRIES}",
            f"seed={self.config.seed}",
        ]
        # A scene is never overwritten, and its bytes depend on the code too.
        mark = fingerprint([settings, code_fingerprint(), made_with()], 8)
        settings += [f"out={self.work / 'scenes' / mark}", *self._common]
        try:
            facts = self.stages.run("scene", "scene", settings)
        except UserError as error:
            return ClosingScene(prompt, None, str(error))
        return ClosingScene(prompt, Path(facts["out"]) / (facts["made"] or facts["kept"])[0], chosen=chosen)


def sampling_settings(config: DemoConfig) -> list[str]:
    """The sampling settings that the user set; the others are as the model recommends."""
    given = {name: getattr(config, name) for name in (*SETTINGS, "guide", "guide_weight")}
    return [as_setting(name, value) for name, value in given.items() if value is not None]
