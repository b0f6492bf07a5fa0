"""A bird in a background is named in the notes: no label does."""

from __future__ import annotations

import numpy as np
import pytest

from birdsd.scenes.backgrounds.birds import BirdCheck
from birdsd.scenes.backgrounds.pool import UsedFile
from birdsd.scenes.backgrounds.render import Layer
from birdsd.scenes.backgrounds.spool import Spool
from birdsd.scenes.placed import PlacedBackground
from birdsd.sound.audio.recordings import write_wav
from tests.support.judge_sounds import PitchJudge, tone

SPECIES = ("Black Phoebe", "House Sparrow", "Synthetic High")  # the judge knows two of them
RATE_HZ = PitchJudge.rate_hz


@pytest.fixture
def layer(tmp_path):
    """Makes a layer of one sound; `path`: of a recording that it is of."""
    with Spool(tmp_path / "spool") as spool:

        def make(sound: np.ndarray, path=None) -> Layer:
            source = "pool" if path else "generate"
            told = PlacedBackground("rain", "rain", -39.0, 0.0, len(sound) / RATE_HZ, source)
            files = [UsedFile(path, "f00d", "CC0", "")] if path else []
            return Layer(told, spool.add([sound]), 0, 1.0, 0, 0, files)

        yield make


def quiet(seconds: float) -> np.ndarray:
    return tone(8000, seconds)  # a class of the judge that is not among the species


def test_a_bird_in_a_recording_is_named_with_its_file_and_place(layer, tmp_path, monkeypatch):
    path = tmp_path / "rain-3.wav"
    write_wav(path, np.concatenate([quiet(6.0), tone(1000, 3.0), quiet(3.0)])[None], RATE_HZ)
    check = BirdCheck(PitchJudge(), SPECIES[:1])
    (note,) = check.notes("background0", layer(quiet(6.0), path), RATE_HZ)
    assert note.startswith("background0 (rain): ") and "Black Phoebe" in note
    assert "at 6 s in rain-3.wav" in note
    path.unlink()  # it is heard once, however many scenes it is under
    assert check.notes("background1", layer(quiet(6.0), path), RATE_HZ)


def test_a_bird_in_a_generated_background_is_named_with_its_time(layer):
    sound = np.concatenate([quiet(30.0), tone(1000, 3.0), quiet(6.0)])
    (note,) = BirdCheck(PitchJudge(), SPECIES[:1]).notes("background0", layer(sound), RATE_HZ)
    assert "Black Phoebe" in note and "at 30 s;" in note


def test_other_sounds_and_unknown_species_are_not_named(layer, tmp_path):
    path = tmp_path / "rain.wav"
    write_wav(path, quiet(6.0)[None], RATE_HZ)
    check = BirdCheck(PitchJudge(), ("Black Phoebe", "Synthetic High"))
    assert check.notes("background0", layer(quiet(6.0), path), RATE_HZ) == []
    assert check.notes("background0", layer(quiet(6.0)), RATE_HZ) == []
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    assert check.notes("background0", layer(quiet(3.0), broken), RATE_HZ) == []
