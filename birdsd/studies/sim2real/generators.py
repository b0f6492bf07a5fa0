"""Where the synthetic sounds of a level come from: a folder of one's own, or a model trained on that level
alone.

The model of a level, its autoencoder and whatever it learns words from see the level's training recordings
and nothing else. Each step is a `birdsd run` of its own, so that tasks of an array do it once, and a stopped
one goes on.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from birdsd.errors import NotFound, NotSet
from birdsd.evaluation.embedded.cache import content_of
from birdsd.evaluation.sim2real.arms import CLIPS
from birdsd.files import fingerprint, safe_name, write_text
from birdsd.scenes.backgrounds.pool import Pool
from birdsd.scenes.drawn.distribution import read_distribution
from birdsd.scenes.vocabulary import Vocabulary
from birdsd.schema import SimToRealConfig
from birdsd.sharing import waiting_for
from birdsd.sound.captions import prompt_for
from birdsd.sound.labels.load import Recording
from birdsd.studies.stage_runner import Stages
from birdsd.studies.study import machine_settings
from birdsd.values import as_setting

LEVEL = "{level}"
_TABLE = "labels.csv"


class Generators:
    """The synthetic sounds of every level, made when they are asked for."""

    def __init__(self, config: SimToRealConfig, work: Path, stages: Stages, species: Sequence[str]) -> None:
        self.config, self.work, self.stages, self.species = config, work, stages, list(species)
        self._machine = machine_settings(config.machine)

    def folder(self, kind: str, level: str, recordings: Sequence[Recording]) -> Path:
        """The folder of a level's clips or scenes. `recordings`: the level's training recordings."""
        if given := self.given(kind):
            return given_folder(given, level)
        run = self._trained(level, recordings)
        return self._clips(level, run) if kind == CLIPS else self._scenes(level, run)

    def given(self, kind: str) -> str | None:
        """The folder that somebody names for them; None where they are made here."""
        return self.config.synthetic if kind == CLIPS else self.config.scenes

    def identity(self, kind: str, level: str) -> str:
        """What decides a level's synthetic sounds, for the name of its records."""
        if given := self.given(kind):
            folder = given_folder(given, level)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            return fingerprint([[str(path.relative_to(folder)), content_of(path)] for path in files])
        wanted = ["model", "codec", "cuts_per_song", "autoencoder_samples", "diffusion_samples", "settings"]
        wanted += ["sampling_steps", "guidance", "clips_per_species", "seed"]
        wanted += [] if kind == CLIPS else ["scenes_per_level"]
        decides = [kind, level, *(getattr(self.config, name) for name in wanted)]
        return fingerprint([*decides, *([] if kind == CLIPS else [self.drawn_from])])

    @cached_property
    def drawn_from(self) -> str:
        """A fingerprint of what scenes are drawn from: what stands in the distribution, and the pool's files.

        `UserError` where there is no such file, or it names what neither the recordings nor the pool have: a
        model may train for hours before its first scene is drawn.
        """
        config = self.config
        if not config.distribution:
            raise NotSet(
                "an arm learns from scenes, and distribution is not set",
                "scenes are drawn from a distribution, or lie in a folder",
                "distribution=FILE.yaml, or scenes=FOLDER/{level}",
            )
        pool = Pool(Path(config.pool)) if config.pool else None
        path = Path(config.distribution)
        read_distribution(path, Vocabulary(tuple(self.species), pool=pool.names if pool else ()))
        return fingerprint([content_of(path), pool.identity if pool else ""], 8)

    def _place(self, level: str) -> Path:
        return self.work / f"level-{safe_name(level)}"

    def _trained(self, level: str, recordings: Sequence[Recording]) -> Path:
        """The run of a level's model."""
        place, config = self._place(level), self.config
        with waiting_for(place / "recordings.lock"):  # every task of an array that needs this level comes by
            own = link_recordings(place / "recordings", recordings)
        self.stages.run(f"shards of level {level}", "prepare", [
            f"data.recordings={own}", f"data.shards={place / 'shards'}", f"codec={config.codec}",
            f"data.cuts_per_song={config.cuts_per_song}", f"data.seed={config.seed}",
            "data.validation_fraction=0", "data.test_fraction=0", *self._machine,
        ])  # fmt: skip
        common = [
            f"model={config.model}", f"data.shards={place / 'shards'}", f"runs={place / 'runs'}",
            f"seed={config.seed}", "save.validate_every_samples=0", *self._machine,
        ]  # fmt: skip
        autoencoder = self._train(f"autoencoder of level {level}", [
            "method=autoencoder", *common, *_samples(config.autoencoder_samples),
        ])  # fmt: skip
        return self._train(f"model of level {level}", [
            "method=full", *common, f"model.autoencoder={autoencoder}", *_samples(config.diffusion_samples),
            *config.settings,
        ])  # fmt: skip

    def _train(self, stage: str, settings: list[str]) -> Path:
        return Path(self.stages.run(stage, "train", settings)["run"])

    def _clips(self, level: str, run: Path) -> Path:
        out, config = self._place(level) / "clips", self.config
        asked = {"steps": config.sampling_steps, "guidance": config.guidance}
        self.stages.run(f"clips of level {level}", "generate", [
            f"run={run}", as_setting("prompt", [prompt_for(name) for name in self.species]), f"out={out}",
            f"count={config.clips_per_species}", f"seed={config.seed}", *_given(asked), *self._machine,
        ])  # fmt: skip
        return out

    def _scenes(self, level: str, run: Path) -> Path:
        out, config = self._place(level) / f"scenes-{self.drawn_from}", self.config
        self.stages.run(f"scenes of level {level}", "scene", [
            f"run={run}", f"distribution={config.distribution}", f"out={out}", f"seed={config.seed}",
            f"count={config.scenes_per_level}", "judge=none", "stems=false", "picture=false",
            *_given({"steps": config.sampling_steps, "guidance": config.guidance, "pool": config.pool}),
            *self._machine,
        ])  # fmt: skip
        return out


