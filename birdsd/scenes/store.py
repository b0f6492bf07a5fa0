"""Scenes as files: YAML, which shows how they are built, and CSV, a row an event, for spreadsheets.

Both hold the same, and reading what was written gives the same scene. A field that is left out has its
default, one that nobody knows is an error with the nearest name.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Any

from birdsd import yamltext
from birdsd.errors import BadValue, Damaged, NotFound, Unsupported, clipped, unknown_name
from birdsd.files import write_text
from birdsd.scenes import loudness
from birdsd.scenes.checks import checked
from birdsd.scenes.scene import DEFAULT_SNR_DB, Background, Event, Scene
from birdsd.scenes.vocabulary import Vocabulary
from birdsd.sound.labels.annotation import read_text
from birdsd.sound.labels.sheets import separated

FORMAT = "birdsd-scene/1"
_LARGEST_BYTES = 20_000_000
_DEEPEST = 20
_OF_SCENE = {one.name: one for one in fields(Scene) if one.name not in ("events", "backgrounds")}
_OF_EVENT = {one.name: one for one in fields(Event)}
_OF_BACKGROUND = {one.name: one for one in fields(Background)}
_ROLES = {"scene": _OF_SCENE, "background": _OF_BACKGROUND, "event": _OF_EVENT}
_CLOCK = re.compile(r"(?:(\d+):)?([0-5]?\d):([0-5]\d(?:\.\d+)?)")


def read_scene(path: Path, vocabulary: Vocabulary | None = None) -> Scene:
    """A scene from a .yaml or .csv file, checked; with a vocabulary its names too. `UserError` says what is
    wrong and in which event."""
    path = Path(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return checked(from_csv(path), vocabulary)
    if path.suffix.lower() in (".yaml", ".yml"):
        return checked(from_yaml(_text(path), str(path)), vocabulary)
    raise BadValue(f"{path} is no scene", "a scene is a .yaml or a .csv file")


def write_scene(path: Path, scene: Scene) -> Path:
    """Write a scene atomically, as the suffix says: .yaml or .csv; returns the path."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".yaml", ".yml", ".csv"):
        raise BadValue(f"{path} is no name for a scene", "it ends in .yaml or .csv")
    write_text(Path(path), to_csv(scene) if suffix == ".csv" else to_yaml(scene))
    return Path(path)


# ------------------------------------------------------------------------------------------- YAML


def to_yaml(scene: Scene) -> str:
    """A scene as YAML: only what differs from the defaults, and always its seed."""
    lines = [f"format: {FORMAT}", f"seed: {scene.seed}"]
    lines += [
        f"{name}: {yamltext.flow(value)}" for name, value in _told(scene, _OF_SCENE).items() if name != "seed"
    ]
    for title, items, known in (
        ("backgrounds", scene.backgrounds, _OF_BACKGROUND), ("events", scene.events, _OF_EVENT),
    ):  # fmt: skip
        lines += [f"{title}:"] if items else []
        for item in items:
            rows = [f"{name}: {yamltext.flow(value)}" for name, value in _told(item, known).items()]
            lines += [f"  - {rows[0]}", *(f"    {row}" for row in rows[1:])]
    return "\n".join(lines) + "\n"


def from_yaml(text: str, place: str = "the scene") -> Scene:
    """A scene from YAML, not checked yet but for its types."""
    document = load_document(text, place)
    if document.pop("format", FORMAT) != FORMAT:
        raise Unsupported(f"{place} is of another format", f"this version reads {FORMAT}")
    backgrounds = _items(document.pop("backgrounds", None), "backgrounds", place)
    events = _items(document.pop("events", None), "events", place)
    return _scene(document, backgrounds, events, place)


