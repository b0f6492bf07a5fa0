"""The prompt book as one page: what may be asked, an example of each to hear, and what cannot be asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import soundfile
from markupsafe import Markup

from birdsd.pages.media import audio
from birdsd.pages.page import Page

_KINDS = (
    ("species", "Species", "A prompt names a species by its common name; the other names work too."),
    ("sound type", "Sound types", "Types of sound that a species was taught with."),
    ("environment", "Environments", "A place by itself, around a bird, and louder or softer than it."),
    ("loudness word", "Loudness", "In scenes these words set levels; the sound is made louder or softer."),
    ("scene phrase", "Scenes", "Sentences for `birdsd run scene`. The grammar has read each of these."),
)


def prompts_page(book: Mapping[str, Any]) -> Page:
    """The page of a book (`Book.to_json`). Sounds that can be read become players."""
    lead = f"What may be asked of {book['model']}, and what may not."
    if book["clips"]:
        lead += f" {book['clips']} clips were judged, by {book['judge']}."
    badges = ("generated sound",) if any(entry["sound"] for entry in book["entries"]) else ()
    page = Page("Prompt book", lead, badges)
    page.fill("prompts.html", book=book, kinds=_KINDS, player=_player)
    return page


def _player(path: str, label: str) -> Markup | str:
    if not path or not Path(path).is_file():
        return ""
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError):
        return "cannot be read"
    return audio(samples.T, rate_hz, label)