def _samples(count: int | None) -> list[str]:
    return [f"optim.total_samples={count}"] if count else []


def _given(values: dict[str, Any]) -> list[str]:
    return [as_setting(name, value) for name, value in values.items() if value is not None]


def given_folder(text: str, level: str) -> Path:
    """A folder of one's own, with {level} in its name replaced."""
    folder = Path(text.replace(LEVEL, level))
    if not folder.is_dir():
        raise NotFound(
            f"the folder of synthetic sounds {folder} does not exist", "it holds clips with labels",
            "synthetic=FOLDER, or FOLDER/{level} with a folder for each level",
        )  # fmt: skip
    return folder


def link_recordings(folder: Path, recordings: Sequence[Recording]) -> Path:
    """A folder with links to these recordings and no others, and a table with all that is known of them."""
    folder.mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(
        ["file", "label", "start_s", "end_s", "low_hz", "high_hz", "sound_type", "licence", "recordist"]
    )
    wanted = {folder / _TABLE}
    for one in recordings:
        place = folder / f"{safe_name(one.recording_id)}{one.path.suffix}"
        target = Path(os.path.abspath(one.path))
        if not (place.is_symlink() and Path(os.readlink(place)) == target):
            place.unlink(missing_ok=True)
            with suppress(FileExistsError):  # another task's, where the file system has no locks
                place.symlink_to(target)
        wanted.add(place)
        for label in one.labels:
            box = [label.start_s, label.end_s, label.low_hz, label.high_hz]
            cells = ["" if value is None else f"{value:.6f}" for value in box]
            writer.writerow([place.name, label.label, *cells, label.sound_type, one.licence, one.recordist])
    write_text(folder / _TABLE, table.getvalue())
    for path in folder.iterdir():
        # What begins with a dot is a table that another task is writing.
        if path not in wanted and path.name[0] != "." and (path.is_symlink() or path.is_file()):
            path.unlink(missing_ok=True)
    return folder
