"""`birdsd audit`: what codecs lose of your own recordings, before weeks of training depend on them.

Every recording goes through every codec, image and back, and is judged on a neutral scale (see
`birdsd.sound.audit.fidelity`). Long recordings are judged on a few stretches, so that the memory needed
does not depend on their length; a stretch is one long image for every codec, so that codecs with
clips of different length stay comparable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from birdsd.errors import Mismatch, NothingLeft, NotSet
from birdsd.files import safe_name, write_json
from birdsd.sound.audio.formats import foreign_reason, sort_files
from birdsd.sound.audio.levels import SILENCE_DBFS, in_band, level_db, without_offset
from birdsd.sound.audio.recordings import (
    RecordingError,
    find_recordings,
    probe,
    read,
    resampled,
    walk,
    write_wav,
)
from birdsd.sound.audit.fidelity import NEUTRAL_RATE_HZ, Fidelity, compare, fitted_error_db
from birdsd.sound.audit.hearing import AuditListener
from birdsd.sound.audit.result import AuditResult, Stretch, Summary
from birdsd.sound.codec.protocol import Codec

STRETCH_S = 15.0
STRETCHES = 3
_SHORTEST_S = 0.25
_AUDIBLE_HZ = 62.5  # hum and an offset below it are nothing to judge by
_TELLING = 3


def audit_text(result: AuditResult) -> str:
    """The result as a table and sentences for the terminal."""
    from birdsd.sound.audit.text import report

    return report(result)


def round_trip(codec: Codec, waveform: np.ndarray, rate_hz: int) -> np.ndarray:
    """`waveform` [channels, samples] at `rate_hz` through the codec's image and back, same shape and rate."""
    return _round_trip(codec, waveform, rate_hz)[0]


def _round_trip(codec: Codec, waveform: np.ndarray, rate_hz: int) -> tuple[np.ndarray, float]:
    """The copy, and how far its picture is from the one that it was made of, in dB."""
    sound = resampled(waveform, rate_hz, codec.rate_hz)
    # Whole frames: the end is filled up with silence instead of being cut off.
    missing = max(-sound.shape[1] % codec.hop, codec.least_samples - sound.shape[1])
    sound = without_offset(sound, codec.rate_hz, codec.fmin_hz)  # as in `encode`
    image = codec.image_of(np.pad(sound, ((0, 0), (0, missing))))
    copy = codec.decode(image)
    picture_db = fitted_error_db(codec.dequantise(image), codec.magnitude(copy))
    copy = resampled(copy, codec.rate_hz, rate_hz)
    out = np.zeros_like(waveform)
    length = min(out.shape[1], copy.shape[1])
    out[:, :length] = copy[:, :length]
    return out, picture_db


def run_audit(
    recordings: Path,
    codecs: Sequence[Codec],
    out: Path | None,
    limit: int = 40,
    listener: AuditListener | None = None,
) -> AuditResult:
    """Judge `codecs` on at most `limit` recordings (0: all), drawn evenly from the sorted list.

    Writes audit.json, a picture and the sounds of a few telling recordings to `out` (None: nothing).
    `listener` hears every stretch before and after each codec. Recordings that cannot be read or are
    silent are listed in `problems`, and the others are judged.
    """
    from tqdm import tqdm

    if not codecs:
        raise NotSet("no codec to audit", "", "name one or more, e.g. codec=birdsong codec=riffusion")
    if len({codec.channels for codec in codecs}) > 1:
        raise Mismatch(
            "the codecs differ in channels",
            "they must encode the same sound",
            "set codec.channels alike",
        )
    codecs = _distinct_names(codecs)
    stretches: list[Stretch] = []
    folder = Path(recordings)
    foreign = sort_files(walk(folder)).foreign if folder.is_dir() else []
    problems: list[tuple[Path, str]] = [(path, foreign_reason(path)) for path in foreign]
    for path in tqdm(_drawn(find_recordings(Path(recordings)), limit, recordings), unit="file", disable=None):
        try:
            for start_s, sound in _stretches(path, codecs[0].channels):
                trips = [_round_trip(codec, sound, NEUTRAL_RATE_HZ) for codec in codecs]
                judged = tuple(
                    dataclasses.replace(
                        compare(sound, copy, codec.fmin_hz, codec.fmax_hz), picture_db=picture_db
                    )
                    for codec, (copy, picture_db) in zip(codecs, trips, strict=True)
                )
                if listener is not None:
                    listener.take(path, sound, [copy for copy, _ in trips], NEUTRAL_RATE_HZ)
                stretches.append(Stretch(path, start_s, sound.shape[1] / NEUTRAL_RATE_HZ, judged))
        except RecordingError as error:
            problems.append((path, str(error)))
    if not stretches:
        named = "; ".join(reason for _, reason in problems[:3])
        raise NothingLeft(f"none of the recordings in {recordings} can be judged: {named}")
    summaries = tuple(_summarise([s.fidelity[i] for s in stretches]) for i in range(len(codecs)))
    hearing = listener.hearing() if listener is not None else None
    result = AuditResult(tuple(codecs), summaries, tuple(stretches), tuple(problems), (), hearing)
    if out is None:
        return result
    result = dataclasses.replace(result, pictures=_show(result, Path(out)))
    write_json(Path(out) / "audit.json", result.to_json())
    return result


