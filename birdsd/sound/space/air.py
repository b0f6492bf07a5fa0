"""The air between a bird and a receiver: how fast sound is in it, and what it takes away (ISO 9613-1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from birdsd.errors import BadValue

# Recordings of birds hold the air that lay between bird and microphone: about so much of it.
REFERENCE_M = 10.0
_MOST_LOSS_DB = 120.0  # what lies below is silence in 24 bits, and 0 in float32
_PR_KPA, _TRIPLE_K, _T0_K = 101.325, 273.16, 293.15
# Field -> (least, greatest, unit): where ISO 9613-1 was made for, and where sound is recorded outdoors.
_RANGES = {
    "temperature_c": (-40.0, 60.0, "degrees Celsius"),
    "humidity_percent": (0.0, 100.0, "percent"),
    "pressure_kpa": (50.0, 120.0, "kPa"),
    "foliage_db_per_m": (0.0, 2.0, "dB per metre"),
}


@dataclass(frozen=True)
class Air:
    """Temperature, relative humidity and pressure. `foliage_db_per_m`: what leaves take besides, at every
    frequency; it is not in the standard."""

    temperature_c: float = 15.0
    humidity_percent: float = 70.0
    pressure_kpa: float = 101.325
    foliage_db_per_m: float = 0.0

    def __post_init__(self) -> None:
        for name, (least, most, unit) in _RANGES.items():
            value = getattr(self, name)
            if not math.isfinite(value) or not least <= value <= most:
                raise BadValue(
                    f"{name} is {value:g}",
                    f"a number from {least:g} to {most:g} {unit} is expected",
                    f"set space.{name}",
                )

    @property
    def speed_m_s(self) -> float:
        """Of sound: 331.3 sqrt(1 + T / 273.15)."""
        return 331.3 * math.sqrt(1 + self.temperature_c / 273.15)

    def absorption_db_per_m(self, hz: np.ndarray) -> np.ndarray:
        """float64, shaped as `hz`: pure tones' attenuation by ISO 9613-1, without foliage."""
        square = np.square(np.asarray(hz, np.float64))
        kelvin = self.temperature_c + 273.15
        relative, p = kelvin / _T0_K, self.pressure_kpa / _PR_KPA
        water = (
            self.humidity_percent * 10 ** (4.6151 - 6.8346 * (_TRIPLE_K / kelvin) ** 1.261) / p
        )  # molar concentration, percent
        oxygen_hz = p * (24 + 40400 * water * (0.02 + water) / (0.391 + water))
        nitrogen_hz = p * relative**-0.5 * (9 + 280 * water * math.exp(-4.170 * (relative ** (-1 / 3) - 1)))
        relaxed = 0.01275 * math.exp(-2239.1 / kelvin) / (oxygen_hz + square / oxygen_hz)
        relaxed = relaxed + 0.1068 * math.exp(-3352 / kelvin) / (nitrogen_hz + square / nitrogen_hz)
        found: np.ndarray = 8.686 * square * (1.84e-11 / p * relative**0.5 + relative**-2.5 * relaxed)
        return found

    def gain(self, hz: np.ndarray, distance_m: float) -> np.ndarray:
        """Amplitude that is left after the metres beyond `REFERENCE_M`, shaped as `hz`."""
        further_m = max(0.0, distance_m - REFERENCE_M)
        loss_db = (self.absorption_db_per_m(hz) + self.foliage_db_per_m) * further_m
        left: np.ndarray = 10 ** (-np.minimum(loss_db, _MOST_LOSS_DB) / 20)
        return left
