"""What a folder of scenes is worth, measured by ears and detectors that had no part in making it.

python -m bench.scene_quality SCENES --bank BANK [--judge FOLDER] [--shift-s 0.7] [--json FILE]

- the order of the events, and whether the judge hears each species where its label is (the best of the bank's
  species in the 3 s around the label), beside what it says of the same songs alone: no label can be heard
  more often than its song. `--judge`: another than the one that let the songs into the bank, and with
  confirm=mix decided what stays in the mix; `--shift-s`: other windows than that one listened to;
- boundaries against a detector of its own kind (Hilbert envelope of the stem, hysteresis of 20 and 25 dB), as
  event F1 with collars of 200 ms;
- the SNR in the event's band, filtered anew, against the one asked for;
- the largest difference of the stems' sum from the mix, in steps of 24 bits.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from scipy.signal import butter, hilbert, sosfiltfilt

from birdsd.evaluation.judges import Judge, find_judge
from birdsd.evaluation.judges.judge import sigmoid
from birdsd.evaluation.judges.judgement import CONFIDENT, wilson
from birdsd.format import table
from birdsd.scenes.compose.mixdown import largest_error, read_stem

COLLAR_S, PAUSE_S, SHORTEST_S = 0.2, 0.4, 0.02
UPPER_DB, LOWER_DB = -20.0, -25.0
STEP = 2.0**-23


@dataclass
class Ear:
    """The judge, and the species of the bank that it knows."""

    judge: Judge
    bank: Path
    species: list[str]
    _songs: dict[str, tuple[bool, float]] = field(default_factory=dict)

    def hears(self, sound: np.ndarray, rate_hz: int, species: str) -> tuple[bool, float]:
        """Whether the species is the best of the bank's in float [samples], and its score."""
        logits = self.judge.hear(sound, rate_hz).clip_logits
        own = [n for name in self.species if (n := self.judge.class_of(name)) is not None]
        number = self.judge.class_of(species)
        if number is None:
            return False, 0.0
        return bool(logits[number] >= max(logits[n] for n in own)), float(sigmoid(logits[number]))

    def hears_song(self, clip: str, name: str, species: str) -> tuple[bool, float]:
        """The same of a song of the bank, alone."""
        if clip not in self._songs:
            sound, rate_hz = soundfile.read(self.bank / "clips" / f"{name}.flac", dtype="float32")
            self._songs[clip] = self.hears(sound, rate_hz, species)
        return self._songs[clip]


@dataclass
class Tally:
    """What was counted over all scenes."""

    scenes: int = 0
    in_order: int = 0
    left_out: int = 0
    shift_s: float = 0.0
    confirmed: list[bool] = field(default_factory=list)  # of those that the scene's own judge could tell
    at_label: list[tuple[bool, float]] = field(default_factory=list)
    alone: list[tuple[bool, float]] = field(default_factory=list)
    snrs_db: list[float] = field(default_factory=list)  # one for each of at_label; NaN against silence
    labels: int = 0
    detected: int = 0
    agree: int = 0
    snr_errors_db: list[float] = field(default_factory=list)
    largest_steps: float = 0.0

    def rows(self) -> list[tuple[str, str]]:
        """What, and how much of it."""
        heard, alone = _share(self.at_label), _share(self.alone)
        errors = np.abs(self.snr_errors_db)
        within = f"{(errors <= 1).mean():.1%} of {len(errors)}, 95% within {np.percentile(errors, 95):.2f} dB"
        return [
            ("scenes; events; left out", f"{self.scenes}; {self.labels}; {self.left_out}"),
            ("order as asked for", f"{self.in_order} of {self.scenes}"),
            (
                "confirmed in the mix by the scenes' own judge",
                f"{sum(self.confirmed)} of {len(self.confirmed)}",
            ),
            ("heard at its label, best of the bank's species", heard),
            *(
                (f"... {low} to {low + 6} dB SNR", told)
                for low in range(-6, 42, 6)
                if (told := self._at(low))
            ),
            ("the same songs alone", alone),
            ("boundaries, event F1 with collars of 200 ms", f"{self.f1:.3f}"),
            ("SNR within 1 dB of the one asked for", within if len(errors) else "-"),
            ("stems against the mix, steps of 24 bits", f"{self.largest_steps:.2f}"),
        ]

    def _at(self, low_db: float) -> str:
        """How many were heard of those with an SNR from `low_db` to 6 dB more."""
        pairs = zip(self.at_label, self.snrs_db, strict=True)
        heard = [best for (best, _), snr in pairs if low_db <= snr < low_db + 6]
        return f"{sum(heard)} of {len(heard)}" if heard else ""

    @property
    def f1(self) -> float:
        return 2 * self.agree / max(1, self.labels + self.detected)


