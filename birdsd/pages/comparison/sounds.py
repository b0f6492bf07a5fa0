"""Sounds and pictures side by side: a row for each species, a column for each arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from birdsd.evaluation.comparison import IN_ENVIRONMENT, KNOWN, NEW, ArmResult, Comparison, MadeClip
from birdsd.pages.environment import macro
from birdsd.pages.media import AudioClip, thumbnail

if TYPE_CHECKING:
    from birdsd.shards.index import ShardIndex
    from birdsd.sound.codec.protocol import Codec

# Rows of a page, and clips in a cell: a page of some megabytes is still opened at once.
_MOST_NEW, _MOST_KNOWN, _CLIPS_OF_NEW = 8, 8, 2


@dataclass(frozen=True)
class _Matrix:
    """A table of sounds: `rows` hold a species, a real clip of it, and the arms' clips."""

    title: str
    folded: bool
    heads: list[tuple[str, str]]  # of the arms: title, scores
    rows: list[tuple[str, Markup | str, list[list[Markup]]]]


def sounds(comparison: Comparison, index: ShardIndex) -> Markup:
    """The blocks of the section: the new species, those in an environment, and the known ones folded."""
    from birdsd.sound.codec.protocol import Codec

    codec = Codec.from_json(index.codec or {})
    real = {
        species: thumbnail(
            AudioClip(codec, image, codec.decode(image), codec.rate_hz), f"Training clip of {species}"
        )
        for species, image in _training_clips(index).items()
    }
    new, known = comparison.new[:_MOST_NEW], comparison.known[:_MOST_KNOWN]
    more = f" ({len(known)} of {len(comparison.known)})" if len(known) < len(comparison.known) else ""

    def matrix(title: str, kind: str, species: Sequence[str], most: int, place: str = "") -> _Matrix:
        arms = comparison.arms if kind == NEW else comparison.shown
        beside = {} if place else real
        rows = [(one, beside.get(one, ""), [_cell(codec, arm, (kind, one, place), most) for arm in arms])
                for one in species]  # fmt: skip
        heads = [(arm.title, _scores(arm, kind)) for arm in arms]
        return _Matrix(title, kind == KNOWN, heads, rows)

    return macro("sounds.html", "sounds")([
        matrix("", NEW, new, _CLIPS_OF_NEW),
        *(matrix(f"The same, in the environment \u201c{place}\u201d", IN_ENVIRONMENT, new, 1, place)
          for place in comparison.environments),
        matrix(f"The species that the base model knew{more}: what is left of them", KNOWN, known, 1),
    ])  # fmt: skip


def _scores(arm: ArmResult, kind: str) -> str:
    """How often an arm is named right, for the head of its column."""
    scores = []
    if kind in arm.heard:
        scores.append(f"{arm.heard[kind].right.share:.0%} by the judge")
    if kind in arm.scores:
        scores.append(f"{arm.scores[kind].accuracy:.0%} by the weak check")
    return ", ".join(scores) or "missing"


def _cell(codec: Codec, arm: ArmResult, wanted: tuple[str, str, str], most: int) -> list[Markup]:
    """The first clips of an arm for a (kind, species, environment)."""
    return [_made(codec, clip, arm.title) for clip in arm.clips
            if (clip.kind, clip.species, clip.environment) == wanted and clip.index < most]  # fmt: skip


def _made(codec: Codec, clip: MadeClip, title: str) -> Markup:
    from PIL import Image

    from birdsd.sound.audio.recordings import read

    with Image.open(clip.picture) as picture:
        image = codec.from_rgb(np.asarray(picture.convert("RGB")))
    waveform = read(clip.sound, codec.rate_hz, channels=codec.channels)
    caption = macro("sounds.html", "named")(clip)
    return thumbnail(
        AudioClip(codec, image, waveform, codec.rate_hz), f"{title}, prompt: {clip.prompt}", caption
    )


def _training_clips(index: ShardIndex) -> dict[str, np.ndarray]:
    """The first clean training clip of every species that holds this species alone."""
    from birdsd.shards.reader import ShardReader

    reader = ShardReader(index, "train")
    clips: dict[str, np.ndarray] = {}
    for number in range(len(reader)):
        sample = reader.read(number)
        species = sample.metadata.get("species", ())
        plain = sample.metadata.get("snr_db") is None
        if len(species) == 1 and species[0] not in clips and plain and sample.image is not None:
            clips[species[0]] = sample.image
            if len(clips) == len(index.species):
                break
    return clips
