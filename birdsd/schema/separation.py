"""What can be configured of separation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from birdsd.schema.machine import Text


@dataclass
class SeparateConfig:
    """recordings -> stems that sum to them: the birds, and what is behind them"""

    recordings: list[str] = field(default_factory=list)  # sound files, or folders of them
    method: str = "auto"  # or gate, nmf, pcnmf; auto: with a model nmf, else what does better on a test
    model: Text = None  # a .safetensors file of bases, or a .mat file of soundscape_IR
    learn: dict[str, Any] = field(
        default_factory=dict
    )  # learn.SOURCE=FOLDER: a model from recordings of each
    save: Text = None  # where the learnt model goes (.safetensors or .mat); null: OUT/model.safetensors
    bases: Optional[int] = None  # per source; null: 16, for pcnmf 10 of both together
    depth: int = 5  # frames (of 8 ms, for pcnmf 16) that a basis is long
    free: int = 0  # bases learnt from the recording itself, beside those of a model
    adapt: float = 0.0  # 0..1, how fast a model's bases follow the recording
    domain: str = "magnitude"  # of a model that is learnt; decibel: for use in soundscape_IR
    floor_db: float = -40.0  # what every source keeps of the others
    power: float = 2.0  # 1: sources share magnitudes, better for two birds; 2: powers, better for noise
    bird: str = "bird"  # name of what sings, where no model names it
    rest: str = "background"  # name of everything else
    turned: bool = False  # method=pcnmf: the other one of the two groups is the bird
    pool: Text = None  # a folder: the rest also goes there, as a background for scenes
    picture: bool = True  # before and after, for each recording, and a sheet of all
    seed: int = 0
    out: str = "separated"
    part: str = "0/1"  # i/n: the i-th of n tasks that split the recordings
