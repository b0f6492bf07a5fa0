"""From the settings of a job to who makes songs and who judges them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from birdsd.diffusion.generation.request import Request
from birdsd.errors import NotSet
from birdsd.evaluation.available_judge import available_judge
from birdsd.evaluation.judges import find_judge
from birdsd.files import read_json
from birdsd.runs.models.loading import load_model, recommended_sampling
from birdsd.runs.models.places import model_place
from birdsd.scenes.backgrounds.birds import BirdCheck
from birdsd.scenes.bank.gate import Gate, JudgeGate, OpenGate, WeakGate
from birdsd.scenes.bank.made import Maker
from birdsd.scenes.vocabulary import Vocabulary, vocabulary_of_run
from birdsd.schema import ClipsConfig, SongsConfig

if TYPE_CHECKING:
    from birdsd.diffusion.generation.generator import Generator
    from birdsd.evaluation.weak_check import WeakCheck


def clips_of(config: SongsConfig) -> ClipsConfig:
    """The settings of the model, as `generate` has them."""
    return ClipsConfig(
        prompt=["a song"], run=config.run, steps=config.steps, guidance=config.guidance,
        scheduler=config.scheduler, batch_size=config.batch_size, add=config.add, base=config.base,
        upscale=config.upscale, upscale_sharpness=config.upscale_sharpness, runs=config.runs,
        machine=config.machine,
    )  # fmt: skip


def song_maker(
    config: SongsConfig, pool: Sequence[str] = (), model: Generator | None = None
) -> tuple[Maker, Vocabulary]:
    """The model of the configuration as a maker of songs, and what may be asked of it. `model`: that one,
    where it is loaded already."""
    clips = clips_of(config)
    place = model_place(clips)
    request = Request.of(clips, recommended_sampling(clips))
    vocabulary = vocabulary_of_run(place, config.base, pool)
    gate = gate_of(config, place, vocabulary.species)
    model = model or load_model(clips)
    licences = sorted(model.training.get("licences") or ())
    return Maker(model, request, gate, config.tries, "; ".join(licences)), vocabulary


def gate_of(config: SongsConfig, place: Path, species: Sequence[str]) -> Gate:
    """Who judges: what `judge` names; without it BirdNET where it is installed, and the weak check for the
    species that it does not know; where that has no shards, nobody, and labels say so."""
    if config.judge == "none":
        return OpenGate()
    weak = _weak_gate(config, place)
    if config.judge == "weak":
        if weak is None:
            raise NotSet(
                "judge=weak without shards", "the weak check learns from the shards of the training",
                "shards=FOLDER",
            )  # fmt: skip
        return weak()
    judge = find_judge(config.judge) if config.judge else available_judge()[0]
    if judge is None:
        return weak() if weak else OpenGate()
    unknown = [name for name in species if judge.class_of(name) is None]
    return JudgeGate(judge, species, weak() if unknown and weak else None)


def bird_check(config: SongsConfig, species: Sequence[str]) -> BirdCheck | None:
    """Who hears birds in backgrounds: the judge of the songs, where it judges any sound; else nobody."""
    if config.judge in ("none", "weak"):
        return None
    judge = find_judge(config.judge) if config.judge else available_judge()[0]
    return BirdCheck(judge, species) if judge is not None else None


def _weak_gate(config: SongsConfig, place: Path) -> Callable[[], WeakGate] | None:
    """Trains the weak check when called; None where no shards are known."""
    shards = config.shards
    if not shards:
        for folder in (place, place.parent):
            if (folder / "config.json").is_file() and (folder / "signature.json").is_file():
                shards = (read_json(folder / "config.json").get("data") or {}).get("shards")
    if not shards or (not config.shards and not Path(shards).is_dir()):
        return None

    def trained() -> WeakGate:
        from birdsd.evaluation.weak_check import WeakCheck as Check
        from birdsd.shards.index import ShardIndex

        check: WeakCheck = Check.of(ShardIndex.open(Path(str(shards))))
        return WeakGate(check)

    return trained
