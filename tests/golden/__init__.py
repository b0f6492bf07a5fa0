"""Pins: what must stay the same while files move and words change. One JSON file a kind, in this folder.

`python -m tests.golden` writes all of them anew, `python -m tests.golden signatures keys` those kinds.
Refreshing is legitimate only where a change of behaviour is intended: a new job, key, preset or field adds
lines; a line that *changes* or *goes* means that runs, scripts or stored files of before no longer mean what
they meant. Say in the commit which lines changed and why. A refactoring refreshes nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
# As close as the same arithmetic comes on another processor or with another release of torch.
RELATIVE_TOLERANCE = 1e-3
_MOST_LINES = 40
# Objects by phase of a run: which phases there are depends on how fast the machine is.
_OPEN = ("seconds",)


def read(kind: str) -> Any:
    """The stored pin."""
    return json.loads((FOLDER / f"{kind}.json").read_text(encoding="utf-8"))


def write(kind: str, value: dict[str, Any]) -> Path:
    """Store a pin, each entry on a line of its own, so that a diff shows what changed."""
    lines = [f"{json.dumps(key)}: {json.dumps(value[key], sort_keys=True)}" for key in sorted(value)]
    path = FOLDER / f"{kind}.json"
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return path


def plain(value: Any) -> Any:
    """As it comes back from a file."""
    return json.loads(json.dumps(value))


def shape_of(value: Any, is_open: bool = False) -> Any:
    """Keys and types of a JSON value. The elements of a list are one shape, and so are the values of an
    object whose keys are data (numbers, paths, names that hold a dot or a slash, or phases: `is_open`)."""
    if isinstance(value, dict):
        if value and (is_open or all(_is_data(key) for key in value)):
            return {"*": _together([shape_of(one) for one in value.values()])}
        return {str(key): shape_of(one, key in _OPEN) for key, one in sorted(value.items())}
    if isinstance(value, list):
        return [_together([shape_of(one) for one in value])] if value else []
    if value is None or isinstance(value, bool):
        return "null" if value is None else "bool"
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def _is_data(key: Any) -> bool:
    return not isinstance(key, str) or key.isdigit() or "/" in key or "." in key


def _together(shapes: list[Any]) -> Any:
    """One shape for all: of objects every key that one of them has (`key?` where not all do)."""
    if all(isinstance(one, dict) for one in shapes):
        names = sorted({name.rstrip("?") for one in shapes for name in one})
        found = {}
        for name in names:
            held = [one[key] for one in shapes for key in (name, f"{name}?") if key in one]
            everywhere = name == "*" or all(name in one for one in shapes)
            found[name if everywhere else f"{name}?"] = _together(held)
        return found
    if all(isinstance(one, list) for one in shapes):
        inner = [element for one in shapes for element in one]
        return [_together(inner)] if inner else []
    different = [one for number, one in enumerate(shapes) if one not in shapes[:number]]
    if len(different) == 1:
        return different[0]
    if all(isinstance(one, str) for one in different):
        return "|".join(sorted({word for one in different for word in one.split("|")}))
    return {"one of": sorted(different, key=str)}


def differences(pinned: Any, found: Any, place: str = "") -> list[str]:
    """A line for each place in which two values differ; floats may by `RELATIVE_TOLERANCE`."""
    if isinstance(pinned, dict) and isinstance(found, dict):
        lines = []
        for key in sorted(pinned.keys() | found.keys()):
            inner = f"{place} > {key}" if place else key
            if key not in found:
                lines.append(f"gone     {inner}: {_short(pinned[key])}")
            elif key not in pinned:
                lines.append(f"new      {inner}: {_short(found[key])}")
            else:
                lines += differences(pinned[key], found[key], inner)
        return lines
    if isinstance(pinned, list) and isinstance(found, list) and len(pinned) == len(found):
        pairs = enumerate(zip(pinned, found, strict=True))
        return [line for n, (one, two) in pairs for line in differences(one, two, f"{place}[{n}]")]
    if isinstance(pinned, float) and isinstance(found, float):
        if abs(pinned - found) <= RELATIVE_TOLERANCE * abs(pinned):
            return []
    elif pinned == found and type(pinned) is type(found):
        return []
    return [f"changed  {place}: {_short(pinned)} -> {_short(found)}"]


def _short(value: Any, most: int = 160) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= most else f"{text[:most]}..."


def explained(kind: str, lines: list[str]) -> str:
    """What a test that found differences says."""
    shown = "\n  ".join(lines[:_MOST_LINES])
    more = f"\n  and {len(lines) - _MOST_LINES} more" if len(lines) > _MOST_LINES else ""
    return (
        f"tests/golden/{kind}.json does not hold any more:\n  {shown}{more}\n"
        f"If this change is meant (new keys, presets or fields; never in a refactoring), refresh it with "
        f"`python -m tests.golden {kind}`, look at the diff, and say in the commit why. A signature that "
        "changed means that runs of before are not found again; a key that is gone, that scripts break."
    )
