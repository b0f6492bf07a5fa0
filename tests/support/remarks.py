"""Which remarks there are, whatever their words."""

from __future__ import annotations

from collections.abc import Iterable

from birdsd.remarks import Remark


def codes(remarks: Iterable[str]) -> list[str]:
    """The kinds of those that have one, in their order."""
    return [one.code for one in remarks if isinstance(one, Remark)]


def remarked(remarks: Iterable[str], code: str) -> Remark:
    """The one remark of this kind; fails where there is none, or more than one."""
    remarks = list(remarks)
    found = [one for one in remarks if isinstance(one, Remark) and one.code == code]
    assert len(found) == 1, (
        f"{len(found)} remarks {code!r} among {[getattr(one, 'code', one) for one in remarks]}"
    )
    return found[0]
