"""Planted sets: other real recordings are the floor, the wrong species the ceiling; copies and a collapse are
caught, each by the figure that can see it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from birdsd.evaluation.embedded.quality import CEILING, FLOOR, GENERATED, Embedded, quality_of
from tests.evaluation.embedded.planted import alone, clips

SPECIES = range(4)


@pytest.fixture(scope="module")
def real() -> tuple[Embedded, Embedded]:
    """(training, held out): 960 and 420 clips of 4 species, of different recordings."""
    return clips(SPECIES, range(30), 8, seed=1), clips(SPECIES, range(100, 135), 3, seed=2)


def measured(real: tuple[Embedded, Embedded], generated: Embedded):
    return quality_of(*real, generated, resamples=200)


def test_new_recordings_of_the_species_lie_at_the_floor(real) -> None:
    fresh = alone(clips(SPECIES, range(200, 305), 1, seed=3))
    found = measured(real, fresh)
    floor, made, ceiling = (found.row(kind) for kind in (FLOOR, GENERATED, CEILING))
    assert {row.clips for row in found.rows} == {420}
    assert made.kad.estimate < 0.2 * ceiling.kad.estimate and made.kad.low < floor.kad.high
    assert ceiling.kad_p < 0.01
    assert made.coverage.estimate == pytest.approx(floor.coverage.estimate, abs=0.2)
    assert ceiling.coverage.estimate < 0.2 and ceiling.fad_ratio > 2 and floor.fad_ratio == 1
    assert not found.copies.copied and 0.0 <= found.copies.rate.estimate < 0.15
    assert 0.8 < found.variety.ratio < 1.2
    assert json.loads(json.dumps(found.to_json()))["counts"]["each"] == 420
    assert "KAD" in found.text() and not any("copied" in line for line in found.sentences())


def test_copies_of_training_are_perfect_in_every_figure_but_the_copy_rate(real) -> None:
    training, _ = real
    copies = alone(training.at(np.linspace(0, len(training) - 1, 420).astype(int)))
    found = measured(real, Embedded(
        copies.embeddings + np.float32(1e-3), copies.species, copies.recordings, copies.names
    ))  # fmt: skip
    made, floor = found.row(GENERATED), found.row(FLOOR)
    assert made.kad.estimate <= floor.kad.estimate and made.coverage.estimate > 0.9
    assert found.copies.copied and found.copies.rate.estimate > 0.95
    assert found.copies.pairs[0][2] < 1e-4 and len(found.copies.pairs) == 20
    assert any("copied" in line for line in found.sentences())


def test_a_collapsed_set_is_caught_by_coverage_and_by_its_variety(real) -> None:
    training, _ = real
    few = training.at(np.flatnonzero(np.char.endswith(training.recordings, "-0")))
    places = np.resize(np.arange(len(few))[::8], 420)  # one clip of each species, over and over
    noise = 1e-2 * np.random.default_rng(5).normal(size=(420, few.embeddings.shape[1]))
    own = np.array([f"made {n}" for n in range(420)])
    found = measured(
        real, Embedded((few.embeddings[places] + noise).astype(np.float32), few.species[places], own, own)
    )
    made, floor = found.row(GENERATED), found.row(FLOOR)
    assert made.precision > 0.9 and made.coverage.high < 0.5 * floor.coverage.estimate
    assert found.variety.ratio < 0.1


def test_the_wrong_species_under_the_right_name_is_far_by_species(real) -> None:
    right = alone(clips(SPECIES, range(200, 305), 1, seed=3))
    turned = Embedded(right.embeddings, np.roll(right.species, 105), right.recordings, right.names)
    good, bad = measured(real, right), measured(real, turned)
    for one, other in zip(good.by_species, bad.by_species, strict=True):
        assert one.kad.estimate < 0.2 * other.kad.estimate
        assert one.clips >= 50 and one.floor is not None and other.kad.low > one.floor.high
    assert bad.row(GENERATED).kad.estimate == pytest.approx(good.row(GENERATED).kad.estimate, abs=1.0)


def test_what_is_too_small_is_refused_with_a_sentence_and_the_rest_is_told() -> None:
    training, held = clips(SPECIES, range(10), 4, seed=1), clips(SPECIES, range(50, 56), 1, seed=2)
    made = alone(clips(SPECIES, range(60, 70), 1, seed=3))
    found = quality_of(training, held, made, resamples=50)
    assert all(row.kad is None and row.coverage is None and row.fad is None for row in found.rows)
    assert "below 200 " in found.refused["KAD and FAD"]
    assert "below 400" in found.refused["density and coverage"]
    assert "4 species " in found.refused["KAD by species"] and "50" in found.refused["KAD by species"]
    assert found.copies is not None and found.variety is not None, "24 held-out clips are enough for these"
    fewer = quality_of(training, held.at(np.arange(5)), made, resamples=50)
    assert fewer.copies is None and "5 held-out clips" in fewer.refused["copies"]
    none = quality_of(training, held.at(np.arange(0)), made, resamples=50)
    assert "0 held-out clips" in none.refused["copies"] and none.text()


def test_few_held_out_clips_do_not_take_the_figures_of_the_generated_ones_away(real) -> None:
    training, held = real
    made = alone(clips(SPECIES, range(200, 260), 1, seed=3))
    found = quality_of(training, held.at(np.arange(30)), made, resamples=50)
    assert found.row(FLOOR) is None and "no floor" in found.refused["floor"]
    assert found.row(GENERATED).clips == 240
    assert found.row(GENERATED).kad is not None and found.row(GENERATED).fad_ratio is None


def test_one_species_alone_has_no_ceiling() -> None:
    one = range(1)
    found = quality_of(
        clips(one, range(60), 4, 1), clips(one, range(100, 160), 4, 2),
        alone(clips(one, range(200, 440), 1, 3)), resamples=50,
    )  # fmt: skip
    assert found.row(CEILING) is None and "no ceiling" in found.refused["ceiling"]
    assert found.row(GENERATED).kad is not None
