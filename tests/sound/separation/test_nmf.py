"""The factorisation itself, against its definition and against scikit-learn."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from birdsd.errors import BadValue
from birdsd.randomness import generator
from birdsd.sound.separation import nmf
from tests.support.errors import refuses


def low_rank(rows: int = 30, columns: int = 80, rank: int = 4, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    made = draw.gamma(0.5, size=(rows, rank)) @ draw.gamma(0.5, size=(rank, columns)) + 1e-3
    return (made / made.mean()).astype(np.float32)


def test_every_update_lowers_the_divergence():
    target = low_rank()
    errors = []
    for iterations in (1, 2, 5, 10, 20, 60):
        errors.append(nmf.divergence(target, *nmf.learn(target, 4, generator(0, "t"), iterations=iterations)))
    assert all(after <= before * (1 + 1e-5) for before, after in pairwise(errors))
    assert errors[-1] < 0.05 * errors[0]


def test_it_reaches_what_scikit_learn_reaches():
    from sklearn.decomposition import NMF

    target = low_rank()
    ours = nmf.divergence(target, *nmf.learn(target, 4, generator(0, "t"), iterations=200))
    peer = NMF(
        4, init="random", solver="mu", beta_loss="kullback-leibler", max_iter=200, random_state=0, tol=0
    )
    weights = peer.fit_transform(target)
    begun = nmf.divergence(target, *nmf.learn(target, 4, generator(0, "t"), iterations=1))
    # Both end in a minimum of their own, a ten-thousandth of where they began.
    assert ours <= nmf.divergence(target, weights, peer.components_) + 1e-4 * begun


def test_columns_sum_to_one_and_fixed_bases_stay():
    target = low_rank()
    known = nmf.learn(target, 2, generator(0, "known"))[0]
    weights, activations = nmf.learn(target, 3, generator(0, "free"), fixed=known)
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-4)
    np.testing.assert_allclose(weights[:, :2], known, atol=1e-6)
    assert weights.shape == (30, 5) and activations.shape == (5, 80) and (activations >= 0).all()


def test_activations_of_a_column_depend_on_that_column_alone():
    target = low_rank()
    weights = nmf.learn(target, 4, generator(0, "t"))[0]
    whole = nmf.activate(target, weights)
    np.testing.assert_allclose(nmf.activate(target[:, 20:30], weights), whole[:, 20:30], rtol=2e-4, atol=1e-6)


def test_adapting_follows_the_sound_and_zero_does_not():
    target, other = low_rank(seed=0), low_rank(seed=1)
    weights = nmf.learn(target, 4, generator(0, "t"))[0]
    stayed, _ = nmf.adapt(other, weights, np.zeros(4))
    np.testing.assert_allclose(stayed, weights, atol=1e-6)
    rates = np.array([0.2, 0.2, 0, 0])
    followed, activations = nmf.adapt(other, weights, rates)
    np.testing.assert_allclose(followed[:, 2:], weights[:, 2:], atol=1e-6)
    assert np.abs(followed[:, :2] - weights[:, :2]).max() > 1e-3
    before = nmf.divergence(other, weights, nmf.activate(other, weights))
    assert nmf.divergence(other, followed, activations) < before


def test_stacked_frames_come_back_as_they_were():
    magnitude = np.random.default_rng(0).random((20, 6)).astype(np.float32)
    stacked = nmf.stacked(magnitude, 3)
    assert stacked.shape == (18, 22)
    np.testing.assert_array_equal(stacked[:6, :20], magnitude.T)
    np.testing.assert_array_equal(stacked[12:, 2:], magnitude.T)
    # Bases that are single frames at a delay: the identity explains everything.
    np.testing.assert_allclose(nmf.unstacked(np.eye(18, dtype=np.float32), stacked, 3), magnitude, rtol=1e-6)


def test_more_bases_than_frames_are_refused():
    with refuses("9 bases for 8 frames of rain", "bases=2", kind=BadValue):
        nmf.learn(low_rank(columns=8), 9, generator(0, "t"), what="rain")


def test_the_same_seed_gives_the_same_bytes():
    target = low_rank()
    one, two, other = (nmf.learn(target, 3, generator(seed, "t"))[0] for seed in (0, 0, 1))
    assert one.tobytes() == two.tobytes() != other.tobytes()
