"""What can be configured of measuring: the quality of generated sound, and whether it helps a classifier."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from birdsd.schema.machine import MachineConfig, Text


@dataclass
class QualityConfig:
    """how good generated sound is, between a floor of real recordings and a ceiling of wrong species"""

    sounds: Text = None  # a folder of generated clips
    shards: Text = None  # real clips to compare with: those that the model was trained on
    judge: Text = None  # folder of BirdNET, an installed judge, or a run; null: installed BirdNET
    resamples: int = 1_000  # draws of recordings for each interval
    seed: int = 0  # of draws, dealings and choices of clips
    out: str = "quality"
    machine: MachineConfig = field(default_factory=MachineConfig)


@dataclass
class SimToRealConfig:
    """does generated sound help a classifier of your own birds? arms, amounts of data, seeds, one answer"""

    data: Text = None  # a folder of labelled recordings
    labels: Text = None  # label files, if they are elsewhere
    species: list[str] = field(default_factory=list)  # only these; empty: all
    arms: list[str] = field(default_factory=list)  # empty: the usual ones, and scenes with a distribution
    levels: list[str] = field(
        default_factory=lambda: ["2", "4", "8", "all"]
    )  # training recordings per species
    filters: list[str] = field(default_factory=lambda: ["everything", "confirmed"])  # of synthetic clips
    seeds: int = 3  # trainings of each arm
    steps: int = 1_000  # of each training, the same in all arms
    classifier: str = "head"  # on BirdNET's embeddings; or cnn, regression; several with commas between
    judge: Text = None  # folder of BirdNET, or an installed judge; null: the installed one
    validation_fraction: float = 0.125  # of the recordings of each species
    test_fraction: float = 0.375  # see validation_fraction
    synthetic: Text = None  # a folder of clips, FOLDER/{level} for one per level; null: they are generated
    scenes: Text = None  # the same of scenes with labels
    distribution: Text = None  # YAML: scenes are drawn from it, by each level's model
    pool: Text = None  # backgrounds of those scenes: recordings, a sub-folder for each environment
    scenes_per_level: int = 40
    clips_per_species: int = 16  # synthetic clips, at each level
    model: str = "tiny"  # of the generators, one for each level; this and what follows as for train
    codec: str = "birdsong-tiny"
    cuts_per_song: int = 16
    autoencoder_samples: Optional[int] = None  # null: as the model preset recommends
    diffusion_samples: Optional[int] = None
    settings: list[str] = field(default_factory=list)  # further settings of the diffusion trainings
    sampling_steps: Optional[int] = None  # as `steps` of generate
    guidance: Optional[float] = None
    draws: int = 2_000  # of recordings, for the intervals
    seed: int = 0  # of the split, the levels and the generators
    part: str = "0/1"  # i/n: the i-th of n tasks that split the trainings
    out: str = "sim2real"
    machine: MachineConfig = field(default_factory=MachineConfig)
