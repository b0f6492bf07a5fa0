"""One self-contained HTML page, and the blocks that all pages are built from.

Everything is inline (styles, pictures as data URIs, sound), and the page's own security policy forbids
it the network, so it can be mailed, copied off a cluster, and opened from a disk years later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from birdsd.files import write_text
from birdsd.pages.environment import data_uri, environment, macro, static

_POLICY = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
_ICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><path d='M1 12Q4 12 6 6T10 9T15 3' "
    "fill='none' stroke='#17606b' stroke-width='2.2' stroke-linecap='round'/></svg>"
)
name = macro("blocks.html", "name")
note = macro("blocks.html", "note")
card = macro("blocks.html", "card")
table = macro("blocks.html", "table")


@dataclass
class Page:
    """A page under construction: a template (or `section`) fills it, `write` makes it a file.

    `badges` are texts, the last of which warns where `warns` is set; `css` and `scripts` name files in
    static/ beside those that every page has.
    """

    title: str
    lead: str = ""
    badges: Sequence[str] = ()
    warns: bool = False
    footer: str = ""
    css: Sequence[str] = ()
    scripts: Sequence[str] = ()
    sections: list[tuple[str, str, Markup]] = field(default_factory=list)

    def section(self, title: str, *parts: Markup, caller: Callable[[], Markup] | None = None) -> str:
        """Add a section, from a template by `{% call section(title) %}`; the contents list it as well."""
        content = caller() if caller is not None else Markup("").join(parts)
        self.sections.append((f"part-{len(self.sections) + 1}", title, content))
        return ""

    def fill(self, template: str, **values: object) -> None:
        """Add the sections of a template."""
        environment().get_template(template).render(section=self.section, **values)

    def render(self) -> str:
        """The whole document as text; it refers to nothing outside itself."""
        return environment().get_template("page.html").render(
            page=self, policy=_POLICY, icon=data_uri(_ICON.encode(), "image/svg+xml"),
            css=Markup("".join(map(static, ("palette.css", "style.css", *self.css)))),
            script=Markup("".join(map(static, ("player.js", *self.scripts)))),
        )  # fmt: skip

    def write(self, path: Path) -> Path:
        """Write the document atomically and return its path."""
        write_text(path, self.render())
        return path
