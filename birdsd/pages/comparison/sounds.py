"""Sounds and pictures side by side: a row for each species, a column for each arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from birdsd.evaluation.comparison import IN_ENVIRONMENT, KNOWN, NEW, ArmResult, Comparison, MadeClip
from birdsd.pages import page as html
from birdsd.pages.markup import Html, element
from birdsd.pages.media import audio, picture_levels, png
from birdsd.pages.page import name

if TYPE_CHECKING:
    from birdsd.shards.index import ShardIndex
    from birdsd.sound.codec.protocol import Codec

# Rows of a page, and clips in a cell: a page of some megabytes is still opened at once.
_MOST_NEW, _MOST_KNOWN, _CLIPS_OF_NEW = 8, 8, 2


def sounds(comparison: Comparison, index: ShardIndex) -> list[Html]:
    """The blocks of the section: the new species, those in an environment, and the known ones folded."""
    from birdsd.sound.codec.protocol import Codec

    codec = Codec.from_json(index.codec or {})
    real = _training_clips(index, codec)
    intro = element(
        "p",
        "The first clips of each prompt, not the best. On the left a real training clip; everything comes "
        "out of the same codec. Below each clip stands what the judge named, or else "
        "the weak check. Click a picture to play from "
        "there.",
    )
    blocks = [intro, _matrix(comparison, codec, real, NEW, comparison.new[:_MOST_NEW], _CLIPS_OF_NEW)]
    if comparison.environments:
        rows = comparison.new[:_MOST_NEW]
        for place in comparison.environments:
            title = element("h3", f"The same, asked for in the environment \u201c{place}\u201d")
            blocks += [title, _matrix(comparison, codec, {}, IN_ENVIRONMENT, rows, 1, place)]
    known = list(comparison.known[:_MOST_KNOWN])
    more = f" ({len(known)} of {len(comparison.known)})" if len(known) < len(comparison.known) else ""
    summary = element("summary", f"The species that the base model knew{more}: what is left of them")
    blocks.append(element("details", summary, _matrix(comparison, codec, real, KNOWN, known, 1)))
    return blocks


def _matrix(
    comparison: Comparison,
    codec: Codec,
    real: dict[str, np.ndarray],
    kind: str,
    species: Sequence[str],
    most: int,
    environment: str = "",
) -> Html:
    arms = comparison.arms if kind == NEW else comparison.shown
    head = [element("th", "Real" if real else "", scope="col"), *(_head(arm, kind) for arm in arms)]
    rows = []
    for one in species:
        first = _cell(codec, real[one], f"Training clip of {one}", None) if one in real else ""
        cells = [element("td", *_cells(codec, arm, kind, one, environment, most)) for arm in arms]
        rows.append(element("tr", element("th", element("b", name(one)), first, scope="row"), *cells))
    table = element("table", element("thead", element("tr", *head)), element("tbody", *rows), class_="matrix")
    return element("div", table, class_="bleed")


def _head(arm: ArmResult, kind: str) -> Html:
    score = arm.scores.get(kind)
    heard = arm.heard.get(kind)
    words = [f"{heard.right.share:.0%} by the judge"] if heard else []
    words += [f"{score.accuracy:.0%} by the weak check"] if score else []
    small = element("small", ", ".join(words) or "missing")
    return element("th", arm.title, small, scope="col")


def _cells(codec: Codec, arm: ArmResult, kind: str, species: str, environment: str, most: int) -> list[Html]:
    chosen = [
        clip
        for clip in arm.clips
        if (clip.kind, clip.species, clip.environment) == (kind, species, environment) and clip.index < most
    ]
    if not chosen:
        return [element("p", "not there yet", class_="none")]
    return [_made(codec, clip, arm.title) for clip in chosen]


def _made(codec: Codec, clip: MadeClip, title: str) -> Html:
    from PIL import Image

    from birdsd.sound.audio.recordings import read

    with Image.open(clip.picture) as picture:
        image = codec.from_rgb(np.asarray(picture.convert("RGB")))
    waveform = read(clip.sound, codec.rate_hz, channels=codec.channels)
    return _cell(codec, image, f"{title}, asked for {clip.prompt}", clip, waveform)


def _cell(
    codec: Codec,
    image: np.ndarray,
    alt: str,
    clip: MadeClip | None,
    waveform: np.ndarray | None = None,
) -> Html:
    """A small spectrogram with its player, and below it what was heard in it."""
    shown = picture_levels(codec, image if image.ndim == 3 else image[None])
    heard = codec.decode(image) if waveform is None else waveform
    field = element(
        "div",
        element("img", src=html.data_uri(png(shown), "image/png"), alt=f"Spectrogram: {alt}"),
        element("span", class_="head"),
        class_="field",
    )
    player = audio(heard, codec.rate_hz, alt)
    below: object = ""
    if clip is not None:
        judged = clip.heard_right is not None
        right = clip.heard_right if judged else clip.right
        mark, kind = ("\u2713 ", "named ok") if right else ("heard as ", "named")
        said = (
            [name(clip.heard), f" {clip.confidence:.2f}"] if judged else [name(clip.named), " (weak check)"]
        )
        below = element("p", mark, *said, class_=kind)
    return element("div", field, player, below, class_="sound")


def _training_clips(index: ShardIndex, codec: Codec) -> dict[str, np.ndarray]:
    """The first clean training clip of every species that holds this species alone."""
    from birdsd.shards.reader import ShardReader

    reader = ShardReader(index, "train")
    found: dict[str, np.ndarray] = {}
    for number in range(len(reader)):
        sample = reader.read(number)
        species = sample.metadata.get("species", ())
        plain = sample.metadata.get("snr_db") is None
        if len(species) == 1 and species[0] not in found and plain and sample.image is not None:
            found[species[0]] = sample.image
            if len(found) == len(index.species):
                break
    return found
