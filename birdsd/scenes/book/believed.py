"""How often a judge believed a model: clips of a folder, by the prompts in their recipes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birdsd.errors import NothingLeft, UserError
from birdsd.files import read_json
from birdsd.scenes.bank.gate import EventVerdict, Gate
from birdsd.scenes.book.book import Believed, Book, with_sounds
from birdsd.sound.audio.recordings import probe, read


@dataclass(frozen=True)
class Heard:
    """A clip, the prompt that made it, the species asked for, and the verdict on it."""

    path: Path
    prompt: str
    species: str
    verdict: EventVerdict


def clips_in(folder: Path) -> Iterable[tuple[Path, Mapping[str, Any]]]:
    """(sound, recipe) of every generated clip in a folder and below it. `UserError` where there is none."""
    found = False
    for path in sorted(Path(folder).rglob("*.json")):
        sound = path.with_suffix(".wav")
        if not sound.is_file():
            continue
        try:
            told = read_json(path, "recipe")
        except UserError:
            continue
        if isinstance(told, dict) and told.get("generated") and isinstance(told.get("species"), list):
            found = True
            yield sound, told
    if not found:
        raise NothingLeft(
            f"{folder} holds no generated clips", "a clip is a WAV with its recipe (JSON) beside it",
            "make some with `birdsd run generate`, or with --make N",
        )  # fmt: skip


def judged(book: Book, folder: Path, gate: Gate) -> Book:
    """The book with how often the gate believed the clips in a folder. Clips of several species, or of none
    of the model's own, are counted in `left_out`."""
    known = {one.name for one in book.of("species")}
    heard: list[Heard] = []
    others, broken = 0, []
    for sound, told in clips_in(folder):
        species = [str(name) for name in told["species"]]
        if len(species) != 1 or species[0] not in known:
            others += 1
            continue
        try:
            samples, rate_hz = _mono(sound)
        except UserError as error:
            broken.append(f"{sound.name}: {error.problem}")
            continue
        verdict = gate.verdict(species[0], samples, rate_hz)
        heard.append(Heard(sound, str(told.get("prompt", "")), species[0], verdict))
    left_out = [*broken, *([f"{others} clips of several species, or of none of these"] if others else [])]
    by_prompt = {key: counted(group, gate.title) for key, group in _groups(heard, "prompt").items()}
    by_species = {key: counted(group, gate.title) for key, group in _groups(heard, "species").items()}
    sounds = {
        key: str(_best(group).path)
        for attribute in ("species", "prompt")
        for key, group in _groups(heard, attribute).items()
    }
    return with_sounds(book, by_prompt, by_species, sounds, gate.title, left_out)


def counted(heard: list[Heard], judge: str) -> Believed:
    """Clips that nobody knows the species of are no clips that failed."""
    confirmed = sum(one.verdict.confirmed is True for one in heard)
    unjudged = sum(one.verdict.confirmed is None for one in heard)
    return Believed(judge, len(heard), confirmed, unjudged)


def _groups(heard: list[Heard], attribute: str) -> dict[str, list[Heard]]:
    groups: dict[str, list[Heard]] = {}
    for one in heard:
        groups.setdefault(getattr(one, attribute), []).append(one)
    return groups


def _best(heard: list[Heard]) -> Heard:
    """The one to hear: the most believed."""
    return max(heard, key=lambda one: (one.verdict.confirmed is True, one.verdict.score or 0.0))


def _mono(path: Path) -> tuple[Any, int]:
    rate_hz = probe(path).rate_hz
    return read(path, rate_hz)[0], rate_hz
