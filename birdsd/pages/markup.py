"""Markup that cannot be broken by what users name things: every text is escaped unless it is `Html`."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

_VOID = frozenset({"br", "hr", "img", "input", "link", "meta", "col"})
# Control characters are not allowed in HTML at all; the bidirectional overrides would let a file's
# name reorder the text around it.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


class Html(str):
    """Markup that is ready: `escape` leaves it alone."""


def escape(value: object) -> Html:
    """`value` as text that is safe between tags and inside a quoted attribute."""
    if isinstance(value, Html):
        return value
    # A file name that is not UTF-8 reaches Python with lone surrogates, which no encoder would write.
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    return Html(html.escape(_UNPRINTABLE.sub("\ufffd", text), quote=True))


def join(parts: Iterable[object], between: str = "") -> Html:
    """The parts, each escaped, in one piece."""
    return Html(escape(between).join(escape(part) for part in parts))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """`<tag attributes>children</tag>`, all of it escaped.

    Underscores in an attribute's name become hyphens and a trailing one is dropped (`class_`,
    `aria_label`); None and False leave the attribute out, True writes it without a value.
    """
    written = []
    for key, value in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        if value is True:
            written.append(f" {name}")
        elif value is not None and value is not False:
            written.append(f' {name}="{escape(str(value))}"')
    start = f"<{tag}{''.join(written)}>"
    return Html(start if tag in _VOID else f"{start}{join(children)}</{tag}>")


def paragraphs(*texts: object) -> Html:
    """One `<p>` for each text."""
    return join(element("p", text) for text in texts)
