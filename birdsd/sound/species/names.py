"""What a label says: one or more species, no bird at all, or a bird that nobody identified.

Every entrance (folder names, cells of tables, boxes, metadata) goes through `read_names`, and species are
compared by `species_key`, so that one species has one name however it was typed.
"""

from __future__ import annotations

import ast
import html
import re
import unicodedata
from dataclasses import dataclass

from birdsd.sound.species.kinds import NOT_GIVEN, TYPOGRAPHIC, folded, is_sound_type, kind_of
from birdsd.sound.species.wordlists import QUALIFIERS

_LONGEST_NAME = 120
_LATIN = r"[A-Z][a-z-]+ [a-z][a-z-]+(?: [a-z][a-z-]+)?"
_BIRDNET = re.compile(rf"({_LATIN})_(.+)|(?P<same>.+)_(?P=same)")
_WITH_LATIN = re.compile(rf"(.+?) ?\(({_LATIN})\)")
_WITH_COMMON = re.compile(rf"({_LATIN}) ?\(([A-Z][^()]+)\)")
_WITH_TYPE = re.compile(r"(\S.*?)(?:_| ?\()([A-Za-z][A-Za-z _]*?\d*)\)?")
_PAIR = re.compile(rf"({_LATIN}), ?(\S.*)")  # as BirdNET-Analyzer writes its labels for Audacity
_LISTED = re.compile(r"'((?:[^'\\]|\\.|'(?=\w))*)'|\"((?:[^\"\\]|\\.)*)\"")


