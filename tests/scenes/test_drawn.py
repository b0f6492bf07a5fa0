"""Scenes from distributions: scene k is a function of (seed, k) alone, within what was asked, or refused."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from birdsd import yamltext
from birdsd.errors import BadValue, Mismatch, NotFound, NothingLeft, UnknownName, Unsupported, UserError
from birdsd.scenes.drawn.distribution import Distribution, distribution_of, read_distribution
from birdsd.scenes.drawn.draw import draw_scene
from birdsd.scenes.drawn.draws import read_draw
from birdsd.scenes.schedule import solve
from birdsd.scenes.vocabulary import Vocabulary
from tests.scenes.sentences import VOCABULARY
from tests.support.errors import refuses

ASKED = """
seed: 7
duration_s: {uniform: [20, 60]}
events: {uniform: [3, 6]}
species: {American Robin: 3, BLPH: 1, Great Tit: 0}
sound_types: {American Robin: {song: 3, call: 1}}
individuals: 2
event_s: {truncnormal: [2, 1, 0.5, 4]}
max_overlap: 2
environments: {rain: 2, forest: 1, none: 1}
environments_per_scene: {choose: [1, 2]}
pitch_semitones: {normal: [0, 0]}
bearing_deg: {uniform: [-90, 90]}
distance_m: {loguniform: [5, 80]}
"""


def asked(text: str) -> Distribution:
    return distribution_of(yamltext.typed(yamltext.load(text)), VOCABULARY)


def test_scene_k_is_a_pure_function_of_seed_and_k() -> None:
    made = asked(ASKED)
    forwards = [draw_scene(made, k, VOCABULARY) for k in range(8)]
    backwards = [draw_scene(asked(ASKED), k, VOCABULARY) for k in reversed(range(8))]
    assert forwards == backwards[::-1]
    assert len({repr(one.events) for one in forwards}) == 8
    assert draw_scene(asked(ASKED.replace("seed: 7", "seed: 8")), 0).events != forwards[0].events
    assert forwards[3].name == "scene000003"


def test_one_more_field_moves_no_other_draw() -> None:
    plain = [draw_scene(asked(ASKED), k) for k in range(5)]
    more = [draw_scene(asked(ASKED + "elevation_deg: {uniform: [0, 30]}\n"), k) for k in range(5)]
    for one, other in zip(plain, more, strict=True):
        assert [(e.onset_s, e.species, e.snr_db, e.distance_m) for e in one.events] == [
            (e.onset_s, e.species, e.snr_db, e.distance_m) for e in other.events
        ]
        assert all(event.elevation_deg is not None for event in other.events)


def test_scenes_are_within_what_was_asked() -> None:
    species: Counter[str] = Counter()
    for k in range(120):
        scene = draw_scene(asked(ASKED), k, VOCABULARY)
        placed = solve(scene)  # which refuses more than two at once
        assert 20 <= placed.duration_s <= 60 and 3 <= len(scene.events) <= 6
        assert all(0.5 <= one.duration_s <= 4 and 5 <= (one.distance_m or 0) <= 80 for one in placed.events)
        assert all(one.snr_db is None or 3 <= one.snr_db <= 20 for one in placed.events)
        voices: dict[Any, list[tuple[float, float]]] = {}
        for one in placed.events:
            voices.setdefault((one.species, one.individual), []).append((one.onset_s, one.end_s))
        for spans in voices.values():
            assert all(a[1] < b[0] for a, b in pairwise(spans)), "a bird over itself"
        species.update(one.species for one in scene.events)
    assert set(species) == {"American Robin", "Black Phoebe"}
    assert 2.0 < species["American Robin"] / species["Black Phoebe"] < 4.5


def test_without_overlap_songs_lie_anywhere_and_do_not_pile_up_at_the_end() -> None:
    made = asked("events: 5\nevent_s: 3\nduration_s: 20\nmax_overlap: 1\nspecies: [Great Tit, Little Owl]")
    onsets = []
    for k in range(300):
        scene = draw_scene(made, k)
        times = sorted((e.onset_s or 0.0) for e in scene.events)
        assert all(b - a >= 3.0 - 2e-3 for a, b in pairwise(times)) and times[-1] <= 17.0
        onsets += times
    thirds = np.histogram(onsets, bins=[0, 17 / 3, 34 / 3, 17])[0]
    assert abs(int(thirds[0]) - int(thirds[2])) < 0.15 * thirds[0], "the end is as likely as the beginning"
    assert sum(one > 16.99 for one in onsets) < 15, "nothing is clamped to the last possible onset"


def test_gaps_are_as_drawn() -> None:
    for gap in ("1.5", "{choose: [1.5]}", "{uniform: [1, 2]}", "{truncnormal: [1.5, 1, 1, 2]}"):
        made = asked(f"events: 4\nevent_s: 2\nduration_s: 20\ngap_s: {gap}\nspecies: [Great Tit]")
        events = draw_scene(made, 0).events
        between = [(b.onset_s or 0) - (a.onset_s or 0) - 2 for a, b in pairwise(events)]
        assert all(1 - 2e-3 <= one <= 2 + 2e-3 for one in [events[0].onset_s, *between])


def test_clips_of_a_bank_have_their_own_lengths() -> None:
    made = asked("events: 3\nmax_overlap: 1\nspecies: [Great Tit]")
    scene = draw_scene(made, 0, VOCABULARY, lambda species, sound_type, individual: 1.25)
    assert {event.duration_s for event in scene.events} == {1.25}


def test_a_scene_may_have_no_bird() -> None:
    scene = draw_scene(asked("events: 0\nduration_s: 5"), 0, VOCABULARY)
    assert solve(scene).events == () and solve(scene).duration_s == 5.0


@pytest.mark.parametrize(
    "value",
    [3, {"uniform": [1, 4]}, {"normal": [2, 1]}, {"truncnormal": [2, 1, 1, 4]}, {"loguniform": [1, 4]},
     {"poisson": 2}, {"choose": [1, 2, 3]}, {"weights": {"1": 1, "3": 3}}],
)  # fmt: skip
def test_a_distribution_has_its_mean_and_its_ends(value: Any) -> None:
    draw = read_draw(value, "x")
    drawn = np.array([draw.draw(0, k) for k in range(2000)])
    assert drawn.min() >= draw.least and drawn.max() <= draw.greatest
    if draw.kind != "truncnormal":
        assert abs(drawn.mean() - draw.mean) < 0.12
    assert draw.draw(0, 5) == drawn[5]


BAD = [
    (
        "events: 10\nevent_s: 5\nduration_s: 20\nmax_overlap: 1",
        ("10 songs of 5 s", "take 50 s", "20 s"),
        Mismatch,
    ),
    ("events: 10\nevent_s: 5\nduration_s: 20\nspecies: [Great Tit]", ("take 50 s", "20 s"), Mismatch),
    ("events_per_minute: 30\nevent_s: 5\nmax_overlap: 1", ("15 songs", "take 75 s", "30 s"), Mismatch),
    ("events: {uniform: [1, 19]}\nevent_s: 5\nmax_overlap: 1", ("10 songs", "the mean of each"), Mismatch),
    ("gap_s: 4\nevents: 8", ("8 gaps of 4 s", "48 s"), Mismatch),
    ("snr_db: {normal: [3, 5]}", ("snr_db can be -inf to inf", "truncnormal"), BadValue),
    ("snr_db: .nan", ("snr_db is nan",), BadValue),
    # What could act on no scene.
    ("snr_db: 10", ("snr_db is given", "no scene has a background"), Mismatch),
    ("{snr_db: 10, environments: {rain: 0, none: 1}}", ("snr_db is given",), Mismatch),
    ("background_db: -30", ("background_db is given",), Mismatch),
    ("fade_s: 3", ("fade_s is given",), Mismatch),
    ("{level_db: -20, environments: [rain]}", ("level_db is given", "every scene"), Mismatch),
    (
        "{species: [Great Tit], sound_types: {American Robin: [song]}}",
        ("sound_types names American Robin", "leave it out"),
        Mismatch,
    ),
    ("events: 2.5", ("events is 2.5", "whole number"), BadValue),
    ("individuals: 1.5", ("individuals is 1.5",), BadValue),
    ("snr_db: {uniform: [5, 3]}", ("5, 3",), BadValue),
    ("snr_db: {uniform: [5]}", ("1 parameters", "2"), BadValue),
    ("snr_db: {unifrom: [5, 6]}", ("unifrom", "uniform"), UnknownName),
    ("snr_db: {uniform: [-40, 3]}", ("-40 to 3", "-30"), BadValue),
    ("distance_m: {loguniform: [0, 3]}", ("greater than 0",), BadValue),
    ("gap_s: {truncnormal: [1, 1, 50, 60]}\nevents: 1", ("standard deviations",), BadValue),
    ("events: 3\nevents_per_minute: 4", ("both",), Mismatch),
    ("events: -1", ("-1",), BadValue),
    ("events: {poisson: -1}", ("-1",), BadValue),
    ("events: {choose: []}", ("nothing",), BadValue),
    ("events: 1e9", ("songs",), Mismatch),
    ("species: {Dodo: 1}", ("Dodo",), UnknownName),
    ("species: {Great Tit: 0}", ("weights are 0",), BadValue),
    ("species: {Great Tit: -1, Little Owl: 3}", ("weights are -1",), BadValue),
    ("species: {Great Tit: .nan}", ("nan",), BadValue),
    ("species: []", ("names",), BadValue),
    ("sound_types: {American Robin: {drumming: 1}}", ("drumming", "alarm call, call, song"), UnknownName),
    ("environments: [lava]", ("lava", "rain"), UnknownName),
    ("max_overlap: 0", ("max_overlap is 0",), BadValue),
    ("max_overlap: {choose: [1]}", ("max_overlap",), BadValue),
    ("duration_s: 0", ("0 s",), BadValue),
    ("duration_s: {choose: [10, 86400]}", ("86400 s", "6 hours"), BadValue),
    ("durations_s: 3", ("durations_s", "duration_s"), UnknownName),
    ("format: scaper", ("format",), Unsupported),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words", "kind"), BAD, ids=range(len(BAD)))
def test_a_distribution_that_cannot_be_met_is_refused(
    text: str, words: tuple[str, ...], kind: type[UserError]
) -> None:
    with pytest.raises(kind) as refused:
        asked(text)
    assert [one for one in words if one not in str(refused.value)] == []


def test_a_scene_whose_draws_do_not_fit_is_refused_by_its_number() -> None:
    made = asked(
        "events: 6\nevent_s: 3.3\nduration_s: 20\nmax_overlap: 1\nspecies: [Great Tit]\nsame_species_gap_s: 1"
    )
    with refuses("scene 4", kind=Mismatch):
        draw_scene(made, 4)


def test_files_are_read_and_a_model_without_species_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.yaml"
    path.write_text(ASKED)
    assert read_distribution(path, VOCABULARY) == asked(ASKED)
    with refuses("missing.yaml", kind=NotFound):
        read_distribution(tmp_path / "missing.yaml", VOCABULARY)
    with refuses("species", kind=NothingLeft):
        distribution_of({}, Vocabulary(()))
