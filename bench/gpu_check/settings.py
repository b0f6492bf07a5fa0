"""What a check was asked for, and where its things lie."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

REHEARSAL = "rehearsal"  # the only item of each stage on a CPU


@dataclass(frozen=True)
class Settings:
    """`out`: what is worth keeping, small; `work`: models and runs, gigabytes; `data`: shards to learn from.

    `cpu` rehearses everything on the CPU, with a tiny model.
    """

    minutes: float = 10.0
    cpu: bool = False
    out: str = "gpu-check"
    work: str = ""
    data: str = "gpu-data"
    cap_gib: float = 3.5

    @property
    def device(self) -> str:
        return "cpu" if self.cpu else "cuda"

    @property
    def model(self) -> str:
        """Whose memory and speed are measured."""
        return "tiny" if self.cpu else "sd15"

    @property
    def codec(self) -> str:
        return "birdsong-tiny" if self.cpu else "riffusion"  # of SD 1.5's 512 x 512

    @property
    def folder(self) -> Path:
        return Path(self.out)

    @property
    def work_folder(self) -> Path:
        return Path(self.work) if self.work else self.folder / "work"

    def to_json(self) -> str:
        """For a process of its own."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """As `to_json` wrote it."""
        return cls(**json.loads(text))


def birdsd(*words: str) -> list[str]:
    """The command line of this checkout, whether or not it is installed."""
    return [sys.executable, "-m", "birdsd.cli", *words]
