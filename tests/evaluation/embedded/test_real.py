"""With real recordings and BirdNET: a head names species of recordings that it never heard, and the planted
sets lie where they should."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from birdsd.evaluation.embedded.cache import EmbeddingCache
from birdsd.evaluation.embedded.heads import Examples, fit_head
from birdsd.evaluation.embedded.quality import CEILING, FLOOR, GENERATED, Embedded, quality_of
from birdsd.evaluation.judges import find_judge
from birdsd.evaluation.sim2real.ranking import accuracy_and_macro_f1
from birdsd.sound.audio.recordings import probe
from birdsd.studies.sim2real.sounds import real_sounds
from tests.support.judge_sounds import needs_birdnet

pytestmark = [pytest.mark.data, pytest.mark.slow, needs_birdnet]


def test_a_head_on_frozen_embeddings_names_new_recordings(data_folder: Path, tmp_path: Path) -> None:
    """Ten species, five training recordings of each; four splits by recording, so that no lucky one
    decides."""
    cache = EmbeddingCache(find_judge(), tmp_path)
    found = []
    for seed in range(4):
        real = real_sounds(
            data_folder / "birdsong", None, validation_fraction=0.125, test_fraction=0.25, seed=seed
        )
        own = {
            split: Examples(
                np.stack([cache.of_file(one.path, one.start_s, one.duration_s).embedding for one in samples]),
                np.array([real.species.index(one.species) for one in samples]),
                [one.recording for one in samples],
            )
            for split, samples in real.samples.items()
        }
        assert not set(own["train"].recordings) & set(own["test"].recordings)
        head = fit_head([own["train"]], own["validation"], len(real.species))
        found.append(accuracy_and_macro_f1(head.scores(own["test"].embeddings), own["test"].classes)[1])
    assert cache.listened == 160, "of all four splits each window once"
    assert np.mean(found) >= 0.85


def test_real_recordings_are_the_floor_wrong_species_the_ceiling_and_copies_are_caught(
    data_folder: Path,
) -> None:
    """13 species, three windows of a recording: half of the recordings against the other half."""
    cache, halves = EmbeddingCache(find_judge()), defaultdict(list)
    for folder in sorted((data_folder / "more" / "birdsong").iterdir()):
        files = sorted(folder.glob("*.ogg"))
        if len(files) < 14:
            continue
        for number, path in enumerate(files):
            for start_s in range(0, 9, 3):
                if probe(path).duration_s >= start_s + 2:
                    clip = cache.of_file(path, float(start_s), 3.0).embedding
                    halves[number % 2].append((clip, folder.name, path.stem, f"{path.stem} {start_s}"))
    training, held = (Embedded.of(*zip(*halves[half], strict=True)) for half in (0, 1))
    copies = Embedded.of(training.embeddings, training.species, [f"made {n}" for n in range(len(training))])
    found = quality_of(training, held, copies, resamples=200)
    floor, ceiling, made = (found.row(kind) for kind in (FLOOR, CEILING, GENERATED))
    print(found.text())
    assert floor.kad.estimate < 0.4 < 1.0 < ceiling.kad.estimate and ceiling.kad.low > floor.kad.high
    assert made.kad.estimate < floor.kad.estimate, "to this figure copies are better than real recordings"
    assert found.copies.copied and found.copies.rate.estimate == 1.0
    apart = quality_of(training, held, held, resamples=50)
    assert not apart.copies.copied and apart.copies.rate.estimate == pytest.approx(0.05, abs=0.02)
