"""separate: recordings -> stems that sum to them, each recording published whole; run again, it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from birdsd.errors import Mismatch, NotSet
from birdsd.format import table
from birdsd.jobs_api import Outcome
from birdsd.runs.share import ArrayShare
from birdsd.schema import SeparateConfig
from birdsd.sharing import beside_others, remove_leftovers
from birdsd.sound.separation.fit import BASES, Wanted
from birdsd.sound.separation.mat import load_bases
from birdsd.sound.separation.model import MAGNITUDE, Bases
from birdsd.sound.stems.batch import Batch, tasks_of
from birdsd.sound.stems.learning import learn_model, save_model

_MODEL = "model.safetensors"


def run(config: SeparateConfig) -> Outcome:
    """Learn a model where recordings of sources are named; separate what is not separated yet."""
    out, part = Path(config.out), ArrayShare.parse(config.part)
    bases = BASES.get(config.method, 16) if config.bases is None else config.bases
    wanted = Wanted(
        config.method, bases, config.depth, config.free, config.adapt, config.floor_db, config.bird,
        config.rest, config.turned, config.seed, config.power,
    )  # fmt: skip
    model, lines = _model(config, wanted)
    if not config.recordings:
        if not config.learn:
            raise NotSet(
                "there is nothing to separate", "recordings are files, or folders of them",
                "birdsd run separate FOLDER",
            )  # fmt: skip
        return Outcome("\n".join(lines), {"model": str(_saved_to(config)), "made": [], "kept": []})
    tasks = tasks_of(config.recordings, out, Path(config.pool) if config.pool else None, config.picture)
    batch = Batch(tuple(part.share(tasks)), wanted, model)
    with beside_others(out, str(part)):
        remove_leftovers(out, alone=False)
        done = batch.make()
    facts: dict[str, Any] = {
        "out": str(out), "made": [told["name"] for told in done.made], "kept": done.kept,
        "refused": [{"recording": name, "why": why} for name, why in done.refused],
        "recordings": done.made, "sheet": str(done.sheet) if done.sheet else None,
        "model": str(_saved_to(config)) if config.learn else config.model,
        "nothing_to_do": not done.made and not done.refused,
    }  # fmt: skip
    kept = f", {len(done.kept)} already existed" if done.kept else ""
    lines = [*lines, f"{len(done.made)} recordings separated in {out}{kept}"]
    lines += [f"  {name} was left out: {why}" for name, why in done.refused]
    if done.made:
        lines += ["", *_table(done.made)]
    if done.sheet:
        lines += ["", f"look at {done.sheet}"]
    return Outcome("\n".join(lines), facts)


def _model(config: SeparateConfig, wanted: Wanted) -> tuple[Bases | None, list[str]]:
    """The model that is named or learnt, and what to say of it."""
    if config.model and config.learn:
        raise Mismatch("model and learn are both set", "a model is either there or learnt", "leave one out")
    if config.model:
        return load_bases(Path(config.model)), []
    if not config.learn:
        return None, []
    place = _saved_to(config)
    model, notes = learn_model(
        {name: str(folder) for name, folder in config.learn.items()}, wanted, config.domain
    )
    save_model(model, place)
    lines = [
        f"{place}: {model.weights.shape[1]} bases of {', '.join(model.sources)}",
        *(f"  {n}" for n in notes),
    ]
    if place.suffix.lower() == ".mat" and model.domain == MAGNITUDE:
        lines.append("  soundscape_IR works on decibels: domain=decibel learns a model for use there")
    return model, lines


def _saved_to(config: SeparateConfig) -> Path:
    return Path(config.save) if config.save else Path(config.out) / _MODEL


def _table(made: list[dict[str, Any]]) -> list[str]:
    rows = [("recording", "method", "source", "level dBFS", "events", "SNR dB")]
    for told in made:
        for name, source in told["sources"].items():
            level, snr = source["level_db"], source["snr_db"]
            rows.append(
                (
                    told["name"], told["method"], name, "-" if level is None else f"{level:.1f}",
                    str(source["events"]), "-" if snr is None else f"{snr:.1f}",
                )
            )  # fmt: skip
    lines = table(rows, left=(0, 1, 2))
    notes = {note for told in made for note in told["notes"]} if len(made) > 1 else made[0]["notes"]
    return [*lines, *(f"note: {note}" for note in list(notes)[:5])] if len(made) == 1 else lines
