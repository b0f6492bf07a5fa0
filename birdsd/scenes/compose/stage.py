"""From the settings of the job to a batch: songs, backgrounds, words, and what decides the bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsd.errors import BadValue, NotSet, unknown_name
from birdsd.scenes.backgrounds.pool import Pool
from birdsd.scenes.backgrounds.render import Backgrounds
from birdsd.scenes.bank.bank import Bank
from birdsd.scenes.bank.clip import EventClip, Wanted
from birdsd.scenes.bank.made import Maker
from birdsd.scenes.bank.split import check_split
from birdsd.scenes.compose.batch import Batch
from birdsd.scenes.compose.compose import Composer, Look
from birdsd.scenes.compose.makers import bird_check, song_maker
from birdsd.scenes.compose.place_and_level import Songs
from birdsd.scenes.compose.record import CONFIRM, MIX, SONG
from birdsd.scenes.heard.in_mix import MixEar
from birdsd.scenes.space.stage import recorders_text, space_of
from birdsd.scenes.vocabulary import Vocabulary
from birdsd.schema import SceneConfig, SpaceConfig

if TYPE_CHECKING:
    from birdsd.diffusion.generation.generator import Generator

# Settings that decide a scene's bytes; a recipe holds them, and fills them in again.
_DECIDING = (
    "run",
    "bank",
    "pool",
    "split",
    "judge",
    "shards",
    "tries",
    "steps",
    "guidance",
    "scheduler",
    "batch_size",
    "add",
    "base",
    "upscale",
    "upscale_sharpness",
    "format",
    "stems",
    "picture",
)
SHORT_S = 0.5  # of a model's songs, whose lengths nobody knows yet
_PLACES = ("run", "bank", "pool", "upscale")


@dataclass(frozen=True)
class MadeSongs:
    """Songs that a model makes as they are asked for. `tick` is called once a step of the network."""

    maker: Maker
    tick: Callable[[], object] | None = None

    def clips(self, wanted: list[Wanted]) -> dict[str, EventClip]:
        return self.maker.clips(wanted, self.tick)

    def further(self, wanted: Wanted, clip: EventClip, most: int) -> Wanted | None:
        return self.maker.further(wanted, clip, most)

    def shortest_s(self) -> float:
        return min(SHORT_S, self.maker.model.codec.clip_s / 2)


@dataclass(frozen=True)
class Stage:
    """What a batch is made with, and the words that it may be asked for in."""

    batch: Batch
    vocabulary: Vocabulary
    bank: Bank | None

    def longest_s(self, species: str, sound_type: str, individual: int) -> float | None:
        """The longest that a song of this kind may be: what is placed so, fits once it is measured."""
        if self.bank is not None:
            return self.bank.longest_s(species, sound_type)
        return self.vocabulary.clip_s or None


def set_up(
    config: SceneConfig, model: Generator | None = None, tick: Callable[[], object] | None = None
) -> Stage:
    """Load what the configuration names. `UserError` where neither a model nor a bank is named.

    `model`: that of `run`, where it is loaded already; `tick` is called once a step of the network.
    """
    check_split(config.split)
    if config.confirm not in CONFIRM:
        raise unknown_name("place to confirm a species in (confirm)", config.confirm, CONFIRM)
    if config.tries < 1:
        raise BadValue(f"tries={config.tries}", "a song is made at least once", "leave it out for 4")
    if not config.run and not config.bank:
        raise NotSet(
            "neither run nor bank is set",
            "a model or a bank of songs must sing",
            "run=RUN, or bank=FOLDER made by `birdsd run bank`",
        )
    pool = Pool(Path(config.pool), config.split) if config.pool else None
    bank = Bank(Path(config.bank), config.split) if config.bank else None
    names: Sequence[str] = pool.names if pool else ()
    maker, words = song_maker(config, names, model) if config.run else (None, None)
    songs: Songs
    if bank is not None:
        songs, rate_hz, gate = bank, bank.rate_hz, str(bank.facts.get("judge", "the recordings' labels"))
        known = words.environments if words else ()
        words = Vocabulary(
            bank.species,
            known,
            bank.sound_types,
            words.scientific if words else {},
            tuple(name for name in names if name not in known),
            rate_hz,
        )
    else:
        assert maker is not None
        songs, rate_hz, gate = MadeSongs(maker, tick), maker.model.codec.rate_hz, maker.gate.title
    assert words is not None
    backgrounds = Backgrounds(
        maker.model if maker else None,
        maker.request if maker else None,
        pool,
        tick,
    )
    birds = bird_check(config, words.species)
    ear = MixEar(birds.judge, words.species) if birds else None
    identities = {
        "model": maker.model.identity if maker else None,
        "bank": bank.identity if bank else None,
        "pool": pool.identity if pool else None,
    }
    if config.confirm == MIX:  # the judge decides what is in the mix
        identities["judge"] = birds.judge.fingerprint if birds else None
    batch = Batch(
        Composer(
            songs,
            backgrounds,
            rate_hz,
            gate,
            birds,
            space_of(config.layout, config.space),
            ear,
            config.confirm,
            config.tries,
        ),
        Path(config.out),
        Look(config.format, config.stems, config.picture),
        _settings(config, maker),
        identities,
    )
    return Stage(batch, words, bank)


def _settings(config: SceneConfig, maker: Maker | None) -> dict[str, Any]:
    told = {name: getattr(config, name) for name in _DECIDING}
    told |= {
        name: str(Path(told[name]).resolve()) if told[name] and Path(told[name]).exists() else told[name]
        for name in _PLACES
    }
    if maker is not None:  # as it was used: a later version may recommend something else
        told |= {name: getattr(maker.request, name) for name in ("steps", "guidance", "scheduler")}
        told["judge"] = config.judge or None
    told["add"] = list(config.add)
    if config.confirm != SONG:  # recipes of scenes whose songs alone are confirmed stay as they were
        told["confirm"] = config.confirm
    if space := space_of(config.layout, config.space):  # of mono nothing: its recipes stay as they were
        # Where the recorders stand, not which file said it.
        told["layout"] = config.layout
        told["space"] = asdict(config.space) | {"recorders": recorders_text(space.layout.recorders)}
    return told


def with_recipe(config: SceneConfig, told: dict[str, Any]) -> SceneConfig:
    """The configuration with what a recipe says, but for folders that the user names: they may have moved."""
    settings = {name: value for name, value in told["settings"].items() if name in _DECIDING}
    for name in _PLACES:
        if getattr(config, name):
            settings[name] = getattr(config, name)
    settings["confirm"] = told["settings"].get("confirm", SONG)
    if "layout" in told["settings"]:
        settings["layout"] = told["settings"]["layout"]
        settings["space"] = SpaceConfig(**told["settings"]["space"])
    return replace(config, **settings)
