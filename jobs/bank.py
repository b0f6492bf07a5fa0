"""bank: songs of every species, each judged, made once for any number of scenes; run again, it goes on."""

from __future__ import annotations

from pathlib import Path

from birdsd.errors import BadValue, Mismatch
from birdsd.jobs_api import Outcome
from birdsd.runs.share import ArrayShare
from birdsd.scenes.bank import bank as files
from birdsd.scenes.bank.fill import Filled, fill, fill_from_recordings, groups, kinds_of
from birdsd.scenes.bank.offer import filled_text, songs_made_of
from birdsd.scenes.compose.makers import song_maker
from birdsd.schema import BankConfig


def run(config: BankConfig) -> Outcome:
    """Make this part's songs that are not there yet, by a model or out of recordings."""
    out, part = Path(config.out), ArrayShare.parse(config.part)
    if config.count < 1 or config.takes < 1 or config.tries < 1:
        raise BadValue(
            f"count={config.count} takes={config.takes} tries={config.tries}", "each must be at least 1"
        )
    if config.recordings:
        if config.run:
            raise Mismatch(
                "run and recordings are both set", "a bank is made of one of them", "leave one out"
            )
        files.begin(out, {"recordings": Path(config.recordings).name, "rate_hz": config.rate_hz})
        done = fill_from_recordings(out, Path(config.recordings), config.rate_hz, config.count, part.share)
        return _outcome(out, done)
    maker, words = song_maker(config)
    kinds = kinds_of(*songs_made_of(words, config.species))
    files.begin(
        out,
        {
            "model": str(maker.model.folder.name),
            "weights": maker.model.identity,
            "judge": maker.gate.title,
            "rate_hz": maker.model.codec.rate_hz,
            "seed": config.seed,
            "tries": config.tries,
            "takes": config.takes,
            "sampling": maker.request.to_json() | {"prompts": []},
            "licence": maker.licence,
        },
    )
    mine = part.share(groups(kinds, config.count))
    return _outcome(out, fill(out, mine, config.takes, config.seed, maker.clips))


def _outcome(out: Path, done: Filled) -> Outcome:
    facts = {
        "out": str(out),
        "made": sum(done.made.values()),
        "failed": sum(done.failed.values()),
        "kept": done.kept,
    }
    facts["nothing_to_do"] = not done.made and not done.failed
    return Outcome(filled_text(out, done), facts)
