"""Experiments: several ways of teaching the same birds, one after the other or shared out between tasks.

An experiment is data: sets of shards, trainings, and arms that say which training is asked for clips and
how. Every step is a `birdsd run` of its own (see stages.py), so that an interrupted experiment goes on, and
tasks of an array do each step once: whoever takes it first does it, and the others wait.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from birdsd.cluster.rank.signals import RunControl
from birdsd.config import compose
from birdsd.errors import UserError, unknown_name
from birdsd.files import fingerprint, safe_name, write_json
from birdsd.runs.allocations import newest_position
from birdsd.runs.run import RunStore
from birdsd.runs.share import ArrayShare
from birdsd.schema import ComparisonConfig, MachineConfig
from birdsd.shards.index import CODEC_FILE, ShardIndex
from birdsd.sound.captions import prompt_for
from birdsd.studies.stages import PROGRAM, Record, Stages
from birdsd.values import as_setting

BASE, AUTOENCODER, CLIP = "base", "autoencoder", "clip"
NEW, KNOWN, IN_ENVIRONMENT = "new", "known", "new in an environment"
_VALIDATIONS = 10  # along a training, at most
_WATCH_S = 2.0


@dataclass(frozen=True)
class ShardSet:
    """Which recordings a set of shards is made of. `species`: new, known or all of them; `environment`:
    environmental sound is mixed in, where the experiment has some."""

    species: str = "all"
    environment: bool = True


@dataclass(frozen=True)
class Training:
    """One training run: on which shards, from scratch on an autoencoder or from a finished model.

    `on` names the training (or given model) underneath, `clip` that of a CLIP; `samples` is None where the
    model preset's recommendation holds, and 0 where none are counted.
    """

    method: str
    shards: str
    on: str = ""
    scratch: bool = False
    clip: str = ""
    settings: tuple[str, ...] = ()
    samples: int | None = None


@dataclass(frozen=True)
class Arm:
    """One way of teaching. `model`: the training that is asked for clips; `add`: one that is added to it at
    generation; `ask`: further settings of generate. `loss` names what its validation loss measures, "" where
    nothing is validated."""

    name: str
    title: str
    says: str
    model: str
    add: str = ""
    ask: tuple[str, ...] = ()
    loss: str = "denoising"
    control: bool = False
    knew_others: bool = True  # it started from a model that knows the other species

    @property
    def trainings(self) -> tuple[str, ...]:
        """Those that this arm itself consists of, besides the base."""
        return tuple(name for name in (self.model, self.add) if name and name != BASE)


@dataclass(frozen=True)
class Design:
    """What an experiment is made of. `asked_in`: environments that clips are asked for in."""

    name: str
    sets: Mapping[str, ShardSet]
    trainings: Mapping[str, Training]
    arms: Sequence[Arm]
    check_set: str = "all"  # the set that the weak check learns from, and whose held-out clips are judged
    in_environments: bool = False
    given: Mapping[str, str] = field(default_factory=dict)  # models that need no training: name -> source


@dataclass(frozen=True)
class Ask:
    """One prompt: what for, and its words."""

    kind: str
    species: str
    environment: str = ""

    @property
    def prompt(self) -> str:
        return prompt_for([self.species], self.environment)


class Experiment:
    """One task's part of an experiment, in a folder that all its tasks share.

    Its methods do a step where it is not done yet. They raise `UserError` where a step fails, and
    `birdsd.studies.stages.Stopped` where they were asked to stop.
    """

    def __init__(
        self,
        config: ComparisonConfig,
        design: Design,
        control: RunControl,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.config, self.design, self.part = config, design, ArrayShare.parse(config.part)
        self.control = control
        self.recordings = _recordings(config)
        self.out = Path(config.out)
        self.work = self.out / source_name(self.recordings)
        self.stages = Stages(self.work, self._watch, program)
        self.store = RunStore(self.work / "runs")
        self.failed: dict[str, str] = {}
        self._looked, self._stop = 0.0, False
        self._totals: dict[str, int] = {}
        self._runs: dict[str, Path] = {}
        self._machine = machine_settings(config.machine)

    # -- the birds ----------------------------------------------------------------------------------

    @cached_property
    def species(self) -> list[str]:
        """All species of the recordings."""
        from birdsd.sound.labels.load import load_recordings

        labels = self.config.data.labels
        found = load_recordings(self.recordings, Path(labels) if labels else None).species
        if len(found) < 2:
            raise UserError(
                f"{self.recordings} has recordings of {len(found)} species",
                "a comparison trains on some species and keeps the others to measure retention",
                "add recordings of another species",
            )
        return list(found)

    @cached_property
    def new(self) -> list[str]:
        """The species to be taught: those asked for, else the last three tenths by name."""
        if not self.config.new_species:
            count = max(1, min(len(self.species) // 2, round(0.3 * len(self.species))))
            return self.species[-count:]
        known = {name.casefold(): name for name in self.species}
        for name in self.config.new_species:
            if name.casefold() not in known:
                raise unknown_name("species in new_species", name, self.species)
        chosen = sorted({known[name.casefold()] for name in self.config.new_species})
        if len(chosen) == len(self.species):
            raise UserError(
                "new_species names every species of the recordings",
                "some must be left to measure retention",
                "name fewer, or add recordings of other species",
            )
        return chosen

    @cached_property
    def known(self) -> list[str]:
        """The species that the base model is trained on."""
        return [name for name in self.species if name not in self.new]

    @cached_property
    def environments(self) -> list[str]:
        """What clips are also asked for in: those named, else the two that were mixed in most often."""
        if not self.design.in_environments:
            return []
        mixed = self.index(self.design.check_set).dataset.get("environments") or {}
        if named := list(getattr(self.config, "environments", [])):
            for name in named:
                if name not in mixed:
                    raise unknown_name("environment", name, mixed)
            return named
        return sorted(mixed, key=lambda name: (-mixed[name], name))[:2]

    @cached_property
    def asks(self) -> list[Ask]:
        """Everything that each arm is asked for, the same for all of them."""
        plain = [Ask(NEW, name) for name in self.new] + [Ask(KNOWN, name) for name in self.known]
        return plain + [Ask(IN_ENVIRONMENT, name, place) for name in self.new for place in self.environments]

    # -- the steps ----------------------------------------------------------------------------------

    def prepare(self, name: str) -> ShardIndex:
        """One of the design's sets of shards."""
        self.stages.run(f"shards {name}", "prepare", self._preparing(name))
        return self.index(name)

    def index(self, name: str) -> ShardIndex:
        """A set of shards that is prepared."""
        return ShardIndex.open(self._shards(name))

    def train(self, name: str) -> str:
        """Where a training's run lies, trained to its end; or the model that is given in its place."""
        if name in self.design.given:
            return self.design.given[name]
        if name not in self._runs:
            facts = self.stages.run(name, "train", self.training(name, self.train))
            self._runs[name] = Path(facts["run"])
        return str(self._runs[name])

    def ask(self, arm: Arm) -> dict[str, Any]:
        """The clips of an arm: every prompt, with the same seeds as every other arm."""
        return self.stages.run(f"clips of {arm.name}", "generate", self.asking(arm, self.train))

    def teach(self, arm: Arm) -> None:
        """Everything of one arm. What fails is noted, and the others go on."""
        try:
            for name in arm.trainings:
                self.train(name)
            self.ask(arm)
        except UserError as error:
            self.failed[arm.name] = str(error)
            print(f"birdsd: {arm.title}: {error}", flush=True)

    def mine(self) -> list[Arm]:
        """The arms of this part; those that stand on the same training stay together."""
        groups: dict[str, list[Arm]] = {}
        for arm in self.design.arms:
            groups.setdefault(arm.name if arm.model == BASE else arm.model, []).append(arm)
        return [arm for group in self.part.share(list(groups.values())) for arm in group]

    def finished(self, name: str) -> str:
        """Where a training lies that some task has finished; a `UserError` where none has."""
        if name in self.design.given:
            return self.design.given[name]
        record = self.training_record(name)
        if record is None or record.facts is None:
            raise UserError(f"{name} is not trained yet")
        return str(record.facts["run"])

    def training_record(self, name: str) -> Record | None:
        """What is written down of a training, where some task has finished it."""
        if name in self.design.given:
            return None
        try:
            record = self.stages.record(name, self.training(name, self.finished))
        except UserError:
            return None
        return record if record is not None and record.facts is not None else None

    def shards_record(self, name: str) -> Record | None:
        """What is written down of a set of shards."""
        return self.stages.record(f"shards {name}", self._preparing(name))

    def clips(self, arm: Arm) -> Record | None:
        """The record of an arm's clips, where some task has made them all and they are there."""
        try:
            record = self.stages.record(f"clips of {arm.name}", self.asking(arm, self.finished))
        except UserError:
            return None
        if record is None or record.facts is None:
            return None
        return record if all(os.path.isfile(clip["sound"]) for clip in record.facts["clips"]) else None

    # -- their settings -----------------------------------------------------------------------------

    def _preparing(self, name: str) -> list[str]:
        data = replace(self.config.data, recordings=str(self.recordings), shards=str(self._shards(name)))
        chosen = self.design.sets[name]
        if chosen.species == NEW:
            data.species = self.new
        elif chosen.species == KNOWN:
            data.without_species = self.new
        if self.config.environment:
            data.environment = self.config.environment
            data.mixtures_per_clip = max(1, data.mixtures_per_clip)
        if not chosen.environment:
            data.mixtures_per_clip, data.keep_clean = 0, True
        return [*as_settings("data", data), f"codec={self.config.codec}", *self._machine]

    def _shards(self, name: str) -> Path:
        """Shards of other birds, or made otherwise, lie in a folder of their own."""
        data = replace(self.config.data, shards=None, name="")
        chosen = self.design.sets[name]
        made_of = [as_settings("data", data), self.config.codec, self.config.environment, self.new]
        mark = fingerprint([made_of, chosen.species, chosen.environment], 6)
        return self.work / "shards" / f"{safe_name(name)}-{mark}"

    def training(self, name: str, place: Callable[[str], str]) -> list[str]:
        """The settings of a training. `place` says where those lie that it stands on: `train`, which does
        them first, or `finished`."""
        asked = self.design.trainings[name]
        settings = [
            f"method={asked.method}",
            f"model={self.config.model}",
            f"data.shards={self._shards(asked.shards)}",
            f"runs={self.store.root}",
            f"seed={self.config.seed}",
            *self._machine,
        ]
        if asked.scratch:
            settings.append("model.init=scratch")
            if asked.on:
                settings.append(f"model.autoencoder={place(asked.on)}")
        else:
            settings += ["model.init=pretrained", f"model.source={place(asked.on)}"]
        if asked.clip:
            settings.append(f"model.clip={place(asked.clip)}")
        if asked.samples:
            settings.append(f"optim.total_samples={asked.samples}")
        settings += [*asked.settings, *self._own_settings(name)]
        return settings if asked.samples == 0 else [*settings, *self._saving(name, settings)]

    def _own_settings(self, name: str) -> list[str]:
        """What the user says of one training: settings.NAME=[KEY=VALUE, ...]."""
        for key in self.config.settings:
            if key not in self.design.trainings:
                raise unknown_name("training in settings", key, self.design.trainings)
        told = self.config.settings.get(name) or []
        return [str(text) for text in (told if isinstance(told, list) else [told])]

    def _saving(self, name: str, settings: Sequence[str]) -> list[str]:
        """Saves now and then; validations that come out even, so that the last is at the end."""
        steps, batch = _length(tuple(settings))
        total = self._totals[name] = steps * batch
        times = next(n for n in range(_VALIDATIONS, 0, -1) if steps % n == 0)
        return [
            f"save.every_samples={min(2000, max(1, total // 4))}",
            f"save.validate_every_samples={total // times}",
        ]

    def asking(self, arm: Arm, place: Callable[[str], str]) -> list[str]:
        """The settings of an arm's clips; `place` as for `training`."""
        model = self._askable(place(BASE)) if arm.model == BASE else place(arm.model)
        added = [as_setting("add", [place(arm.add)])] if arm.add else []
        return [
            f"run={model}",
            *added,
            as_setting("prompt", [ask.prompt for ask in self.asks]),
            f"out={self.work / 'clips' / safe_name(arm.name)}",
            f"count={self.config.clips_per_species}",
            f"steps={self.config.steps}",
            f"guidance={self.config.guidance}",
            f"seed={self.config.seed}",
            *arm.ask,
            *self._machine,
        ]

    def _askable(self, base: str) -> str:
        """The base model; one without a codec gets that of the shards, in a folder of links to its files."""
        source = Path(base).expanduser()
        place = source / "export" if (source / "export").is_dir() else source
        if (place / CODEC_FILE).is_file() or not place.is_dir():
            return base
        linked = self.work / f"base-{fingerprint(str(place.resolve()), 6)}"
        linked.mkdir(parents=True, exist_ok=True)
        for path in place.iterdir():
            if not (linked / path.name).exists():
                (linked / path.name).symlink_to(path.resolve())
        write_json(linked / CODEC_FILE, self.index(self.design.check_set).codec)
        return str(linked)

    # -- where it is --------------------------------------------------------------------------------

    def _watch(self) -> bool:
        """Whether this task is asked to stop; now and then it says where it is."""
        from birdsd.training.progress import Pulse

        self._stop = self._stop or self.control.should_stop()
        if time.monotonic() - self._looked > _WATCH_S:
            self._looked = time.monotonic()
            seen = sum(newest_position(run.folder) for run in self.store.runs("train"))
            clips = sum(1 for _ in (self.work / "clips").glob("*/*.json"))
            self.control.beat(Pulse("compare", seen + clips, max(sum(self._totals.values()), seen + clips)))
        return self._stop


