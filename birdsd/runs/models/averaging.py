"""`birdsd ema`: a model with another EMA length than `optim.ema_decay` gave it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from birdsd.errors import AlreadyThere, NotFound


def average_run(
    run: str, length: float, out: Path | None = None, runs: Path = Path("runs")
) -> tuple[dict[str, Any], str]:
    """Write the model of a run with an EMA of `length`; returns the facts and a text."""
    from birdsd.diffusion import export
    from birdsd.diffusion.formats.companions import carried, heard_in
    from birdsd.diffusion.generation.generator import Generator
    from birdsd.runs.models.weaker import put_weights
    from birdsd.runs.run import RunStore
    from birdsd.schema import OptimConfig
    from birdsd.training.averages import mixed, mixture_for
    from birdsd.training.checkpoints.reading import checkpoint_at, positions

    found = RunStore(runs).find(run)
    place = out if out is not None else found.folder / "averages" / f"{length:g}"
    if place.exists() and "averaged" not in export.read_training(place):
        raise AlreadyThere(
            f"{place} already exists", "an average creates a new folder", "choose another --out"
        )
    known = positions(found.folder)
    if not known:
        raise NotFound(f"the run {found.folder.name} has no checkpoint", "an average combines several", "")
    settings = found.config["optim"]
    optim = OptimConfig(**{name: settings.get(name) for name in vars(OptimConfig())})
    checkpoints = [checkpoint_at(found.folder, position) for position in known]
    has_average = bool(optim.ema_decay) and all(checkpoint.has("ema") for checkpoint in checkpoints)
    mixture = mixture_for(length, known, optim, has_average)
    model = Generator(found.export_folder)
    put_weights(model.pipeline, mixed(checkpoints, mixture), f"birdsd ema {run}")
    averaged = {"length": length, "positions": known, "error": round(mixture.error, 4)}
    export.write_pipeline(
        place,
        **export.parts_of(model.pipeline),
        codec=model.codec.to_json(),
        heard=heard_in(model.folder),
        about={**carried(model.training), "averaged": averaged},
    )
    shares = {f"{kind}@{position}": share for (kind, position), share in mixture.shares.items()}
    facts = {"folder": str(place), "run": str(found.folder), **averaged, "shares": shares}
    text = (
        f"{place}: the average of length {length:g} from {len(known)} checkpoints "
        f"({known[0]} to {known[-1]} samples), off by {mixture.error:.1%}\n"
        f"  generate  birdsd run generate run={place} prompt=..."
    )
    return facts, text
