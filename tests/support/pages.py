"""Names that would break a page, and a look at a page as a parser sees it."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np

from birdsd.evaluation.weak_check import LearningCheck
from birdsd.pages.demo import DemoData, Interruption, Losses, Pair, Training
from birdsd.pages.media import AudioClip
from birdsd.sound.codec.codec import SpectrogramCodec
from tests.support.songs import SPECIES, song

HOSTILE = "<script>alert('x')</script>\" onload=\"alert(1) &amp; \u202eevil\x00 \udcff ../ é鳥"
_VOID = {"meta", "link", "img", "br", "hr", "input", "col"}


class _Checker(HTMLParser):
    """Collects what a browser would see, and fails where elements do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({key for key, _ in attrs}) == len(attrs), f"an attribute stands twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _addresses(checker: _Checker) -> list[str]:
    keys = ("src", "href", "srcset", "poster", "action", "data", "xlink:href")
    return [value or "" for _, attrs in checker.tags for key, value in attrs.items() if key in keys]


def _data(codec: SpectrogramCodec, check: LearningCheck | None, synthetic: bool, species: str) -> DemoData:
    sound = song(SPECIES[0], 1, 0, codec)
    clip = AudioClip(codec, codec.encode(sound, codec.rate_hz), sound, codec.rate_hz, f"caption {species}")
    samples = list(range(0, 4000, 4))
    losses = Losses(samples, [float("nan"), *np.linspace(1, 0.01, len(samples) - 1)])
    training = Training(
        "Diffusion model",
        losses,
        Losses(samples[::100], [0.5] * 10),
        2_000_000,
        4000,
        62.0,
        [Interruption(2400, 2000)],
    )
    return DemoData(
        synthetic=synthetic, source=species, codec=codec, recordings=16, clips=64, hours=0.02,
        clips_per_species={species: 32, "other": 32}, pairs=[Pair(species, f"a {species}", clip, clip)],
        trainings=[training], check=check, stages=[("prepare", 3.0), (species, 60.0)],
        peak_memory_bytes=1 << 30, machine="2 CPU cores", commands=[("Another clip", f"birdsd {species}")],
        credits=[("CC0", species, 16)], facts={"Seed": species},
    )  # fmt: skip


class _Reader(HTMLParser):
    def __init__(self, markup: bool) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._markup, self._skipped = markup, ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._skipped = tag if tag in {"style", "script"} else ""
        if self._markup:
            self.lines.append(f"<{tag} {sorted(attrs, key=lambda pair: pair[0])}>")

    def handle_endtag(self, tag: str) -> None:
        self._skipped = ""
        if self._markup:
            self.lines.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        words = " ".join(data.split())
        if words and not self._skipped:
            self.lines.append(words)


def seen(text: str, markup: bool = False) -> list[str]:
    """What a page shows, piece by piece, without its styles and scripts; with `markup` also its tags."""
    reader = _Reader(markup)
    reader.feed(text)
    reader.close()
    return reader.lines
