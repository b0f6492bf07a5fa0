"""The page of an X/Y grid: clips in a table whose columns and rows are the values of two settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from birdsd.evaluation.judges import Verdict
from birdsd.pages import page as html
from birdsd.pages.demo_listen import heard_words
from birdsd.pages.markup import Html, element, join
from birdsd.pages.media import SHOWN_DB, audio, level_db, picture_levels, png
from birdsd.pages.page import Page, data_uri, name
from birdsd.sound.codec.protocol import Codec

_CSS = """
main{max-width:none}main>section>:not(.scroll){width:min(100%,63.5rem);max-width:none;margin-inline:auto}
.xy{border-spacing:0;border-collapse:separate;margin:0 auto;min-width:0;table-layout:fixed;
width:calc(var(--columns)*15.5rem + var(--heads)*var(--head));--head:7rem}
.xy col.heads{width:var(--head)}
.xy th,.xy td{border:0;padding:.4rem .5rem;vertical-align:top}
.xy thead th{text-align:center;vertical-align:bottom;font-size:.95rem;color:var(--ink)}
.xy thead th.axis{color:var(--soft);font-size:.83rem;font-weight:600;padding-bottom:0}
.xy thead tr:last-child th:first-child{text-align:right}
.xy tbody th{position:sticky;left:0;z-index:2;background:var(--paper);text-align:right;
overflow-wrap:anywhere;font-size:.95rem;padding-left:0}
.xy th span{display:block;color:var(--soft);font-size:.83rem;font-weight:600}
.xy figure{margin:0 0 .6rem}
.xy .field{height:8.2rem;border-radius:.35rem}
.xy audio{height:1.9rem;margin-top:.3rem}
.xy .tools{display:flex;justify-content:space-between;gap:.5rem;font-size:.8rem;color:var(--soft)}
.xy details{font-size:.8rem;color:var(--soft);flex:1;min-width:0}
.xy summary{cursor:pointer;width:max-content}
.xy pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.75rem;margin:.3rem 0 0}
.xy pre code{overflow-wrap:anywhere}
button{font:inherit;font-size:.8rem;color:var(--accent);background:none;border:1px solid var(--rule);
border-radius:99px;padding:.05rem .6rem;cursor:pointer;height:max-content;white-space:nowrap}
button:hover{background:var(--accent-wash)}
.xy th button{margin-top:.3rem}
@media (max-width:34rem){.xy{--head:4.6rem}.xy th,.xy td{padding:.4rem .3rem}}
@media print{button,details{display:none}}
"""
# Copying needs the clipboard, which a page from a disk has not everywhere: then the command is selected.
_SCRIPT = """
document.querySelectorAll('button[data-copy]').forEach(function(b){b.addEventListener('click',function(){
var code=b.closest('.tools').querySelector('code'),said=b.textContent;
function done(t){b.textContent=t;setTimeout(function(){b.textContent=said},1600)}
function select(){code.closest('details').open=true;var r=document.createRange();r.selectNodeContents(code);
var s=getSelection();s.removeAllRanges();s.addRange(r);
var copied=false;try{copied=document.execCommand('copy')}catch(e){}done(copied?'Copied':'Selected')}
if(navigator.clipboard)navigator.clipboard.writeText(code.textContent).then(function(){done('Copied')},select);
else select()})});
document.querySelectorAll('button[data-play]').forEach(function(b){b.hidden=false;
b.addEventListener('click',function(){
var list=Array.from(document.querySelectorAll('[data-'+b.dataset.play+'="'+b.dataset.at+'"] audio'));
function next(){var a=list.shift();if(!a)return;a.currentTime=0;a.onended=next;a.play()}
document.querySelectorAll('audio').forEach(function(a){a.onended=null;a.pause()});next()})});
"""


@dataclass(frozen=True)
class Shown:
    """A clip to see and hear: the codec's image [C, H, W] and its waveform [channels, samples]."""

    codec: Codec
    image: np.ndarray
    waveform: np.ndarray
    rate_hz: int
    caption: str = ""
    verdict: Verdict | None = None  # what the judge said, where it was asked and knows the species

    @classmethod
    def read(cls, codec: Codec, picture: Path, sound: Path, caption: str = "") -> Shown:
        """A clip from its files, as `generate` writes them."""
        import soundfile
        from PIL import Image

        with Image.open(picture) as image:
            pixels = np.asarray(image.convert("RGB"))
        waveform, rate_hz = soundfile.read(sound, dtype="float32", always_2d=True)
        return cls(codec, codec.from_rgb(pixels), waveform.T, rate_hz, caption)


@dataclass(frozen=True)
class Cell:
    """One place of the grid, with the command that makes its clips."""

    column: int
    row: int
    command: str
    clips: Sequence[Shown]
    heard: str = ""  # e.g. "3 of 4 named right"


@dataclass(frozen=True)
class GridData:
    """Everything the page shows. `y_name` is empty where there is no second setting."""

    x_name: str
    x_values: Sequence[str]
    y_name: str
    y_values: Sequence[str]
    cells: Sequence[Cell]
    shared: Mapping[str, str]  # what all cells have in common
    judge: str = ""  # with its licence; "" where none spoke
    remark: str = ""  # why none spoke, or of what it does not speak


