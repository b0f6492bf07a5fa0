"""The page of generated sound, measured: floor and ceiling, copies, variety, the judge, loudness."""

from __future__ import annotations

from pathlib import Path

from birdsd.evaluation.embedded.measured import MeasuredSet
from birdsd.pages.page import Page


def quality_page(path: Path, found: MeasuredSet, sounds: str, shards: str) -> Path:
    """Write the page; returns its path."""
    copied = bool(found.quality.copies and found.quality.copies.copied)
    sentences = found.quality.sentences()
    page = Page(
        title="Quality of generated sound",
        lead=" ".join(sentences) or "These sets are too small for any figure of the embedding.",
        badges=("birdsd quality", f"{found.quality.counts['generated']} generated clips",
                *(("copies",) if copied else ())),
        warns=copied,
        footer=f"Made by birdsd. Embedding and verdicts: {found.judged.judge} ({found.judged.licence}).",
    )  # fmt: skip
    page.fill("quality.html", found=found, quality=found.quality, sounds=sounds, shards=shards)
    return page.write(path)