@dataclass(frozen=True)
class Names:
    """The reading of one cell or folder name. All empty: it says nothing about birds."""

    species: tuple[str, ...] = ()
    no_bird: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    sound_types: tuple[str, ...] = ()  # 'song' where a species was expected
    scientific: tuple[tuple[str, str], ...] = ()  # (scientific, common) that BirdNET's labels give together
    remarks: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many labels it holds."""
        return len(self.species) + len(self.no_bird) + len(self.unknown)


NOTHING = Names()


def clean_name(text: str) -> str:
    """A label as it is kept: one line, no control characters, composed Unicode, at most 120 characters."""
    if not (text.isascii() and text.isprintable()):  # most are, and have none of either
        text = "".join(
            c if unicodedata.category(c)[0] != "C" else " " for c in unicodedata.normalize("NFC", text)
        )
    return " ".join(text.split())[:_LONGEST_NAME]


def tidy_name(name: str) -> str:
    """A species as it is shown: 'black_phoebe' -> 'Black Phoebe', 'cassin_s_finch' -> "Cassin's Finch",
    'Sayornis nigricans_Black Phoebe' (BirdNET's label) -> 'Black Phoebe'. Names with capitals keep them."""
    name = _taken_apart(clean_name(name.translate(TYPOGRAPHIC)))[1]
    name = re.sub(r"(?<=[^\W\d_])_s(?=_|$)", "'s", name)
    name = clean_name(name.replace("_", " ")).strip("\"' ,;|")
    if name == name.lower():
        name = " ".join(word[:1].upper() + word[1:] for word in name.split())
    return name


def species_key(name: str) -> str:
    """What decides whether two names are the same species: letters and digits only, without case and accents.

    'Townsend's Warbler', 'townsend_s_warbler', 'TOWNSENDS WARBLER' and BirdNET's 'Setophaga townsendi_...'
    share a key.
    """
    name = tidy_name(name)
    letters = []
    for c in unicodedata.normalize("NFC", name):
        # Accents of our scripts may be lost on the way; in others such marks make another letter.
        ours = unicodedata.name(c, "").startswith(("LATIN", "GREEK", "CYRILLIC"))
        letters.append(unicodedata.normalize("NFKD", c)[0] if ours else c)
    plain = "".join(letters).casefold()
    return "".join(c for c in plain if c.isalnum() or unicodedata.category(c)[0] == "M") or name


def _taken_apart(name: str) -> tuple[str, str, str]:
    """(scientific name, name, sound type) of a label that holds several of them; '' for those it lacks."""
    if match := _BIRDNET.fullmatch(name):
        first, second = match[1] or match["same"], match[2] or match["same"]
        plain = folded(second)
        if is_sound_type(plain):
            return "", first, re.sub(r"[\s\d]+$", "", plain)
        if plain in QUALIFIERS or any(c.isdigit() for c in plain):
            return "", first, ""
        return (first if first != second else ""), second, ""
    if match := _WITH_LATIN.fullmatch(name):
        return match[2], match[1], ""
    if (match := _WITH_COMMON.fullmatch(name)) and not is_sound_type(folded(match[2])):
        return match[1], match[2], ""
    if (match := _WITH_TYPE.fullmatch(name)) and is_sound_type(folded(match[2])):
        return "", match[1], re.sub(r"[\s\d]+$", "", folded(match[2]))
    return "", name, ""


def read_names(text: str, *, folder: bool = False) -> Names:
    """Read a cell or a folder's name. A list (`A;B`, `A|B`, `['A', 'B']`, `A, B`) holds several labels.

    folder: a comma always separates (BirdNET's convention).
    """
    parts, remark = split_cell(text, commas=folder)
    found: dict[str, dict[str, None]] = {
        kind: {} for kind in ("species", "no_bird", "unknown", "sound_types")
    }
    scientific: dict[tuple[str, str], None] = {}
    for part in parts:
        latin, name, sound_type = _taken_apart(clean_name(part.translate(TYPOGRAPHIC)))
        kind = kind_of(name)
        shown = tidy_name(part)
        if kind == "species":  # by the name that is kept: '_0' is shown as '0', and that is a mark
            kind = kind_of(shown)
        if kind:
            found[kind][shown if kind == "species" else clean_name(part)] = None
        if kind == "species" and latin:
            scientific[latin, shown] = None
        if kind == "species" and sound_type:
            found["sound_types"][sound_type] = None
    return Names(
        **{kind: tuple(names) for kind, names in found.items()},
        scientific=tuple(scientific),
        remarks=(remark,) if remark else (),
    )


def split_cell(text: str, *, commas: bool = False) -> tuple[list[str], str]:
    """The entries of a cell that may hold a list written as text; a remark where a comma has two readings.

    >>> split_cell("['song', 'call']")[0]
    ['song', 'call']
    """
    text = (html.unescape(text) if "&" in text else text).translate(TYPOGRAPHIC)
    text = "".join(c if c in "\r\n\t" or unicodedata.category(c)[0] != "C" else " " for c in text).strip()
    if (pair := _PAIR.fullmatch(text)) and not re.fullmatch(_LATIN, pair[2]):
        return [f"{pair[1]}_{pair[2]}"], ""
    if (
        len(text) > 1
        and text[0] + text[-1] in {"[]", "()", "{}"}
        and (text[0] != "(" or "'" in text or '"' in text)
    ):
        return _literal(text), ""
    signs = r"[;|]| [+&] " if commas else r"[;|\r\n\t]| [+&] "
    whole, remarks = [part.strip() for part in re.split(signs, text) if part.strip()], []
    parts: list[str] = []
    for part in whole:
        several, remark = _by_commas(part, commas)
        parts += several
        remarks += [remark] if remark and len(whole) == 1 else []
    return parts, "".join(remarks)


def _by_commas(text: str, always: bool) -> tuple[list[str], str]:
    """The entries between commas, or the whole; a remark where both readings make sense."""
    if "," not in text:
        return [text], ""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    # 'Sparrow, House' is one bird whose name was turned round; 'House Sparrow, Black Phoebe' are two.
    several = all(
        re.search(r"\S[\s_]+\S", part) or re.fullmatch(r"[A-Z]{4}|[A-Z]{6}|[a-z]{5,6}\d?", part)
        for part in parts
    )
    several = several or any(kind_of(part) not in ("species", "") for part in parts) or len(parts) > 2
    if always or several or len(parts) < 2:
        return parts, ""
    return [text], f"'{clean_name(text)}' is read as one name; write 'A;B' for two species"


def read_types(text: str) -> str:
    """Sound types as one string, separated by commas, without those that somebody doubted ('call?')."""
    parts = [part for whole in split_cell(text, commas=True)[0] for part in whole.split(",")]
    known = [
        clean_name(part) for part in parts if "?" not in part and part.strip().casefold() not in NOT_GIVEN
    ]
    return ", ".join(dict.fromkeys(part for part in known if part and part.casefold() != "uncertain"))


def read_environment(text: str) -> str:
    """An environment's name; of several in a cell, all: 'rain;wind' -> 'rain and wind'."""
    parts = [clean_name(part) for part in split_cell(text, commas=True)[0]]
    known = [part for part in parts if part.casefold() not in NOT_GIVEN and any(c.isalnum() for c in part)]
    return " and ".join(dict.fromkeys(known))


def _literal(text: str) -> list[str]:
    try:
        # numpy writes no commas, and Python would join two neighbours into one string
        value = None if re.search(r"['\"]\s+['\"]", text) else ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if value is None:
        quoted = [a or b for a, b in _LISTED.findall(text)]
        return [part.strip() for part in (quoted or re.split(r"[,;|]", text[1:-1])) if part.strip()]
    if isinstance(value, dict):
        value = list(value)
    items = value if isinstance(value, (list, tuple, set, frozenset)) else [value]
    return sorted(map(str, items)) if isinstance(items, (set, frozenset)) else [str(item) for item in items]
