"""The check must see learning where there is some, and must not see any where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from birdsd.errors import BadValue, NotFound, NothingLeft, UnknownName
from birdsd.evaluation.judges.judgement import wilson
from birdsd.evaluation.weak_check import Clips, GeneratedClip, SpeciesClassifier, learning_check, score
from birdsd.files import write_json
from birdsd.shards.index import ShardIndex
from birdsd.shards.storage.writer import ShardWriter
from birdsd.sound.codec.codec import SpectrogramCodec
from tests.support.errors import refuses
from tests.support.songs import SPECIES, song, write_shards


def _made(codec: SpectrogramCodec, individuals: range) -> list[GeneratedClip]:
    return [
        GeneratedClip(species, image=codec.encode(song(species, i, 0, codec), codec.rate_hz))
        for species in SPECIES
        for i in individuals
    ]


def test_clips_of_the_right_species_are_named_right(index: ShardIndex, codec: SpectrogramCodec) -> None:
    check = learning_check(index, _made(codec, range(20, 26)))
    assert check.species == sorted(SPECIES)
    assert check.chance == pytest.approx(1 / 3)
    assert (check.training_clips, check.training_recordings) == (48, 24)
    for result in (check.held_out, check.generated):
        assert result is not None and result.better_than_chance
        assert result.low <= result.accuracy <= result.high
        assert result.accuracy > 0.9
        assert result.high - result.low > 0.05, "so few clips cannot give certainty"
    assert check.held_out is not None and (check.held_out.clips, check.held_out.units) == (36, 18)
    assert json.loads(json.dumps(check.to_json()))["generated"]["accuracy"] == check.generated.accuracy
    text = check.text()
    assert "Synthetic Trill" in text and "33.3%" in text and "NOT " not in text


def test_noise_is_not_mistaken_for_learning(index: ShardIndex, codec: SpectrogramCodec) -> None:
    draw = np.random.default_rng(0)
    shape = (1, codec.bands, codec.frames)
    noise = [GeneratedClip(s, image=draw.integers(0, 256, shape).astype(np.uint8)) for s in SPECIES * 8]
    generated = learning_check(index, noise).generated
    assert generated is not None and not generated.better_than_chance
    assert "NOT distinguishable" in generated.verdict()


def test_one_species_for_every_prompt_scores_chance(index: ShardIndex, codec: SpectrogramCodec) -> None:
    same = codec.encode(song(SPECIES[0], 30, 0, codec), codec.rate_hz)
    generated = learning_check(index, [GeneratedClip(s, image=same) for s in SPECIES * 6]).generated
    assert generated is not None
    assert generated.accuracy == pytest.approx(1 / 3) and not generated.better_than_chance
    assert np.asarray(generated.confusion).sum(axis=1).tolist() == [6, 6, 6]


def test_copies_of_training_clips_show(index: ShardIndex, codec: SpectrogramCodec) -> None:
    honest = learning_check(index, _made(codec, range(20, 26))).nearness
    copied = learning_check(index, _made(codec, range(6))).nearness
    assert honest is not None and copied is not None
    assert copied.copies and copied.closer_than_held_out == 1.0 and copied.generated_median < 0.01
    assert not honest.copies
    assert copied.training_sample[0] == 0, "the copied sample is named"
    shifted = [
        GeneratedClip(clip.species, image=np.roll(clip.image, 17, axis=2)) for clip in _made(codec, range(6))
    ]
    moved = learning_check(index, shifted).nearness
    assert moved is not None and moved.copies, "a copy that was moved in time is a copy"
    smooth = [
        GeneratedClip(clip.species, image=uniform_filter(clip.image, size=(1, 9, 9)))
        for clip in _made(codec, range(20, 26))
    ]
    alone = learning_check(index, smooth).nearness
    beside = learning_check(index, smooth, reconstructed=smooth).nearness
    assert alone is not None and beside is not None and alone.reconstructed_median is None
    assert beside.reconstructed_median == beside.generated_median == alone.generated_median
    assert beside.threshold != alone.threshold and not beside.copies, (
        "as near as real ones that were smoothed"
    )
    assert learning_check(index, _made(codec, range(6)), reconstructed=smooth).nearness.copies
    same = learning_check(index, [clip for clip in _made(codec, range(20, 21)) for _ in range(5)]).nearness
    assert same is not None and same.variety_generated < 0.01 < same.variety_held_out


def test_a_waveform_at_another_rate_and_level_scores_the_same(
    index: ShardIndex, codec: SpectrogramCodec
) -> None:
    import soxr

    loud = _made(codec, range(20, 24))
    quiet = []
    for clip in loud:
        individual = 20 + len(quiet) % 4
        sound = 0.25 * song(clip.species, individual, 0, codec)
        at_32k = soxr.resample(sound.T, codec.rate_hz, 2 * codec.rate_hz).T
        quiet.append(GeneratedClip(clip.species, waveform=np.concatenate([at_32k, at_32k]), rate_hz=32000))
    first, second = learning_check(index, loud).generated, learning_check(index, quiet).generated
    assert first is not None and second is not None and first.confusion == second.confusion


def test_clips_of_one_recording_do_not_narrow_the_interval(
    index: ShardIndex, codec: SpectrogramCodec
) -> None:
    from birdsd.evaluation.weak_check import read_clips

    train = read_clips(index, codec, "train")
    classifier = SpeciesClassifier(train, codec.clip_s / codec.frames)
    test = read_clips(index, codec, "test")
    ten_times = Clips(test.levels * 10, test.species * 10, test.group * 10)
    once, often = score(classifier, test, "recordings"), score(classifier, ten_times, "recordings")
    assert once is not None and often is not None
    assert (once.low, once.high, once.p_value) == (often.low, often.high, often.p_value)
    assert often.clips == 10 * once.clips and often.units == once.units


def test_samples_without_exactly_one_species_are_counted_not_scored(
    codec: SpectrogramCodec, tmp_path: Path
) -> None:
    write_shards(tmp_path, codec, {"train": range(4), "validation": range(4, 6)})
    with ShardWriter(tmp_path / "train-000001.tar") as writer:
        image = codec.encode(song(SPECIES[0], 0, 0, codec), codec.rate_hz)
        for key, species in (("both", list(SPECIES[:2])), ("none", [])):
            writer.write(key, {"npy": image, "json": {"species": species, "recording_id": key}})
        writer.write("broken", {"npy": b"not an array", "json": {"species": [SPECIES[0]]}})
    check = learning_check(ShardIndex.open(tmp_path), [])
    assert check.left_out == 3 and check.training_clips == 24
    assert check.generated is None and check.nearness is None and check.held_out is not None
    assert "chance" in check.text()


def test_what_cannot_be_checked_is_refused_with_a_reason(
    index: ShardIndex, codec: SpectrogramCodec, tmp_path: Path
) -> None:
    with refuses("Synthetic Hihg", "'Synthetic High'", kind=UnknownName):
        learning_check(index, [GeneratedClip("Synthetic Hihg", image=np.zeros((1, 64, 128), np.uint8))])
    with refuses("Synthetic High", kind=BadValue):
        learning_check(index, [GeneratedClip(SPECIES[0])])
    with ShardWriter(tmp_path / "train-000000.tar") as writer:
        image = np.zeros((1, codec.bands, codec.frames), np.uint8)
        writer.write("only", {"npy": image, "json": {"species": ["One"], "recording_id": "1"}})
    with refuses("codec.json", kind=NotFound):
        learning_check(ShardIndex.open(tmp_path), [])
    write_json(tmp_path / "codec.json", codec.to_json())
    with refuses("1 species", kind=NothingLeft):
        learning_check(ShardIndex.open(tmp_path), [])


def test_silence_and_full_scale_have_finite_statistics(index: ShardIndex, codec: SpectrogramCodec) -> None:
    for value in (0, 255):
        image = np.full((1, codec.bands, codec.frames), value, np.uint8)
        generated = learning_check(index, [GeneratedClip(SPECIES[0], image=image)]).generated
        assert generated is not None and np.isfinite(generated.accuracy)


def test_wilson_is_the_published_interval() -> None:
    # Brown, Cai and DasGupta 2001: 0 of 10 has an upper end of z^2 / (n + z^2).
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4) and wilson(0, 0) == (0.0, 1.0)


@pytest.mark.data
def test_real_birds_are_told_apart_by_recording(data_folder: Path) -> None:
    """Ten species, eight recordings each, two held out: chance is 0.10; a fixed embedding gives 0.33."""
    from birdsd.evaluation.features import band_levels_db
    from birdsd.sound.audio.recordings import read

    codec = SpectrogramCodec(bands=128, frames=256, hop_ms=8)
    parts: dict[bool, list[tuple[np.ndarray, str, str]]] = {True: [], False: []}
    for folder in sorted((data_folder / "birdsong").iterdir()):
        for number, path in enumerate(sorted(folder.glob("*.mp3"))):
            sound = read(path, codec.rate_hz)
            for start in (0, codec.samples_per_clip, 2 * codec.samples_per_clip):
                part = sound[:, start : start + codec.samples_per_clip]
                levels = band_levels_db(codec, codec.encode(part, codec.rate_hz))
                parts[number < 2].append((levels, folder.name, path.stem))
    held, train = (Clips([r[0] for r in p], [r[1] for r in p], [r[2] for r in p]) for p in parts.values())
    result = score(SpeciesClassifier(train, codec.clip_s / codec.frames), held, "recordings")
    assert result is not None and result.better_than_chance and result.accuracy > 0.25
