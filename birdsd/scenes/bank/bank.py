"""A bank: judged songs in a folder, from which any number of scenes is made without a network.

bank.json says what it was made of; clips/NAME.flac and clips/NAME.json are a song each, the JSON written
last. A song that did not come out has a JSON alone, so that nobody tries again.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from birdsd.errors import AlreadyThere, BadValue, Damaged, NotFound, listed_names
from birdsd.files import explained_write, fingerprint, read_json, safe_name, write_json
from birdsd.scenes.bank.clip import EventClip, Wanted
from birdsd.scenes.bank.split import check_split
from birdsd.scenes.heard.boundaries import Measured
from birdsd.scenes.heard.ratio import Strength, strength
from birdsd.sharing import private_folder, publish

FORMAT = "birdsd-bank/1"
_HELD = 128  # decoded clips in memory at once
_KNOWN = 4096  # songs whose strength is


class Bank:
    """The songs of a folder, or those of one `split` of it."""

    def __init__(self, folder: Path, split: str = "") -> None:
        self.folder, self.split = Path(folder), check_split(split)
        if not (self.folder / "bank.json").is_file():
            raise NotFound(
                f"{self.folder / 'bank.json'} does not exist", "a bank of songs has one",
                f"`birdsd run bank run=RUN out={folder}` makes one",
            )  # fmt: skip
        self.facts = read_json(self.folder / "bank.json", "bank")
        if not isinstance(self.facts, dict) or self.facts.get("format") != FORMAT:
            raise BadValue(f"{folder} is no bank of songs", f"its bank.json is not of the format {FORMAT}")
        self._clips: dict[tuple[str, str], dict[int, list[dict[str, Any]]]] = {}
        self.failed = 0
        for told in _told(self.folder):
            if not told["came_out"]:
                self.failed += 1
            elif not split or told["split"] == split:
                voices = self._clips.setdefault((told["clip"]["species"], told["clip"]["sound_type"]), {})
                voices.setdefault(int(told["voice"]), []).append(told)
        if not self._clips:
            raise NotFound(
                f"the bank {folder} holds no song{f' for {split}' if split else ''}",
                f"{self.failed} were tried and did not come out" if self.failed else "nothing was made yet",
                "make it with `birdsd run bank`",
            )
        self._sound = lru_cache(maxsize=_HELD)(self._decoded)
        self._strength = lru_cache(maxsize=_KNOWN)(self._measured)
        self._voices = lru_cache(maxsize=None)(self._individuals)

    @property
    def species(self) -> tuple[str, ...]:
        return tuple(sorted({species for species, _ in self._clips}))

    @property
    def sound_types(self) -> dict[str, tuple[str, ...]]:
        """Species -> its sound types, '' left out."""
        found: dict[str, list[str]] = {}
        for species, kind in sorted(self._clips):
            found.setdefault(species, []).extend([kind] if kind else [])
        return {species: tuple(kinds) for species, kinds in found.items() if kinds}

    @property
    def rate_hz(self) -> int:
        return int(self.facts["rate_hz"])

    @property
    def identity(self) -> str:
        """A fingerprint of the songs that it offers: with more of them, scenes draw others."""
        held = sorted(
            (told["name"], told["sha256"])
            for voices in self._clips.values()
            for takes in voices.values()
            for told in takes
        )
        return fingerprint([self.facts, held])

    def __len__(self) -> int:
        return sum(len(takes) for voices in self._clips.values() for takes in voices.values())

    def shortest_s(self) -> float:
        """The length that 95% of its songs exceed."""
        return self._shortest_s

    @cached_property
    def _shortest_s(self) -> float:
        return float(np.percentile([length for found in self._lengths_s.values() for length in found], 5))

    @cached_property
    def _lengths_s(self) -> dict[tuple[str, str], list[float]]:
        """Of all songs, by (species, sound type)."""
        return {
            kind: [
                told["clip"]["measured"]["offset_s"] - told["clip"]["measured"]["onset_s"]
                for takes in voices.values()
                for told in takes
            ]
            for kind, voices in self._clips.items()
        }

    def longest_s(self, species: str, sound_type: str = "") -> float | None:
        """The length of the longest song of a kind; None where there is none."""
        lengths = [
            length
            for kind, found in self._lengths_s.items()
            if kind[0] == species and sound_type in ("", kind[1])
            for length in found
        ]
        return max(lengths, default=None)

    def clip(self, wanted: Wanted) -> EventClip:
        """The song for what is wanted: the same voice gives the same individual, its takes in turn. After
        songs that were refused: the individual's other takes, then those of the individuals behind it."""
        voices = self._voices(wanted.species, wanted.sound_type)
        if not voices:
            for_split = f" for {self.split}" if self.split else ""
            asked = (
                f"'{wanted.sound_type}' of {wanted.species}" if wanted.sound_type else f"'{wanted.species}'"
            )
            raise NotFound(
                f"the bank {self.folder} has no song of {asked}{for_split}",
                f"it has {listed_names(self.species, wanted.species)}",
                "ask for one of these, or make more with `birdsd run bank`",
            )
        further, left = 0, wanted.refused
        while True:
            takes = voices[(wanted.voice_seed + further) % len(voices)]
            if left < len(takes):
                break
            further, left = further + 1, left - len(takes)
        told = takes[(wanted.take + left) % len(takes)]
        file = (told["name"], told["sha256"])
        clip = EventClip.from_json(told["clip"], self._sound(*file))
        known = self._strength(*file, clip.measured, clip.rate_hz) if clip.measured else None
        return replace(clip, another=further, strength=known)

    def _individuals(self, species: str, sound_type: str) -> list[list[dict[str, Any]]]:
        """The takes of every individual, in a fixed order."""
        kinds = [kind for kind in self._clips if kind[0] == species and sound_type in ("", kind[1])]
        found = sorted((kind, voice) for kind in kinds for voice in self._clips[kind])
        return [sorted(self._clips[kind][voice], key=lambda told: told["name"]) for kind, voice in found]

    def _measured(self, name: str, sha256: str, measured: Measured, rate_hz: int) -> Strength:
        return strength(self._sound(name, sha256), measured, rate_hz)

    def further(self, wanted: Wanted, clip: EventClip, most: int) -> Wanted | None:
        """What to ask for once `clip` was not heard in the mix; None after `most` songs, or all there are."""
        songs = sum(map(len, self._voices(wanted.species, wanted.sound_type)))
        refused = wanted.refused + 1
        return replace(wanted, refused=refused) if refused < min(most, songs) else None

    def clips(self, wanted: list[Wanted]) -> dict[str, EventClip]:
        """A song for each, by its key."""
        return {one.key: self.clip(one) for one in wanted}

    def _decoded(self, name: str, sha256: str) -> np.ndarray:
        path = self.folder / "clips" / f"{name}.flac"
        import hashlib

        try:
            data = path.read_bytes()
        except OSError as error:
            raise Damaged(f"cannot read {path}: {error.strerror}", "", "make the bank again") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Damaged(
                f"{path} is not the song that stands in its JSON",
                "its checksum differs: the file was changed or damaged",
                "delete both files and run `birdsd run bank` again",
            )
        samples, _ = soundfile.read(io.BytesIO(data), dtype="float32")
        return samples


