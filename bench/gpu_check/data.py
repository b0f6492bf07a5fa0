"""Shards that travel to a borrowed GPU: at most as many megabytes as asked for, of every recording something.

python -m bench.gpu_check.data recordings/                       into gpu-data/, which git ignores
python -m bench.gpu_check.data recordings/ --limit-mb 20 --codec birdsong-3s
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from bench.gpu_check.settings import Settings, birdsd
from birdsd.errors import AlreadyThere, BadValue, UserError
from birdsd.shards.index import ShardIndex

LIMIT_MB = 40.0
_MOST_CUTS = 16


def main() -> int:
    """Make the folder, and say what is in it."""
    parser = argparse.ArgumentParser(
        "bench.gpu_check.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", type=Path, help="a folder of recordings, as for `birdsd run prepare`")
    parser.add_argument("--out", type=Path, default=Path(Settings.data))
    parser.add_argument("--limit-mb", type=float, default=LIMIT_MB, help="megabytes, at most")
    parser.add_argument("--codec", default="birdsong")
    options = parser.parse_args()
    try:
        print(pack(options.recordings, options.out, options.limit_mb, options.codec))
    except UserError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    return 0


def pack(recordings: Path, out: Path, limit_mb: float = LIMIT_MB, codec: str = "birdsong") -> str:
    """Prepare the recordings with as many cuts of each song as there is room for; returns a line about it.
    `BadValue` where one of each is too much already."""
    if out.exists():
        raise AlreadyThere(f"{out} is there already", "shards of two preparations do not mix", f"rm -r {out}")
    _prepare(recordings, out, codec, 1)
    size = megabytes(out)
    if size > limit_mb:
        shutil.rmtree(out)
        raise BadValue(
            f"one clip of every song makes {size:.0f} MB, more than {limit_mb:g}",
            "the folder travels with the code",
            "fewer recordings, or --codec birdsong-3s, whose pictures are half as large",
        )
    cuts = min(_MOST_CUTS, int(limit_mb / size))
    while cuts > 1:  # long songs have room for more of them than short ones
        shutil.rmtree(out)
        _prepare(recordings, out, codec, cuts)
        if (size := megabytes(out)) <= limit_mb:
            break
        cuts = min(cuts - 1, int(cuts * limit_mb / size))
        if cuts <= 1:
            shutil.rmtree(out)
            _prepare(recordings, out, codec, 1)
            size = megabytes(out)
    index = ShardIndex.open(out)
    return (
        f"{out}: {index.count('train')} clips to learn from, {index.count('validation')} held out, "
        f"{len(index.species)} species, {size:.1f} MB, at most {max(1, cuts)} of a song"
    )


def _prepare(recordings: Path, out: Path, codec: str, cuts: int) -> None:
    words = [
        f"data.recordings={recordings}", f"data.shards={out}", f"codec={codec}", f"data.cuts_per_song={cuts}",
        "data.validation_fraction=0.125", "data.test_fraction=0",
    ]  # fmt: skip
    done = subprocess.run(birdsd("run", "prepare", *words, "--json"), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(
            f"the recordings in {recordings} could not be prepared", "see above", "birdsd audit says more"
        )
    json.loads(done.stdout)


def megabytes(folder: Path) -> float:
    """Of all files in a folder, in 10^6 bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


if __name__ == "__main__":
    sys.exit(main())
