"""The share of one task of a job array: `part=i/n` is the i-th of n, counted from 0."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from birdsd.errors import BadValue

T = TypeVar("T")


@dataclass(frozen=True)
class ArrayShare:
    """One of `count` tasks that split a job without communicating."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.index < self.count:
            raise BadValue(
                f"part={self}",
                "a part is i/n, with i from 0 to n - 1",
                f"the first is part=0/{max(1, self.count)}",
            )

    @classmethod
    def parse(cls, text: str) -> ArrayShare:
        """Read "2/8", the third of eight; anything else is a `UserError`."""
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text)
        if match is None:
            raise BadValue(f"part={text!r}", "a part is i/n, with i from 0 to n - 1", "e.g. part=0/8")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def is_whole(self) -> bool:
        """Whether this is the only share."""
        return self.count == 1

    def share(self, items: Sequence[T]) -> list[T]:
        """This share's items: every n-th. The shares are disjoint, complete, and differ by at most one in
        length, provided that every task passes the same list."""
        return list(items[self.index :: self.count])
