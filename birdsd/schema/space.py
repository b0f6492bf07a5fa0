"""What can be configured of space: how a scene is rendered, and how bearings are estimated."""

from __future__ import annotations

from dataclasses import dataclass

from birdsd.schema.machine import Text


@dataclass
class SpaceConfig:
    """What lies between the birds of a scene and the receivers (layout other than mono)."""

    recorders: Text = None  # of layout=array: CSV with file, x, y[, z] in m, or "A=0,0 B=50,0"; null: four
    heading_deg: float = 0.0  # compass bearing of straight ahead
    temperature_c: float = 15.0
    humidity_percent: float = 70.0
    pressure_kpa: float = 101.325
    foliage_db_per_m: float = 0.0  # what leaves take, at all frequencies, beyond 10 m
    reverb_s: float = 1.2  # time in which the forest's reverberation falls by 60 dB; 0: none
    direct_db: float = 20.0  # direct sound over reverberation 10 m away; it falls with the distance
    loudness: str = "heard"  # asked SNR and level are those that arrive; source: those of the bird 10 m away


@dataclass
class BearingsConfig:
    """the bearings of birds in first-order ambisonics: labels, azigrams, a sound for each direction"""

    recordings: str = "recordings"  # a folder, or one file, of four channels
    labels: Text = None  # of whose boxes the bearings are asked; null: beside the recordings, else none
    order: str = "auto"  # acn-sn3d, acn-n3d or fuma; auto: told by the channels' energies, or refused
    heading_deg: float = 0.0  # compass bearing of straight ahead
    low_hz: float = 500.0  # where there is no box: the band that is listened to
    high_hz: float = 12000.0
    separate: bool = False  # also a sound for each direction in which somebody was heard
    picture: bool = True  # the azigram
    out: str = "bearings"