def main(arguments: list[str] | None = None) -> int:
    """Measure a folder of scenes."""
    parser = argparse.ArgumentParser("python -m bench.scene_quality", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--bank", type=Path, required=True, help="that the songs came from")
    parser.add_argument("--judge", help="a judge's folder or name (default: BirdNET)")
    parser.add_argument("--shift-s", type=float, default=0.0, help="of the windows, to and fro by turns")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    clips = [json.loads(path.read_text()) for path in sorted((options.bank / "clips").glob("*.json"))]
    names = {one["clip"]["id"]: one["name"] for one in clips}
    ear = Ear(find_judge(options.judge), options.bank, sorted({one["clip"]["species"] for one in clips}))
    tally = Tally(shift_s=options.shift_s)
    for place in sorted(options.scenes.glob("*/labels.json")):
        measure(place.parent, json.loads(place.read_text()), ear, names, tally)
    if not tally.scenes:
        print(f"no scene in {options.scenes}: a folder of `birdsd run scene` is expected", file=sys.stderr)
        return 1
    rows = tally.rows()
    print("\n".join(table([("measured", f"judge: {ear.judge.title}"), *rows], left=(0, 1))))
    if options.json:
        options.json.write_text(json.dumps(dict(rows), indent=2) + "\n")
    return 0


def measure(folder: Path, labels: dict[str, Any], ear: Ear, names: dict[str, str], tally: Tally) -> None:
    """Count one scene."""
    rate_hz = int(labels["rate_hz"])
    file = next(path for path in folder.iterdir() if path.suffix in (".flac", ".wav"))
    mix, _ = soundfile.read(file, dtype="float32")
    came_out = labels["came_out"]
    placed = [(folder / one["stem"], int(one["start"])) for one in came_out]
    under = np.zeros(len(mix) + rate_hz, np.float32)
    for number, told in enumerate(labels["backgrounds"]):
        stem = next(folder.glob(f"stems/background{number}_*"))
        start = round(told["from_s"] * rate_hz)
        placed.append((stem, start))
        sound = read_stem(stem) * np.float32(STEP)
        under[start : start + len(sound)] += sound[: len(under) - start]
    tally.scenes += 1
    tally.largest_steps = max(tally.largest_steps, float(largest_error(file, placed, len(mix))))
    asked = sorted(labels["asked"], key=lambda one: one["onset_s"])
    wanted = [one["key"] for one in asked if one["fate"] == "placed"]
    tally.in_order += wanted == [one["key"] for one in sorted(came_out, key=lambda e: e["onset_s"])]
    tally.left_out += sum(one["fate"] != "placed" for one in asked)
    for one in came_out:
        stem = read_stem(folder / one["stem"]) * np.float32(STEP)
        first, end = round(one["onset_s"] * rate_hz), round(one["offset_s"] * rate_hz)
        _snr(one, stem, under[: len(mix)], first, end, rate_hz, tally)
        _boundaries(stem, int(one["start"]), first, end, rate_hz, tally)
        size = 3 * rate_hz
        shift = round(tally.shift_s * rate_hz) * (1 if len(tally.at_label) % 2 else -1)
        begin = max(0, min((first + end) // 2 - size // 2 + shift, len(mix) - size))
        tally.at_label.append(ear.hears(mix[begin : begin + size], rate_hz, one["species"]))
        if one.get("mix_heard") is not None:
            tally.confirmed.append(one["mix_heard"])
        tally.snrs_db.append(math.nan if one["snr_db"] is None else float(one["snr_db"]))
        tally.alone.append(ear.hears_song(one["clip"], names[one["clip"]], one["species"]))


def _snr(
    one: dict[str, Any], stem: np.ndarray, under: np.ndarray, first: int, end: int, rate_hz: int, tally: Tally
) -> None:
    """Mean power of the stem's active frames in its band over that of the backgrounds around it."""
    held = one["snr_db"] is None or one["asked_snr_db"] is None
    if held or abs(one["snr_db"] - one["asked_snr_db"]) > 0.1:  # held at -80 dBFS, and said so
        return
    band = [max(30.0, one["low_hz"]), min(one["high_hz"], 0.49 * rate_hz)]
    filtered = butter(6, band, "bandpass", fs=rate_hz, output="sos")
    half = rate_hz // 2
    song = sosfiltfilt(filtered, np.pad(stem, half))[half:-half]
    size = round(0.005 * rate_hz)
    power = np.convolve(song**2, np.ones(size) / size, "same")[first - one["start"] : end - one["start"]]
    loud = np.percentile(power[power > power.max() * 1e-4], 95)
    noise = float((sosfiltfilt(filtered, under)[max(0, first - half) : end + half] ** 2).mean())
    if noise > 0:
        measured = 10 * math.log10(float(power[power >= loud * 10**-2.6].mean()) / noise)
        tally.snr_errors_db.append(measured - one["asked_snr_db"])


def _boundaries(stem: np.ndarray, start: int, first: int, end: int, rate_hz: int, tally: Tally) -> None:
    size = round(0.01 * rate_hz)
    envelope = np.convolve(np.abs(hilbert(stem)), np.ones(size) / size, "same")
    envelope /= np.percentile(envelope, 98)
    above = np.flatnonzero(envelope > 10 ** (LOWER_DB / 20))
    parts = np.split(above, np.flatnonzero(np.diff(above) > PAUSE_S * rate_hz) + 1)
    found = [
        (start + part[0], start + part[-1])
        for part in parts
        if len(part)
        and envelope[part].max() > 10 ** (UPPER_DB / 20)
        and part[-1] - part[0] > SHORTEST_S * rate_hz
    ]
    late_s = max(COLLAR_S, COLLAR_S * (end - first) / rate_hz)
    tally.labels += 1
    tally.detected += len(found)
    tally.agree += any(
        abs(a - first) <= COLLAR_S * rate_hz and abs(b - end) <= late_s * rate_hz for a, b in found
    )


def _share(heard: list[tuple[bool, float]]) -> str:
    right = sum(best for best, _ in heard)
    sure = sum(best and score >= CONFIDENT for best, score in heard)
    low, high = wilson(right, len(heard))
    best = f"{right / len(heard):.1%} ({low:.1%}-{high:.1%})"
    return f"{best}; with a score of at least {CONFIDENT}: {sure / len(heard):.1%}"


if __name__ == "__main__":
    sys.exit(main())
