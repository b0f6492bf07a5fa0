"""Settings of `bank` and `scene` that change nothing are told."""

from __future__ import annotations

import pytest

from birdsd.config import compose
from birdsd.runs.effects import without_effect


@pytest.mark.parametrize(
    ("job", "words", "told"),
    [
        ("scene", ["bank=b", "prompt=x", "steps=9"], ["steps=9"]),
        ("scene", ["bank=b", "prompt=x", "judge=none"], []),  # of the mix
        ("scene", ["bank=b", "prompt=x", "tries=9"], ["tries=9"]),
        ("scene", ["bank=b", "prompt=x", "tries=9", "confirm=mix"], []),
        ("scene", ["run=R", "way=canvas", "prompt=x", "confirm=mix"], ["confirm=mix"]),
        ("scene", ["recipe=r.json", "confirm=mix"], ["confirm=mix"]),
        ("separate", ["x.wav", "free=3", "turned=true"], ["free=3", "turned=true"]),
        ("separate", ["x.wav", "method=gate", "bases=3", "domain=decibel"], ["domain=decibel", "bases=3"]),
        ("separate", ["x.wav", "learn.bird=b", "free=3", "adapt=0.1", "domain=decibel"], []),
        ("prepare", ["data.clean_db=6"], ["data.clean_db=6"]),
        ("prepare", ["data.clean_db=6", "data.clean=gate"], []),
        ("scene", ["bank=b", "run=R", "prompt=x", "steps=9"], []),
        ("scene", ["recipe=r.json", "seed=4", "out=o"], ["seed=4"]),
        ("bank", ["recordings=r", "tries=9", "rate_hz=16000"], ["tries=9"]),
        ("bank", ["run=R", "tries=9", "rate_hz=16000"], ["rate_hz=16000"]),
        ("bank", ["run=R", "machine.micro_batch=3"], ["machine.micro_batch=3"]),
    ],
)
def test_it_is_said(job: str, words: list[str], told: list[str]) -> None:
    lines = without_effect(job, words, compose(job, words))
    assert [line.split(" ")[0] for line in lines] == told
