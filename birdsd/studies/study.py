"""Studies: several ways of training on the same birds, in order or shared out between tasks.

A study is data: sets of shards, trainings, and arms that name the training to generate clips with, and
how. Every step is a `birdsd run` of its own (see stage_runner.py), so that an interrupted study resumes, and
tasks of an array do each step once: the first to take it does it, and the others wait.
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
from birdsd.errors import NotFound, NothingLeft, NotSet, UserError, unknown_name
from birdsd.files import fingerprint, safe_name, write_json
from birdsd.runs.allocations import newest_position
from birdsd.runs.run import RunStore
from birdsd.runs.share import ArrayShare
from birdsd.schema import ComparisonConfig, MachineConfig
from birdsd.shards.index import CODEC_FILE, ShardIndex
from birdsd.sound.captions import prompt_for
from birdsd.studies.records import source_name
from birdsd.studies.stage_runner import PROGRAM, Record, Stages
from birdsd.values import as_setting

BASE, AUTOENCODER, CLIP = "base", "autoencoder", "clip"
NEW, KNOWN, IN_ENVIRONMENT = "new", "known", "new in an environment"
_VALIDATIONS = 10  # along a training, at most
_WATCH_S = 2.0


@dataclass(frozen=True)
class ShardSet:
    """The recordings that a set of shards is made from. `species`: new, known or all of them; `environment`:
    environmental sound is mixed in, where the study has some."""

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
    """One arm of a study. `model`: the training that generates its clips; `add`: one that is added to it at
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
    """What a study is made of. `in_environments`: clips are also generated in environments."""

    name: str
    sets: Mapping[str, ShardSet]
    trainings: Mapping[str, Training]
    arms: Sequence[Arm]
    check_set: str = "all"  # the set that the weak check learns from, and whose held-out clips are judged
    in_environments: bool = False
    given: Mapping[str, str] = field(default_factory=dict)  # models that need no training: name -> source


@dataclass(frozen=True)
class Ask:
    """One prompt and its purpose (`kind`)."""

    kind: str
    species: str
    environment: str = ""

    @property
    def prompt(self) -> str:
        return prompt_for([self.species], self.environment)


