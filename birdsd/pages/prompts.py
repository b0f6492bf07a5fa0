"""The prompt book as one page: what may be asked, an example of each to hear, and what cannot be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile

from birdsd.pages import page as html
from birdsd.pages.charts import meter
from birdsd.pages.markup import Html, element
from birdsd.pages.media import audio
from birdsd.pages.page import Page, name

_TITLES = {
    "species": ("Species", "A prompt names a species by its common name; the other names work too."),
    "sound type": ("Sound types", "Types of sound that a species was taught with."),
    "environment": ("Environments", "A place by itself, around a bird, and louder or softer than it."),
    "loudness word": ("Loudness", "In scenes these words set levels; the sound is made louder or softer."),
    "scene phrase": ("Scenes", "Sentences for `birdsd run scene`. The grammar has read each of these."),
}


def prompts_page(book: Mapping[str, Any]) -> Page:
    """The page of a book (`Book.to_json`). Sounds that can be read become players."""
    entries: Sequence[Mapping[str, Any]] = book["entries"]
    lead = f"What may be asked of {book['model']}, and what may not."
    if book["clips"]:
        lead += f" {book['clips']} clips were judged, by {book['judge']}."
    badges = (html.badge("generated sound"),) if any(one["sound"] for one in entries) else ()
    page = Page("Prompt book", lead, badges)
    for kind, (title, says) in _TITLES.items():
        found = [one for one in entries if one["kind"] == kind]
        if found:
            page.section(title, element("p", says), _table(kind, found))
    page.section("What it cannot do", element("ul", *(element("li", one) for one in book["cannot"])))
    if book["left_out"]:
        page.section("Left out", element("ul", *(element("li", name(one)) for one in book["left_out"])))
    return page


def _table(kind: str, entries: Sequence[Mapping[str, Any]]) -> Html:
    believed = any(one["believed"] for one in entries)
    heard = any(one["sound"] for one in entries)
    headers = [kind.capitalize(), "Example"]
    headers += ["Means"] if any(one["meaning"] for one in entries) else []
    headers += ["Believed"] if believed else []
    headers += ["To hear"] if heard else []
    rows = []
    for one in entries:
        what = f"{one['species']}: {one['name']}" if kind == "sound type" else one["name"]
        others = element("small", " ", ", ".join(one["other_names"])) if one["other_names"] else ""
        row: list[object] = [element("span", name(what), others), element("code", one["example"])]
        if "Means" in headers:
            row.append(one["meaning"])
        if believed:
            row.append(_share(one["believed"]))
        if heard:
            row.append(_player(one["sound"], one["example"]))
        rows.append(row)
    return html.table(headers, rows, wide=True)


def _share(told: Mapping[str, Any] | None) -> object:
    if told is None:
        return "not tried"
    judged = told["clips"] - told["unjudged"]
    if not judged:
        return f"{told['clips']} clips, nobody judged"
    return element("span", meter(told["share"]), f" {told['confirmed']} of {judged}")


def _player(path: str, label: str) -> object:
    if not path or not Path(path).is_file():
        return ""
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError):
        return "cannot be read"
    return audio(samples.T, rate_hz, label)