def load_document(text: str, place: str) -> dict[str, Any]:
    """A YAML document of fields, its values as YAML 1.2 has them. References are refused, since a few lines
    of them can stand for gigabytes, and so is deep nesting, which takes the parser minutes."""
    import yaml

    try:
        _check_events(yaml.parse(text, Loader=yaml.SafeLoader), place)
        document = yamltext.typed(yamltext.load(text))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problem = getattr(error, "problem", None) or type(error).__name__
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise Damaged(f"{place}{line} is no YAML: {problem}") from error
    if not isinstance(document, dict):
        raise BadValue(f"{place} holds no fields", "it is a YAML file of key: value lines")
    return document


def _check_events(events: Iterable[Any], place: str) -> None:
    """Stops at the first event that a scene never has; the parser has then read no further."""
    import yaml

    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise Unsupported(f"{place} refers to another place by *name", "every value is written out")
        if depth > _DEEPEST:
            raise BadValue(
                f"{place} is no YAML of ours: lists stand {depth} deep in each other", "3 are enough"
            )


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise BadValue(f"{path} has {path.stat().st_size / 1e6:.0f} MB", "no scene is as large as that")
    except OSError as error:
        kind = NotFound if isinstance(error, FileNotFoundError) else Damaged
        raise kind(f"cannot read {path}: {error.strerror}") from error
    return read_text(path)


def _items(value: Any, title: str, place: str) -> list[Mapping[str, Any]]:
    items = [] if value is None else value
    if not isinstance(items, list) or not all(isinstance(one, dict) for one in items):
        raise BadValue(
            f"{title} of {place} is no list of fields",
            f"write each of them as '- species: ...' below '{title}:'",
        )
    return items


# -------------------------------------------------------------------------------------------- CSV


def to_csv(scene: Scene) -> str:
    """A scene as CSV: a row for the scene, one for each background and each event. Ranges are written
    'low..high', several ids with blanks between them."""
    rows = [{"role": "scene", **_told(scene, _OF_SCENE), "seed": scene.seed}]
    rows += [{"role": "background", **_told(one, _OF_BACKGROUND)} for one in scene.backgrounds]
    rows += [{"role": "event", **_told(one, _OF_EVENT)} for one in scene.events]
    order = ["role", *_OF_EVENT, *_OF_BACKGROUND, *_OF_SCENE]
    used = [name for name in dict.fromkeys(order) if any(name in row for row in rows)]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, used, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return stream.getvalue()


def from_csv(path: Path) -> Scene:
    """A scene from CSV, not checked yet but for its types. Without a column 'role' every row is an event."""
    sheet = separated(_text(path), path)
    known = {"role", *_OF_EVENT, *_OF_BACKGROUND, *_OF_SCENE}
    for name in sheet.header:
        if name not in known:
            raise unknown_name(f"column of {path}", name, known)
    held: dict[str, list[dict[str, Any]]] = {role: [] for role in _ROLES}
    for number, cells in sheet.rows:
        row = {name: cell for name, cell in zip(sheet.header, cells, strict=False) if cell != ""}
        role = row.pop("role", "event")
        if role not in _ROLES:
            raise unknown_name(f"role in row {number} of {path}", role, _ROLES)
        held[role].append({name: _value(name, cell, _ROLES[role]) for name, cell in row.items()})
    if len(held["scene"]) > 1:
        raise BadValue(f"{path} has {len(held['scene'])} rows with role scene", "one at most is possible")
    frame = held["scene"][0] if held["scene"] else {}
    return _scene(frame, held["background"], held["event"], str(path))


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        texts = [repr(one) if isinstance(one, float) else str(one) for one in value]
        if any(" " in text for text in texts):
            return " | ".join(texts)  # sentences
        return " ".join(texts) if any(isinstance(one, str) for one in value) else "..".join(texts)
    return repr(value) if isinstance(value, float) else str(value)


def _value(name: str, cell: str, known: Mapping[str, Field[Any]]) -> Any:
    """A cell as YAML would have it."""
    kind = str(known[name].type) if name in known else "str"
    if kind.startswith("Span") and ".." in cell:
        return [yamltext.typed(yamltext.Plain(part)) for part in cell.split("..")]
    if kind.startswith("tuple"):
        return cell.split(" | ") if name == "assumptions" else cell.split()
    return cell if kind == "str" else yamltext.typed(yamltext.Plain(cell))


