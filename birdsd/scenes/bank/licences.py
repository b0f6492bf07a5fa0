"""The licence of a mix: the strictest of its parts; some cannot be joined at all."""

from __future__ import annotations

import re
from collections.abc import Iterable

from birdsd.errors import Mismatch, Unsupported

OPEN = ("CC0", "PUBLIC DOMAIN", "PDM")


def licence_of(parts: Iterable[str]) -> str:
    """Of everything that is mixed: "" where nothing is known of any.

    A share-alike licence demands itself of the mix: BY-SA and BY-NC-SA exclude each other. Raises `Mismatch`
    for those, and `Unsupported` for a licence that forbids derivatives.
    """
    known = sorted({one.strip() for text in parts for one in text.split(";") if one.strip()})
    kinds = {name: _elements(name) for name in known}
    for name, elements in kinds.items():
        if "ND" in elements:
            raise Unsupported(
                f"a part of the mix is under {name}", "a mix is a derivative, which that licence forbids",
                "leave this recording out",
            )  # fmt: skip
    alike = [name for name, elements in kinds.items() if "SA" in elements]
    if len({"NC" in kinds[name] for name in alike}) > 1:
        raise Mismatch(
            f"parts of the mix are under {' and '.join(alike)}",
            "each demands that the mix be under itself",
            "leave one of them out of the bank or the pool",
        )
    strict = [name for name in known if kinds[name]]
    if not strict:
        return "; ".join(known)
    nc = any("NC" in elements for elements in kinds.values())
    if alike and nc and "NC" not in kinds[alike[0]]:
        other = next(name for name in strict if "NC" in kinds[name])
        raise Mismatch(
            f"parts of the mix are under {alike[0]} and {other}",
            "the first allows everyone to sell the mix, the second nobody",
            "leave one of them out of the bank or the pool",
        )
    return max(strict, key=lambda name: (len(kinds[name]), _version(name), name))


def _elements(name: str) -> frozenset[str]:
    words = re.findall(r"[A-Z0-9]+", name.upper())
    if any(one in name.upper() for one in OPEN):
        return frozenset()
    return frozenset({"BY", "NC", "SA", "ND"} & set(words))


def _version(name: str) -> float:
    found = re.search(r"\d\.\d", name)
    return float(found[0]) if found else 0.0
