"""Which files hold sound that can be read, sound that cannot, or labels: by their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from birdsd.sound.audio import mp3

AUDIO_SUFFIXES = (
    frozenset(
        {".wav", ".wave", ".bwf", ".w64", ".wave64", ".rf64", ".bw64", ".flac", ".ogg", ".oga", ".opus"}
    )
    | frozenset({".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".sph", ".nist", ".voc"})
    | mp3.SUFFIXES
)
# Sound (or pictures with sound), but not for libsndfile: named in reports instead of being passed over.
FOREIGN_SUFFIXES = (
    frozenset(
        {".m4a", ".m4b", ".m4r", ".aac", ".mp4", ".m4v", ".3gp", ".3gpp", ".3g2", ".mov", ".qt", ".avi"}
    )
    | frozenset({".mkv", ".mka", ".webm", ".weba", ".wma", ".wmv", ".asf", ".flv", ".ogv", ".mts", ".m2ts"})
    | frozenset(
        {".mpg", ".mpeg", ".vob", ".ra", ".rm", ".ram", ".amr", ".awb", ".qcp", ".gsm", ".spx", ".ape"}
    )
    | frozenset(
        {".wv", ".tta", ".tak", ".ofr", ".mpc", ".mp+", ".shn", ".alac", ".aa3", ".oma", ".dsf", ".dff"}
    )
    | frozenset({".ac3", ".eac3", ".dts", ".thd", ".adts", ".loas", ".latm", ".adx", ".dss", ".ds2", ".dvf"})
    | frozenset({".wac", ".msv", ".raw", ".pcm", ".zc", ".mid", ".midi"})
)
# Where ffmpeg is of no help.
_ADVICE = {
    ".wac": "convert it to wav with Wildlife Acoustics' Kaleidoscope",
    ".zc": "it is zero-crossing data, which hold no waveform",
    ".mid": "it holds notes, not sound",
    ".midi": "it holds notes, not sound",
    ".raw": "it has no header: give its rate and format, e.g. ffmpeg -f s16le -ar RATE -i IN OUT.flac",
    ".pcm": "it has no header: give its rate and format, e.g. ffmpeg -f s16le -ar RATE -i IN OUT.flac",
    ".dss": "convert it with the recorder's own program",
    ".ds2": "convert it with the recorder's own program",
    ".dvf": "convert it with the recorder's own program",
    ".msv": "convert it with the recorder's own program",
}
# What may hold labels. JSON is xeno-canto's; the others are told apart by their content.
LABEL_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".json", ".parquet", ".xlsx", ".xls", ".ods"})


@dataclass
class SortedFiles:
    """The files of a folder by what can be done with them, each kind in the order given."""

    sounds: list[Path] = field(default_factory=list)
    foreign: list[Path] = field(default_factory=list)
    labels: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


def sort_files(paths: Iterable[Path]) -> SortedFiles:
    """Sort files by their suffixes; nothing is opened."""
    result = SortedFiles()
    kinds = (
        (AUDIO_SUFFIXES, result.sounds),
        (FOREIGN_SUFFIXES, result.foreign),
        (LABEL_SUFFIXES, result.labels),
    )
    for path in paths:
        suffix = path.suffix.lower()
        next((files for suffixes, files in kinds if suffix in suffixes), result.others).append(path)
    return result


def foreign_reason(path: Path) -> str:
    """Why a file of FOREIGN_SUFFIXES is not read, and what to do."""
    suffix = path.suffix.lower()
    advice = _ADVICE.get(suffix, f"convert it, for example: ffmpeg -i INPUT{suffix} OUTPUT.flac")
    return f"libsndfile does not decode {suffix}: {advice}"


def counted_by_suffix(paths: Iterable[Path]) -> str:
    """'.csv 12, .3gp 3': how many files of each suffix, the most frequent first; '' for none."""
    counts = Counter(path.suffix.lower() or "(no suffix)" for path in paths)
    return ", ".join(
        f"{suffix} {count}" for suffix, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


def not_read(paths: Iterable[Path]) -> str:
    """'15 files were not read: .csv 12, .3gp 3'; '' for none."""
    files = list(paths)
    if not files:
        return ""
    verb = "file was" if len(files) == 1 else "files were"
    return f"{len(files)} {verb} not read: {counted_by_suffix(files)}"
