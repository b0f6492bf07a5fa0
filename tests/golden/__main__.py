"""`python -m tests.golden [KIND...]` writes pins anew; see the package's docstring for when that is right."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.golden import differences, plain, read, write
from tests.golden.makers import KINDS, surroundings


def main(kinds: list[str]) -> int:
    unknown = set(kinds) - set(KINDS)
    if unknown:
        print(f"no such kind: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="birdsd-golden-") as name, surroundings(Path(name)):
        for kind in kinds or KINDS:
            found = plain(KINDS[kind](Path(name)))
            try:
                lines = differences(read(kind), found)
            except FileNotFoundError:
                lines = [f"new      {key}" for key in found]
            if lines:
                write(kind, found)
            print(f"{kind}.json", *(lines or ["nothing changed"]), sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