class Study:
    """One task's part of a study, in a folder that all its tasks share.

    Its methods do a step unless it is done already. They raise `UserError` where a step fails, and
    `birdsd.studies.stage_runner.Stopped` where they were told to stop.
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
        species = load_recordings(self.recordings, Path(labels) if labels else None).species
        if len(species) < 2:
            raise NothingLeft(
                f"{self.recordings} has recordings of {len(species)} species",
                "a comparison trains on some species and keeps the others to measure retention",
                "add recordings of another species",
            )
        return list(species)

    @cached_property
    def new(self) -> list[str]:
        """The new species: those configured, else the last three tenths by name."""
        if not self.config.new_species:
            count = max(1, min(len(self.species) // 2, round(0.3 * len(self.species))))
            return self.species[-count:]
        known = {name.casefold(): name for name in self.species}
        for name in self.config.new_species:
            if name.casefold() not in known:
                raise unknown_name("species in new_species", name, self.species)
        chosen = sorted({known[name.casefold()] for name in self.config.new_species})
        if len(chosen) == len(self.species):
            raise NothingLeft(
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
        """Environments to generate clips in: those configured, else the two mixed in most often."""
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
        """All prompts, the same for every arm."""
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
        """The run folder of a finished training; or the model that is given in its place."""
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
        """All steps of one arm. A failure is noted, and the others continue."""
        try:
            for name in arm.trainings:
                self.train(name)
            self.ask(arm)
        except UserError as error:
            self.failed[arm.name] = str(error)
            print(f"birdsd: {arm.title}: {error}", flush=True)

    def mine(self) -> list[Arm]:
        """The arms of this part; those that share a training stay together."""
        groups: dict[str, list[Arm]] = {}
        for arm in self.design.arms:
            groups.setdefault(arm.name if arm.model == BASE else arm.model, []).append(arm)
        return [arm for group in self.part.share(list(groups.values())) for arm in group]

    def finished(self, name: str) -> str:
        """The folder of a training that some task has finished; a `UserError` where none has."""
        if name in self.design.given:
            return self.design.given[name]
        record = self.training_record(name)
        if record is None or record.facts is None:
            raise NotFound(f"{name} is not trained yet")
        return str(record.facts["run"])

    def training_record(self, name: str) -> Record | None:
        """The record of a training, where some task has finished it."""
        if name in self.design.given:
            return None
        try:
            record = self.stages.record(name, self.training(name, self.finished))
        except UserError:
            return None
        return record if record is not None and record.facts is not None else None

    def shards_record(self, name: str) -> Record | None:
        """The record of a set of shards."""
        return self.stages.record(f"shards {name}", self._preparing(name))

    def clips(self, arm: Arm) -> Record | None:
        """The record of an arm's clips, where some task has made them all and they still exist."""
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
        """Shards of other birds, or with other settings, have a folder of their own."""
        data = replace(self.config.data, shards=None, name="")
        chosen = self.design.sets[name]
        recipe = [as_settings("data", data), self.config.codec, self.config.environment, self.new]
        mark = fingerprint([recipe, chosen.species, chosen.environment], 6)
        return self.work / "shards" / f"{safe_name(name)}-{mark}"

    def training(self, name: str, place: Callable[[str], str]) -> list[str]:
        """The settings of a training. `place` gives the folders of the trainings that it builds on: `train`,
        which does them first, or `finished`."""
        training = self.design.trainings[name]
        settings = [
            f"method={training.method}",
            f"model={self.config.model}",
            f"data.shards={self._shards(training.shards)}",
            f"runs={self.store.root}",
            f"seed={self.config.seed}",
            *self._machine,
        ]
        if training.scratch:
            settings.append("model.init=scratch")
            if training.on:
                settings.append(f"model.autoencoder={place(training.on)}")
        else:
            settings += ["model.init=pretrained", f"model.source={place(training.on)}"]
        if training.clip:
            settings.append(f"model.clip={place(training.clip)}")
        if training.samples:
            settings.append(f"optim.total_samples={training.samples}")
        settings += [*training.settings, *self._own_settings(name)]
        return settings if training.samples == 0 else [*settings, *self._saving(name, settings)]

    def _own_settings(self, name: str) -> list[str]:
        """The user's settings for one training: settings.NAME=[KEY=VALUE, ...]."""
        for key in self.config.settings:
            if key not in self.design.trainings:
                raise unknown_name("training in settings", key, self.design.trainings)
        given = self.config.settings.get(name) or []
        return [str(text) for text in (given if isinstance(given, list) else [given])]

    def _saving(self, name: str, settings: Sequence[str]) -> list[str]:
        """When to save and validate: validations are evenly spaced, the last one at the end."""
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
        """Whether this task is told to stop; now and then it reports its progress."""
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
    """Steps of a training, and samples per step; cached, since composing takes a while."""
    optim = compose("train", settings).optim
    return -(-optim.total_samples // optim.global_batch), optim.global_batch


def _recordings(config: ComparisonConfig) -> Path:
    if not config.data.recordings:
        raise NotSet(
            "data is not set",
            "a comparison needs recordings",
            "data=FOLDER with a sub-folder for each species",
        )
    folder = Path(config.data.recordings)
    if not folder.exists():
        raise NotFound(f"the folder of recordings {folder} does not exist", "", "data=FOLDER")
    return folder


def machine_settings(machine: MachineConfig) -> list[str]:
    """A machine as the settings of each step: its preset, and what the user set in addition. (With
    machine=auto each step chooses the rest for itself.) A preset without a name here is spelt out."""
    try:
        usual = compose("prepare", [f"machine={machine.name}"]).machine
    except UserError:
        return as_settings("machine", machine)
    own = [item.name for item in fields(machine)]
    kept = [key for key in own if key in machine.said or getattr(machine, key) != getattr(usual, key)]
    own_settings = as_settings("machine", {key: getattr(machine, key) for key in kept})
    return [f"machine={machine.name}", *own_settings]


def as_settings(section: str, values: Any) -> list[str]:
    """A section of a configuration as the settings that produce it."""
    from birdsd.config import settings_as_typed

    plain = values if isinstance(values, dict) else asdict(values)
    return list(settings_as_typed(plain, f"{section}."))
