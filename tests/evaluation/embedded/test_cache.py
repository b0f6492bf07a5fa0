"""What a judge heard is kept by content: a renamed file is known, an altered one is not."""

from __future__ import annotations

import numpy as np

from birdsd.evaluation.embedded.cache import EmbeddingCache
from tests.support.fake_judge import FakeJudge
from tests.support.shard_makers import tone


def test_nothing_is_listened_to_twice_and_a_renamed_file_is_known(tmp_path) -> None:
    path = tone(tmp_path / "a.wav", 2.0, 1000)
    first = EmbeddingCache(FakeJudge(), tmp_path / "kept")
    one = first.of_file(path, 0.0, 1.0)
    assert first.of_file(path, 0.0, 1.0).embedding is one.embedding and first.listened == 1
    first.of_file(path, 1.0, 1.0)
    assert first.listened == 2
    moved = path.rename(tmp_path / "b.wav")
    again = EmbeddingCache(FakeJudge(), tmp_path / "kept")
    found = again.of_file(moved, 0.0, 1.0)
    assert (
        again.listened == 0
        and (found.embedding == one.embedding).all()
        and (found.logits == one.logits).all()
    )
    tone(moved, 2.0, 5000)
    assert again.of_file(moved, 0.0, 1.0).logits.argmax() != one.logits.argmax() and again.listened == 1


def test_an_altered_sound_is_another_and_silence_is_said(tmp_path) -> None:
    cache = EmbeddingCache(FakeJudge())
    path = tone(tmp_path / "a.wav", 1.0, 1000)
    plain = cache.of_file(path)
    silent = cache.of_file(path, altered="silence", alter=lambda waveform, rate_hz: 0 * waveform)
    assert not plain.silent and silent.silent and cache.listened == 2


def test_another_judge_is_asked_and_a_file_cut_short_is_made_again(tmp_path) -> None:
    path, kept = tone(tmp_path / "a.wav", 1.0, 1000), tmp_path / "kept"
    one = EmbeddingCache(FakeJudge(), kept).of_file(path)
    other = FakeJudge()
    other.fingerprint = "1" * 64
    asked = EmbeddingCache(other, kept)
    asked.of_file(path)
    assert asked.listened == 1
    for stored in kept.rglob("*.npy"):
        stored.write_bytes(stored.read_bytes()[:-8])
    mended = EmbeddingCache(FakeJudge(), kept)
    assert (mended.of_file(path).embedding == one.embedding).all() and mended.listened == 1
    for stored in kept.rglob("*.npy"):
        np.save(stored, np.zeros(1, dtype=np.float32))
    assert EmbeddingCache(FakeJudge(), kept).of_file(path).embedding.shape == one.embedding.shape