def clip_name(species: str, sound_type: str, voice: int, take: int) -> str:
    """The name of a song's files; kinds whose names look alike as file names are kept apart by a hash."""
    named = f"{safe_name(species, 40)}-{safe_name(sound_type or 'any', 24)}"
    return f"{named}-{fingerprint([species, sound_type], 4)}-v{voice:04d}-t{take:02d}"


def keep_clip(folder: Path, name: str, clip: EventClip, voice: int, take: int, split: str) -> None:
    """Write a song into a bank: the sound, then the JSON that vouches for it."""
    told = {"name": name, "voice": voice, "take": take, "split": split, "came_out": clip.came_out}
    with explained_write(folder), private_folder(folder / "clips") as place:
        names = [f"{name}.json"]
        if clip.came_out:
            import hashlib

            data = encoded(clip.samples, clip.rate_hz)
            (place / f"{name}.flac").write_bytes(data)
            told["sha256"] = hashlib.sha256(data).hexdigest()
            names.insert(0, f"{name}.flac")
        write_json(place / f"{name}.json", {**told, "clip": clip.to_json()})
        publish(place, folder / "clips", *names)


def encoded(samples: np.ndarray, rate_hz: int) -> bytes:
    """FLAC of 24 bits; a song beyond full scale is turned down as a whole: its level is set in the scene."""
    from birdsd.sound.audio.levels import fit

    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate_hz, 1, format="FLAC", subtype="PCM_24") as sound:
        sound.write(fit(samples).waveform)
    return buffer.getvalue()


def begin(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write what the bank is made of; `UserError` where the folder holds a bank of something else."""
    path = Path(folder) / "bank.json"
    told = {"format": FORMAT, **facts}
    if path.is_file():
        there = read_json(path, "bank")
        differing = sorted(key for key in {*told, *there} if told.get(key) != there.get(key))
        if differing:
            raise AlreadyThere(
                f"{folder} holds a bank that was made with other {listed_names(differing)}",
                "a bank is made of one thing throughout, so that its songs can be named and made again",
                "name another folder with out=",
            )
        return
    write_json(path, told)


def has(folder: Path, name: str) -> bool:
    """Whether a song was made already, or tried and given up."""
    return (Path(folder) / "clips" / f"{name}.json").is_file()


def _told(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((folder / "clips").glob("*.json")):
        told = read_json(path, "song of a bank")
        if isinstance(told, dict) and {"name", "voice", "split", "came_out", "clip"} <= told.keys():
            yield told
