"""The one kind of error that a user is meant to read.

Every `UserError` names the value, the rule it broke and the way out. The command line prints it
without a traceback and exits with a non-zero status; anything else that escapes is a defect.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend.

    `what` names the thing and its value, `rule` says what was expected of it, `way_out` what to do.
    """

    exit_status = 2

    def __init__(self, what: str, rule: str = "", way_out: str = "") -> None:
        self.what, self.rule, self.way_out = what, rule, way_out
        super().__init__(" ".join(_sentence(part) for part in (what, rule, way_out) if part))

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        # Worker processes send their errors back pickled: the three parts, not the joined sentence.
        return type(self), (self.what, self.rule, self.way_out)


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?", ":")) else text + "."


def unknown_name(kind: str, name: str, valid: Iterable[str], way_out: str = "") -> UserError:
    """The error for a name that is not among the valid ones; it lists them and the nearest match."""
    names = sorted(str(v) for v in valid)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"Did you mean '{near[0]}'?" if near else ""
    listed = ", ".join(names) if names else "(there are none)"
    return UserError(
        f"unknown {kind} '{name}'", f"valid: {listed}", " ".join(t for t in (hint, way_out) if t)
    )
