"""A head on frozen embeddings: what it learns, that it draws fairly, and that it is the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from birdsd.errors import BadValue, NothingLeft
from birdsd.evaluation.embedded.heads import Examples, drawn_clips, fit_head
from birdsd.evaluation.sim2real.ranking import accuracy_and_macro_f1
from tests.evaluation.embedded.planted import clips
from tests.support.errors import refuses


def examples(
    species: range, recordings: range, each: int = 3, seed: int = 1, between: float = 0.8
) -> Examples:
    found = clips(species, recordings, each, seed, between=between)
    classes = np.array([int(name.split()[1]) for name in found.species])
    return Examples(found.embeddings, classes, found.recordings.tolist())


def right(train: list[Examples], test: Examples, **how: object) -> float:
    head = fit_head(train, None, 5, **{"steps": 200, **how})
    return accuracy_and_macro_f1(head.scores(test.embeddings), test.classes)[1]


def test_it_learns_species_from_recordings_that_it_did_not_see_better_the_more_there_are() -> None:
    test = examples(range(5), range(100, 120), between=1.5)
    found = [right([examples(range(5), range(n), between=1.5)], test) for n in (1, 4, 16)]
    assert found[0] < found[1] < found[2] > 0.85


def test_the_same_seed_gives_the_same_head_and_another_one_another() -> None:
    train, test = examples(range(5), range(4)), examples(range(5), range(50, 60))
    one, same, other = (fit_head([train], test, 5, seed=s, steps=60) for s in (3, 3, 4))
    assert (one.weights == same.weights).all() and (one.weights != other.weights).any()
    scores = one.scores(test.embeddings)
    assert scores.sum(axis=1) == pytest.approx(np.ones(len(test)))


def test_species_and_recordings_are_drawn_equally_often_whatever_their_length() -> None:
    classes = np.array([0] * 50 + [1] * 2 + [0] * 2 + [1] * 2)
    recordings = ["long"] * 50 + ["b1"] * 2 + ["short"] * 2 + ["b2"] * 2
    pool = Examples(np.zeros((56, 3)), classes, recordings)
    drawn = drawn_clips(pool, (500, 16), 0, 0).reshape(-1)
    shares = {name: np.mean([recordings[n] == name for n in drawn]) for name in set(recordings)}
    assert all(share == pytest.approx(0.25, abs=0.02) for share in shares.values())
    assert len(set(drawn.tolist())) == 56


def test_a_second_pool_takes_half_of_every_batch_and_the_mean_is_the_first_ones() -> None:
    real, made = examples(range(5), range(4)), examples(range(5), range(20, 24))
    moved = Examples(made.embeddings + 50, made.classes, made.recordings)
    head = fit_head([real, moved], None, 5, steps=20)
    assert head.mean == pytest.approx(real.embeddings.mean(axis=0), rel=1e-5)
    assert (
        fit_head([real, Examples(np.zeros((0, 24)), np.zeros(0, int), [])], None, 5, steps=20).best_step == 20
    )


def test_the_step_that_is_kept_is_the_best_on_validation() -> None:
    train, held = examples(range(5), range(2)), examples(range(5), range(60, 64), between=2.5)
    head = fit_head([train], held, 5, steps=400)
    assert 0 < head.best_step <= 400 and head.validation_loss is not None
    last = fit_head([train], None, 5, steps=400)
    assert last.best_step == 400 and last.validation_loss is None


def test_what_cannot_be_learnt_from_is_refused() -> None:
    train = examples(range(5), range(2))
    with refuses("1 species", kind=NothingLeft):
        fit_head([train], None, 1)
    with refuses("", kind=NothingLeft):
        fit_head([], None, 5)
    with refuses("class 4 ", "3 classes", kind=BadValue):
        fit_head([train], None, 3)
    broken = Examples(train.embeddings * np.nan, train.classes, train.recordings)
    with refuses("NaN", kind=BadValue):
        fit_head([broken], None, 5)
