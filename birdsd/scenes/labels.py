"""The course of a real recording as a scene: its label table, sung anew by the same birds or by others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from birdsd.errors import BadValue, NotFound, UnknownName, UserError, clipped, listed_names
from birdsd.randomness import generator
from birdsd.remarks import Remark
from birdsd.scenes import loudness
from birdsd.scenes.checks import checked
from birdsd.scenes.scene import TAIL_S, Background, Event, Scene
from birdsd.scenes.vocabulary import Vocabulary
from birdsd.sound.labels.annotation import read_text
from birdsd.sound.labels.audacity import is_audacity, read_track
from birdsd.sound.labels.raven import is_raven, read_selections
from birdsd.sound.labels.rows import LabelFile, Row
from birdsd.sound.labels.tables import TABLE_SUFFIXES, read_table

_SHORTEST_S = 0.02
_LONGEST_SONG_S = 5.0  # a longer box is a bout: songs repeated to its end, where a clip's length is not known

# Why a label becomes no event, and the kind of remark that says so.
_NO_TIMES, _NO_BIRD, _NOBODY_KNOWS = "they say nothing of when", "no bird", "nobody knows which bird it is"
_TOO_SHORT = f"shorter than {_SHORTEST_S:g} s, or before the beginning"
_LEFT_OUT = {
    _NO_TIMES: "labels-without-times", _NO_BIRD: "labels-of-no-bird", _NOBODY_KNOWS: "labels-of-nobody",
    _TOO_SHORT: "labels-too-short",
}  # fmt: skip


@dataclass
class _Cast:
    """Which bird of the model sings the part of which bird of the recording."""

    vocabulary: Vocabulary
    birds: Mapping[str, str]
    others: bool
    seed: int
    chosen: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def bird(self, name: str) -> str:
        if name not in self.chosen:
            self.chosen[name] = self._choose(name)
            if self.chosen[name] != name:
                text = f"{self.chosen[name]} sings the part of {name}"
                self.said.append(Remark(text, "another-sings", bird=self.chosen[name], part=name))
        return self.chosen[name]

    def _choose(self, name: str) -> str:
        known = self.vocabulary.find_species(name)
        given = next((to for one, to in self.birds.items() if one.casefold() == name.casefold()), None)
        if given is not None:
            return self.vocabulary.the_species(given, f"the part of {clipped(name)}")
        if known is not None and not self.others:
            return known
        if not self.others:
            raise UnknownName(
                f"the model does not know {clipped(name)}",
                f"it knows {listed_names(self.vocabulary.species, name)}",
                f"name a bird that sings its part (birds={{'{clipped(name)}': '...'}}), or let others sing "
                "all parts",
            )
        taken = set(self.chosen.values()) | ({known} if known else set())
        free = [one for one in self.vocabulary.species if one not in taken]
        # With more parts than birds some sing several.
        pool = (
            free or [one for one in self.vocabulary.species if one != known] or list(self.vocabulary.species)
        )
        return pool[int(generator(self.seed, "scene", "part", name).integers(len(pool)))]


def scene_of_labels(
    path: Path,
    vocabulary: Vocabulary,
    *,
    birds: Mapping[str, str] | None = None,
    others: bool = False,
    environment: str = "",
    recording: str = "",
    duration_s: float | None = None,
    seed: int = 0,
) -> Scene:
    """The same course of events as in a Raven, Audacity or CSV table.

    `birds`: who sings whose part; `others`: every part that it does not name is sung by another species of
    the
    model, drawn by seed. `recording`: which file's rows, where the table is over several. What the table
    has and the scene has not is in `assumptions`. `UserError` for a bird that nobody sings.
    """
    rows = _of_one_recording(_read(Path(path)), recording, path)
    cast = _Cast(vocabulary, birds or {}, others, seed)
    _check_birds(cast, rows, path)
    backgrounds: tuple[Background, ...] = ()
    if environment:
        name, source = vocabulary.the_environment(environment)
        backgrounds = (Background(name, source=source),)
    left_out: Counter[str] = Counter()
    events: list[Event] = []
    for row in sorted(rows, key=lambda one: (one.start_s or 0.0, one.number)):
        events += _events(row, cast, left_out, len(events), bool(backgrounds))
    if not events:
        reasons = ", ".join(f"{count} {why}" for why, count in left_out.items()) or "it has no rows"
        raise NotFound(f"{path} has no bird's box: {reasons}", "a scene needs onsets and species")
    last = max((event.onset_s or 0.0) + (event.duration_s or 0.0) for event in events)
    last = max([last, *(event.until_s or 0.0 for event in events)])
    said = [
        *cast.said,
        *(
            Remark(f"{count} labels are left out: {why}", _LEFT_OUT[why], labels=count)
            for why, count in left_out.items()
        ),
    ]
    scene = Scene(
        tuple(events), backgrounds, round(last + TAIL_S, 3) if duration_s is None else duration_s, seed=seed,
        assumptions=tuple(said),
    )  # fmt: skip
    return checked(scene, vocabulary)


def parts(
    path: Path, vocabulary: Vocabulary, *, others: bool = False, recording: str = "", seed: int = 0
) -> dict[str, str]:
    """Every bird of a label table in the order of its rows, and who can sing its part: itself where the model
    knows it and `others` is not asked for, else another species, drawn by seed."""
    rows = _of_one_recording(_read(Path(path)), recording, path)
    names = list(dict.fromkeys(name for row in rows if not row.absent for name in row.names.species))
    known = {name: found for name in names if (found := vocabulary.find_species(name))}
    cast = _Cast(vocabulary, {} if others else known, True, seed)
    return {name: cast.bird(name) for name in names}


def _read(path: Path) -> LabelFile:
    if not path.is_file():
        raise NotFound(f"the label table {path} does not exist", "a Raven, Audacity or CSV table is expected")
    if path.suffix.lower() in TABLE_SUFFIXES:
        return read_table(path)
    text = read_text(path)
    if is_raven(text):
        return read_selections(path, named=True)
    if is_audacity(text):
        return read_track(path)
    raise BadValue(
        f"{path} is no label table that is known",
        "Raven selection tables, Audacity labels and CSV tables are read",
    )


def _of_one_recording(found: LabelFile, recording: str, path: Path) -> list[Row]:
    rows = list(found.strictly())
    files = list(dict.fromkeys(row.file for row in rows if row.is_box))
    if recording:
        chosen = [one for one in files if recording in (one, Path(one.replace("\\", "/")).name)]
        if not chosen:
            raise NotFound(
                f"{path} has no rows of '{clipped(recording)}'", f"it has {listed_names(files, recording)}"
            )
        return [row for row in rows if row.file == chosen[0]]
    if len(files) > 1:
        raise BadValue(
            f"{path} is over {len(files)} recordings: {listed_names(files)}",
            "a scene is the course of one",
            "say which with recording=NAME",
        )
    return rows


def _check_birds(cast: _Cast, rows: list[Row], path: Path) -> None:
    there = {name.casefold() for row in rows for name in row.names.species}
    for name in cast.birds:
        if name.casefold() not in there:
            held = sorted({one for row in rows for one in row.names.species})
            raise NotFound(
                f"{path} has no '{clipped(name)}' whose part could be sung",
                f"it has {listed_names(held, name)}",
            )


def _events(row: Row, cast: _Cast, left_out: Counter[str], number: int, over_something: bool) -> list[Event]:
    """An event for each species of a row, or the reason why there is none."""
    if row.start_s is None or row.end_s is None:
        left_out[_NO_TIMES] += row.count
        return []
    if row.absent or not row.names.species:
        silent = row.absent or row.names.no_bird
        left_out[_NO_BIRD if silent else _NOBODY_KNOWS] += row.count
        return []
    if row.end_s - row.start_s < _SHORTEST_S or row.start_s < 0:
        left_out[_TOO_SHORT] += row.count
        return []
    loud = (
        {"snr_db": loudness.relative(loudness.EVENT_DB[""], [loudness.BACKGROUND_DB[""]])["snr_db"]}
        if over_something
        else {"level_db": loudness.EVENT_DB[""]}
    )
    length = row.end_s - row.start_s
    bout = length > (cast.vocabulary.clip_s or _LONGEST_SONG_S)
    when = {"until_s": row.end_s} if bout else {"duration_s": length}
    return [
        Event(
            f"e{number + at}", bird := cast.bird(name), _type(row.label(name).sound_type, bird, cast),
            row.start_s,
            **when, **loud,  # type: ignore[arg-type]
        )
        for at, name in enumerate(row.names.species)
    ]  # fmt: skip


def _type(said: str, bird: str, cast: _Cast) -> str:
    """The type of a row, if the bird that sings it was taught that."""
    if not said:
        return ""
    try:
        return cast.vocabulary.the_type(bird, said)
    except UserError:
        text = f"'{said}' is not said: the model was never taught it of {bird}"
        note = Remark(text, "type-not-taught", type=said, bird=bird)
        cast.said += [note] if note not in cast.said else []
        return ""