# ------------------------------------------------------------------------------------ either way


def _told(item: Any, known: Mapping[str, Field[Any]]) -> dict[str, Any]:
    """The fields that differ from their defaults; a range of one number as that number."""
    found: dict[str, Any] = {}
    for name, one in known.items():
        value = getattr(item, name)
        if one.default is not MISSING and value == one.default:
            continue
        if str(one.type).startswith("Span") and value is not None and value[0] == value[1]:
            value = value[0]
        found[name] = list(value) if isinstance(value, tuple) else value
    return found


def _scene(
    told: Mapping[str, Any],
    backgrounds: Iterable[Mapping[str, Any]],
    events: Iterable[Mapping[str, Any]],
    place: str,
) -> Scene:
    scene = Scene(**_fields(told, _OF_SCENE, place))
    made = [
        Background(**_fields(one, _OF_BACKGROUND, f"background {n}", ("environment",)))
        for n, one in enumerate(backgrounds)
    ]
    sung = []
    for number, one in enumerate(events):
        named = f"event {clipped(one.get('id', f'e{number}'))}"
        values = _fields({"id": f"e{number}", **one}, _OF_EVENT, named, ("species",))
        if values.get("snr_db") is None and values.get("level_db") is None:
            # As prose has it: against a background where there is one.
            values |= {"snr_db": DEFAULT_SNR_DB} if made else {"level_db": loudness.EVENT_DB[""]}
        sung.append(Event(**values))
    return replace(scene, backgrounds=tuple(made), events=tuple(sung))


def _fields(
    told: Mapping[str, Any], known: Mapping[str, Field[Any]], place: str, needed: Iterable[str] = ()
) -> dict[str, Any]:
    found = {}
    for name, value in told.items():
        if name not in known:
            raise unknown_name(f"field of {place}", name, known)
        if value is None:
            continue
        found[name] = _typed(str(known[name].type), name, value, place)
    for name in needed:
        if name not in found and found.get("source") != "none":
            raise NotFound(f"{place} has no {name}", "it cannot do without")
    if "environment" in known:
        found.setdefault("environment", "")
    return found


def _typed(kind: str, name: str, value: Any, place: str) -> Any:
    kind = kind.removesuffix(" | None")
    if kind == "str":
        if isinstance(value, (dict, list, bool)):
            raise BadValue(f"{place}: {name} is {clipped(value)}", "a text is expected")
        return str(value)
    if kind.startswith("tuple"):
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) for one in items):
            raise BadValue(f"{place}: {name} is {clipped(value)}", "one text or a list of them is expected")
        return tuple(items)
    if kind == "bool":
        if not isinstance(value, bool):
            raise BadValue(f"{place}: {name} is {clipped(value)}", "true or false is expected")
        return value
    if kind == "Span":
        ends = value if isinstance(value, list) else [value, value]
        if len(ends) != 2:
            raise BadValue(f"{place}: {name} is {clipped(value)}", "a number, or a list of two, is expected")
        return tuple(number(one, name, place) for one in ends)
    value = number(value, name, place)
    if kind == "int":
        if value != value or value in (float("inf"), float("-inf")) or value != int(value):
            raise BadValue(f"{place}: {name} is {clipped(value)}", "a whole number is expected")
        return int(value)
    return value


def number(value: Any, name: str, place: str) -> float:
    """A number; of seconds also as a clock shows them, '1:02.5'."""
    if isinstance(value, str) and name.endswith("_s") and (match := _CLOCK.fullmatch(value.strip())):
        return 3600 * float(match[1] or 0) + 60 * float(match[2]) + float(match[3])
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadValue(f"{place}: {name} is {clipped(value)}", "a number with a decimal point is expected")
    # A seed beyond 2^53 is no longer what it was as a float.
    return value if isinstance(value, int) and name == "seed" else float(value)
