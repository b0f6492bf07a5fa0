"""What a user should know and need not mend: a sentence with a code, as errors have one.

A `Remark` is text wherever text is wanted: printed, joined, stored as JSON. Programs and tests hold on to its
`code` and to the values that it names, since words may be improved at any time.
"""

from __future__ import annotations

from typing import Any


class Remark(str):
    """A sentence. `code` is the kind of remark, `facts` the values that it names."""

    code: str
    facts: dict[str, Any]

    # What pickle calls has the text alone; the rest comes back as attributes.
    def __new__(cls, text: str, code: str = "", **facts: Any) -> Remark:
        made = super().__new__(cls, text)
        made.code, made.facts = code, facts
        return made


def coded(text: str) -> dict[str, str]:
    """The code of a remark, to stand beside its text in a record; nothing for other text."""
    return {"code": text.code} if isinstance(text, Remark) and text.code else {}
