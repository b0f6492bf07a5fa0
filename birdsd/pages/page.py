"""One self-contained HTML page: blocks to build it from, and the page that holds them.

Everything is inline (styles, pictures as data URIs, sound), and the page's own security policy forbids
it the network, so it can be mailed, copied off a cluster, and opened from a disk years later.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from birdsd.files import write_text
from birdsd.pages.markup import Html, element, escape, join
from birdsd.pages.style import CSS, SCRIPT

_POLICY = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
_ICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><path d='M1 12Q4 12 6 6T10 9T15 3' "
    "fill='none' stroke='#17606b' stroke-width='2.2' stroke-linecap='round'/></svg>"
)


def data_uri(content: bytes, media_type: str) -> str:
    """`content` as a `data:` address, base64."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def name(text: object) -> Html:
    """A name that users chose: escaped, and kept from changing the direction of the text around it."""
    return element("bdi", text)


def note(*blocks: object, warn: bool = False) -> Html:
    """A remark set off from the text; `warn` for what a reader must not miss."""
    body = [b if isinstance(b, Html) and b.startswith("<p") else element("p", b) for b in blocks]
    return element("div", *body, class_="note warn" if warn else "note")


def badge(text: object, warn: bool = False) -> Html:
    """A short label in a pill."""
    return element("span", text, class_="badge warn" if warn else "badge")


def card(*blocks: object) -> Html:
    """A framed box."""
    return element("div", *blocks, class_="card")


def grid(*blocks: object) -> Html:
    """Blocks side by side where there is room, one below the other where there is not."""
    return element("div", *blocks, class_="grid")


def tiles(values: Mapping[str, object]) -> Html:
    """A row of large figures, each with what it means below it."""
    return element(
        "div",
        *(element("div", element("b", v), element("span", k), class_="tile") for k, v in values.items()),
        class_="tiles",
    )


def key_values(values: Mapping[str, object]) -> Html:
    """A list of names and values."""
    rows = [part for key, value in values.items() for part in (element("dt", key), element("dd", value))]
    return element("dl", *rows, class_="values")


def commands(lines: Sequence[tuple[str, str]]) -> Html:
    """Commands to copy, each with a sentence that says what it does."""
    return join(
        part
        for says, run in lines
        for part in (element("p", says, class_="quiet"), element("pre", element("code", run)))
    )


def table(
    headers: Sequence[object],
    rows: Sequence[Sequence[object]],
    *,
    caption: object = None,
    numeric: Sequence[int] = (),
    total: bool = False,
    wide: bool = False,
) -> Html:
    """A table; the first column heads its row, `numeric` columns are set flush right.

    `total` sets off the last row, `wide` takes all the width there is.
    """

    def style(column: int) -> str | None:
        return "number" if column in numeric else None

    head = element("tr", *(element("th", h, scope="col", class_=style(i)) for i, h in enumerate(headers)))
    body = []
    for position, row in enumerate(rows):
        cells = [
            element("td", cell, class_=style(i)) if i else element("th", cell, scope="row")
            for i, cell in enumerate(row)
        ]
        body.append(element("tr", *cells, class_="total" if total and position == len(rows) - 1 else None))
    title = element("caption", caption) if caption is not None else ""
    kind = "wide" if wide else None
    content = element("table", title, element("thead", head), element("tbody", *body), class_=kind)
    return element("div", content, class_="scroll")


def image(png: bytes, alt: str, caption: object = None) -> Html:
    """A picture inside the page; `alt` says in words what it shows."""
    picture = element("img", src=data_uri(png, "image/png"), alt=alt, loading="lazy")
    return element("figure", picture, element("figcaption", caption) if caption is not None else "")


def seconds(value: float) -> str:
    """A duration as a person says it: 0.4 s, 12 s, 3 min 20 s, 2 h 05 min; its spaces do not break."""
    whole = round(value)
    if value < 9.95:
        text = f"{value:.1f} s"
    elif whole < 60:
        text = f"{whole} s"
    elif whole < 3600:
        text = f"{whole // 60} min {whole % 60:02d} s"
    else:
        text = f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return text.replace(" ", "\u00a0")


def amount(value: float) -> str:
    """A count with at least two meaningful digits and a thousands separator: 1,234 or 3.1 or 0.042."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2g}"


def gibibytes(value: float) -> str:
    """Bytes as MiB below one GiB, as GiB from there."""
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


@dataclass
class Page:
    """A page under construction: `section` adds to it, `render` gives the whole document."""

    title: str
    lead: object = ""
    badges: tuple[Html, ...] = ()
    footer: object = ""
    sections: list[tuple[str, str, Html]] = field(default_factory=list)
    css: str = ""  # of this page alone, behind what all have
    script: str = ""

    def section(self, title: str, *blocks: object) -> None:
        """Add a section; it also appears in the list of contents."""
        anchor = f"part-{len(self.sections) + 1}"
        self.sections.append((anchor, title, join(blocks)))

    def render(self) -> str:
        """The whole document as text; it refers to nothing outside itself."""
        contents = [element("a", title, href=f"#{anchor}") for anchor, title, _ in self.sections]
        body = [
            element(
                "section", element("h2", title, id=f"{anchor}-title"), content,
                id=anchor, aria_labelledby=f"{anchor}-title",
            )
            for anchor, title, content in self.sections
        ]  # fmt: skip
        head = [
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", self.title),
            element("link", rel="icon", href=data_uri(_ICON.encode(), "image/svg+xml")),
            element("style", Html(CSS + self.css)),
        ]
        top = element(
            "header",
            *self.badges,
            element("h1", self.title),
            element("p", self.lead, class_="lead") if self.lead else "",
            element("nav", *contents, aria_label="Contents") if len(contents) > 1 else "",
        )
        foot = element("footer", element("p", self.footer)) if self.footer else ""
        document = element(
            "html",
            element("head", *head),
            element("body", top, element("main", *body), foot, element("script", Html(SCRIPT + self.script))),
            lang="en",
        )
        return f"<!doctype html>\n{escape(document)}\n"

    def write(self, path: Path) -> Path:
        """Write the document atomically and return its path."""
        write_text(path, self.render())
        return path
