"""Where one hears it: every generated clip beside a held-out recording of its species, on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from birdsd.pages import page as html
from birdsd.pages.markup import Html, element, join
from birdsd.pages.media import SHOWN_DB, level_db, picture_levels, spectrogram
from birdsd.pages.page import name
from birdsd.sound.codec.protocol import Codec

if TYPE_CHECKING:
    from birdsd.evaluation.judges import Verdict


@dataclass(frozen=True)
class Clip:
    """A sound to see and hear: the codec's image [C, H, W], its waveform [C, N], words about it, and what the
    judge said where it was asked."""

    image: np.ndarray
    waveform: np.ndarray
    rate_hz: int
    caption: str = ""  # e.g. "seed 3", or the recording, its recordist and licence
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Pair:
    """A generated clip beside a held-out recording of the species it was asked for; None: there is none."""

    species: str
    prompt: str
    generated: Clip
    real: Clip | None


def listen(codec: Codec, pairs: Sequence[Pair], synthetic: bool, judge: str) -> list[Html]:
    """The blocks of the section; `judge` is its title with the licence, "" where none spoke."""
    real = "Held-out synthetic recording" if synthetic else "Held-out recording"
    said = f" Below each clip stands what {judge} says of it." if judge else ""
    intro = element(
        "p",
        "Every clip that the model made, none picked; beside each a clip of a recording of the same species "
        "that it never saw. Both come out of the same codec. The pictures of a species share one colour "
        f"scale: the brightest is the loudest point in any of them, black lies {SHOWN_DB:.0f} dB below "
        f"it.{said} Click a picture to play from there.",
    )
    species: dict[str, list[Pair]] = {}
    for pair in pairs:
        species.setdefault(pair.species, []).append(pair)
    return [intro, *(_species(codec, own, real) for own in species.values())]


def _species(codec: Codec, pairs: Sequence[Pair], real: str) -> Html:
    """The card of a species: its prompt, and a pair in every row."""
    clips = [clip for pair in pairs for clip in (pair.generated, pair.real) if clip is not None]
    loudest = max(float(level_db(codec, _image(clip)).max()) for clip in clips)
    rows = []
    for number, pair in enumerate(pairs, start=1):
        label = f"Generated {number}" if len(pairs) > 1 else "Generated"
        alt = f"Spectrogram generated for the prompt: {pair.prompt}"
        sides = [_side(codec, label, alt, pair.generated, loudest)]
        if pair.real is not None:
            alt = f"Spectrogram of a held-out recording of {pair.species}"
            sides.append(_side(codec, real, alt, pair.real, loudest))
        else:
            sides.append(element("p", "No clip of this species was held out.", class_="quiet"))
        rows.append(html.grid(*sides))
    prompt = element("p", "\u201c", name(pairs[0].prompt), "\u201d", class_="prompt")
    return element("article", element("h3", name(pairs[0].species)), prompt, *rows, class_="card")


def _image(clip: Clip) -> np.ndarray:
    return clip.image if clip.image.ndim == 3 else clip.image[None]


def _side(codec: Codec, title: str, alt: str, clip: Clip, loudest_db: float) -> Html:
    image = _image(clip)
    said = [heard_words(clip.verdict)] if clip.verdict is not None else []
    if clip.caption:
        said.append(element("span", name(clip.caption)))
    return spectrogram(
        picture_levels(codec, image, loudest_db),
        codec.row_hz(),
        codec.clip_s * image.shape[-1] / codec.frames,
        alt=alt,
        title=title,
        waveform=clip.waveform,
        rate_hz=clip.rate_hz,
        caption=join(said, element("br")) if said else None,
    )


def heard_words(verdict: Verdict) -> Html:
    """What the judge said of a clip: the name with its confidence, and the right one's score."""
    if verdict.note:
        return element("span", f"nothing heard ({verdict.note})", class_="heard")
    if not verdict.known:
        return element("span", "a species that the judge does not know", class_="heard")
    mark = "\u2713 " if verdict.right else "heard as "
    said = [mark, name(verdict.named), f", confidence {verdict.confidence:.2f}"]
    if not verdict.right and verdict.score is not None:
        said.append(f"; the right one has {verdict.score:.2f} and rank {verdict.rank}")
    return element("span", *said, class_="heard ok" if verdict.right else "heard")
