"""cache: latents and text embeddings of the frozen networks, ahead of training, whose settings it takes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

from birdsd.errors import Unsupported
from birdsd.format import size
from birdsd.jobs_api import Outcome
from birdsd.method_facts import facts_of
from birdsd.runs.auto import chosen_device
from birdsd.runs.run import open_training
from birdsd.runs.share import ArrayShare
from birdsd.schema import CacheConfig

_MADE = ("latents", "texts", "class_pictures")


def run(config: CacheConfig) -> Outcome:
    """Compute this part's share of what is missing: latents, text embeddings, DreamBooth's class pictures."""
    part = ArrayShare.parse(config.part)
    _, index = open_training(config, write=False)
    from birdsd.diffusion.learning.base import CachingMethod
    from birdsd.diffusion.methods import make_method
    from birdsd.training.devices.precision import choose_precision, set_threads

    config.machine.cache_latents = True
    method = make_method(config, index)
    if not facts_of(config.method).caches:
        raise Unsupported(
            f"method={config.method.name} has nothing to cache",
            "only methods that learn by denoising use cached latents and text",
            "train it as it is",
        )
    method = cast(CachingMethod, method)
    device = chosen_device(config.machine)
    set_threads(config.machine.threads, device)
    dtype = choose_precision(config.machine.precision, device).dtype
    splits = [split for split in ("train", "validation") if index.count(split)]
    filled: Any = method.fill_cache(device, dtype, splits, part.share, lambda: None)
    facts = {
        "folder": str(method.caches.folder),
        "part": str(part),
        **asdict(filled),
        "class_pictures_made": method.pictures_made,
        "class_pictures_missing": method.pictures_missing(),
        "bytes": method.caches.size_bytes(),
    }
    facts["finished"] = not any(facts[f"{name}_missing"] for name in _MADE)
    facts["nothing_to_do"] = not any(facts[f"{name}_made"] for name in _MADE)
    return Outcome("\n".join(_lines(facts)), facts)


def _lines(facts: dict[str, Any]) -> list[str]:
    done = "nothing to do: everything is cached" if facts["nothing_to_do"] and facts["finished"] else "cached"
    lines = [f"{facts['folder']}: {done} ({size(facts['bytes'])})"]
    lines.append(f"  latents  {facts['latents']} clips, {facts['latents_made']} of them new")
    if facts["text_learns"]:
        lines.append("  text     not cached: the text encoder is being trained")
    else:
        lines.append(f"  text     {facts['texts']} captions, {facts['texts_made']} of them new")
    lines += [f"  {note}" for note in facts["notes"]]
    if not facts["finished"]:
        missing = ", ".join(f"{count} {name}" for name in _MADE if (count := facts[f"{name}_missing"]))
        missing = missing.replace("_", " ")
        return [*lines, f"part {facts['part']} is done; other parts still have to compute {missing}"]
    spared = "no autoencoder" if facts["text_learns"] else "neither autoencoder nor text encoder"
    return [*lines, f"training steps with these settings need {spared}"]
