"""From links, counts and gaps to onsets; and scenes that cannot be."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from birdsd.errors import BadValue, Mismatch, NotSet, UnknownName, UserError
from birdsd.scenes.checks import LONGEST_S, checked
from birdsd.scenes.scene import Background, Event, Scene
from birdsd.scenes.schedule import solve
from birdsd.scenes.vocabulary import Vocabulary
from tests.scenes.sentences import UNDERSTOOD, VOCABULARY
from tests.support.errors import refuses

RAIN = Background("rain")


def event(name: str = "e0", **fields: Any) -> Event:
    return Event(name, fields.pop("species", "Great Tit"), **{"snr_db": 12.0, **fields})


def scene(*events: Event, **fields: Any) -> Scene:
    return Scene(events, **{"backgrounds": (RAIN,), **fields})


@pytest.mark.parametrize("text", UNDERSTOOD, ids=range(len(UNDERSTOOD)))
def test_every_understood_sentence_can_be_solved(text: str) -> None:
    placed = solve(UNDERSTOOD[text])
    assert solve(UNDERSTOOD[text]) == placed, "a pure function"
    assert list(placed.events) == sorted(placed.events, key=lambda one: (one.onset_s, one.key))
    assert all(one.onset_s >= 0 and one.end_s <= placed.duration_s for one in placed.events)
    assert all(0 <= one.from_s < one.to_s <= placed.duration_s for one in placed.backgrounds)
    assert len({one.key for one in placed.events}) == len(placed.events)


def test_measured_durations_move_onsets_and_no_draw() -> None:
    asked = scene(event(repeat=2, rate=(0.9, 1.1)), event("e1", after=("e0",)))
    before = solve(asked)
    after = solve(asked, durations={"e0": 3.5, "e0.t1": 2.0, "e1": 1.0})
    assert after.unmeasured == () and before.unmeasured == ("e0", "e0.t1", "e1")
    shift = [b.onset_s - a.onset_s for a, b in zip(before.events, after.events, strict=True)]
    assert shift == pytest.approx([0.0, 1.5, 1.5])
    assert [one.rate for one in before.events] == [one.rate for one in after.events]


def test_a_song_that_did_not_come_out_is_left_out() -> None:
    placed = solve(scene(event(), event("e1", after=("e0",), gap_s=(1.0, 1.0))), durations={"e0": 0.0})
    assert [(one.key, one.onset_s) for one in placed.events] == [("e1", 2.0)]


def test_songs_are_repeated_to_the_end_that_was_asked_for_and_none_is_cut() -> None:
    placed = solve(scene(event(onset_s=3.0, until_s=28.0), duration_s=30.0))
    assert placed.events[0].onset_s == 3.0
    assert 27.0 <= max(one.end_s for one in placed.events) <= 28.25
    gaps = [b.onset_s - a.end_s for a, b in pairwise(placed.events)]
    assert all(0.5 - 1e-9 <= gap <= 1.5 + 1e-9 for gap in gaps)


def test_individuals_have_voices_of_their_own_and_keep_them() -> None:
    placed = solve(scene(event(count=2, repeat=2), event("e1", after=("e0",)), event("e2", individual=1)))
    voices = {one.key: one.voice_seed for one in placed.events}
    assert voices["e0"] == voices["e0.t1"] == voices["e1"] != voices["e0.v1"] == voices["e0.v1.t1"]
    assert voices["e2"] == voices["e0.v1"]


def test_backgrounds_fade_into_each_other_in_the_middle_of_the_gap() -> None:
    asked = Scene(
        (event(onset_s=1.0), event("e1", onset_s=9.0)),
        (replace(RAIN, to_event="e1"), Background("wind", from_event="e1")),
    )
    first, second = solve(asked).backgrounds
    middle = (3.0 + 9.0) / 2
    assert (first.from_s, first.to_s, first.fade_in_s, first.fade_out_s) == (0.0, middle + 1, 0.0, 2.0)
    assert (second.from_s, second.fade_in_s, second.fade_out_s) == (middle - 1, 2.0, 0.0)


def test_a_chain_of_thousands_is_solved() -> None:
    chain = [event()] + [event(f"e{n}", after=(f"e{n - 1}",), gap_s=(0.0, 0.0)) for n in range(1, 3000)]
    placed = solve(scene(*chain))
    assert placed.events[-1].onset_s == pytest.approx(1.0 + 2999 * 2.0)


CANNOT_BE = [
    (scene(event(together="e1"), event("e1", after=("e0",))), ("e0", "e1", "circle"), Mismatch),
    (
        scene(event(after=("e1",)), event("e1", after=("e2",)), event("e2", after=("e0",))),
        ("circle",),
        Mismatch,
    ),
    (scene(event(after=("e0",))), ("itself",), Mismatch),
    (scene(event(), event("e1", after=("e7",))), ("e7", "e0, e1"), UnknownName),
    (scene(event(onset_s=12.0), duration_s=10.0), ("12.0 s", "10 s"), Mismatch),
    (scene(event(onset_s=9.5), duration_s=10.0), ("11.5 s", "10 s"), Mismatch),
    (scene(event(), duration_s=0.0), ("0 s",), BadValue),
    (scene(event(), duration_s=86400.0), ("86400 s", "6 hours"), BadValue),
    (scene(event(), duration_s=float("nan")), ("nan",), BadValue),
    (scene(event(onset_s=float("nan"))), ("onset_s is nan",), BadValue),
    (scene(event(onset_s=-1.0)), ("onset_s is -1",), BadValue),
    (scene(event(snr_db=float("nan"))), ("snr_db is nan",), BadValue),
    (scene(event(snr_db=-31.0)), ("snr_db is -31", "-30 to 60 dB"), BadValue),
    (scene(event(level_db=-20.0)), ("both snr_db and level_db",), Mismatch),
    (scene(event(snr_db=None)), ("neither",), Mismatch),
    (scene(event(onset_s=1.0, after=("e0",))), ("more than one time",), Mismatch),
    (scene(event(until_s=4.0, repeat=2)), ("several ways",), Mismatch),
    (scene(event(every_s=4.0)), ("every 4 s", "how often"), NotSet),
    (scene(event(every_s=1.0, repeat=3)), ("every 1 s", "lasts 2 s"), Mismatch),
    (scene(event(gap_s=(2.0, 1.0))), ("gap_s is 2 to 1",), BadValue),
    (scene(event(count=0)), ("count is 0",), BadValue),
    (scene(event("end")), ("'end'",), BadValue),
    (scene(event("../../x")), ("../../x",), BadValue),
    (scene(event("e0.t1")), ("e0.t1",), BadValue),  # it would be the key of another event's second song
    (scene(event(), event()), ("two events", "e0"), BadValue),
    (scene(event(species=" ")), ("no species",), NotSet),
    (scene(event(until="end")), ("duration_s",), NotSet),
    (scene(event(), name="a\nb"), ("one line",), BadValue),
    (scene(event(), seed=-1), ("seed is -1",), BadValue),
    (scene(event(), max_overlap=0), ("max_overlap is 0",), BadValue),
    (
        scene(event(onset_s=1.0), event("e1", onset_s=1.5), max_overlap=1),
        ("2 songs", "1.5 s", "e0", "e1"),
        Mismatch,
    ),
    (scene(event(), backgrounds=()), ("SNR of 12 dB", "level_db"), Mismatch),
    (
        scene(event(onset_s=1.0), backgrounds=(Background("rain", from_s=20.0, to_s=30.0),)),
        ("no background under it",), Mismatch,
    ),
    (scene(event(), backgrounds=(Background("rain", from_s=5.0, to_s=4.0),)), ("5 s to 4 s",), BadValue),
    (scene(event(), backgrounds=(Background("rain", from_event="e9"),)), ("e9",), UnknownName),
    (scene(event(), backgrounds=(Background("rain", source="net"),)), ("net", "generate"), UnknownName),
    (scene(event(), backgrounds=(Background("rain", path="x.wav"),)), ("x.wav",), Mismatch),
    (Scene(), ("empty",), NotSet),
    (Scene(backgrounds=(RAIN,)), ("duration_s",), NotSet),
    (scene(event(), loop=True), ("loop",), NotSet),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "words", "kind"), CANNOT_BE, ids=range(len(CANNOT_BE)))
def test_a_scene_that_cannot_be_is_refused_with_the_value(
    asked: Scene, words: tuple[str, ...], kind: type[UserError]
) -> None:
    with pytest.raises(kind) as refused:
        solve(asked)
    assert [one for one in words if one not in str(refused.value)] == []


def test_below_its_background_is_possible_and_said() -> None:
    assert any("5 dB below" in note for note in solve(scene(event(snr_db=-5.0))).notes)


def test_once_measured_what_ends_behind_the_scene_is_left_out_and_said() -> None:
    asked = scene(event(), event("e1", after=("e0",)), duration_s=10.0)
    placed = solve(asked, durations={"e0": 6.0, "e1": 4.0}, overrun="leave_out")
    assert [one.key for one in placed.events] == ["e0"]
    assert any("e1 (Great Tit)" in note for note in placed.notes)


def test_names_are_the_models_own_or_refused() -> None:
    known = checked(scene(event(species="great_tit")), VOCABULARY)
    assert known.events[0].species == "Great Tit"
    for asked, named, *offers in (
        (scene(event(species="Dodo")), "Dodo"),
        (
            scene(event(species="American Robin", sound_type="drumming")),
            "'drumming'",
            "alarm call, call, song",
        ),
        (scene(event(), backgrounds=(Background("jungle"),)), "jungle"),
        (scene(event(species="$(rm -rf /)\u202e")), "rm -rf"),
    ):
        with refuses(named, *offers, kind=UnknownName):
            checked(asked, VOCABULARY)


def test_an_environment_that_only_the_pool_has_comes_from_the_pool() -> None:
    known = Vocabulary(("Great Tit",), ("rain",), pool=("surf",))
    (one,) = checked(scene(event(), backgrounds=(Background("Surf"),)), known).backgrounds
    assert (one.environment, one.source) == ("surf", "pool")


def test_the_longest_scene_is_a_scene() -> None:
    assert solve(scene(event(), duration_s=LONGEST_S)).duration_s == LONGEST_S


def test_a_scene_solved_again_draws_nothing_anew(monkeypatch):
    from birdsd.scenes import schedule

    drawn: list[tuple[Any, ...]] = []

    def counted(*key):
        drawn.append(key)
        return generator(*key)

    generator = schedule.generator
    monkeypatch.setattr(schedule, "generator", counted)
    schedule._drawn.cache_clear(), schedule._voice_seed.cache_clear()
    asked = scene(
        event("e0", repeat=4, repeat_gap_s=[0.5, 2.5], pitch_semitones=[-1.0, 1.0]),  # as YAML has them
        event("e1", after=("e0",), count=2),
        seed=11,
    )
    first = solve(asked)
    assert len(drawn) == len(set(drawn)) > 10
    known = checked(asked)
    assert solve(known, known=True) == first
    assert len(drawn) == len(set(drawn)), "drawn twice"
    assert solve(replace(asked, seed=12)) != first
