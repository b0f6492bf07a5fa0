"""What one may ask of a model, with an example of each, and what it cannot do.

Nothing is promised from a list: every scene phrase is read by the grammar first, and one that it refuses for
this model stands among what cannot be asked, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from birdsd.errors import UserError
from birdsd.scenes import loudness
from birdsd.scenes.prose.parse import understood
from birdsd.scenes.schedule import solve
from birdsd.scenes.vocabulary import Vocabulary
from birdsd.sound.captions import captions, environment_phrase, prompt_for, with_article

SPECIES, TYPE, ENVIRONMENT, LOUDNESS, PHRASE = (
    "species", "sound type", "environment", "loudness word", "scene phrase",
)  # fmt: skip
KINDS = (SPECIES, TYPE, ENVIRONMENT, LOUDNESS, PHRASE)
_FEW = 0.5  # of the clips: below, a species stands among what the model cannot be relied on for


@dataclass(frozen=True)
class Believed:
    """Of `clips` made for a prompt or a species, `confirmed` were what was asked for, says `judge`;
    `unjudged` were heard by nobody who knows the species."""

    judge: str
    clips: int
    confirmed: int
    unjudged: int = 0

    @property
    def share(self) -> float | None:
        judged = self.clips - self.unjudged
        return self.confirmed / judged if judged else None

    def __str__(self) -> str:
        judged = self.clips - self.unjudged
        return f"{self.confirmed} of {judged}" if judged else f"{self.clips} clips, nobody judged"


@dataclass(frozen=True)
class Entry:
    """Something that may be asked for. `ask`: clip (a prompt of `birdsd run generate`) or scene (of `birdsd
    run scene`); `sound`: a clip of it to hear."""

    kind: str
    name: str
    example: str
    ask: str
    species: str = ""
    other_names: tuple[str, ...] = ()
    meaning: str = ""
    believed: Believed | None = None
    sound: str = ""


@dataclass(frozen=True)
class Book:
    """The prompt book of a model; `cannot`: what to ask it for in vain, each a sentence."""

    model: str
    entries: tuple[Entry, ...]
    cannot: tuple[str, ...]
    judge: str = ""
    clips: int = 0
    left_out: tuple[str, ...] = field(default=())

    def of(self, kind: str) -> list[Entry]:
        return [one for one in self.entries if one.kind == kind]

    def to_json(self) -> dict[str, Any]:
        """Plain values; a share of clips beside its counts."""
        told = asdict(self)
        for one, entry in zip(told["entries"], self.entries, strict=True):
            if entry.believed is not None:
                one["believed"]["share"] = entry.believed.share
        return told


def book_of(vocabulary: Vocabulary, model: str) -> Book:
    """From names alone: nothing is generated, nothing judged."""
    entries = [*_species(vocabulary), *_types(vocabulary), *_environments(vocabulary), *_loudness(vocabulary)]
    phrases, refused = _phrases(vocabulary)
    return Book(model, (*entries, *phrases), (*_lacking(vocabulary), *refused))


def first_scene(vocabulary: Vocabulary) -> str:
    """A sentence of the kind that birdsd was begun for, in this model's words: one bird singing in a loud
    place, followed by another in a quiet one; without a place where the model has none, and without "singing"
    where it was not taught song."""
    one, other = (with_article(name) for name in (vocabulary.species[0], vocabulary.species[:2][-1]))
    sings = [" singing", ""] if vocabulary.sound_types.get(vocabulary.species[0]) else [""]
    places = [*vocabulary.environments, *vocabulary.pool]
    around = [(f" in loud {places[0]}", f" in quiet {places[0]}")] if places else []
    told = [
        f"{one}{singing}{loud} followed by {other}{quiet}"
        for loud, quiet in (*around, ("", ""))
        for singing in sings
    ]
    return next((text for text in told if _is_read(text, vocabulary)), one)


def _is_read(text: str, vocabulary: Vocabulary) -> bool:
    try:
        solve(understood(text, vocabulary))
    except UserError:
        return False
    return True


def _species(vocabulary: Vocabulary) -> Iterable[Entry]:
    others: dict[str, list[str]] = {}
    for name, species in vocabulary.other_names().items():
        others.setdefault(species, []).append(name)
    for species in vocabulary.species:
        yield Entry(
            SPECIES, species, prompt_for(species), "clip", species, tuple(sorted(others.get(species, ())))
        )


def _types(vocabulary: Vocabulary) -> Iterable[Entry]:
    for species in vocabulary.species:
        for kind in vocabulary.sound_types.get(species, ()):
            example = captions([species], sound_type=kind, count=2)[-1]
            yield Entry(TYPE, kind, example, "clip", species)


def _environments(vocabulary: Vocabulary) -> Iterable[Entry]:
    first = vocabulary.species[0]
    for name in vocabulary.environments:
        yield Entry(
            ENVIRONMENT, name, captions([], environment=name, count=1)[0], "clip", meaning="by itself"
        )
        yield Entry(ENVIRONMENT, name, prompt_for(first, name), "clip", first, meaning="around a bird")
        loud = environment_phrase(name, 0.0)
        yield Entry(
            ENVIRONMENT, loud, prompt_for(first, loud), "clip", first, meaning="6 dB below it or louder"
        )
        soft = environment_phrase(name, 30.0)
        yield Entry(
            ENVIRONMENT, soft, prompt_for(first, soft), "clip", first, meaning="18 dB below it or softer"
        )
    for name in vocabulary.pool:
        yield Entry(
            ENVIRONMENT, name, f"{with_article(first)} in {name}", "scene", first, meaning="from recordings"
        )


def _loudness(vocabulary: Vocabulary) -> Iterable[Entry]:
    first = vocabulary.species[0]
    for word, level_db in loudness.EVENT_DB.items():
        if word:
            behind = loudness.BACKGROUND_DB[word]
            meaning = f"a bird at {level_db:g} dBFS, a background at {behind:g} dBFS"
            example = f"{with_article(f'{word} {first}')} singing"
            yield Entry(LOUDNESS, word, example, "scene", first, meaning=meaning)


def _phrases(vocabulary: Vocabulary) -> tuple[list[Entry], list[str]]:
    """Those that the grammar reads for this model, and a sentence for each that it does not."""
    one = with_article(vocabulary.species[0])
    other = with_article(vocabulary.species[1] if len(vocabulary.species) > 1 else vocabulary.species[0])
    places = [*vocabulary.environments, *vocabulary.pool]
    place = places[0] if places else "rain"
    told = {
        "one after the other": f"{one} followed by {other}",
        "with a pause": f"{one} and after 3 seconds {other}",
        "at the same time": f"{one} at the same time as {other}",
        "while": f"{one} while {other} calls",
        "in turn": f"{one} alternating with {other} three times",
        "several times": f"{one} twice, then {other} three times",
        "at a time": f"{one} at 0:04 and {other} at 12 s",
        "over a stretch": f"{one} from 2 s to 15 s",
        "several birds": f"three {vocabulary.species[0]}s",
        "with a length": f"30 s of {one} singing",
        "in the distance": f"{one} in the distance",
        "from a direction": f"{one} at 30 degrees to the left",
        "at an SNR": f"{one} at 6 dB",
        "in a place": f"{one} in loud {place} followed by {other} in quiet {place}",
        "background alone": f"20 s of {place}",
    }
    found, refused = [], []
    for name, text in told.items():
        try:
            solve(understood(text, vocabulary))
        except UserError as error:
            refused.append(f"{name}, as in '{text}': {error.problem}")
            continue
        found.append(Entry(PHRASE, name, text, "scene"))
    return found, refused


def _lacking(vocabulary: Vocabulary) -> Iterable[str]:
    yield (
        "any other species: the model draws something for every text, and only of the "
        f"{len(vocabulary.species)} above has it heard recordings"
    )
    silent = [name for name in vocabulary.species if not vocabulary.sound_types.get(name)]
    if silent:
        of = "any species" if len(silent) == len(vocabulary.species) else ", ".join(silent)
        yield f"song told from call, of {of}: the model does not say which types of sound it was taught"
    if not vocabulary.environments:
        yield "environments: the model was taught none (scenes take recordings of them, with pool=FOLDER)"
    yield "when something sounds within a clip: text carries no time (scenes place clips by measured onsets)"
    if vocabulary.clip_s:
        yield f"a song longer than {vocabulary.clip_s:.2g} s: that is a clip; a scene repeats songs instead"
    if vocabulary.rate_hz:
        yield f"anything above {vocabulary.rate_hz / 2000:g} kHz: its sound has {vocabulary.rate_hz} Hz"
    yield "a species left out ('no robin'), a time of day, a country, a height in metres, 'several' birds"


def with_sounds(book: Book, by_prompt: dict[str, Believed], by_species: dict[str, Believed],
                sounds: dict[str, str], judge: str, left_out: Iterable[str] = ()) -> Book:  # fmt: skip
    """The book with what a judge said: of each prompt's clips, of a species' all; `sounds` to hear, by prompt
    or species."""
    entries = []
    for one in book.entries:
        found = by_species.get(one.name) if one.kind == SPECIES else by_prompt.get(one.example)
        heard = sounds.get(one.example) or (sounds.get(one.name, "") if one.kind == SPECIES else "")
        entries.append(replace(one, believed=found, sound=heard))
    weak = [
        f"{name}, reliably: the judge believed {told} clips"
        for name, told in sorted(by_species.items())
        if told.share is not None and told.share < _FEW
    ]
    clips = sum(told.clips for told in by_species.values())
    return replace(
        book, entries=tuple(entries), cannot=(*weak, *book.cannot), judge=judge, clips=clips,
        left_out=tuple(left_out),
    )  # fmt: skip


def book_text(book: Book) -> str:
    """For a terminal."""
    lines = [f"What may be asked of {book.model}"]
    if book.clips:
        lines.append(f"judged: {book.clips} clips, by {book.judge}")
    for kind in KINDS:
        found = book.of(kind)
        if not found:
            continue
        lines += [
            "",
            f"{kind} ({len(found)})"
            if kind != SPECIES
            else f"{kind} ({len(found)}), each also by its other names",
        ]
        width = max(len(_title(one)) for one in found)
        for one in found:
            further = [one.meaning, ", ".join(one.other_names)]
            further.append(f"believed {one.believed}" if one.believed else "")
            note = "; ".join(filter(None, further))
            lines.append(f"  {_title(one):{width}}  {one.example}{f'   ({note})' if note else ''}")
    lines += ["", "what it cannot do", *(f"  - {one}" for one in book.cannot)]
    lines += [f"left out: {one}" for one in book.left_out]
    lines += [
        "",
        'clips: birdsd run generate run=RUN prompt="..."; scenes: birdsd run scene run=RUN prompt="..."',
    ]
    return "\n".join(lines)


def _title(one: Entry) -> str:
    return f"{one.species}: {one.name}" if one.kind == TYPE else one.name