def _distinct_names(codecs: Sequence[Codec]) -> list[Codec]:
    """The same preset with other settings gets a number, so that the table tells them apart."""
    named: list[Codec] = []
    for codec in codecs:
        taken, name, number = {other.name for other in named}, codec.name, 2
        while name in taken:
            name, number = f"{codec.name}-{number}", number + 1
        named.append(Codec.from_json({**codec.to_json(), "name": name}))
    return named


def _drawn(paths: list[Path], limit: int, source: Path) -> list[Path]:
    if not paths:
        raise NothingLeft(
            f"no recordings in {source}", "", "name a folder with wav, flac, mp3, ogg or aiff files"
        )
    if limit <= 0 or limit >= len(paths):
        return paths
    return [paths[i * len(paths) // limit] for i in range(limit)]


def _stretches(path: Path, channels: int) -> Iterator[tuple[float, np.ndarray]]:
    """A few stretches of a recording, spread evenly over it: (start_s, [channels, samples])."""
    length_s = probe(path).duration_s
    if length_s < _SHORTEST_S:
        raise RecordingError(
            f"{path} lasts {length_s:.3f} s", f"at least {_SHORTEST_S} s are needed to judge"
        )
    count = max(1, min(STRETCHES, int(length_s // STRETCH_S)))
    heard = False
    for number in range(count):
        start_s = number * length_s / count
        sound = _heard(path, start_s, STRETCH_S, channels)
        if level_db(in_band(sound, NEUTRAL_RATE_HZ, _AUDIBLE_HZ, np.inf)) > SILENCE_DBFS:
            heard = True
            yield start_s, sound
    if not heard:
        raise RecordingError(f"{path} is silent", "there is nothing to judge a codec by", "leave it out")


def _heard(path: Path, start_s: float, duration_s: float, channels: int) -> np.ndarray:
    """A stretch without the recorder's offset, which no codec shows."""
    sound = read(path, NEUTRAL_RATE_HZ, start_s=start_s, duration_s=duration_s, channels=channels)
    return without_offset(sound, NEUTRAL_RATE_HZ)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(median(known)) if known else None


def _summarise(judged: Sequence[Fidelity]) -> Summary:
    bands = list(zip(*(f.bands_db for f in judged), strict=True))
    trills = [f.trills_db for f in judged]
    return Summary(
        overall_db=float(median(f.overall_db for f in judged)),
        bands_db=tuple(_median(band) for band in bands),
        bands_count=tuple(sum(value is not None for value in band) for band in bands),
        trills_db=_median(trills),
        trills_count=sum(value is not None for value in trills),
        loudness_error_db=float(median(abs(f.loudness_error_db) for f in judged)),
        waveform_db=float(median(f.waveform_db for f in judged)),
        picture_db=_median([f.picture_db for f in judged]),
        below_band_share=float(np.mean([f.below_band_share for f in judged])),
        above_band_share=float(np.mean([f.above_band_share for f in judged])),
    )


def _telling(result: AuditResult) -> list[int]:
    """A few stretches worth looking at: where the codecs differ most, most trills, highest song."""

    def widest(stretch: Stretch) -> float:
        errors = [fidelity.overall_db for fidelity in stretch.fidelity]
        return max(errors) - min(errors)

    reasons: list[Callable[[Stretch], float]] = [
        widest,
        lambda stretch: stretch.fidelity[0].trill_share,
        lambda stretch: max(fidelity.above_band_share for fidelity in stretch.fidelity),
    ]
    chosen: list[int] = []
    for reason in reasons:
        order = sorted(range(len(result.stretches)), key=lambda i: -reason(result.stretches[i]))
        chosen.extend(i for i in order if i not in chosen)
        del chosen[len(reasons) :]
        chosen = chosen[: reasons.index(reason) + 1]
    return chosen[:_TELLING]


def _show(result: AuditResult, out: Path) -> tuple[Path, ...]:
    """Draw the telling stretches side by side, and write their sounds next to the picture."""
    from birdsd.sound.audit.picture import draw

    rows = []
    for number, index in enumerate(_telling(result), 1):
        stretch = result.stretches[index]
        sound = _heard(stretch.path, stretch.start_s, stretch.duration_s, result.codecs[0].channels)
        copies = [round_trip(codec, sound, NEUTRAL_RATE_HZ) for codec in result.codecs]
        rows.append((stretch, sound, copies))
        for name, waveform in zip(
            ["original", *(c.name for c in result.codecs)], [sound, *copies], strict=True
        ):
            write_wav(out / f"{number}-{safe_name(name)}.wav", waveform, NEUTRAL_RATE_HZ)
    return (draw(out / "audit.png", result.codecs, rows),)