def write_grid_page(out: Path, data: GridData) -> Path:
    """Write the page to `out` (one self-contained HTML file) and return the path."""
    title = data.x_name.capitalize() + (f" \u00d7 {data.y_name}" if data.y_name else "")
    clips = sum(len(cell.clips) for cell in data.cells)
    prompt = data.shared.get("prompt")
    page = Page(
        title=title,
        lead=(f"\u201c{prompt}\u201d. " if prompt else "")
        + "One setting from left to right"
        + (", another from top to bottom; " if data.y_name else "; ")
        + "everything else is the same. Click a picture to play from there.",
        badges=(html.badge("birdsd grid"), html.badge(f"{clips} generated clips")),
        footer="Made by birdsd. This page needs no network: sounds and images are embedded in the file.",
        css=_CSS,
        script=_SCRIPT,
    )
    page.section("Clips", _table(data), _scale(data), *_judge(data))
    page.section("Common settings", html.key_values({k: name(v) for k, v in data.shared.items()}))
    return page.write(out)


def _judge(data: GridData) -> list[Html]:
    """Who named the clips, or why nobody did."""
    said = [f"Below each clip stands what {data.judge} hears in it."] if data.judge else []
    said += [f"{data.remark[:1].upper()}{data.remark[1:]}."] if data.remark else []
    return [element("p", *(f"{one} " for one in said), class_="quiet")] if said else []


def _scale(data: GridData) -> Html:
    codec = data.cells[0].clips[0].codec
    row_hz = codec.row_hz()
    return element(
        "p",
        f"Pictures show {codec.clip_s:.3g} s from left to right and {row_hz[-1] / 1000:.2g} to "
        f"{row_hz[0] / 1000:.3g} kHz from bottom to top. One colour scale for all of them: the brightest is "
        f"the loudest point of the whole grid, black lies {SHOWN_DB:.0f} dB below it.",
        class_="quiet",
    )


def _table(data: GridData) -> Html:
    loudest = max(_loudest_db(clip) for cell in data.cells for clip in cell.clips)
    placed = {(cell.row, cell.column): cell for cell in data.cells}
    corner = element("td") if data.y_name else ""
    count = len(data.x_values)
    top = [
        element("tr", corner, element("th", data.x_name, scope="colgroup", colspan=count, class_="axis")),
        element(
            "tr",
            element("th", element("span", data.y_name), scope="col") if data.y_name else "",
            *(element("th", name(v), _play("column", i), scope="col") for i, v in enumerate(data.x_values)),
        ),
    ]
    rows = []
    for row, below in enumerate(data.y_values):
        cells = [
            _cell(placed[row, column], loudest, _in_words(data, right, below))
            for column, right in enumerate(data.x_values)
        ]
        head = element("th", name(below), _play("row", row), scope="row") if data.y_name else ""
        rows.append(element("tr", head, *cells))
    columns = [element("col", class_="heads")] if data.y_name else []
    columns += [element("col") for _ in data.x_values]
    table = element(
        "table", element("colgroup", *columns), element("thead", *top), element("tbody", *rows), class_="xy",
        style=f"--columns:{count};--heads:{int(bool(data.y_name))}",
    )  # fmt: skip
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label="The grid")


def _in_words(data: GridData, right: str, below: str) -> str:
    said = f"{data.x_name} {right}"
    return f"{said}, {data.y_name} {below}" if data.y_name else said


def _play(kind: str, at: int) -> Html:
    """A button that plays a row or a column, one clip after the other; it shows where scripts run."""
    button = element(
        "button", "\u25b6 all", type="button", data_play=kind, data_at=at, hidden=True,
        aria_label=f"Play this {kind}, one after the other",
    )  # fmt: skip
    return join([element("br"), button])


def _cell(cell: Cell, loudest_db: float, said: str) -> Html:
    figures = [_figure(clip, loudest_db, said, len(cell.clips) > 1) for clip in cell.clips]
    told = element(
        "details",
        element("summary", "Command"),
        element("pre", element("code", cell.command)),
    )
    copy = element("button", "Copy", type="button", data_copy=True, aria_label=f"Copy the command: {said}")
    tools = element("div", told, copy, class_="tools")
    heard = element("p", cell.heard, class_="quiet") if cell.heard and len(cell.clips) > 1 else ""
    return element("td", *figures, heard, tools, data_row=cell.row, data_column=cell.column)


def _figure(clip: Shown, loudest_db: float, said: str, captioned: bool) -> Html:
    picture = element(
        "img", src=data_uri(png(_levels(clip, loudest_db)), "image/png"), alt=f"Spectrogram: {said}"
    )
    field = element("div", picture, element("span", class_="head"), class_="field")
    words: list[object] = [heard_words(clip.verdict)] if clip.verdict is not None else []
    words += [name(clip.caption)] if captioned and clip.caption else []
    below = element("figcaption", join(words, element("br"))) if words else ""
    return element("figure", field, audio(clip.waveform, clip.rate_hz, said), below, class_="sound")


def _loudest_db(clip: Shown) -> float:
    return float(level_db(clip.codec, clip.image).max())


def _levels(clip: Shown, loudest_db: float) -> np.ndarray:
    return picture_levels(clip.codec, clip.image, loudest_db)
