"""The one kind of error that a user is meant to read.

Every `UserError` names the problem with its value, what was expected, and a hint what to do. The command line
prints it without a traceback and exits with a non-zero status; anything else that escapes is a defect.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Something the user can mend.

    `problem` names the thing and its value, `expected` says what it must be, `hint` what to do about it.
    The class is the kind of error. Its `code` is what `--json` calls it, and what programs and tests hold on
    to, together with the values that the error names: words may be improved at any time.
    """

    exit_status = 2
    code = "refused"

    def __init__(self, problem: str, expected: str = "", hint: str = "") -> None:
        self.problem, self.expected, self.hint = problem, expected, hint
        super().__init__(shown(" ".join(_sentence(part) for part in (problem, expected, hint) if part)))

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        # Worker processes send their errors back pickled: the three parts, not the joined sentence.
        return type(self), (self.problem, self.expected, self.hint)

    def to_json(self) -> dict[str, str]:
        """The kind of error and its three parts."""
        return {
            "code": self.code, "problem": self.problem, "expected": self.expected, "hint": self.hint,
        }  # fmt: skip


class NotFound(UserError):
    """What is named is not there: a file, a run, a column of a table, a part of a model."""

    code = "not-found"


class AlreadyThere(UserError):
    """What would be written is there already, and is not overwritten."""

    code = "already-there"


class Damaged(UserError):
    """What is there cannot be read, or is not what was written."""

    code = "damaged"


class Mismatch(UserError):
    """Two things do not belong together: settings, shapes, a model and its codec; or one has changed."""

    code = "mismatch"


class UnknownName(UserError):
    """A name is not among the valid ones."""

    code = "unknown-name"


class BadValue(UserError):
    """A value is not of the kind, or not in the range, that is expected."""

    code = "bad-value"


class NotSet(UserError):
    """A setting or an option is needed and was not given."""

    code = "not-set"


class NothingLeft(UserError):
    """There is nothing to work on: no recordings, no samples, no species, or none that can be used."""

    code = "nothing-left"


class Unsupported(UserError):
    """What is asked for cannot be done: not in this format, by this method, or with what is installed."""

    code = "unsupported"


class InUse(UserError):
    """Another process is at work on it."""

    code = "in-use"


class DiskFull(UserError):
    """No room is left to write."""

    code = "disk-full"


# What commands a terminal, or turns the direction of the text around it.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def shown(text: str) -> str:
    """Text for a terminal: names in it may be somebody else's, and none of them may command it."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?", ":")) else text + "."


# So many names, and so many characters of them, are still read at a glance.
_FEW, _GLANCE = 8, 160
_LONGEST_NAME = 60
_CLOSE = 0.5


def unknown_name(
    kind: str,
    name: str,
    valid: Iterable[str],
    more_hint: str = "",
    whole: str = "",
    meant: Sequence[str] = (),
) -> UnknownName:
    """The error for a name that is not among the valid ones.

    It lists them where they are few; of many it names the nearest three, and `whole` says where the whole
    list is (a command or a file). `meant` are valid names that are known to be called so elsewhere.
    """
    names = sorted({str(v) for v in valid})
    near = list(dict.fromkeys([*meant, *nearest(name, names)]))[:3]
    close = meant or (near and likeness(name, near[0]) >= _CLOSE)
    hint = f"Did you mean '{clipped(near[0])}'?" if close else ""
    if _at_a_glance(names):
        rule = f"valid: {', '.join(names) or '(there are none)'}"
    else:
        rule = f"the nearest of {len(names)}: {', '.join(map(clipped, near))}"
        rule += f"; all of them: {whole}" if whole else ""
    return UnknownName(
        f"unknown {kind} '{clipped(name)}'", rule, " ".join(part for part in (hint, more_hint) if part)
    )


def listed_names(names: Iterable[str], near: str = "") -> str:
    """Names for a message: all of them where they are few, else three, the nearest to `near` first, and how
    many more there are; "(none)" without any."""
    listed = [str(name) for name in names]
    if _at_a_glance(listed):
        return ", ".join(listed) or "(none)"
    first = nearest(near, listed) if near else listed[:3]
    more = f" and {len(listed) - len(first)} more" if len(listed) > len(first) else ""
    return ", ".join(map(clipped, first)) + more


def nearest(name: str, names: Iterable[str], count: int = 3) -> list[str]:
    """The `count` names most like `name`, the nearest first."""
    return sorted(names, key=lambda other: -likeness(name, other))[:count]


def likeness(name: str, other: str) -> float:
    """From 0 to 1: how likely `other` is what was meant by `name`.

    Compared as a whole, by the part behind the last dot (`learning_rate` for `optim.learning_rate`), by its
    initials (`lr`), and by whole words that both have (`batch_size` and `global_batch`).
    """
    mine, theirs = _plain(name), _plain(other)
    if mine == theirs:
        return 1.0
    whole = _ratio(mine, theirs)
    last, other_last = mine.rpartition(".")[2], theirs.rpartition(".")[2]
    words, other_words = last.split("_"), other_last.split("_")
    tail = _ratio(last, other_last)
    if last and last == "".join(word[:1] for word in other_words) and len(other_words) > 1:
        tail = 0.95
    elif len(last) > 2 and other_last.startswith(last):
        tail = max(tail, 0.8)
    shared = {word for word in words if len(word) > 2} & set(other_words)
    by_word = 0.5 + 0.8 * len(shared) / (len(words) + len(other_words)) if shared else 0.0
    # The same section weighs a little, so that of two equal ends the one beside the typed one comes first.
    section = 0.02 * _ratio(mine.rpartition(".")[0], theirs.rpartition(".")[0])
    return min(0.99, max(whole, 0.95 * tail, by_word) + section)


def clipped(text: object, most: int = _LONGEST_NAME) -> str:
    """A name on one line, its middle left out where it is long."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most - most // 2 - 1]}…{line[-(most // 2) :]}"


def _at_a_glance(names: Sequence[str]) -> bool:
    return len(names) <= _FEW and sum(map(len, names)) <= _GLANCE


def _plain(text: str) -> str:
    return str(text).casefold().replace("-", "_").strip()


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
