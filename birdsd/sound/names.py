"""What a label says: one or more species, no bird at all, or a bird that nobody identified.

Every entrance (folder names, cells of tables, boxes, metadata) goes through `read_names`, and species are
compared by `species_key`, so that one species has one name however it was typed.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from birdsd.sound.wordlists import NO_BIRD, NOISE_HEADS, SOUND_TYPES, UNKNOWN, UNKNOWN_FIRST, UNKNOWN_LAST

_LONGEST_NAME = 120
# Same-length replacements, so that positions in a prompt stay what they are.
TYPOGRAPHIC = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201b\u02bc\u02b9\u2032\u00b4`\uff07", "'")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d", "-")
    | dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb\uff02", '"')
    | dict.fromkeys("\u00a0\u2007\u2009\u202f", " ")
)

_NOT_GIVEN = frozenset({"", "nan", "na", "n/a", "none", "null", "<na>", "nat", "-", "--"})
_BIRDNET = re.compile(r"([A-Z][a-z-]+ [a-z][a-z -]*)_(.+)")
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
    text = "".join(
        c if unicodedata.category(c)[0] != "C" else " " for c in unicodedata.normalize("NFC", text)
    )
    return " ".join(text.split())[:_LONGEST_NAME]


def tidy_name(name: str) -> str:
    """A species as it is shown: 'black_phoebe' -> 'Black Phoebe', 'cassin_s_finch' -> "Cassin's Finch",
    'Sayornis nigricans_Black Phoebe' (BirdNET's label) -> 'Black Phoebe'. Names with capitals keep them."""
    name = clean_name(name.translate(TYPOGRAPHIC))
    if match := _BIRDNET.fullmatch(name):
        name = match[2]
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
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return "".join(c for c in plain.casefold() if c.isalnum()) or name


def read_names(text: str, *, folder: bool = False, no_bird: Iterable[str] = ()) -> Names:
    """Read a cell or a folder's name. A list (`A;B`, `A|B`, `['A', 'B']`, `A, B`) holds several labels.

    folder: a comma always separates (BirdNET's convention). no_bird: further names, as the user lists them,
    that mean that there is no bird.
    """
    extra = frozenset(map(_folded, no_bird))
    parts, remark = split_cell(text, commas=folder)
    found: dict[str, dict[str, None]] = {
        kind: {} for kind in ("species", "no_bird", "unknown", "sound_types")
    }
    scientific: dict[tuple[str, str], None] = {}
    for part in parts:
        kind = _kind(part, extra)
        if kind:
            found[kind][tidy_name(part) if kind == "species" else clean_name(part)] = None
        if kind == "species" and (match := _BIRDNET.fullmatch(clean_name(part))):
            scientific[clean_name(match[1]), tidy_name(part)] = None
    return Names(
        **{kind: tuple(names) for kind, names in found.items()},
        scientific=tuple(scientific),
        remarks=(remark,) if remark else (),
    )


def is_no_bird(name: str) -> bool:
    """Whether a label or folder name means that there is no bird."""
    return _kind(name, frozenset()) == "no_bird"


def split_cell(text: str, *, commas: bool = False) -> tuple[list[str], str]:
    """The entries of a cell that may hold a list written as text; a remark where a comma has two readings.

    >>> split_cell("['song', 'call']")[0]
    ['song', 'call']
    """
    text = "".join(c if c in "\r\n\t" or unicodedata.category(c)[0] != "C" else " " for c in text).strip()
    if (
        len(text) > 1
        and text[0] + text[-1] in {"[]", "()", "{}"}
        and (text[0] != "(" or "'" in text or '"' in text)
    ):
        return _literal(text), ""
    signs = r"[;|]" if commas else r"[;|\r\n\t]| [+&] "
    parts = [part for part in re.split(signs, text) if part.strip()]
    if len(parts) > 1 or "," not in text:
        return [part.strip() for part in parts], ""
    text = parts[0]
    parts = [part.strip() for part in text.split(",") if part.strip()]
    # 'Sparrow, House' is one bird whose name was turned round; 'House Sparrow, Black Phoebe' are two.
    several = all(
        re.search(r"\S[\s_]+\S", part) or re.fullmatch(r"[A-Z]{4}|[a-z]{5,6}\d?", part) for part in parts
    )
    several = (
        several or any(_kind(part, frozenset()) not in ("species", "") for part in parts) or len(parts) > 2
    )
    if commas or several or len(parts) < 2:
        return parts, ""
    return [text], f"'{clean_name(text)}' is read as one name; write 'A;B' for two species"


def read_types(text: str) -> str:
    """Sound types as one string, separated by commas, without those that somebody doubted ('call?')."""
    parts = [part for whole in split_cell(text, commas=True)[0] for part in whole.split(",")]
    known = [
        clean_name(part) for part in parts if "?" not in part and part.strip().casefold() not in _NOT_GIVEN
    ]
    return ", ".join(dict.fromkeys(part for part in known if part and part.casefold() != "uncertain"))


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


def _folded(name: str) -> str:
    return " ".join(re.sub(r"[_\-.()\[\]]+", " ", clean_name(name.translate(TYPOGRAPHIC))).casefold().split())


def _kind(part: str, extra: frozenset[str]) -> str:
    """'species', 'no_bird', 'unknown', 'sound_types', or '' where nothing is said."""
    part = clean_name(part).strip("\"'")
    folded = _folded(part)
    if folded in extra:
        return "no_bird"
    if "?" in part:
        return "unknown"
    if part.casefold() in _NOT_GIVEN or not any(c.isalnum() for c in part):
        return ""
    words = folded.split()
    if folded in NO_BIRD or words[-1] in NOISE_HEADS or words[0] == "human":
        return "no_bird"
    if folded in SOUND_TYPES:
        return "sound_types"
    # A code in capitals ('SP', 'UNK') is somebody's code only where it is not one of these words in full.
    if folded in UNKNOWN and not (part.isupper() and folded in {"sp", "spp"}):
        return "unknown"
    if len(words) > 1 and (words[0] in UNKNOWN_FIRST or words[-1] in UNKNOWN_LAST or "/" in part):
        return "unknown"
    return "species"