@cache
def _length(settings: tuple[str, ...]) -> tuple[int, int]:
    """Steps of a training, and samples a step. It is asked for often, and composing takes a while."""
    optim = compose("train", settings).optim
    return -(-optim.total_samples // optim.global_batch), optim.global_batch


def _recordings(config: ComparisonConfig) -> Path:
    if not config.data.recordings:
        raise UserError(
            "data is not set",
            "a comparison needs recordings",
            "data=FOLDER with a sub-folder for each species",
        )
    folder = Path(config.data.recordings)
    if not folder.exists():
        raise UserError(f"the folder of recordings {folder} does not exist", "", "data=FOLDER")
    return folder


def source_name(recordings: Path) -> str:
    """A folder name for what is made of some recordings, so that others disturb nothing."""
    place = Path(recordings).resolve()
    return f"{safe_name(place.name)}-{fingerprint(str(place), 6)}"


def machine_settings(machine: MachineConfig) -> list[str]:
    """A machine as the settings of each step: its preset, and what the user set besides. (A step of
    machine=auto chooses the rest for itself.) A preset that has no name here is spelt out."""
    try:
        usual = compose("prepare", [f"machine={machine.name}"]).machine
    except UserError:
        return as_settings("machine", machine)
    own = [item.name for item in fields(machine)]
    kept = [key for key in own if key in machine.said or getattr(machine, key) != getattr(usual, key)]
    told = as_settings("machine", {key: getattr(machine, key) for key in kept})
    return [f"machine={machine.name}", *told]


def as_settings(section: str, values: Any) -> list[str]:
    """A section of a configuration as the settings that would make it."""
    from birdsd.config import settings_as_typed

    held = values if isinstance(values, dict) else asdict(values)
    return list(settings_as_typed(held, f"{section}."))
