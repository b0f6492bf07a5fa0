"""One song, ready to be placed: its waveform, where it lies in it, where it comes from, and who judged it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from birdsd.scenes.bank.gate import EventVerdict
from birdsd.scenes.heard.boundaries import Measured
from birdsd.scenes.heard.ratio import Strength

GENERATED, RECORDED = "generated", "recorded"


@dataclass(frozen=True)
class Origin:
    """Where a clip comes from. `kind` is "generated" or "recorded"; `source` a model's folder or a
    recording's file; `identity` the fingerprint of the model's weights or of the file; `licence` and
    `attribution` of a recording, or of what the model stands on."""

    kind: str
    source: str
    identity: str
    licence: str = ""
    attribution: str = ""
    prompt: str = ""
    seed: int | None = None
    tries: int = 1
    at_s: float | None = None  # in the recording


@dataclass(frozen=True)
class EventClip:
    """A song by itself. `samples` float32 [n], mono; `measured` is None where nothing sounded in it."""

    id: str
    species: str
    sound_type: str
    rate_hz: int
    origin: Origin
    verdict: EventVerdict
    measured: Measured | None
    samples: np.ndarray = field(repr=False, compare=False)
    another: int = 0  # so many individuals further than the one that was asked for
    strength: Strength | None = field(default=None, repr=False, compare=False)  # where it is known already

    @property
    def came_out(self) -> bool:
        """Whether it may stand in a scene."""
        return self.measured is not None and self.verdict.passes

    def to_json(self) -> dict[str, Any]:
        """Everything but the sound."""
        return {
            "id": self.id, "species": self.species, "sound_type": self.sound_type, "rate_hz": self.rate_hz,
            "origin": asdict(self.origin), "verdict": self.verdict.to_json(),
            "measured": asdict(self.measured) if self.measured else None,
        }  # fmt: skip

    @classmethod
    def from_json(cls, told: dict[str, Any], samples: np.ndarray) -> EventClip:
        """The clip that `to_json` described. Raises KeyError or TypeError for what is none."""
        measured = Measured(**told["measured"]) if told["measured"] else None
        return cls(
            told["id"], told["species"], told["sound_type"], int(told["rate_hz"]), Origin(**told["origin"]),
            EventVerdict(**told["verdict"]), measured, samples,
        )  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """A song that is asked for. Same `voice_seed`: same individual; `take` counts its songs from 0.
    `refused`: so many songs were made or taken for it already, and were not heard in the mix."""

    key: str
    species: str
    sound_type: str
    prompt: str
    voice_seed: int
    take: int = 0
    refused: int = 0
