"""The templates of the pages: every text that a template prints is escaped unless it is `Markup`.

Templates and what they share (styles, scripts) are the files in templates/ and static/.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from birdsd.format import size, span

_FOLDER = Path(__file__).resolve().parent
# Control characters are not allowed in HTML at all; the bidirectional overrides would let a file's
# name reorder the text around it.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


def printed(value: object) -> object:
    """A value as a template prints it, before it is escaped; None prints nothing."""
    if isinstance(value, Markup):
        return value
    # A file name that is not UTF-8 reaches Python with lone surrogates, which no encoder would write.
    text = "" if value is None else str(value).encode("utf-8", "replace").decode("utf-8")
    return _UNPRINTABLE.sub("\ufffd", text)


def unbroken(text: str) -> str:
    """The text with spaces at which no line breaks."""
    return text.replace(" ", "\u00a0")


def duration(seconds: float) -> str:
    """As `span`, exactly, in one line."""
    return unbroken(span(seconds, exact=True))


def amount(value: float) -> str:
    """A count with at least two meaningful digits and a thousands separator: 1,234 or 3.1 or 0.042."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2g}"


def sentence(text: str) -> str:
    """The text with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


@cache
def environment() -> Environment:
    """The environment that reads the templates."""
    jinja = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"), autoescape=True, undefined=StrictUndefined,
        finalize=printed, trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.do"],
    )  # fmt: skip
    jinja.filters |= {
        "amount": amount,
        "duration": duration,
        "num": lambda value, form: format(value, form),
        "percent": lambda share: f"{share:.0%}",
        "place": lambda share: f"{100 * share:.2f}%",  # on an axis
        "sentence": sentence,
        "size": lambda count: unbroken(size(count)),
        "unbroken": unbroken,
    }
    return jinja


def blocks(template: str) -> Any:
    """The macros of a template, as functions that return `Markup`."""
    return environment().get_template(template).module


def macro(template: str, name: str) -> Callable[..., Markup]:
    """One macro of a template, looked up when it is called."""
    return lambda *values, **named: getattr(blocks(template), name)(*values, **named)


def static(name: str) -> str:
    """The text of a style sheet or script."""
    return (_FOLDER / "static" / name).read_text(encoding="utf-8")


@cache
def palette() -> dict[str, tuple[str, str]]:
    """The colours of the pages by name: (light, dark)."""
    light, dark = static("palette.css").split("prefers-color-scheme:dark", 1)
    pairs = [dict(re.findall(r"--([\w-]+):(#[0-9a-f]{6})", text)) for text in (light, dark)]
    return {name: (pairs[0][name], pairs[1][name]) for name in pairs[0]}


def data_uri(content: bytes, media_type: str) -> Markup:
    """`content` as a `data:` address, base64."""
    return Markup(f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}")
